"""Doubles for the edge: a portal that admits one password, a dialogue of three commands, a House with nothing in it."""

from __future__ import annotations

from collections import Counter
from typing import Any

from twisted.cred.portal import Portal
from twisted.internet.defer import Deferred
from twisted.internet.protocol import Protocol
from twisted.internet.task import Clock
from zope.interface import implementer

from mailgw.edge.limits import Turnstile
from mailgw.errors import LoginRefused
from mailgw.interfaces import IDestination, IServerDialogue
from mailgw.model import Arrival, Login, Refusal, RefusalKind
from mailgw.ops.tally import LocalTally
from mailgw.settings import Limits, Settings
from mailgw.wire.events import Close, Event, Send, StartTLS


class Echo(Protocol):
    """What a destination leads to: remembers what it got, and how it ended."""

    def __init__(self) -> None:
        self.received = b""
        self.lost = False

    def dataReceived(self, data: bytes) -> None:
        self.received += data

    def connectionLost(self, reason: Any = None) -> None:
        self.lost = True


@implementer(IDestination)
class FakeDestination:
    """Opens at once, or when C{opening} fires."""

    def __init__(self, username: str, opening: Deferred[None] | None = None) -> None:
        self.username, self.opening = username, opening
        self.stage = Echo()

    async def open(self, session: Any) -> Arrival:
        if self.opening is not None:
            await self.opening
        return Arrival(self.stage, b"welcome")


class FakePortal:
    """Admits C{secret}; counts logins and logouts."""

    def __init__(self) -> None:
        self.destination = FakeDestination("canonical")
        self.asked: list[Login] = []
        self.logouts = 0
        self.error: Exception | None = None

    async def login(self, login: Login, mind: Any, *interfaces: Any) -> Any:
        self.asked.append(login)
        if self.error is not None:
            raise self.error
        if login.password != b"secret":
            raise LoginRefused(RefusalKind.CREDENTIALS, "wrong")
        return interfaces[0], self.destination, self._logout

    def _logout(self) -> None:
        self.logouts += 1


@implementer(IServerDialogue)
class ToyDialogue:
    """Lines ended by LF: C{login PASSWORD}, C{starttls}, C{flood}, C{bye}; anything else is echoed."""

    def __init__(self, terms: Any, secure: bool) -> None:
        self.buffer = b""
        self.waiting = False
        self.was_secured = False

    def greet(self) -> list[Event]:
        return [Send(b"hello\n")]

    def secured(self) -> list[Event]:
        self.was_secured = True
        return []

    def feed(self, data: bytes) -> list[Event]:
        self.buffer += data
        return self._go()

    def _go(self) -> list[Event]:
        events: list[Event] = []
        while b"\n" in self.buffer and not self.waiting:
            line, _, self.buffer = self.buffer.partition(b"\n")
            events.append(self._event(line))
        return events

    def _event(self, line: bytes) -> Event:
        if line.startswith(b"login "):
            self.waiting = True
            return Login("typed", line[6:])
        if line == b"starttls":
            return StartTLS(b"go\n")
        if line == b"bye":
            return Close(b"bye\n", "said bye")
        return Send(b"x" * 100_000 if line == b"flood" else line + b"\n")

    def admit(self, text: bytes) -> tuple[bytes, bytes]:
        return b"OK " + text + b"\n", self.buffer

    def refuse(self, refusal: Refusal) -> list[Event]:
        self.waiting = False
        return [Send(b"NO " + refusal.kind.value.encode() + b"\n"), *self._go()]

    def expire(self, reason: str) -> bytes:
        return b"BYE " + reason.encode() + b"\n"


class FakeHouse:
    """As much of an L{mailgw.interfaces.IHouse} as a listener needs."""

    def __init__(self, **limits: Any) -> None:
        self.reactor = Clock()
        self.settings = Settings(limits=Limits(**limits))
        self.fake_portal = FakePortal()
        self.portal: Portal = self.fake_portal  # type: ignore[assignment]
        self.turnstile = Turnstile(self.settings.limits, self.reactor, LocalTally(self.reactor.seconds))
        self.counters: Counter[str] = Counter()
        self.sessions: set[Any] = set()
        self.tls: Any = None
        self.pools: dict[str, Any] = {}

    def server_tls(self, listener: Any) -> Any:
        return self.tls
