"""Where streams come from: ports that accept them, attempts that dial them, and a reactor that makes both.

Binding, name resolution and the choice among a name's addresses stay Twisted's. What happens on a connection is the
stream's, L{mailgw.edge.stream}.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from twisted.internet.abstract import isIPAddress, isIPv6Address
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectError, TimeoutError, UserError, getConnectError
from twisted.internet.interfaces import (
    IConnector,
    IListeningPort,
    IProtocol,
    IProtocolFactory,
    IReadDescriptor,
    IStreamClientEndpoint,
    IWriteDescriptor,
)
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import directlyProvides, implementer, providedBy

from mailgw.edge.nest import Nest
from mailgw.edge.stream import Stream
from mailgw.edge.streamsocket import address_of

ACCEPTS = 32
"""Connections that one event accepts at most."""
BREATH = 1.0
"""Seconds without accepting, when the system has nothing left to accept with."""

_EXHAUSTED = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
_UNDER_WAY = frozenset({errno.EINPROGRESS, errno.EALREADY, errno.EWOULDBLOCK})
_NONE = -1
_BIND_NO_PORT = 24
"""Linux's IP_BIND_ADDRESS_NO_PORT: a port is chosen when it is known to whom, so that there are enough of them."""

log = Logger()


def welcome(skt: socket.socket, peer: Any, factory: Any, reactor: Any, *, dialled: bool) -> IProtocol | None:
    """Give a connected socket to a factory's next protocol; C{None}: the factory does not want it."""
    try:
        protocol: IProtocol | None = factory.buildProtocol(peer)
    except Exception:  # what a factory raises costs this connection, not others the port
        log.failure("no protocol for {peer}", peer=peer)
        protocol = None
    if protocol is None:
        skt.close()
        return None
    stream = Stream(skt, protocol, peer, reactor, dialled=dialled)
    try:
        stream.begin(getattr(factory, "tls", None))
    except Exception:  # as the reactor has it in its own events
        log.failure("a protocol broke")
        stream.connectionLost(Failure())
    return protocol


@implementer(IProtocolFactory)
class SecureFactory:
    """What a L{StreamPort} answers with where TLS begins at once."""

    def __init__(self, tls: Any, factory: IProtocolFactory) -> None:
        """@param tls: as L{Stream.startTLS}."""
        self.tls = tls
        self.buildProtocol = factory.buildProtocol
        self.doStart, self.doStop = factory.doStart, factory.doStop


@implementer(IListeningPort, IReadDescriptor)
class StreamPort:
    """Accepts on a socket that Twisted has bound.

    @ivar factory: builds the protocols; may be replaced at any time.
    """

    def __init__(self, reactor: Any, bound: Any, factory: IProtocolFactory) -> None:
        """@param bound: Twisted's port, not accepting (any more); from now on it only keeps the socket."""
        self.factory = factory
        self._reactor, self._bound = reactor, bound
        self._socket = socket.socket(fileno=os.dup(bound.fileno()))
        self._socket.setblocking(False)
        self._family = self._socket.family
        self.fileno = self._socket.fileno
        self._spare = _NONE
        self._keep_spare()
        self._open = True
        reactor.addReader(self)

    def doRead(self) -> None:
        for _ in range(ACCEPTS):
            try:
                skt, name = self._socket.accept()
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno in _EXHAUSTED and not self._turn_one_away():
                    self._breathe(error)
                    return
                continue  # that client has gone already, or a firewall has refused it
            welcome(skt, address_of(self._family, name), self.factory, self._reactor, dialled=False)

    def _turn_one_away(self) -> bool:
        """Free a descriptor for long enough to accept a client and hang up: it would wait for nothing otherwise."""
        if self._spare == _NONE:
            return False
        self._give_spare()
        try:
            self._socket.accept()[0].close()
        except OSError:
            return False
        finally:
            self._keep_spare()
        return True

    def _keep_spare(self) -> None:
        if self._spare == _NONE:
            with suppress(OSError):  # somebody was faster; the next breath tries again
                self._spare = os.open(os.devnull, os.O_RDONLY)

    def _give_spare(self) -> None:
        if self._spare != _NONE:
            os.close(self._spare)
        self._spare = _NONE

    def _breathe(self, error: OSError) -> None:
        """Accept nothing for a while: a socket that is readable and cannot be accepted from would keep us spinning."""
        log.warn("cannot accept connections: {error}; trying again in {breath:g} s", error=error, breath=BREATH)
        self._reactor.removeReader(self)
        self._reactor.callLater(BREATH, self._accept_again)

    def _accept_again(self) -> None:
        if self._open:
            self._keep_spare()
            self._reactor.addReader(self)

    def logPrefix(self) -> str:
        return "StreamPort"

    def connectionLost(self, reason: Failure) -> None:
        """The reactor stops, or found the socket broken."""
        self.stopListening()

    def readConnectionLost(self, reason: Failure) -> None:
        """Somebody who has the socket, too, has shut it down: a master that stops."""
        self.stopListening()

    def stopReading(self) -> None:
        """Accept no more, and leave the socket open."""
        self._open = False
        self._reactor.removeReader(self)

    def getHost(self) -> Any:
        return address_of(self._family, self._socket.getsockname())

    def startListening(self) -> None:
        """Done by the constructor."""

    def stopListening(self) -> Any:
        if not self._open:
            return None
        self._open = False
        self._reactor.removeReader(self)
        self._socket.close()
        self._give_spare()
        return self._bound.stopListening()


@implementer(IConnector, IWriteDescriptor)
class Dialling:
    """One attempt to connect to an address."""

    fileno: Callable[[], int]

    def __init__(
        self,
        reactor: Any,
        name: tuple[str, int],
        timeout: float,
        connected: Callable[[socket.socket, Any], None],
        failed: Callable[[Failure], None],
        source: str = "",
    ) -> None:
        """
        @param name: an IPv4 or IPv6 address, and a port.
        @param timeout: in seconds.
        @param connected: called with the socket and its other end's address, in a later turn of the reactor; or
        @param failed: called instead, with one of L{twisted.internet.error}'s reasons.
        @param source: the address to connect from, of the same family.
        """
        self._source = source
        self._reactor, self._connected, self._failed = reactor, connected, failed
        self._family = socket.AF_INET6 if isIPv6Address(name[0]) else socket.AF_INET
        self._name: Any = name if self._family == socket.AF_INET else (*name, 0, 0)
        self._socket: socket.socket | None = None
        self._deadline = reactor.callLater(timeout, self._fail, TimeoutError())

    def connect(self) -> None:
        try:
            if "%" in self._name[0]:  # a scope, which has to become a number
                host, port = self._name[:2]
                self._name = socket.getaddrinfo(host, port, self._family, flags=socket.AI_NUMERICHOST)[0][4]
            skt = self._made()
        except OSError as error:
            self._reactor.callLater(0, self._fail, ConnectError(error.errno, error.strerror or str(error)))
            return
        skt.setblocking(False)
        self._socket, self.fileno = skt, skt.fileno
        number = skt.connect_ex(self._name)
        if number and number not in _UNDER_WAY:
            self._reactor.callLater(0, self._fail, _trouble(number))
        else:
            self._reactor.addWriter(self)

    def _made(self) -> socket.socket:
        skt = socket.socket(self._family, socket.SOCK_STREAM)
        if self._source:
            try:
                skt.setsockopt(socket.IPPROTO_IP, _BIND_NO_PORT, 1)
                skt.bind((self._source, 0))
            except OSError:
                skt.close()
                raise
        return skt

    def doWrite(self) -> None:
        assert self._socket is not None
        if number := self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            self._fail(_trouble(number))
        else:
            self._connected(self._release(self._socket), self.getDestination())

    def connectionLost(self, reason: Failure) -> None:
        """The reactor found the socket broken, or stops."""
        if self._socket is not None:
            self._fail(_trouble(self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)))

    def logPrefix(self) -> str:
        return "Dialling"

    def _fail(self, error: Exception) -> None:
        if self._socket is not None:
            self._release(self._socket).close()
        elif self._deadline.active():
            self._deadline.cancel()
        else:
            return  # all is told
        self._failed(Failure(error))

    def _release(self, skt: socket.socket) -> socket.socket:
        """Take the socket away from the reactor, and from this."""
        self._socket = None
        if self._deadline.active():
            self._deadline.cancel()
        self._reactor.removeWriter(self)
        return skt

    def stopConnecting(self) -> None:
        self._fail(UserError())

    disconnect = stopConnecting

    def abandon(self) -> None:
        """As L{stopConnecting}, and nobody is told."""
        self._failed = _nobody
        self.stopConnecting()

    def getDestination(self) -> Any:
        return address_of(self._family, self._name)


def _nobody(_: Failure) -> None:
    """Nobody wants to know."""


def _trouble(number: int) -> ConnectError:
    return getConnectError((number, os.strerror(number))) if number else ConnectError()


@implementer(IStreamClientEndpoint)
class StreamEndpoint:
    """Dials an address. Twisted's endpoints would leave a wrapper around the protocol, for every octet to pass."""

    def __init__(self, reactor: Any, host: str, port: int, timeout: float, source: str = "") -> None:
        """
        @param reactor: the L{Nest} of a L{StreamReactor}.
        @param host: an IPv4 or IPv6 address.
        @param source: as L{Dialling}.
        """
        self._reactor, self._name, self._timeout, self._source = reactor, (host, port), timeout, source

    def connect(self, protocolFactory: IProtocolFactory) -> Deferred[IProtocol]:
        def connected(skt: socket.socket, peer: Any) -> None:
            protocol = welcome(skt, peer, protocolFactory, self._reactor, dialled=True)
            if protocol is None:
                answer.errback(ConnectError(string="nobody wants the connection"))
            else:
                answer.callback(protocol)

        answer: Deferred[IProtocol] = Deferred(lambda _: dialling.abandon())
        dialling = Dialling(self._reactor, self._name, self._timeout, connected, answer.errback, self._source)
        dialling.connect()
        return answer


class StreamReactor:
    """A reactor whose TCP connections are streams; all else is Twisted's, whose interfaces it provides.

    @ivar nest: what watches the streams.
    """

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor
        self.nest = Nest(reactor)
        self.seconds, self.callLater = reactor.seconds, reactor.callLater
        directlyProvides(self, providedBy(reactor))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._reactor, name)

    def listenTCP(self, port: int, factory: Any, backlog: int = 50, interface: str = "") -> StreamPort:
        """As L{twisted.internet.interfaces.IReactorTCP}."""
        return self._port(self._reactor.listenTCP(port, factory, backlog, interface), factory)

    def listenUNIX(self, address: Any, factory: Any, *options: Any, **more: Any) -> StreamPort:
        """As L{twisted.internet.interfaces.IReactorUNIX}."""
        return self._port(self._reactor.listenUNIX(address, factory, *options, **more), factory)

    def adoptStreamPort(self, fileDescriptor: int, addressFamily: Any, factory: Any) -> StreamPort:
        """As L{twisted.internet.interfaces.IReactorSocket}."""
        return self._port(self._reactor.adoptStreamPort(fileDescriptor, addressFamily, factory), factory)

    def _port(self, bound: Any, factory: Any) -> StreamPort:
        self._reactor.removeReader(bound)
        return StreamPort(self.nest, bound, factory)

    def connectTCP(self, host: str, port: int, factory: Any, timeout: float = 30, bindAddress: Any = None) -> Any:
        """As L{twisted.internet.interfaces.IReactorTCP}; the factory does not hear of the end of a connection."""
        if not (isIPAddress(host) or isIPv6Address(host)):
            return self._reactor.connectTCP(host, port, factory, timeout, bindAddress)

        def connected(skt: socket.socket, peer: Any) -> None:
            welcome(skt, peer, factory, self.nest, dialled=True)

        def failed(reason: Failure) -> None:
            factory.clientConnectionFailed(dialling, reason)

        source = "" if bindAddress is None else bindAddress[0]
        dialling = Dialling(self.nest, (host, port), timeout, connected, failed, source)
        factory.startedConnecting(dialling)
        dialling.connect()
        return dialling
