"""A network in memory: Twisted's own transports on socket pairs, and a reactor that turns when a test says so.

Nothing listens and no time passes: pauses, producers, half-closes and TLS are the real ones all the same. It does not
play a client or a backend: a test does, at the far end of each connection.
"""

from __future__ import annotations

import contextlib
import errno
import select
import socket
import ssl
from typing import Any

from twisted.internet import tcp
from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred
from twisted.internet.error import CannotListenError, ConnectionRefusedError, TimeoutError
from twisted.internet.interfaces import IProtocol, IProtocolFactory
from twisted.internet.posixbase import _DisconnectSelectableMixin
from twisted.internet.testing import MemoryReactorClock
from twisted.logger import Logger
from twisted.protocols import tls
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

STEPS = 64
"""In how many steps time passes: a power of two, with which floats stay exact."""


class Near(tcp.Server):
    """The gateway's end of a client's connection: all of Twisted's transport but the addresses."""

    def __init__(self, near: socket.socket, protocol: IProtocol, peer: str, loop: Loop) -> None:
        super().__init__(near, protocol, (peer, 40000), None, 0, loop)  # type: ignore[arg-type]

    def getHost(self) -> IPv4Address:
        return IPv4Address("TCP", "192.0.2.1", 143)

    def setTcpNoDelay(self, enabled: bool) -> None:
        """Accepted: socket pairs have no such option."""

    setTcpKeepAlive = setTcpNoDelay

    @property
    def waiting(self) -> int:
        """Octets that were written and that nobody has read."""
        return len(self.dataBuffer) - self.offset + self._tempDataLen


class Dialled(Near):
    """The gateway's end of a connection to a backend."""

    _tlsClientDefault = True


class Far:
    """The far end of a connection, which the test plays.

    @ivar near: the gateway's end.
    """

    def __init__(self, loop: Loop, far: socket.socket, near: Any) -> None:
        self.near = near
        self.closed = False
        self._loop, self._socket = loop, far
        self._tls: ssl.SSLObject | None = None
        self._coming, self._going = ssl.MemoryBIO(), ssl.MemoryBIO()
        far.setblocking(False)

    def send(self, *segments: bytes) -> None:
        """Send these, each seen before the next is sent."""
        for segment in segments:
            sent = self.pour(segment)
            assert sent == len(segment), f"only {sent} of {len(segment)} octets are taken"

    def pour(self, data: bytes) -> int:
        """Send as much as the gateway takes, and tell how much that was."""
        if self._tls is not None:
            self._tls.write(data)
            self._flush()
            return len(data)
        sent = 0
        while sent < len(data):
            try:
                sent += self._socket.send(data[sent : sent + 65536])
            except BlockingIOError:
                if not self._loop.turn():
                    break
            except OSError:
                break
        self._loop.turn()
        return sent

    def read(self, most: int = 1 << 30) -> bytes:
        """All that has come (or so much of it); sees whether the gateway has closed."""
        if self._tls is not None:
            return self._decrypted()
        data = b""
        while len(data) < most:
            more = self._receive(min(65536, most - len(data)))
            if not more:
                break
            data += more
        return data

    def _receive(self, most: int) -> bytes:
        """What can be had now; b"" for nothing or the end."""
        self._loop.turn()
        try:
            data = self._socket.recv(most)
        except BlockingIOError:
            return b""
        except OSError:
            data = b""
        self.closed = self.closed or not data
        self._loop.turn()
        return data

    def _decrypted(self) -> bytes:
        assert self._tls is not None
        while data := self._receive(65536):
            self._coming.write(data)
        plain = b""
        try:
            while more := self._tls.read(65536):
                plain += more
            self.closed = True  # a clean end
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLError:
            self.closed = True
        self._flush()
        return plain

    def _flush(self) -> None:
        self._loop.turn()
        with contextlib.suppress(OSError):
            self._socket.sendall(self._going.read())
        self._loop.turn()

    def secure(self, context: ssl.SSLContext, *, server: bool = False) -> None:
        """The TLS handshake.

        @raise ssl.SSLError: it fails.
        """
        name = None if server else "localhost"
        self._tls = context.wrap_bio(self._coming, self._going, server, name)
        for _ in range(10):
            try:
                self._tls.do_handshake()
            except ssl.SSLWantReadError:
                self._flush()
                while data := self._receive(65536):
                    self._coming.write(data)
            else:
                self._flush()
                return
        raise ssl.SSLError("no end of the handshake")

    def unwrap(self) -> None:
        """End TLS from this side too."""
        assert self._tls is not None
        with contextlib.suppress(ssl.SSLError):
            self._tls.unwrap()
        self._flush()

    def finish(self) -> None:
        """Half-close: nothing more is sent."""
        self._socket.shutdown(socket.SHUT_WR)
        self._loop.turn()

    def close(self) -> None:
        """Be gone."""
        self._socket.close()
        self._loop.turn()

    @property
    def gone(self) -> bool:
        """The gateway has ended the connection; what it said before is thrown away."""
        self.read()
        return self.closed


class Dial:
    """An attempt of the gateway to connect to somebody; also what Twisted calls its connector.

    @ivar given_up: nobody waits for it any more.
    """

    def __init__(self, loop: Loop, host: str, port: int, factory: Any, timeout: float) -> None:
        self.host, self.port = host, port
        self.given_up = False
        self._loop, self._factory = loop, factory
        self._late = loop.callLater(timeout, self.refuse, TimeoutError())

    def accept(self) -> Far:
        """Be there."""
        self._over()
        protocol = self._factory.buildProtocol(self.getDestination())
        return self._loop.join(protocol, Dialled, self.host)

    def refuse(self, error: Exception | None = None) -> None:
        """Not be there."""
        self._over()
        self._factory.clientConnectionFailed(self, Failure(error or ConnectionRefusedError()))
        self._loop.turn()

    def _over(self) -> None:
        if self in self._loop.dials:  # or it is over already, and given up behind that
            self._loop.dials.remove(self)
        if self._late.active():
            self._late.cancel()

    def getDestination(self) -> IPv4Address:
        """Where to."""
        return IPv4Address("TCP", self.host, self.port)

    def stopConnecting(self) -> None:
        """Give up."""
        self.given_up = True
        self._over()


class Port:
    """A port that the gateway listens on."""

    def __init__(self, loop: Loop, number: int, interface: str, backlog: int, factory: IProtocolFactory) -> None:
        self.number, self.interface, self.backlog, self.factory = number, interface, backlog, factory
        self._loop = loop

    def stopListening(self) -> Deferred[None]:
        """As Twisted's: the port is closed in the next turn only."""
        closed: Deferred[None] = Deferred()
        self._loop.callLater(0, self._close, closed)
        return closed

    def _close(self, closed: Deferred[None]) -> None:
        self._loop.ports.remove(self)
        closed.callback(None)


class Loop(_DisconnectSelectableMixin, MemoryReactorClock):
    """A reactor for one test.

    @ivar ports: what the gateway listens on.
    @ivar dials: the gateway's attempts to connect, as long as nobody has accepted or refused them.
    @ivar unbindable: numbers of errors, by the ports that cannot be bound.
    """

    log = Logger()

    def __init__(self) -> None:
        super().__init__()
        self.ports: list[Port] = []
        self.dials: list[Dial] = []
        self.unbindable: dict[int, int] = {}
        self._fars: list[Far] = []

    def turn(self) -> bool:
        """Carry bytes until everybody waits; tell whether there was anything to do."""
        for turns in range(100_000):
            self.advance(0)
            if not self._carry():
                return turns > 0
        raise AssertionError("it never comes to rest")

    def wait(self, seconds: float) -> None:
        """Let time pass, not in one leap: what happens on the way may have consequences on the way."""
        for _ in range(STEPS):
            self.advance(seconds / STEPS)
            self.turn()

    def _carry(self) -> bool:
        readable, writable, _ = select.select(list(self.readers), list(self.writers), [], 0)
        for transport in readable:
            if transport in self.readers:
                self._act(transport, transport.doRead, True)
        for transport in writable:
            if transport in self.writers:
                self._act(transport, transport.doWrite, False)
        return bool(readable or writable)

    def _act(self, transport: Any, action: Any, reading: bool) -> None:
        try:
            why = action()
        except Exception as error:
            self.log.failure("a protocol broke")
            why = error
        if why:
            self._disconnectSelectable(transport, why, reading)

    def close(self) -> None:
        """Close what a test left open."""
        for far in self._fars:
            far.near.abortConnection()
            far.close()

    def join(self, protocol: Any, near: type[Near], peer: str, factory: Any = None) -> Far:
        """Connect a protocol of the gateway with a far end.

        @param factory: what has built the protocol, where its transport may have to know.
        """
        ours, theirs = socket.socketpair()
        transport = self.transport(ours, protocol, near, peer)
        far = Far(self, theirs, transport)
        self._fars.append(far)
        self.begin(transport, protocol, factory)
        self.turn()
        return far

    def transport(self, ours: socket.socket, protocol: Any, near: type[Near], peer: str) -> Any:
        """The gateway's end of a connection."""
        return near(ours, protocol, peer, self)

    def begin(self, transport: Any, protocol: Any, factory: Any) -> None:
        """Give a protocol its transport."""
        protocol.makeConnection(transport)

    def visit(self, number: int, peer: str = "198.51.100.7") -> Far:
        """Connect to a port that the gateway listens on."""
        (port,) = (port for port in self.ports if port.number == number)
        return self.join(port.factory.buildProtocol(IPv4Address("TCP", peer, 40000)), Near, peer, port.factory)

    def callFromThread(self, call: Any, *arguments: Any) -> None:
        """In the next turn."""
        self.callLater(0, call, *arguments)

    def listenTCP(self, port: int, factory: Any, backlog: int = 50, interface: str = "") -> Any:
        number = errno.EADDRINUSE if any(port == other.number for other in self.ports) else self.unbindable.get(port)
        if number is not None:
            raise CannotListenError(interface, port, OSError(number, "cannot"))
        self.ports.append(Port(self, port, interface, backlog, factory))
        return self.ports[-1]

    def connectTCP(self, host: str, port: int, factory: Any, timeout: float = 30, bindAddress: Any = None) -> Any:
        dial = Dial(self, host, port, factory, timeout)
        self.dials.append(dial)
        factory.startedConnecting(dial)
        return dial


class NetworkTestCase(SynchronousTestCase):
    """Tests on a network of their own.

    @cvar network: the kind of network; whose transports there are depends on it.
    """

    network: type[Loop] = Loop

    def setUp(self) -> None:
        self.loop = self.network()
        # startTLS takes no clock
        self.patch(tls, "_get_default_clock", lambda: self.loop)
        self.addCleanup(self.loop.close)
