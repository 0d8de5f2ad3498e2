"""Makes settings of perdition.conf: listeners, TLS, the pool and the routes to it.

Reads no file: the texts of the maps are given. Names and certificates are taken over as they stand, C{mailgw check}
judges them.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from mailgw.importing import perditionmaps
from mailgw.importing.known import LATER, has_kind
from mailgw.importing.perditionfile import Option, read_options
from mailgw.importing.perditionmaps import MapFile
from mailgw.importing.perditionnames import NameOptions
from mailgw.importing.perditionwords import WORDS
from mailgw.importing.toml import CannotImport, Draft, Imported, Table, Value, listed
from mailgw.routing.target import split_host


@dataclass(frozen=True, slots=True)
class Service:
    """One of Perdition's protocols: its port here and there, and whether it is TLS from the first byte."""

    protocol: str
    port: int
    implicit: bool = False


SERVICES = {
    "POP3": Service("pop3", 110),
    "POP3S": Service("pop3", 995, True),
    "IMAP4": Service("imap", 143),
    "IMAP4S": Service("imap", 993, True),
    "MANAGESIEVE": Service("managesieve", 4190),
}
STARTED_BY_DEBIAN = ("POP3", "POP3S", "IMAP4", "IMAP4S")
MODES: dict[str, tuple[str, ...]] = {
    "none": (),
    "ssl_listen": ("ssl in",),
    "ssl_outgoing": ("ssl out",),
    "ssl_all": ("ssl in", "ssl out"),
    "tls_listen": ("tls in",),
    "tls_outgoing": ("tls out",),
    "tls_all": ("tls in", "tls out"),
    "tls_listen_force": ("tls in", "forced in"),
    "tls_outgoing_force": ("tls out", "forced out"),
    "tls_all_force": ("tls in", "tls out", "forced in", "forced out"),
}
_STRICTNESS = ("none", "starttls", "implicit")
_ADDRESS = tuple[str, int | None]


def translate(
    text: str,
    maps: Sequence[MapFile] = (),
    protocols: Sequence[str] = (),
    *,
    origin: str = "perdition.conf",
    folder: str = "/etc/perdition",
    hostname: str = "localhost",
    guessed: Sequence[str] = (),
    reverse: Callable[[str], str] = lambda address: "",
) -> Imported:
    """Make settings of a perdition.conf.

    @param maps: the map files, in the order in which they are to be asked.
    @param protocols: as Perdition calls them, where the file's own C{protocol} does not count.
    @param origin: the file's name, for the head of the settings.
    @param folder: where relative paths in the file begin.
    @param hostname: for greetings; Perdition takes it from the machine.
    @param guessed: the protocols for a file that names none.
    @param reverse: an address's host name, C{""} where it has none.
    @raise CannotImport: no settings can be made of it; the message says why.
    """
    return _Translation(read_options(text), maps, origin, folder, reverse).settings(protocols, guessed, hostname)


class _Translation:
    """One perdition.conf on its way."""

    def __init__(
        self,
        options: Sequence[Option],
        maps: Sequence[MapFile],
        origin: str,
        folder: str,
        reverse: Callable[[str], str],
    ) -> None:
        self._options = {option.name: option for option in options}  # of two the last one counts
        self._maps = maps
        self._folder = folder
        self._reverse = reverse
        self._draft = Draft(origin)
        self._names = NameOptions(options, self._draft)
        for option in options:
            if not option.known:
                self._draft.remark(option.line, option.name, "Perdition 2.2 has no such option; left out")
            elif option.name in WORDS:
                self._draft.remark(option.line, option.name, WORDS[option.name])

    def settings(self, protocols: Sequence[str], guessed: Sequence[str], hostname: str) -> Imported:
        services = self._services(protocols, guessed)
        self._draft.table("[gateway]").set("hostname", hostname)
        listening = [self._mode_in(service) for service in services]
        if any(mode != "none" for mode in listening):
            self._tls()
        self._listeners(services, listening)
        self._user()
        keys = self._write_names()
        pool_protocols = {service.protocol for service in services}
        members = self._members(pool_protocols)
        found = perditionmaps.add_places(self._draft, self._options, self._maps, bool(members), keys)
        if not found:
            raise CannotImport(perditionmaps.NOWHERE)
        self._pool(services, members)
        self._limits()
        return self._draft.finish()

    def _value(self, name: str) -> str:
        return self._options[name].value if name in self._options else ""

    def _line(self, name: str) -> int:
        return self._options[name].line if name in self._options else 0

    def _remark(self, name: str, words: str) -> None:
        self._draft.remark(self._line(name), name, words)

    def _services(self, protocols: Sequence[str], guessed: Sequence[str]) -> list[Service]:
        names = list(protocols) or [self._value("protocol")] * ("protocol" in self._options) or list(guessed)
        if not names:
            names = ["POP3"] if "listen_port" in self._options else list(STARTED_BY_DEBIAN)
            words = (
                f"the file names none, and the daemon goes by the name that it is started with; taken: {listed(names)}"
            )
            self._draft.remark(0, "protocol", f"{words}. --protocol says otherwise")
        services = []
        for name in names:
            service = SERVICES.get(name.upper().replace("IMAPS", "IMAP4S"))
            if service is None:
                raise CannotImport(f"Perdition has no protocol {name!r}; there are {listed(SERVICES)}")
            if has_kind("protocol", service.protocol):
                services.append(service)
            else:
                self._remark("protocol", f"{name}: {LATER}; left out")
        if not services:
            raise CannotImport(f"{listed(names)}: {LATER}, so that there is nothing to listen for")
        return services

    def _modes(self, service: Service) -> set[str]:
        """C{ssl_mode} as a set of words. Without the option POP3S and IMAP4S are TLS on both sides."""
        if not self._value("ssl_mode"):
            return {"ssl in", "ssl out"} if service.implicit else set()
        modes: set[str] = set()
        for name in self._value("ssl_mode").split(","):
            if name.strip() not in MODES:
                raise CannotImport(f"line {self._line('ssl_mode')}: ssl_mode has no {name.strip()!r}")
            modes |= set(MODES[name.strip()])
        return modes

    def _mode_in(self, service: Service) -> str:
        modes = self._modes(service)
        if "ssl in" in modes:
            return "implicit"
        if "forced in" in modes:
            return "starttls"
        if "tls in" in modes:
            words = 'tls_listen lets clients log in without TLS, and so does "optional". Better is "starttls"'
            self._remark("ssl_mode", f"{words}, as soon as all clients can do it")
            return "optional"
        words = (
            f"{service.protocol} on port {self._port('listen_port', service)}: passwords come in without TLS, as before"
        )
        self._remark("ssl_mode", words)
        return "none"

    def _mode_out(self, service: Service) -> str:
        modes = self._modes(service)
        if "ssl out" in modes:
            return "implicit"
        if "forced out" in modes:
            return "starttls"
        if "tls out" in modes:
            words = 'tls_outgoing goes on in clear with a backend that offers no STARTTLS. It becomes tls = "starttls"'
            self._remark("ssl_mode", f"{words}, which never does: such a backend is not talked to any more")
            return "starttls"
        return "none"

    def _port(self, name: str, service: Service) -> int:
        text = self._value(name)
        if not text:
            return service.port
        try:
            return split_host(f"port:{text}")[1] or service.port
        except ValueError:
            raise CannotImport(f"line {self._line(name)}: {name}: {text!r} is no port that is known here") from None

    def _tls(self) -> None:
        table = self._draft.table("[tls]")
        table.set("certificate", self._path("ssl_cert_file", "perdition.crt.pem"))
        table.set("key", self._path("ssl_key_file", "perdition.key.pem"))
        if "ssl_ca_chain_file" in self._options:
            words = (
                "no counterpart of its own; the chain goes into the file of [tls] certificate, behind the server's own"
            )
            self._remark("ssl_ca_chain_file", words)
        for name in ("ssl_listen_min_proto_version", "ssl_outgoing_min_proto_version"):
            if name in self._options and self._value(name).lower() not in ("tlsv1.2", "tlsv1.3"):
                self._remark(name, "nothing older than TLS 1.2 is spoken, neither to clients nor to backends")
            elif name in self._options:
                self._remark(name, "tls.minimum is for clients and backends; 1.2 is the default")

    def _path(self, name: str, default: str = "") -> str:
        return os.path.join(self._folder, self._value(name) or default)

    def _listeners(self, services: Iterable[Service], modes: Iterable[str]) -> None:
        taken: set[_ADDRESS] = set()
        for service, mode in zip(services, modes, strict=True):
            for host, port in self._addresses():
                address = host, port or self._port("listen_port", service)
                if address in taken:
                    words = (
                        f"{host or '*'}:{address[1]} is taken by another protocol; {service.protocol} is left out there"
                    )
                    self._remark("bind_address" if port else "listen_port", words)
                    continue
                taken.add(address)
                table = self._draft.table("[[listener]]")
                table.set("protocol", service.protocol)
                table.set("endpoint", endpoint(*address))
                table.set("tls", mode)

    def _addresses(self) -> list[_ADDRESS]:
        texts = [text.strip() for text in self._value("bind_address").split(",") if text.strip()]
        return [("" if host == "0.0.0.0" else host, port) for host, port in self._hosts("bind_address", texts)] or [
            ("", None)
        ]

    def _hosts(self, name: str, texts: Iterable[str]) -> list[_ADDRESS]:
        try:
            return [split_host(text) for text in texts]
        except ValueError as error:
            raise CannotImport(f"line {self._line(name)}: {name}: {error}") from None

    def _write_names(self) -> list[str]:
        """What becomes of names; the keys of the maps."""
        ldap, maps = perditionmaps.library(self._options) == "ldap", bool(self._maps)
        self._names.write([host for host, _ in self._addresses()], self._reverse, maps=maps, ldap=ldap)
        return self._names.keys(maps=maps)

    def _user(self) -> None:
        if "username" in self._options:
            words = f"not taken over: user = {self._value('username')} in [gateway] is right once that user can read"
            self._remark("username", f"{words} the key of [tls]; Perdition read it before it changed its user")

    def _members(self, protocols: Iterable[str]) -> list[Value]:
        """C{outgoing_server} as members of the pool."""
        texts = [text.strip() for text in self._value("outgoing_server").split(",") if text.strip()]
        hosts = self._hosts("outgoing_server", texts)
        members: list[Value] = []
        for host, port in dict.fromkeys(hosts):
            ports = dict.fromkeys(sorted(protocols), port) if port else {}
            twin = sum(other == host for other, _ in dict.fromkeys(hosts)) > 1
            name = {"name": f"{host}-{port or 'default'}"} if twin else {}
            member: Mapping[str, Value] = {"host": host} | name | {key: one for key, one in ports.items() if one}
            members.append(member if len(member) > 1 else host)
        return members

    def _pool(self, services: Sequence[Service], members: Sequence[Value]) -> None:
        pool = self._draft.table(
            "[pool.main]", "The backends; hosts that a map or the directory names need not be here."
        )
        pool.set("members", members, "outgoing_server" if members else "")
        if len(members) > 1:
            pool.set("shared", True, "as several outgoing_server are: any of them serves any user")
            words = "Perdition takes the next one with every login. Here a user stays on one of them while it is up"
            self._remark("outgoing_server", words)
        pool.set("login", "own")
        ways = {service: (self._mode_out(service), self._port("outgoing_port", service)) for service in services}
        if any(mode != "none" for mode, _ in ways.values()):
            self._trust(pool)
        elif "ssl_ca_file" in self._options:
            self._remark("ssl_ca_file", "of no use: the backends are not reached by TLS")
        for protocol in dict.fromkeys(service.protocol for service in services):
            self._way(protocol, {ways[service] for service in services if service.protocol == protocol})

    def _trust(self, pool: Table) -> None:
        if "ssl_no_cert_verify" in self._options:
            pool.set("verify", False, "ssl_no_cert_verify: anybody in between could read the passwords")
        if "ssl_ca_file" in self._options:
            pool.set("ca", self._path("ssl_ca_file"))

    def _way(self, protocol: str, ways: set[tuple[str, int]]) -> None:
        mode, port = max(ways, key=lambda way: _STRICTNESS.index(way[0]))
        table = self._draft.table(f"[pool.main.{protocol}]")
        table.set("port", port)
        table.set("tls", mode)
        for other, other_port in sorted(ways - {(mode, port)}):
            words = f"{protocol} also went to port {other_port} with tls = {other!r}; the pool has the safer way only"
            self._draft.remark(0, "outgoing_port", words)

    def _limits(self) -> None:
        table = self._draft.table("[limits]")
        for name, key in (("authenticate_timeout", "login_deadline"), ("timeout", "idle")):
            if not (text := self._value(name)):
                continue
            if text.isdecimal() and int(text):
                table.set(key, f"{text}s", name)
            else:
                self._remark(name, f"{text!r} seconds: nothing waits for ever here; limits.{key} stays at its default")


def endpoint(host: str, port: int) -> str:
    """A Twisted server endpoint string."""
    return f"tcp:{port}:interface={host.replace(':', chr(92) + ':')}" if host else f"tcp:{port}"
