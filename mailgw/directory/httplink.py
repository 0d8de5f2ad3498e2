"""One HTTP server: connections to it, kept open between questions.

It knows nothing of what is asked or answered, and follows no redirection. What a server that is down means to the
question stands in C{httpservers.py}.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

from OpenSSL import SSL
from service_identity import VerificationError
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.python.failure import Failure

from mailgw.directory.httpaddress import Address
from mailgw.directory.servers import NoAnswer
from mailgw.wire.http import Answer, AnswerReader, Malformed


class TooLate(NoAnswer):
    """A server took the question, and said nothing in time."""


class Link(Protocol):
    """One connection; one question at a time.

    @ivar fit: another question may be put.
    @ivar touched: the server has said something to the question under way.
    @ivar since: when the last question was answered, for whoever keeps the connection.
    """

    transport: Any

    def __init__(self, gone: Callable[[Link], None], secure: bool) -> None:
        """
        @param gone: told when the connection is there no more.
        @param secure: TLS is spoken on it.
        """
        self._gone, self._secure = gone, secure
        self._reader: AnswerReader | None = None
        self._waiting: Deferred[Answer] | None = None
        self.fit = True
        self.touched = False
        self.since = 0.0

    def connectionMade(self) -> None:
        if hasattr(self.transport, "setTcpNoDelay"):
            self.transport.setTcpNoDelay(True)

    def ask(self, request: bytes) -> Deferred[Answer]:
        """Put a question. Cancelling it ends the connection.

        @return: fails with L{NoAnswer}.
        """
        self.touched = False
        self._reader = AnswerReader()
        self._waiting = Deferred(lambda _: self._drop())
        waiting = self._waiting
        self.transport.write(request)
        return waiting

    def dataReceived(self, data: bytes) -> None:
        if self._reader is None:
            self.close()  # nobody has asked anything
            return
        self.touched = True
        answer = self._reader.feed(data)
        if answer is None:
            return
        if isinstance(answer, Malformed):
            self._fail(NoAnswer(answer.reason))
            return
        waiting, self._waiting, self._reader = self._waiting, None, None
        if not answer.keep:
            self.close()
        if waiting is not None:
            waiting.callback(answer)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.fit = False
        self._gone(self)
        if self._reader is not None:
            self._fail(NoAnswer(in_words(reason)))

    def expire(self) -> None:
        """The time for the question that is under way is over."""
        self._fail(TooLate("no answer in time"))

    def close(self) -> None:
        """Hang up; a question that is under way gets no answer."""
        self._waiting = self._reader = None
        if self.fit:
            self.fit = False
            if self._secure:  # a farewell in TLS would wait for the server's
                self.transport.abortConnection()
            else:
                self.transport.loseConnection()

    def _fail(self, error: NoAnswer) -> None:
        waiting = self._waiting
        self._drop()
        if waiting is not None:
            waiting.errback(error)

    def _drop(self) -> None:
        self._waiting = self._reader = None
        if self.fit:
            self.fit = False
            self.transport.abortConnection()


def in_words(reason: Failure) -> str:
    """Why a connection ended; OpenSSL's and service_identity's errors have no words of their own."""
    error = reason.value
    if isinstance(error, VerificationError):
        return "its certificate is for another name"
    if isinstance(error, SSL.Error) and error.args and error.args[0]:
        return "; ".join(str(entry[-1]) for entry in error.args[0])
    return reason.getErrorMessage()


class Server:
    """One server, and the idle connections to it.

    @ivar failed: its last question got no answer; C{slow}: because it was not in time.
    @ivar probing: it failed, and a question is finding out whether it is back.
    """

    def __init__(self, address: Address, endpoint: Callable[[float], Any], clock: Any, keep: float) -> None:
        """
        @param endpoint: makes what to connect with, given the seconds that it may take.
        @param keep: seconds for which an idle connection is kept; 0: one connection a question.
        """
        self.name = address.uri
        self.failed = self.slow = self.probing = False
        self.rests_until = 0.0
        self._opening = address.opening + (b"" if keep else b"Connection: close\r\n")
        self._endpoint, self._secure = endpoint, address.secure
        self._clock = clock
        self._keep = keep
        self._idle: deque[Link] = deque()
        self._sweep: Any = None

    async def ask(self, fields: bytes, seconds: float) -> Answer:
        """Put a question on an idle connection, and, where the server has closed that meanwhile, on a new one.

        @raise NoAnswer: no answer on either; L{TooLate}: not within that many seconds.
        """
        until = self._clock.seconds() + seconds
        request = self._opening + fields
        while self._idle:
            link = self._idle.pop()  # the one used last, so that those that are not needed grow old
            if not link.fit:
                continue
            try:
                return await self._put(link, request, until)
            except TooLate:
                raise
            except NoAnswer:
                if link.touched:
                    raise
                break
        link = await self._connect(until)
        return await self._put(link, request, until)

    async def _put(self, link: Link, request: bytes, until: float) -> Answer:
        asked = link.ask(request)
        late = self._clock.callLater(max(0.0, until - self._clock.seconds()), link.expire)
        try:
            answer = await asked
        finally:
            if late.active():
                late.cancel()
        if link.fit and self._keep:
            link.since = self._clock.seconds()
            self._idle.append(link)
            if self._sweep is None:
                self._sweep = self._clock.callLater(self._keep, self._close_old)
        else:
            link.close()
        return answer

    async def _connect(self, until: float) -> Link:
        seconds = max(0.001, until - self._clock.seconds())
        answer: Deferred[Any] = Deferred()
        attempt = self._endpoint(seconds).connect(_Quiet.forProtocol(lambda: Link(self._forget, self._secure)))
        # Endpoints answer a cancellation with errors of their own; whoever cancels is to get CancelledError.
        attempt.addBoth(lambda result: _hang_up(result) if answer.called else answer.callback(result))
        try:
            link: Link = await answer
        except CancelledError:
            attempt.cancel()
            raise
        except Exception as error:  # whatever a resolver, an endpoint or TLS may raise: nobody could be asked
            raise NoAnswer(in_words(Failure(error))) from None
        return link

    def _forget(self, link: Link) -> None:
        if link in self._idle:
            self._idle.remove(link)

    def _close_old(self) -> None:
        """Close what has been idle for long enough, and look again when the next one will have been."""
        self._sweep = None
        now = self._clock.seconds()
        while self._idle and now - self._idle[0].since >= self._keep:
            self._idle.popleft().close()
        if self._idle:
            self._sweep = self._clock.callLater(self._keep - (now - self._idle[0].since), self._close_old)

    def close(self) -> None:
        """Close the idle connections."""
        while self._idle:
            self._idle.pop().close()
        if self._sweep is not None:
            self._sweep.cancel()
            self._sweep = None


def _hang_up(result: Any) -> None:
    """A connection came, and nobody waits for it any more."""
    if not isinstance(result, Failure):
        result.transport.abortConnection()


class _Quiet(Factory):
    """Builds connections, and does not log that it does."""

    noisy = False
