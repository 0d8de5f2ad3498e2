"""The C{mailgw} command: what is typed becomes calls, what comes back becomes text and an exit status.

Parses arguments and prints; what a verb does lives with what it is about. Exit status 0 is good, 1 means that
something failed, 2 that the command was not understood or there are no settings.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from getpass import getpass
from typing import TYPE_CHECKING, Any

from mailgw import clilive
from mailgw.clilive import UsageError
from mailgw.errors import MailgwError, SettingsError
from mailgw.importing import command

if TYPE_CHECKING:
    from mailgw.config.file import Loaded
    from mailgw.directory.passwdfile import PasswdFile

DEFAULT_CONFIG = "/etc/mailgw/mailgw.toml"


class CommandFailed(Exception):
    """The command was carried out and something is wrong; exit status 1."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    @param argv: without the program's name; C{sys.argv} when left out.
    @return: the exit status.
    """
    try:
        arguments = _parser().parse_args(argv)
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else 2
    arguments.config = getattr(arguments, "config", None)
    try:
        status: int = arguments.run(arguments)
        sys.stdout.flush()
        return status
    except SettingsError as error:
        _complain(*error.faults)
        return 1
    except (CommandFailed, MailgwError) as error:
        _complain(f"mailgw: {error}")
        return 1
    except UsageError as error:
        _complain(f"mailgw: {error}")
        return 2
    except KeyboardInterrupt:
        _complain("")
        return 130
    except BrokenPipeError:  # the reader, such as head, had enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _parser() -> argparse.ArgumentParser:
    settings = argparse.ArgumentParser(add_help=False)
    # SUPPRESS: the option may stand before or behind the verb, and the absent one does not undo the other
    settings.add_argument("--config", metavar="FILE", default=argparse.SUPPRESS, help="the settings file")
    parser = argparse.ArgumentParser(
        prog="mailgw",
        parents=[settings],
        description="Looks after a mailgw gateway; `twistd mailgw` runs it.",
        epilog=f"Settings: --config FILE, else $MAILGW_CONFIG, else {DEFAULT_CONFIG}.",
    )
    listing = argparse.ArgumentParser(add_help=False)
    listing.add_argument("--json", action="store_true", help="print JSON")
    verbs = parser.add_subparsers(metavar="COMMAND", required=True)

    def verb(name: str, run: Callable[..., int], words: str, *parents: Any, under: Any = verbs) -> Any:
        sub = under.add_parser(name, help=words, description=words, parents=[settings, *parents])
        sub.set_defaults(run=run)
        return sub

    check = verb("check", run_check, "Validate the settings and everything that they name.", listing)
    check.add_argument("--live", action="store_true", help="also ask every directory and visit every backend")
    verb("dump", run_dump, "Print the effective settings, defaults filled in and secrets masked.")
    _add_cert(verb("cert", run_cert, "Make a self-signed key and certificate; nothing is ever overwritten."))
    probe = verb("probe", run_probe, "Connect to services, do TLS, and show what they offer.", listing)
    probe.add_argument("places", metavar="HOST[:PORT]", nargs="*", help="instead of every listener of the settings")
    probe.add_argument("--ca", metavar="FILE", help="believe these CAs, too (PEM)")
    probe.add_argument("--timeout", metavar="SECONDS", type=_seconds, default=5.0, help="for each service [5]")

    who = verb("who", run_who, "Show the live sessions of the running gateway.", listing)
    who.add_argument("what", metavar="USER|@BACKEND", nargs="?", help="only those of one user, or on one backend")
    kick = verb("kick", run_kick, "End live sessions.", listing)
    kick.add_argument("what", metavar="USER|ID|@BACKEND", help="whose, which, or on which backend")
    kick.add_argument("--rate", metavar="N/s", type=_rate, default=0.0, help="so many a second [all at once]")
    verb("stats", run_stats, "Show what the running gateway has counted since its start.", listing)
    verb("reload", run_reload, "Have the running gateway read its settings and certificates again.")
    clilive.add_verbs(verb, listing, lambda arguments: _load(arguments).settings)

    user = verbs.add_parser("user", help="Edit the first passwd file of the settings.", parents=[settings])
    users = user.add_subparsers(metavar="ACTION", required=True)
    for name, run, words in (
        ("add", run_user_add, "Add a user; asks for the password."),
        ("passwd", run_user_passwd, "Give a user another password."),
        ("del", run_user_del, "Remove a user; mail stays."),
    ):
        action = verb(name, run, words, under=users)
        action.add_argument("name", metavar="NAME")
        if name != "del":
            action.add_argument("--password-stdin", action="store_true", help="read the password from standard input")
    verb("list", run_user_list, "List the users.", listing, under=users)
    command.add_arguments(verb("import", command.run, "Make settings of a perdition.conf or an nginx.conf."))
    return parser


def _add_cert(cert: argparse.ArgumentParser) -> None:
    cert.add_argument(
        "--name",
        metavar="HOST",
        action="append",
        help="a name or address for the certificate, the first one names the files [gateway.hostname]",
    )
    cert.add_argument("--dir", metavar="FOLDER", default="certs", help="where to put HOST.key and HOST.crt [certs]")
    cert.add_argument("--days", metavar="N", type=int, default=3650, help="how long it is valid [3650]")
    cert.add_argument("--rsa", metavar="BITS", type=int, help="an RSA key instead of ECDSA P-256")


def _seconds(text: str) -> float:
    seconds = float(text)
    if not 0 < seconds < 3600:
        raise ValueError
    return seconds


def _rate(text: str) -> float:
    return _seconds(text.removesuffix("/s"))


def find_config(given: str | None) -> str:
    """The settings file: the one given, else C{$MAILGW_CONFIG}, else the system's.

    @raise UsageError: there is none.
    """
    path = given or os.environ.get("MAILGW_CONFIG") or DEFAULT_CONFIG
    if not os.path.exists(path):
        raise UsageError(f"no settings file {path}; name one with --config or $MAILGW_CONFIG")
    return path


def _load(arguments: argparse.Namespace) -> Loaded:
    from mailgw.config.file import read

    return read(find_config(arguments.config))


def run_check(arguments: argparse.Namespace) -> int:
    """C{mailgw check}."""
    from mailgw.config.check import check

    loaded = None
    path = find_config(arguments.config)
    try:
        loaded = _load(arguments)
        remarks = check(loaded, datetime.now(UTC))
    except SettingsError as error:
        remarks = [(True, fault) for fault in error.faults]
    faults = sum(grave for grave, _ in remarks)
    rows = _live(loaded) if arguments.live and loaded and not faults else []
    failed = sum(row[-1] != "ok" for row in rows)
    if arguments.json:
        print(json.dumps({"remarks": [{"fault": grave, "text": text} for grave, text in remarks], "live": rows}))
    else:
        _tell_check(path, remarks, rows, failed)
    return 1 if faults or failed else 0


def _tell_check(path: str, remarks: Sequence[tuple[bool, str]], rows: Sequence[tuple[str, ...]], failed: int) -> None:
    from mailgw.ops.probe import aligned

    for _, text in remarks:
        print(text)
    if rows:
        print(aligned(rows))
    faults = sum(grave for grave, _ in remarks)
    warnings = f", {_count(len(remarks) - faults, 'warning')}" if len(remarks) > faults else ""
    if faults:
        print(f"{path}: {_count(faults, 'fault')}{warnings}")
    elif failed:
        print(f"{path}: the settings are good{warnings}; {_count(failed, 'service')} cannot be used")
    else:
        print(f"{path}: good{warnings}")


def _live(loaded: Loaded) -> list[tuple[str, ...]]:
    """Ask the directories in a reactor, then visit the backends without one."""
    from twisted.internet import defer, task

    from mailgw.config.checklive import ask_directories, rows, visit_backends

    said: list[tuple[str, str]] = []

    async def ask(reactor: Any) -> None:
        said.extend(await ask_directories(loaded.settings, reactor))

    try:
        task.react(lambda reactor: defer.Deferred.fromCoroutine(ask(reactor)))
    except SystemExit as stop:  # how react returns
        if stop.code:
            raise CommandFailed("the directories could not be asked; see above") from None
    return rows(said, visit_backends(loaded.settings, datetime.now(UTC)))


def _ask(arguments: argparse.Namespace, command: str, **more: Any) -> Iterator[Any]:
    """What the running gateway of these settings answers."""
    from mailgw.ops import control

    return control.ask(_load(arguments).settings.gateway.state, command, more)


def run_who(arguments: argparse.Namespace) -> int:
    """C{mailgw who}."""
    from mailgw.ops.asking import sessions_table

    rows = list(_ask(arguments, "who", what=arguments.what))
    print(json.dumps(rows, indent=2) if arguments.json else sessions_table(rows))
    return 0


def run_kick(arguments: argparse.Namespace) -> int:
    """C{mailgw kick}: says who is gone as they go."""
    kicked = 0
    for row in _ask(arguments, "kick", what=arguments.what, rate=arguments.rate):
        kicked += 1
        words = f"kicked {row['id']}: {row['user']} {row['protocol']} from {row['client']} on {row['backend']}"
        print(json.dumps(row) if arguments.json else words, flush=True)
    if not arguments.json:
        print(_count(kicked, "session"))
    return 0


def run_stats(arguments: argparse.Namespace) -> int:
    """C{mailgw stats}."""
    from mailgw.ops.asking import counts_table

    (row,) = _ask(arguments, "stats")
    print(json.dumps(row, indent=2) if arguments.json else counts_table(row))
    return 0


def run_reload(arguments: argparse.Namespace) -> int:
    """C{mailgw reload}: done when the new settings are in force."""
    list(_ask(arguments, "reload"))
    print("reloaded")
    return 0


def run_dump(arguments: argparse.Namespace) -> int:
    """C{mailgw dump}."""
    from mailgw.config.dump import dump

    print(dump(_load(arguments).settings), end="")
    return 0


def run_cert(arguments: argparse.Namespace) -> int:
    """C{mailgw cert}."""
    from mailgw.edge.selfsigned import write_pair

    names = arguments.name or [_hostname(arguments.config)]
    try:
        paths = write_pair(names, arguments.dir, arguments.days, datetime.now(UTC), arguments.rsa)
    except OSError as error:
        raise CommandFailed(f"{error.filename}: {error.strerror}" if error.filename else str(error)) from None
    except ValueError as error:
        raise UsageError(str(error)) from None
    for path in paths:
        print(path)
    return 0


def _hostname(config: str | None) -> str:
    """C{gateway.hostname}, also of settings with faults: they may have them for want of a certificate."""
    import tomllib

    try:
        with open(find_config(config), "rb") as file:
            name = tomllib.load(file)["gateway"]["hostname"]
    except UsageError:
        if config:
            raise
        return "localhost"
    except (OSError, ValueError, KeyError, TypeError):
        return "localhost"
    return name if isinstance(name, str) else "localhost"


def run_probe(arguments: argparse.Namespace) -> int:
    """C{mailgw probe}."""
    from mailgw.ops import probe

    targets, certificates = _targets(arguments)
    try:
        stranger, friend = probe.trust((), arguments.ca), probe.trust(certificates, arguments.ca)
    except OSError as error:
        raise CommandFailed(f"{arguments.ca or certificates}: no usable CA file: {error.strerror or error}") from None
    now, loopback = datetime.now(UTC), ("127.", "::1", "localhost", "/")
    own = not arguments.places
    findings = [
        probe.probe(
            target, friend if own or target.host.startswith(loopback) else stranger, now, seconds=arguments.timeout
        )
        for target in targets
    ]
    print(json.dumps([one.as_json() for one in findings], indent=2) if arguments.json else probe.table(findings))
    answered = any(not one.skipped for one in findings)
    return 0 if answered and not any(one.fault for one in findings) else 1


def _targets(arguments: argparse.Namespace) -> tuple[list[Any], list[str]]:
    """What to visit, and the certificates of our own that may be met there."""
    from mailgw.config.tour import targets_of
    from mailgw.ops import probe

    if not arguments.places:
        settings = _load(arguments).settings
        return targets_of(settings), _readable(settings.tls)
    try:
        targets = [target for place in arguments.places for target in probe.targets_at(place)]
    except ValueError as error:
        raise UsageError(str(error)) from None
    try:
        return targets, _readable(_load(arguments).settings.tls)
    except (UsageError, SettingsError):
        return targets, []  # no settings are needed to visit others


def _readable(tls: Any) -> list[str]:
    """The certificate files of C{[tls]} that are there; a probe without them says "not verified"."""
    files = [] if tls is None else [*tls.certificate, *(file for name in tls.name for file in name.certificate)]
    return [file for file in files if os.access(file, os.R_OK)]


def _passwd(arguments: argparse.Namespace) -> PasswdFile:
    """The passwd file of the first directory that has one.

    @raise CommandFailed: none has.
    """
    from mailgw.directory.passwdfile import PasswdFile

    loaded = _load(arguments)
    for plug in loaded.settings.directory:
        if plug.kind == "passwd":
            return PasswdFile(plug.options.file)  # type: ignore[attr-defined]  # as PasswdDirectory declares them
    raise CommandFailed(f'{loaded.source.name}: no [[directory]] of kind "passwd"; users are kept elsewhere')


def run_user_add(arguments: argparse.Namespace) -> int:
    """C{mailgw user add}."""
    return _edit(arguments, lambda file: file.add(arguments.name, _password(arguments)), "added to")


def run_user_passwd(arguments: argparse.Namespace) -> int:
    """C{mailgw user passwd}."""
    return _edit(
        arguments, lambda file: file.set_password(arguments.name, _password(arguments)), "has a new password in"
    )


def run_user_del(arguments: argparse.Namespace) -> int:
    """C{mailgw user del}."""
    return _edit(arguments, lambda file: file.delete(arguments.name), "removed from")


def run_user_list(arguments: argparse.Namespace) -> int:
    """C{mailgw user list}."""
    file = _passwd(arguments)
    names: list[str] = []

    def read(file: PasswdFile) -> None:
        names.extend(file.names())

    _attempt(file, read)
    print(json.dumps(names) + "\n" if arguments.json else "".join(f"{name}\n" for name in names), end="")
    return 0


def _edit(arguments: argparse.Namespace, change: Callable[[PasswdFile], None], done: str) -> int:
    file = _passwd(arguments)
    _attempt(file, change)
    print(f"{arguments.name} {done} {file.path}")
    return 0


def _attempt(file: PasswdFile, change: Callable[[PasswdFile], None]) -> None:
    try:
        change(file)
    except (KeyError, ValueError) as error:
        raise CommandFailed(str(error.args[0])) from None
    except OSError as error:
        raise CommandFailed(f"{file.path}: {error.strerror or error}") from None


def _password(arguments: argparse.Namespace) -> bytes:
    """The new password: all of standard input but its line end, or what was typed twice.

    @raise CommandFailed: the two differ, or there is nothing to read.
    """
    if arguments.password_stdin:
        return sys.stdin.buffer.read().removesuffix(b"\n").removesuffix(b"\r")
    try:
        first = getpass(f"New password for {arguments.name}: ")
        again = getpass("Once more: ")
    except EOFError:
        raise CommandFailed("no password was typed; --password-stdin reads it from standard input") from None
    if first != again:
        raise CommandFailed("the two passwords differ; nothing is changed")
    return first.encode("utf-8", "surrogateescape")


def _complain(*lines: str) -> None:
    for line in lines:
        print(line, file=sys.stderr)


def _count(number: int, thing: str) -> str:
    return f"{number} {thing}{'' if number == 1 else 's'}"


if __name__ == "__main__":
    sys.exit(main())
