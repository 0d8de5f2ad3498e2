"""The network of L{tests.network} on our own transport, for tests that have passed on Twisted's.

A test case with L{OnStreams} before its other bases runs there. Nothing here accepts or dials as
L{mailgw.edge.streamport} does: that is tested over loopback, in L{tests.edge.test_streamport}.
"""

from __future__ import annotations

import socket
from typing import Any

from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import INegotiated, IProtocol, IProtocolFactory
from twisted.python.failure import Failure
from zope.interface import implementer

from mailgw.edge import dialer
from mailgw.edge.stream import SecureStream, Stream
from mailgw.edge.streamport import StreamReactor
from tests.network import Dialled, Loop, Near, NetworkTestCase


class NearStream(Stream):
    """As L{Near}: all of a stream but the addresses."""

    def getHost(self) -> Any:
        return self._host or IPv4Address("TCP", "192.0.2.1", 143)

    @property
    def waiting(self) -> int:
        """Octets that were written and that nobody has read."""
        return len(self._queue or b"")


@implementer(INegotiated)
class NearSecureStream(NearStream):
    """What it becomes when TLS begins."""

    negotiatedProtocol = SecureStream.negotiatedProtocol


NearStream.secure = NearSecureStream


class StreamLoop(Loop, StreamReactor):
    """A reactor for one test, which the house takes for one whose connections are streams."""

    _reactor = None  # what a L{Loop} does not know, nobody knows

    @property
    def nest(self) -> Any:  # type: ignore[override]
        """This watches them itself."""
        return self

    def transport(self, ours: socket.socket, protocol: Any, near: type[Near], peer: str) -> NearStream:
        address = IPv4Address("TCP", peer, 40000)
        return NearStream(ours, protocol, address, self, dialled=issubclass(near, Dialled))

    def begin(self, transport: NearStream, protocol: Any, factory: Any) -> None:
        """As L{mailgw.edge.streamport.welcome}."""
        transport.begin(getattr(factory, "tls", None))


class Endpoint:
    """As L{mailgw.edge.streamport.StreamEndpoint}, on a L{StreamLoop}."""

    def __init__(self, loop: StreamLoop, host: str, port: int, timeout: float, source: str = "") -> None:
        self._where = (loop, host, port, timeout)

    def connect(self, factory: IProtocolFactory) -> Deferred[IProtocol]:
        """Dial; the backend that a test plays accepts or refuses."""
        attempt = _Attempt(factory)
        loop, host, port, timeout = self._where
        attempt.dial = loop.connectTCP(host, port, attempt, timeout)
        return attempt.answer


class _Attempt:
    """One attempt, as L{tests.network.Dial} has its factories."""

    def __init__(self, factory: IProtocolFactory) -> None:
        self._factory = factory
        self.dial: Any = None
        self.answer: Deferred[IProtocol] = Deferred(self._cancel)

    def startedConnecting(self, dial: Any) -> None:
        """Nobody asks."""

    def buildProtocol(self, address: Any) -> Any:
        """The backend has accepted."""
        protocol: Any = self._factory.buildProtocol(address)
        make = protocol.makeConnection

        def made(transport: Any) -> None:
            make(transport)
            self.answer.callback(protocol)

        protocol.makeConnection = made
        return protocol

    def clientConnectionFailed(self, dial: Any, reason: Failure) -> None:
        """The backend has refused, or does not answer."""
        self.answer.errback(reason)

    def _cancel(self, answer: Any) -> None:
        self.dial.stopConnecting()


class OnStreams(NetworkTestCase):
    """Before the other bases of a test case: its network carries streams."""

    network = StreamLoop

    def setUp(self) -> None:
        self.patch(dialer, "StreamEndpoint", Endpoint)
        super().setUp()
