"""Listeners: an endpoint string of the settings becomes a service that accepts connections.

Where TLS goes around what a listener answers with is decided here; what it answers with arrives as a factory.
"""

from __future__ import annotations

import errno
import re
from collections.abc import Callable
from functools import partial
from typing import Any

from twisted.application.service import Service
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import serverFromString
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IListeningPort, IProtocolFactory
from twisted.internet.protocol import Factory
from twisted.logger import Logger
from twisted.protocols.tls import TLSMemoryBIOFactory
from twisted.python.failure import Failure
from zope.interface import implementer

from mailgw.edge.gate import GateFactory
from mailgw.edge.session import Front, Session
from mailgw.edge.streamport import SecureFactory, StreamReactor
from mailgw.edge.tls import ServerTls
from mailgw.errors import MailgwError
from mailgw.interfaces import IFrontend
from mailgw.settings import Listener
from mailgw.wire.protocol import LoginProtocol

BACKLOG = 1024
"""Connections that may wait to be accepted. With Twisted's 50 a burst of clients loses its SYNs, and waits seconds."""
_SAYS_NO_BACKLOG = re.compile(r"tcp6?:\d+(?::interface=(?:\\.|[^:\\])*)?")
_NO_SUCH_FAMILY = frozenset({errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT})


Listen = Callable[[str, IProtocolFactory], Deferred[IListeningPort]]
"""Gets an endpoint and what answers there, and opens the port."""


class LoginFactory(Factory):
    """Builds the sessions of an IMAP, POP3 or ManageSieve listener."""

    noisy = False

    def __init__(self, front: Front) -> None:
        self._front = front

    def buildProtocol(self, addr: object) -> Session:
        return Session(self._front)


@implementer(IFrontend)
class LoginFrontend:
    """The kind of listener that every L{LoginProtocol} is."""

    def __init__(self, protocol: LoginProtocol) -> None:
        self.ports = protocol.ports
        self._protocol = protocol

    def make_factory(self, house: Any, listener: Listener) -> LoginFactory:
        return LoginFactory(Front(house, listener, self._protocol.server, authenticate=True))


class ListeningService(Service):
    """One port. Binding it is part of the start, and a port that cannot be bound ends the start.

    @ivar title: what is answered there, and where, for messages.
    """

    log = Logger()

    def __init__(
        self,
        reactor: Any,
        listener: Listener,
        factory: IProtocolFactory,
        tls: ServerTls | None,
        listen: Listen | None = None,
    ) -> None:
        """
        @param tls: what the listener speaks TLS with; needed unless C{listener.tls} is "none".
        @param listen: what opens the port; left out, it is bound here.
        """
        self._reactor = reactor
        self._listen: Listen = listen or partial(self.bind, reactor)
        self.port: Any = None
        self._gate: GateFactory | None = None
        self.renew(listener, factory, tls)
        self._failure: Failure | None = None

    def privilegedStartService(self) -> None:
        """Bind, while we may still be root.

        @raise MailgwError: the port cannot be bound.
        """
        super().privilegedStartService()
        if self.port is not None:
            return
        self._listen(self._listener.endpoint, self._factory).addCallbacks(self._bound, self._not_bound)
        failure, self._failure = self._failure, None
        if failure is not None:
            raise MailgwError(f"cannot listen: {self.title}: {_words(failure.value)}") from failure.value

    def startService(self) -> None:
        """Bind what was added after the privileged start (a reload)."""
        super().startService()
        self.privilegedStartService()

    def renew(self, listener: Listener, factory: IProtocolFactory, tls: ServerTls | None) -> None:
        """Let C{factory} answer from now on, with C{tls}; connections that are there stay with the old ones.

        @param listener: of the same endpoint: the port is not closed for a moment, and no privilege is needed.
        """
        self._listener = listener
        self.title = f"{listener.protocol} on {listener.endpoint}"
        self._factory: Any = factory
        if tls is not None and listener.tls == "implicit":
            self._factory = self._secured(factory, tls)
        if self._gate is not None:
            self._gate.renew(self._factory, listener.proxy_from)
        elif listener.proxy_from:
            self._gate = GateFactory(self._reactor, self._factory, listener.proxy_from)
        self._factory = self._gate or self._factory
        if self.port is not None:
            self.port.factory = self._factory

    def _secured(self, factory: IProtocolFactory, tls: ServerTls) -> Any:
        """What answers in TLS from the first octet on; each kind of transport has its own way to begin."""
        if isinstance(self._reactor, StreamReactor):
            return SecureFactory(tls, factory)
        secured = TLSMemoryBIOFactory(tls, False, factory, self._reactor)
        secured.noisy = False
        return secured

    @property
    def waiting(self) -> int:
        """Connections whose PROXY header has not come yet, and that are nobody's session therefore."""
        return len(self._gate.waiting) if self._gate is not None else 0

    def turn_away(self) -> None:
        """End those connections."""
        if self._gate is not None:
            self._gate.turn_away()

    @staticmethod
    def bind(reactor: Any, endpoint: str, factory: IProtocolFactory) -> Deferred[IListeningPort]:
        """Open a port as an endpoint string says."""
        port: Deferred[IListeningPort] = serverFromString(reactor, _roomy(endpoint)).listen(factory)
        return port

    def _bound(self, port: IListeningPort) -> None:
        self.port = port

    def _not_bound(self, failure: Failure) -> None:
        error = getattr(failure.value, "socketError", None)
        if "\\:\\:1" in self._listener.endpoint and getattr(error, "errno", None) in _NO_SUCH_FAMILY:
            self.log.info("{title}: this machine has no IPv6, not listening there", title=self.title)
        else:
            self._failure = failure

    def stopService(self) -> Deferred[None] | None:
        super().stopService()
        port, self.port = self.port, None
        return port.stopListening() if port is not None else None


def _roomy(endpoint: str) -> str:
    """The endpoint with L{BACKLOG}, unless it says something else."""
    return f"{endpoint}:backlog={BACKLOG}" if _SAYS_NO_BACKLOG.fullmatch(endpoint) else endpoint


def _words(error: BaseException | None) -> str:
    """Why, and what to do about it."""
    if isinstance(error, CannotListenError) and isinstance(error.socketError, OSError):
        error = error.socketError
    number = getattr(error, "errno", None)
    if number == errno.EADDRINUSE:
        return "another program listens there already (ss -ltnp shows which)"
    if number == errno.EACCES:
        return "only root may bind this port: start as root with gateway.user set, or use systemd sockets"
    return str(error)
