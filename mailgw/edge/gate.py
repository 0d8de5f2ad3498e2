"""Gate: reads the PROXY header of a connection before anybody else gets to see the connection.

Peers from the networks of C{listener.proxy_from} must send one; from anybody else it is not taken, but left to the
protocol, which knows no such command. What the header says is believed: the transport has the addresses in it from
then on, so that greeting, limits, logs and backends see the client's own. It decides nothing by its extensions.

The header is looked at in the socket's own buffer and taken from there to the octet, as OpenSSL, which reads the
socket itself in L{mailgw.edge.stream}, must find its handshake where it begins.
"""

from __future__ import annotations

import socket
from collections.abc import Iterable
from typing import Any

from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.interfaces import IDelayedCall, IProtocolFactory, IReadDescriptor
from twisted.internet.protocol import Protocol, connectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from mailgw.edge.networks import Network, within
from mailgw.model import Peer
from mailgw.wire.proxyheader import HeaderReader

DEADLINE = 5.0
"""Seconds that a proxy, which is near and has the header ready, may take to send it."""
GLANCE = 8192
"""Octets that are looked at at once: more than any header has."""


@implementer(IProtocolFactory)
class GateFactory:
    """Stands before the factory of a listener, whatever TLS that has around it.

    @ivar waiting: the gates whose header has not come yet.
    """

    def __init__(self, reactor: Any, factory: Any, networks: Iterable[Network], deadline: float = DEADLINE) -> None:
        """
        @param networks: whose header is believed, and has to come.
        @param deadline: in seconds.
        """
        self.reactor, self.deadline = reactor, deadline
        self.waiting: set[Gate] = set()
        self.renew(factory, networks)

    def renew(self, factory: Any, networks: Iterable[Network]) -> None:
        """Let in to another factory from now on, those too who wait already; parameters as in the constructor."""
        self.factory, self._networks = factory, tuple(networks)
        self.doStart, self.doStop = factory.doStart, factory.doStop

    def turn_away(self) -> None:
        """Nobody who waits now gets in."""
        for gate in tuple(self.waiting):
            gate.turn_away("")

    def buildProtocol(self, addr: Any) -> Any:
        """A gate, or where there is nothing for one to do, what the listener answers with."""
        asked = within(getattr(addr, "host", ""), self._networks)
        if asked or getattr(self.factory, "tls", None) is not None:
            return Gate(self, asked)
        return self.factory.buildProtocol(addr)


class Gate(Protocol):
    """One connection before its protocol is there. Where no header is asked for, it lets in at once."""

    log = Logger()
    transport: Any

    def __init__(self, front: GateFactory, asked: bool) -> None:
        """@param asked: a header has to come."""
        self._front, self._asked = front, asked
        self._reader = HeaderReader()
        self._window: _Window | None = None
        self._deadline: IDelayedCall | None = None

    def connectionMade(self) -> None:
        if not self._asked:
            self._let_in(None)
            return
        self._front.waiting.add(self)
        self.transport.pauseProducing()
        self._window = _Window(self, self.transport.getHandle())
        self._front.reactor.addReader(self._window)
        self._deadline = self._front.reactor.callLater(self._front.deadline, self.turn_away, "no PROXY header in time")

    def look(self, skt: socket.socket) -> None:
        """There are octets, or the end."""
        try:
            seen = skt.recv(GLANCE, socket.MSG_PEEK)
        except BlockingIOError:
            return
        except OSError:
            seen = b""
        if not seen:
            self.turn_away("")
            return
        header = self._reader.feed(seen)
        if self._reader.fault:
            self.turn_away(self._reader.fault)
            return
        skt.recv(len(seen) - len(self._reader.rest()) if header is not None else len(seen))
        if header is not None:
            self._close_window()
            self.transport.resumeProducing()
            self._let_in(header.peer)

    def turn_away(self, why: str) -> None:
        """No header, no connection.

        @param why: for the log; C{""} where nobody did anything wrong, such as a load balancer that only knocks.
        """
        if why:
            self.log.warn("{client} turned away: {why}", client=self.transport.getPeer().host, why=why)
        self._close_window()
        self.transport.abortConnection()

    def _let_in(self, peer: Peer | None) -> None:
        """Put the protocol in our place, with TLS begun where that begins at once."""
        transport, factory = self.transport, self._front.factory
        if peer is not None:
            client, here = _address(peer.host, peer.port), _address(peer.local_host, peer.local_port)
            if hasattr(transport, "set_ends"):
                transport.set_ends(client, here)
            else:
                transport.getPeer, transport.getHost = lambda: client, lambda: here
        protocol = factory.buildProtocol(transport.getPeer())
        if protocol is None:
            transport.abortConnection()
            return
        transport.protocol = protocol
        tls = getattr(factory, "tls", None)
        if tls is not None:
            transport.startTLS(tls)
        protocol.makeConnection(transport)

    def _close_window(self) -> None:
        self._front.waiting.discard(self)
        window, self._window = self._window, None
        if window is not None:
            self._front.reactor.removeReader(window)
        if self._deadline is not None and self._deadline.active():
            self._deadline.cancel()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._close_window()


@implementer(IReadDescriptor)
class _Window:
    """What the reactor watches in the transport's stead, which would read more than the header."""

    def __init__(self, gate: Gate, skt: socket.socket) -> None:
        self._gate, self._socket = gate, skt
        self.fileno = skt.fileno

    def doRead(self) -> None:
        self._gate.look(self._socket)

    def connectionLost(self, reason: Failure) -> None:
        """The reactor found the socket broken, or what was let in broke, or the reactor stops."""
        self._gate.turn_away("")

    def logPrefix(self) -> str:
        return "Gate"


def _address(host: str, port: int) -> IPv4Address | IPv6Address:
    return (IPv6Address if ":" in host else IPv4Address)("TCP", host, port)
