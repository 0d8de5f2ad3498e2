"""Onward: one transaction to one backend, opened at the first recipient and streamed through.

Nothing of a message is kept: what the backend does not read, the client is not asked for. It decides neither who goes
where nor what a client may do; and of what goes wrong behind us a client hears 451 and nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IDelayedCall, IProducer, IPushProducer
from twisted.logger import Logger
from zope.interface import implementer

from mailgw.delivery.envelope import IStreamedMessage, Origin
from mailgw.delivery.link import Link, gather
from mailgw.delivery.verdict import is_mixed, verdict
from mailgw.edge.dialer import Dialer
from mailgw.errors import BackendFailed
from mailgw.interfaces import IPool
from mailgw.model import Access, Backend, Failure, Forward
from mailgw.wire.events import Reply
from mailgw.wire.replies import TROUBLE
from mailgw.wire.transfer import Transfer

COMMAND_REPLY = 30.0
"""Seconds for a backend's reply to MAIL and RCPT; the client is told sooner, and then the transaction is given up."""
DATA_REPLY = 90.0
"""Seconds for the reply to DATA; clients wait two minutes for it (RFC 5321 §4.5.3.2.4)."""
STALL = 180.0
"""Seconds that a backend may leave a piece of the message unread (RFC 5321 §4.5.3.2.5)."""

OUR_FAULT = frozenset({500, 502, 503, 530, 535, 538})
"""Codes that speak of what is between us and the backend; a client could only misunderstand them."""


class Connector:
    """Makes links to a pool's backends for one client's session, and keeps the last one for the next message."""

    log = Logger()

    def __init__(self, dialer: Dialer, forward: Callable[[], Forward], hostname: str) -> None:
        """@param forward: what backends are told about the client; asked when a link is made."""
        self.dialer = dialer
        self._forward, self._hostname = forward, hostname
        self._spare: Link | None = None

    @property
    def session_id(self) -> str:
        """Of the client."""
        return self._forward().session_id

    def spare(self, candidates: Sequence[Backend]) -> Link | None:
        """Take the link that is left over from the message before, if it leads to one of these."""
        link, self._spare = self._spare, None
        if link is not None and (link.failure is not None or link.backend not in candidates):
            link.quit()
            return None
        return link

    def keep(self, link: Link) -> None:
        """A transaction went well: the link may serve again."""
        self.close()
        self._spare = link

    def close(self) -> None:
        """The session is over."""
        link, self._spare = self._spare, None
        if link is not None:
            link.quit()

    async def open(self, pool: IPool, candidates: Sequence[Backend], access: Access | None, xclient: bool) -> Link:
        """Get to the first candidate that can be connected to.

        @raise BackendFailed: to none of them, or the one that answered is of no use.
        """
        self.dialer.refuse_own(self._forward().peer)
        for backend in candidates:
            lmtp = backend.speak == "lmtp"
            transfer = Transfer(access, self._forward(), backend.tls == "starttls", self._hostname, lmtp, xclient)
            try:
                return await self._link(pool, backend, transfer)
            except BackendFailed as error:
                self._count(pool, backend, error)
                if error.kind not in (Failure.CONNECT, Failure.FULL) or backend is candidates[-1]:
                    raise
                self.log.warn("{session} {reason}; trying the next", session=self.session_id, reason=error.reason)
        raise BackendFailed(Failure.CONNECT, f"pool {pool.name} has no member")

    async def _link(self, pool: IPool, backend: Backend, transfer: Transfer) -> Link:
        """Get to one backend, once it has a place."""
        await pool.reserve(backend)
        try:
            connection, _ = await self.dialer.login(backend, transfer)
            pool.succeeded(backend, "smtp")
            pool.opened(backend, "smtp")
        finally:
            pool.release(backend)
        return Link(connection, transfer, self.dialer.reactor, partial(pool.closed, backend, "smtp"))

    def _count(self, pool: IPool, backend: Backend, error: BackendFailed) -> None:
        if error.kind is Failure.REJECTED:
            pool.succeeded(backend, "smtp")
        else:
            forward = self._forward()
            pool.failed(backend, "smtp", error.kind, forward.login, forward.peer.host)


class Onward:
    """One envelope on its way to one backend.

    @ivar accepted: how many recipients the backend took.
    """

    log = Logger()

    def __init__(
        self,
        connector: Connector,
        pool: IPool,
        candidates: Sequence[Backend],
        access: Access | None,
        origin: Origin,
        *,
        xclient: bool = False,
    ) -> None:
        """
        @param candidates: best first; only one that cannot be connected to is passed over.
        @param access: the account to log in with there, C{None} for no login.
        """
        self.candidates, self._pool = tuple(candidates), pool
        self._connector, self._access, self._xclient = connector, access, xclient
        self._origin = origin
        self._link: Link | None = None
        self._refusal: Reply | None = None
        self._begun = False
        self._taken: dict[str, Reply] = {}
        self.accepted = 0
        self._message: OnwardMessage | None = None

    def serves(self, candidates: Sequence[Backend]) -> bool:
        """Whether a recipient with these candidates can go along."""
        if self._link is not None:
            return self._link.backend in candidates
        return bool(candidates) and self.candidates[0] == candidates[0]

    async def recipient(self, address: str) -> Reply:
        """Offer a recipient; the first one opens the transaction.

        @return: the backend's verdict, or temporary trouble; after trouble the whole envelope is lost.
        """
        if self._refusal is not None:
            return self._refusal
        if address in self._taken:
            return self._taken[address]  # two names of one mailbox: one copy
        try:
            reply = await self._offer(address)
        except CancelledError:
            self.drop()
            raise
        except BackendFailed as error:
            return self._lost(error)
        if reply.good:
            self.accepted += 1
            self._taken[address] = reply
        return self._presentable(reply)

    async def _offer(self, address: str) -> Reply:
        if self._link is not None:
            return await self._link.ask(self._link.transfer.recipient(address), COMMAND_REPLY)
        link = self._connector.spare(self.candidates)
        if link is not None:
            try:
                return await self._open(link, address)
            except BackendFailed as error:  # it may have closed while it was idle
                self.log.debug("{session} {reason}; again", session=self._connector.session_id, reason=error.reason)
        link = await self._connector.open(self._pool, self.candidates, self._access, self._xclient)
        return await self._open(link, address)

    async def _open(self, link: Link, address: str) -> Reply:
        """Say MAIL and the first RCPT, in one breath where the backend allows."""
        self._link, origin, transfer = link, self._origin, link.transfer
        mail = link.ask(transfer.mail(origin.text, origin.size, origin.body), COMMAND_REPLY)
        if transfer.pipelining:
            recipient = link.ask(transfer.recipient(address), COMMAND_REPLY)
            opened, reply = await gather([mail, recipient])
        else:
            opened = reply = await mail
            if opened.good:
                reply = await link.ask(transfer.recipient(address), COMMAND_REPLY)
        if not opened.good:
            self._refusal = self._presentable(opened)
            return opened
        return reply

    def _lost(self, error: BackendFailed) -> Reply:
        self.log.warn("{session} {reason}", session=self._connector.session_id, reason=error.reason)
        self._refusal = TROUBLE
        return TROUBLE

    def _presentable(self, reply: Reply) -> Reply:
        """A backend's reply as the client may see it."""
        if reply.code not in OUR_FAULT:
            return reply
        assert self._link is not None
        self.log.error(
            "{session} {backend} does not take our mail: {code} {text!r}",
            session=self._connector.session_id,
            backend=str(self._link.backend),
            code=reply.code,
            text=reply.text,
        )
        return TROUBLE

    def message(self) -> OnwardMessage:
        """The text of this envelope; always the same object."""
        if self._message is None:
            self._message = OnwardMessage(self)
        return self._message

    # --- what the message does ---------------------------------------------------------------------------------------

    async def begin(self) -> Reply:
        """Say DATA."""
        if self._link is None or self._refusal is TROUBLE:
            return TROUBLE
        self._begun = True
        try:
            return self._presentable(await self._link.ask(self._link.transfer.data(), DATA_REPLY))
        except BackendFailed as error:
            return self._lost(error)

    def send(self, chunk: bytes) -> None:
        """Send a piece; when the backend is gone it goes nowhere, and the end will tell."""
        if self._link is not None and self._link.failure is None:
            self._link.say(self._link.transfer.chunk(chunk))

    async def finish(self) -> Reply:
        """Say the final dot, and wait for what the backend makes of the message."""
        link = self._link
        if link is None:
            return TROUBLE
        try:
            replies = await self._finish(link)
        except BackendFailed as error:
            return self._lost(error)
        self._link = None
        self._connector.keep(link)
        if is_mixed(replies):
            self.log.warn(
                "{session} {backend} took the message for some: {replies}",
                session=self._connector.session_id,
                backend=str(link.backend),
                replies=[f"{reply.code} {reply.enhanced}" for reply in replies],
            )
        return verdict([reply if reply.code not in OUR_FAULT else TROUBLE for reply in replies])

    async def _finish(self, link: Link) -> list[Reply]:
        """One reply; with LMTP one for each recipient."""
        if link.failure is not None:
            raise link.failure
        asked = link.ask_all(link.transfer.finish(), link.transfer.finals, self._connector.dialer.limits.backend_data)
        return await gather(asked)

    def drop(self) -> None:
        """The envelope is void: the backend forgets it."""
        link, self._link = self._link, None
        self._refusal = TROUBLE
        if link is None:
            return
        if self._begun or link.busy:
            link.drop()
        else:
            link.quit()

    def couple(self, message: OnwardMessage) -> Any:
        """Give the transport that the message is written to, C{None} when the backend is gone."""
        if self._link is None or self._link.failure is not None:
            return None
        self._link.watcher = message.stopProducing
        return self._link.transport

    def stalled(self) -> None:
        """The backend does not read."""
        if self._link is not None:
            self._lost(BackendFailed(Failure.TIMEOUT, f"{self._link.backend}: reads nothing for {STALL:g} s"))
            self._link.drop()

    @property
    def clock(self) -> Any:
        """The reactor."""
        return self._connector.dialer.reactor


@implementer(IStreamedMessage, IPushProducer)
class OnwardMessage:
    """The text of an L{Onward} envelope. Towards the backend's transport it stands for what feeds it."""

    def __init__(self, onward: Onward) -> None:
        self._onward = onward
        self._feeder: Any = None
        self._stall: IDelayedCall | None = None
        self._coupled: Any = None
        self._paused = False

    async def begin(self) -> Reply:
        return await self._onward.begin()

    def dataReceived(self, chunk: bytes) -> None:
        self._onward.send(chunk)

    write = dataReceived

    def lineReceived(self, line: bytes) -> None:
        """Never called: messages come by chunk."""
        self._onward.send(line + b"\r\n")

    def eomReceived(self) -> Deferred[Reply]:
        self.unregisterProducer()
        return Deferred.fromCoroutine(self._onward.finish())

    def connectionLost(self) -> None:
        self.unregisterProducer()
        self._onward.drop()

    # --- the backend's pace ------------------------------------------------------------------------------------------

    def registerProducer(self, producer: IProducer, streaming: bool) -> None:
        """Pause and resume C{producer} as the backend reads."""
        self._feeder = producer
        self._coupled = self._onward.couple(self)
        if self._coupled is not None:
            self._coupled.registerProducer(self, True)

    def unregisterProducer(self) -> None:
        """Nothing feeds this any more."""
        self._stop_watching()
        coupled, self._coupled = self._coupled, None
        if coupled is not None:
            coupled.unregisterProducer()
        feeder, self._feeder = self._feeder, None
        if feeder is not None and self._paused:
            feeder.resumeProducing()  # nobody else will

    def pauseProducing(self) -> None:
        if self._feeder is not None:
            self._paused = True
            self._feeder.pauseProducing()
            self._stop_watching()
            self._stall = self._onward.clock.callLater(STALL, self._onward.stalled)

    def resumeProducing(self) -> None:
        self._stop_watching()
        self._paused = False
        if self._feeder is not None:
            self._feeder.resumeProducing()

    def stopProducing(self) -> None:
        """The backend is gone: nothing holds the client back now; the end of the message will tell."""
        self._coupled = None  # a transport that is lost must not be touched: Twisted's TLS ones break
        self.resumeProducing()

    def _stop_watching(self) -> None:
        if self._stall is not None and self._stall.active():
            self._stall.cancel()
        self._stall = None
