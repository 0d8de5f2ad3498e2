"""A client's side of a conversation with L{SmtpServer}, and somebody who answers its events."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from mailgw.model import Login, Refusal, RefusalKind
from mailgw.wire.events import Chunk, Close, Data, EndOfMail, Mail, Recipient, Reply, Reset, Send, StartTLS
from mailgw.wire.protocol import Terms
from mailgw.wire.smtp import SmtpServer

OK = Reply(250, "2.0.0", "Ok")
GO = Reply(354, "", "Go ahead")
QUEUED = Reply(250, "2.0.0", "Queued")


class Talk:
    """A conversation with everything that came of it.

    @ivar messages: C{(sender, recipients, text)} of each message that was accepted; C{faults}: of each that was not.
    @ivar closed: why the connection was closed, C{None} while it is open.
    """

    def __init__(self, secure: bool = False, **terms: Any) -> None:
        self.server = SmtpServer(Terms("mx.example.com", **terms), secure)
        self.sent = b""
        self.messages: list[tuple[str, list[str], bytes]] = []
        self.faults: list[str] = []
        self.logins: list[Login] = []
        self.events: list[Any] = []
        self.closed: str | None = None
        self.held = False
        self.passwords = {b"secret"}
        self._sender, self._recipients, self._text = "", [""], b""
        self._carry(self.server.greet())

    def say(self, data: bytes, cut: Callable[[bytes], Iterable[bytes]] = lambda data: [data]) -> bytes:
        """Send something, in pieces; return what came back."""
        before = len(self.sent)
        for piece in cut(data):
            self._carry(self.server.feed(piece))
        return self.sent[before:]

    def codes(self, data: bytes, cut: Callable[[bytes], Iterable[bytes]] = lambda data: [data]) -> list[int]:
        """Send something; return the codes of the replies."""
        replies = self.say(data, cut).split(b"\r\n")[:-1]
        return [int(line[:3]) for line in replies if line[3:4] == b" "]

    def upgrade(self) -> None:
        """Finish a TLS handshake."""
        self._carry(self.server.secured())

    def answer(self, reply: Reply) -> bytes:
        """Answer the event that is held back."""
        before = len(self.sent)
        self.held = False
        self._carry(self.server.answer(reply))
        return self.sent[before:]

    def _carry(self, events: Iterable[Any]) -> None:
        for event in events:
            self.events.append(event)
            self._react(event)

    def _react(self, event: Any) -> None:
        match event:
            case Send(data) | StartTLS(data):
                self.sent += data
            case Close(data, reason):
                self.sent += data
                self.closed = reason
            case Login():
                self.logins.append(event)
                self._judge(event)
            case Chunk(data):
                self._text += data
            case Reset():
                self._text = b""
            case EndOfMail(fault) if fault:
                self.faults.append(fault)
                self._text = b""
            case _ if not self.held:
                self._decide(event)

    def _judge(self, login: Login) -> None:
        if login.password not in self.passwords:
            self._carry(self.server.refuse(Refusal(RefusalKind.CREDENTIALS)))
            return
        reply, rest = self.server.admit(b"")
        assert not rest
        self.sent += reply
        self._carry(self.server.resume())

    def _decide(self, event: Any) -> None:
        match event:
            case Mail(sender):
                self._sender, self._recipients, self._text = sender, [], b""
                self._carry(self.server.answer(OK))
            case Recipient(address):
                self._recipients.append(address)
                self._carry(self.server.answer(OK))
            case Data():
                self._carry(self.server.answer(GO))
            case EndOfMail():
                self.messages.append((self._sender, self._recipients, self._text))
                self._text = b""
                self._carry(self.server.answer(QUEUED))


def octets(data: bytes) -> list[bytes]:
    """Cut into single octets."""
    return [data[at : at + 1] for at in range(len(data))]


def cut_at(place: int) -> Callable[[bytes], list[bytes]]:
    """Cut in two."""
    return lambda data: [data[:place], data[place:]]


def mx(secure: bool = False, **terms: Any) -> Talk:
    """A conversation with an mx listener."""
    return Talk(secure, authenticate=False, **terms)


def sending(talk: Talk) -> Talk:
    """Bring a conversation up to 354."""
    assert talk.codes(b"EHLO client.example\r\n") == [250]
    assert talk.codes(b"MAIL FROM:<a@x>\r\nRCPT TO:<b@d>\r\nDATA\r\n") == [250, 250, 354]
    return talk
