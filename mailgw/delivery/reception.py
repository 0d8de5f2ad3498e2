"""Reception: the session of an SMTP client, and the submission and mx listeners.

It drives the dialogue and gives each answer only when it is known. Who may send what is decided by the avatar that
cred's portal gives (L{mailgw.delivery.routed}); here mail is taken in, one envelope at a time, chunk by chunk.
"""

from __future__ import annotations

from typing import Any

from twisted.cred.credentials import Anonymous
from twisted.internet.defer import CancelledError, Deferred, maybeDeferred
from twisted.internet.defer import TimeoutError as DeferredTimeout
from twisted.internet.interfaces import IDelayedCall, IPushProducer
from twisted.internet.protocol import connectionDone
from twisted.mail import smtp
from twisted.python.failure import Failure
from zope.interface import implementer

from mailgw.delivery.envelope import IStreamedMessage, Origin, Path, reply_of
from mailgw.delivery.link import gather
from mailgw.delivery.policy import LOOP, HopCounter
from mailgw.delivery.verdict import is_mixed, verdict
from mailgw.edge.session import Front, Session
from mailgw.errors import LoginRefused, MailgwError
from mailgw.interfaces import IChunkedMessage, IFrontend, IPreparedMessage
from mailgw.model import Login
from mailgw.settings import Listener
from mailgw.wire.events import Chunk, Data, EndOfMail, Event, Forwarded, Mail, Recipient, Reply, Reset
from mailgw.wire.replies import GO_AHEAD, TROUBLE
from mailgw.wire.smtp import SmtpServer

TOLD_WITHIN = 15.0
"""Seconds after which a client has its answer to MAIL or RCPT, whatever is wrong behind us."""
SENDER_OK = Reply(250, "2.1.0", "Ok")
RECIPIENT_OK = Reply(250, "2.1.5", "Ok")
SHUTTING_DOWN = "Server is shutting down"


class Envelope:
    """One message on its way in.

    @ivar users: the recipients so far; C{makers}: what gives the message for each.
    @ivar messages: where the text goes, each destination once.
    """

    def __init__(self, origin: Origin) -> None:
        self.origin = origin
        self.users: list[Any] = []
        self.makers: list[Any] = []
        self.messages: list[IChunkedMessage] = []
        self.hops = HopCounter()
        self.size = 0

    def drop(self) -> None:
        """Void: no destination keeps anything."""
        messages, self.messages = self.messages, []
        for message in messages:
            message.connectionLost()  # type: ignore[no-untyped-call]  # Twisted's interface


@implementer(IPushProducer)
class Tap:
    """What a destination that does not keep up turns off: the reading from the client."""

    def __init__(self, session: SmtpSession) -> None:
        self._session = session

    def pauseProducing(self) -> None:
        self._session.choke(True)

    def resumeProducing(self) -> None:
        self._session.choke(False)

    def stopProducing(self) -> None:
        self._session.choke(False)


class SmtpSession(Session):
    """A client's connection to a submission or mx listener."""

    avatar = smtp.IMessageDelivery

    def __init__(self, front: Front) -> None:
        super().__init__(front)
        self._delivery: Any = None
        self._envelope: Envelope | None = None
        self._deciding: Deferred[None] | None = None
        self._choked = self._half_closed = self._leaving = self._finishing = False
        self._idle: IDelayedCall | None = None
        self._heard = 0.0

    # --- reading -----------------------------------------------------------------------------------------------------

    def dataReceived(self, data: bytes) -> None:
        self._heard = self._front.reactor.seconds()
        waited = self._deciding is not None
        super().dataReceived(data)
        if waited and self._deciding is not None:  # it goes on sending before it has its answer
            self.transport.pauseProducing()

    def resumeProducing(self) -> None:
        self._unread = False
        self._flow()

    def choke(self, choked: bool) -> None:
        """A destination cannot take more now, or can again."""
        self._choked = choked
        self._heard = self._front.reactor.seconds()
        self._flow()

    def _flow(self) -> None:
        """Read from the client only when nothing is awaited, and nobody is behind."""
        if self._ending:
            return
        if self._unread or self._choked or self._pending is not None or self._deciding is not None:
            self.transport.pauseProducing()
        else:
            self.transport.resumeProducing()

    def readConnectionLost(self) -> None:
        """The client has finished sending; it still gets its answers."""
        self._half_closed = True
        if self._deciding is None and self._pending is None:
            self.transport.loseConnection()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._ending = self._ending or reason.getErrorMessage()
        if self._idle is not None and self._idle.active():
            self._idle.cancel()
        if not self._finishing:  # a message that is complete goes where it goes, with or without its sender
            if self._deciding is not None:
                self._deciding.cancel()
            self._part()
        super().connectionLost(reason)

    def bring(self, told: Forwarded) -> None:
        self._part()  # backends have been told of another client
        self._leave()
        super().bring(told)

    def _part(self) -> None:
        """Leave nothing behind us open."""
        self._drop()
        if self._delivery is not None:
            self._delivery.close()
            self._delivery = None

    # --- time --------------------------------------------------------------------------------------------------------

    def _watch(self) -> None:
        """From now on the client must not be silent for long, where it is its turn."""
        self._stop_deadline()
        if self._idle is None:
            self._heard = self._front.reactor.seconds()
            self._idle = self._front.reactor.callLater(self._front.limits.idle_smtp, self._look)

    def _look(self) -> None:
        """One timer looks now and then, instead of one being set again at every chunk."""
        self._idle = None
        if self._ending:
            return
        now, limit = self._front.reactor.seconds(), self._front.limits.idle_smtp
        if self._deciding is not None or self._choked:
            self._heard = now
        left = self._heard + limit - now
        if left > 0:
            self._idle = self._front.reactor.callLater(left, self._look)
        else:
            self._expire("idle for too long")

    def shut(self, *, even_logged_in: bool) -> None:
        if even_logged_in or self._ending:
            super().shut(even_logged_in=even_logged_in)
        elif self._envelope is not None:
            self._leaving = True  # the message that is coming is taken, or refused, first
        else:
            self._ending = "gateway stops"
            if self._front.terms.tls == "implicit" and not self.secure:
                self.transport.abortConnection()
            else:
                self._farewell(SHUTTING_DOWN)

    # --- the login ---------------------------------------------------------------------------------------------------

    async def _login(self, login: Login) -> None:
        """The path of one login on submission: portal, identity, delivery; the conversation goes on."""
        self._delivery = await self._enter(login)
        self.username = self._delivery.username
        self._admitted()
        self.login = None
        self._watch()
        reply, _ = self._dialogue.admit(b"")
        self.transport.write(reply)
        self._flow()
        self.carry(self._dialogue.resume())

    # --- events of the dialogue --------------------------------------------------------------------------------------

    def carry(self, events: list[Event]) -> None:
        super().carry(events)
        if self._leaving and not self._reacting and self._envelope is None and not self._ending:
            self._ending = "gateway stops"
            self._farewell(SHUTTING_DOWN)

    def other(self, event: Event) -> None:
        match event:
            case Chunk(data):
                self._take(data)
            case Reset():
                self._drop()
            case EndOfMail(fault) if fault:
                self._report(Reply(0, "", fault))
                self._drop()
            case _:
                self._decide(event)

    def _decide(self, event: Event) -> None:
        """Begin to find the answer to an event; reading goes on only when it is given."""
        deciding = Deferred.fromCoroutine(self._settle(event))
        self._deciding = None if deciding.called else deciding

    async def _settle(self, event: Event) -> None:
        """Answer; whatever breaks on the way is temporary trouble of ours."""
        try:
            reply = await self._judge(event)
        except CancelledError:
            return
        except MailgwError as error:
            self.log.warn("{session} {reason}", session=self.session_id, reason=str(error))
            reply = TROUBLE
        except Exception:
            self.log.failure("{session} {event} broke", session=self.session_id, event=type(event).__name__)
            reply = TROUBLE
        if self._finishing:
            self._report(reply)
            self._drop()
            self._finishing = False
        waited, self._deciding = self._deciding is not None, None
        if self._dialogue is None:
            self._part()
        if self._dialogue is None or self._ending:
            return
        self._heard = self._front.reactor.seconds()
        self.carry(self._dialogue.answer(reply))
        if waited and self._deciding is None:
            self._flow()
            if self._half_closed:
                self.transport.loseConnection()

    async def _judge(self, event: Event) -> Reply:
        match event:
            case Mail():
                return await self._within(self._sender(event))
            case Recipient(address):
                return await self._within(self._recipient(address))
            case Data():
                return await self._begin_text()
            case EndOfMail():
                self._finishing = True
                return await self._end()
        raise NotImplementedError(type(event).__name__)

    async def _within(self, judging: Any) -> Reply:
        """Wait for an answer, but not for longer than clients do."""
        deciding: Deferred[Reply] = Deferred.fromCoroutine(judging)
        try:
            return await deciding.addTimeout(TOLD_WITHIN, self._front.reactor)
        except DeferredTimeout:
            self.log.warn("{session} no answer within {seconds:g} s", session=self.session_id, seconds=TOLD_WITHIN)
            return TROUBLE
        except smtp.SMTPServerError as error:
            return reply_of(error)

    # --- the envelope ------------------------------------------------------------------------------------------------

    @property
    def _helo(self) -> tuple[bytes, bytes]:
        """As twisted.mail has it: the name, and the address that it came from."""
        return self._dialogue.helo.encode("ascii"), self.peer.host.encode("ascii", "replace")

    async def _sender(self, mail: Mail) -> Reply:
        if self._leaving:
            return TROUBLE
        if self._delivery is None:
            try:
                self._delivery = await self._enter(Anonymous())
            except LoginRefused as error:
                self.log.warn("{session} not taken in: {reason}", session=self.session_id, reason=error.refusal.reason)
                return TROUBLE
        origin = Origin(mail.sender, mail.size, mail.body, self._dialogue.esmtp)
        await maybeDeferred(self._delivery.validateFrom, self._helo, origin)
        self._envelope = Envelope(origin)
        self._watch()
        return SENDER_OK

    async def _recipient(self, address: str) -> Reply:
        envelope = self._envelope
        assert envelope is not None
        user = smtp.User(Path(address), self._helo, self, envelope.origin)
        maker = await maybeDeferred(self._delivery.validateTo, user)
        envelope.users.append(user)
        envelope.makers.append(maker)
        return RECIPIENT_OK

    async def _begin_text(self) -> Reply:
        """Open every destination; then the text may come, our trace first."""
        envelope = self._envelope
        assert envelope is not None
        for maker in envelope.makers:
            message = maker()
            if not any(message is other for other in envelope.messages):
                envelope.messages.append(message)
        for message in envelope.messages:
            if IStreamedMessage.providedBy(message):
                reply = await message.begin()
                if reply.code != GO_AHEAD.code:
                    return reply if not reply.good else TROUBLE
                message.registerProducer(Tap(self), True)
        trace = self._delivery.receivedHeader(self._helo, envelope.origin, envelope.users)
        for message in envelope.messages:
            message.dataReceived(trace)
        return GO_AHEAD

    def _take(self, data: bytes) -> None:
        envelope = self._envelope
        if envelope is None:
            return
        envelope.size += len(data)
        envelope.hops.feed(data)
        for message in envelope.messages:
            message.dataReceived(data)

    async def _end(self) -> Reply:
        """The text is complete: every destination says what it makes of it."""
        envelope = self._envelope
        assert envelope is not None
        if envelope.hops.looping:
            envelope.drop()
            return LOOP
        refusal = await self._prepare(envelope.messages)
        if refusal is not None:
            envelope.drop()
            return refusal
        outcomes = []
        while envelope.messages:
            outcomes.append(await _end_of(envelope.messages.pop(0)))
        if is_mixed(outcomes):
            self.log.warn("{session} the message was taken for some only", session=self.session_id)
        return verdict(outcomes)

    async def _prepare(self, messages: list[Any]) -> Reply | None:
        """Have the messages that can be prepared safe on the disk before the first is put into a mailbox.

        @return: the first refusal, C{None} if all is well; then nobody has got a copy.
        """
        local = filter(IPreparedMessage.providedBy, messages)
        preparing = [Deferred.fromCoroutine(message.prepare()) for message in local]
        refusals: list[Reply | None] = await gather(preparing)
        return next((refusal for refusal in refusals if refusal is not None), None)

    def _drop(self) -> None:
        """The envelope is void."""
        envelope, self._envelope = self._envelope, None
        if envelope is not None:
            envelope.drop()
        if self._delivery is not None:
            self._delivery.reset()

    def _report(self, reply: Reply) -> None:
        """One line for each message that came to its end."""
        envelope = self._envelope
        if envelope is not None:
            self._count("messages.accepted" if reply.code // 100 == 2 else "messages.refused")
            self.log.info(
                "{session} message from <{sender}> to {recipients}: {size} octets, {code} {text!r}",
                session=self.session_id,
                sender=envelope.origin.text,
                recipients=", ".join(f"<{user.dest.text}>" for user in envelope.users[:5])
                + ", …" * (len(envelope.users) > 5),
                size=envelope.size,
                code=reply.code or "refused:",
                text=reply.text,
            )


async def _end_of(message: Any) -> Reply:
    outcome: Reply = await (message.commit() if IPreparedMessage.providedBy(message) else message.eomReceived())
    return outcome


class SmtpFactory(smtp.SMTPFactory):
    """Builds the sessions of one listener."""

    noisy = False

    def __init__(self, front: Front) -> None:
        super().__init__(front.portal)  # type: ignore[no-untyped-call]
        self.domain = front.terms.hostname.encode()
        self._front = front

    def buildProtocol(self, addr: object) -> SmtpSession:
        return SmtpSession(self._front)


@implementer(IFrontend)
class SmtpFrontend:
    """A kind of listener: with logins (submission) or without (mx)."""

    def __init__(self, ports: tuple[int, int], *, authenticate: bool) -> None:
        self.ports = ports
        self._authenticate = authenticate

    def make_factory(self, house: Any, listener: Listener) -> SmtpFactory:
        return SmtpFactory(Front(house, listener, SmtpServer, authenticate=self._authenticate))


SUBMISSION = SmtpFrontend((587, 465), authenticate=True)
MX = SmtpFrontend((25, 465), authenticate=False)
