"""HTTP servers in memory, as tests of the http directory and rule ask them; nothing listens and no time passes."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionDone, ConnectionRefusedError
from twisted.internet.testing import MemoryReactorClock, StringTransport
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from mailgw.directory.http import HttpDirectory
from mailgw.interfaces import IHouse
from mailgw.settings import Domains, Gateway, Settings

T = TypeVar("T")
Headers = dict[str, str]
Play = Callable[[Headers], bytes | None]
"""What a server answers to a request's headers (names in lower case, C{""} has the first line); C{None}: silence."""

URI = "http://192.0.2.1/auth"


def answer(status: str = "OK", *, code: int = 200, **headers: str) -> bytes:
    """An answer with an empty body; C{auth_server} is Auth-Server."""
    lines = [f"HTTP/1.1 {code} X", f"Auth-Status: {status}", "Content-Length: 0"]
    lines += [f"{name.replace('_', '-').title()}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode()


def parse(request: bytes) -> Headers:
    """The headers of a request."""
    first, *lines = request.decode("utf-8", "surrogateescape").split("\r\n")
    return {"": first} | {name.lower(): value[1:] for name, _, value in (line.partition(":") for line in lines)}


class Wire(StringTransport):
    """The gateway's end of a connection to a server.

    @ivar requests: what the server has read.
    """

    def __init__(self, reactor: AuthReactor, play: Play) -> None:
        super().__init__()
        self.reactor, self.play = reactor, play
        self.protocol: Any = None
        self.requests: list[bytes] = []
        self.open = True

    def write(self, data: bytes) -> None:
        super().write(data)
        *whole, rest = self.value().split(b"\r\n\r\n")
        self.clear()
        super().write(rest)
        for request in whole:
            self.requests.append(request)
            self.reactor.requests.append(request)
            said = self.play(parse(request))
            if said is not None:
                self.reactor.callLater(0, self.say, said)

    def say(self, data: bytes) -> None:
        """The server sends something."""
        if self.open:
            self.protocol.dataReceived(data)

    def hang_up(self) -> None:
        """The server closes the connection, or ours has been closed."""
        if self.open:
            self.open = False
            self.protocol.connectionLost(Failure(ConnectionDone()))

    def loseConnection(self) -> None:
        self.reactor.callLater(0, self.hang_up)

    abortConnection = loseConnection

    def setTcpNoDelay(self, enabled: bool) -> None:
        """Accepted."""


class AuthReactor(MemoryReactorClock):
    """A reactor that reaches servers in memory.

    @ivar servers: by host; others refuse connections, and C{None} lets them hang.
    @ivar wires: all connections that there were.
    @ivar requests: everything that any server was asked.
    """

    def __init__(self) -> None:
        super().__init__()
        self.servers: dict[str, Play | None] = {}
        self.wires: list[Wire] = []
        self.requests: list[bytes] = []

    def connectTCP(self, host: str, port: int, factory: Any, timeout: float = 30, bindAddress: Any = None) -> Any:
        connector = super().connectTCP(host, port, factory, timeout, bindAddress)
        if host not in self.servers:
            self.callLater(0, factory.clientConnectionFailed, connector, Failure(ConnectionRefusedError()))
        elif (play := self.servers[host]) is not None:
            wire = Wire(self, play)
            self.wires.append(wire)
            wire.protocol = factory.buildProtocol(IPv4Address("TCP", host, port))
            self.callLater(0, wire.protocol.makeConnection, wire)
        else:
            self.callLater(timeout, factory.clientConnectionFailed, connector, Failure(TimeoutError("too slow")))
        return connector

    def turn(self, seconds: float = 0.0) -> None:
        """Let time pass, and everything that is due happen."""
        self.advance(seconds)
        for _ in range(30):
            self.advance(0)

    @property
    def open(self) -> int:
        """Connections that are open."""
        return sum(wire.open for wire in self.wires)


@implementer(IHouse)
class AuthHouse:
    """As much of a house as the directory and the rule need."""

    def __init__(self, **pools: Any) -> None:
        self.reactor = AuthReactor()
        self.settings = Settings(gateway=Gateway(hostname="gw.example"), domains=Domains(accept=("example.org",)))
        self.pools: Any = pools


class AuthTestCase(SynchronousTestCase):
    """Tests with servers in memory.

    @ivar house: L{AuthHouse}, whose server at 192.0.2.1 says OK.
    """

    def setUp(self) -> None:
        self.house = AuthHouse()
        self.reactor = self.house.reactor
        self.reactor.servers["192.0.2.1"] = lambda headers: answer()

    def make(self, **options: Any) -> Any:
        """The directory."""
        options = {"uri": URI, **options}
        return HttpDirectory.from_options("http-1", HttpDirectory.Options(**options), self.house)

    def plays(self, said: bytes | None, host: str = "192.0.2.1") -> None:
        """From now on a server says this to everything."""
        self.reactor.servers[host] = lambda headers: said
        for wire in self.reactor.wires:
            wire.play = lambda headers: said

    def begin(self, asked: Coroutine[Any, Any, T]) -> Deferred[T]:
        """Ask, and let what needs no time happen."""
        asking = Deferred.fromCoroutine(asked)
        self.reactor.turn()
        return asking

    def wait(self, asked: Coroutine[Any, Any, T]) -> T:
        """The result, which must need no time."""
        return self.successResultOf(self.begin(asked))

    def fails(self, asked: Coroutine[Any, Any, T], error: type[Exception]) -> Any:
        """The error, which must need no time."""
        return self.failureResultOf(self.begin(asked), error).value
