"""The verbs of the C{mailgw} command that steer a running gateway and explain it: move, backend, flush, route.

What they do there is in L{mailgw.ops.steering}, the tables that they print are in L{mailgw.ops.asking}.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from typing import Any

from pydantic import TypeAdapter

from mailgw.errors import MailgwError
from mailgw.ops import control
from mailgw.ops.control import Row
from mailgw.settings import Duration, Settings

PROTOCOLS = ("imap", "pop3", "smtp", "managesieve")
LONGEST_HOLD = 3600.0

Load = Callable[[argparse.Namespace], Settings]


class UsageError(Exception):
    """The command cannot be carried out as it was typed; exit status 2."""


def add_verbs(verb: Callable[..., argparse.ArgumentParser], listing: argparse.ArgumentParser, load: Load) -> None:
    """Add the verbs to the command.

    @param verb: as L{mailgw.cli} makes one.
    @param load: reads the settings that the arguments name.
    """
    route = verb("route", _with(load, run_route), "Explain where a user goes, and why.", listing)
    route.add_argument("user", metavar="USER")
    route.add_argument("--protocol", choices=PROTOCOLS, default="imap", help="[imap]")
    move = verb("move", _with(load, run_move), "Send a user to another backend; end the old sessions.", listing)
    move.add_argument("user", metavar="USER")
    move.add_argument("backend", metavar="BACKEND", nargs="?", help="a member, POOL/MEMBER, a pool, or HOST[:PORT]")
    move.add_argument("--clear", action="store_true", help="let the rules decide again")
    move.add_argument("--hold", metavar="TIME", type=_hold, default=30.0, help="how long a new login may wait [30s]")
    backend = verb("backend", _with(load, run_backend), "Show the backends, or take one in or out of service.", listing)
    backend.add_argument("name", metavar="NAME", nargs="?", help="a member, or POOL/MEMBER")
    backend.add_argument("state", choices=("up", "drain", "down"), nargs="?", metavar="up|drain|down")
    flush = verb("flush", _with(load, run_flush), "Have the running gateway forget logins and routes.", listing)
    flush.add_argument("user", metavar="USER", nargs="?", help="of this user only")


def _with(load: Load, run: Callable[[argparse.Namespace, Settings], int]) -> Callable[[argparse.Namespace], int]:
    def verb(arguments: argparse.Namespace) -> int:
        return run(arguments, load(arguments))

    return verb


def _hold(text: str) -> float:
    seconds = float(TypeAdapter(Duration).validate_python(text))
    if seconds > LONGEST_HOLD:
        raise ValueError
    return seconds


def _ask(settings: Settings, command: str, **arguments: Any) -> list[Row]:
    return list(control.ask(settings.gateway.state, command, arguments))


def run_move(arguments: argparse.Namespace, settings: Settings) -> int:
    """C{mailgw move}: done when nobody is left on the old backend.

    @raise UsageError: neither or both of BACKEND and C{--clear} were given.
    """
    if bool(arguments.backend) == arguments.clear:
        raise UsageError("move takes either a BACKEND or --clear")
    (row,) = _ask(settings, "move", user=arguments.user, backend=arguments.backend, hold=arguments.hold)
    ended = f"{row['ended']} session{'' if row['ended'] == 1 else 's'} ended"
    where = f"moved to {row['backend']}" if row["backend"] else "goes where the rules say"
    print(json.dumps(row) if arguments.json else f"{row['user']} {where}: {ended}")
    return 0


def run_backend(arguments: argparse.Namespace, settings: Settings) -> int:
    """C{mailgw backend}.

    @raise UsageError: NAME was given without a state.
    """
    from mailgw.ops.asking import backends_table

    if arguments.name and not arguments.state:
        raise UsageError("backend takes NAME and one of up, drain and down, or nothing")
    rows = _ask(settings, "backend", name=arguments.name, state=arguments.state)
    print(json.dumps(rows, indent=2) if arguments.json else backends_table(rows))
    return 0


def run_flush(arguments: argparse.Namespace, settings: Settings) -> int:
    """C{mailgw flush}."""
    from mailgw.ops.asking import counted

    (row,) = _ask(settings, "flush", user=arguments.user)
    print(json.dumps(row) if arguments.json else f"forgotten: {counted(row)}")
    return 0


def run_route(arguments: argparse.Namespace, settings: Settings) -> int:
    """C{mailgw route}; exit status 1 where the user would be refused."""
    from mailgw.ops.asking import route_table

    if control.answers(control.control_path(settings.gateway.state)):
        (row,) = _ask(settings, "route", user=arguments.user, protocol=arguments.protocol)
    else:
        row = _explained(settings, arguments.user, arguments.protocol)
    print(json.dumps(row, indent=2) if arguments.json else route_table(row))
    return 1 if row["refused"] else 0


def _explained(settings: Settings, user: str, protocol: str) -> Row:
    """What a gateway with these settings, and what is on its board, would say.

    @raise MailgwError: the settings cannot be used.
    """
    from twisted.internet import defer, task

    from mailgw.gateway import House, Lasting
    from mailgw.ops.board import KeptBoard

    said: list[Row] = []

    async def ask(reactor: Any) -> None:
        board = KeptBoard(settings.gateway.state)
        board.load()
        house = House(settings, reactor, Lasting(settings, reactor, board=board))
        house.start()
        try:
            said.append({**await house.guide.explain(user, protocol), "running": False})
        finally:
            await house.stop()

    failed: list[MailgwError] = []

    def told(failure: Any) -> None:
        failure.trap(MailgwError)
        failed.append(failure.value)

    try:
        task.react(lambda reactor: defer.Deferred.fromCoroutine(ask(reactor)).addErrback(told))
    except SystemExit as stop:  # how react returns
        if stop.code:
            raise MailgwError("the route could not be found out; see above") from None
    if failed:
        raise failed[0]
    return said[0]
