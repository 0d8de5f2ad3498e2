"""The envelope in twisted.mail's words: addresses, refusals, and what a message that streams onward can do more.

It parses nothing: addresses come canonical from L{mailgw.wire.address}, and twisted.mail's own parser, which would
lose their quotes, never sees them.
"""

from __future__ import annotations

from twisted.internet.interfaces import IConsumer
from twisted.mail import smtp
from zope.interface import Attribute

from mailgw.interfaces import IChunkedMessage
from mailgw.wire.events import Reply


class Path(smtp.Address):
    """An address as the wire room gave it.

    @ivar text: C{local@domain}, C{"postmaster"}, or C{""} for the null sender.
    """

    def __init__(self, text: str) -> None:
        self.text = text
        self.addrstr = text.encode("ascii")
        local, _, domain = text.rpartition("@") if "@" in text else (text, "", "")
        self.local, self.domain = local.encode("ascii"), domain.encode("ascii")


class Origin(Path):
    """The sender, and what MAIL said about the message.

    @ivar size: octets, C{None} where it was not said; C{body}: C{"7BIT"}, C{"8BITMIME"} or C{""}.
    @ivar esmtp: the client greeted with EHLO.
    """

    def __init__(self, text: str, size: int | None = None, body: str = "", esmtp: bool = True) -> None:
        super().__init__(text)
        self.size, self.body, self.esmtp = size, body, esmtp


class SenderRefused(smtp.SMTPBadSender):
    """A sender is not taken; C{reply} is the client's answer."""

    def __init__(self, origin: smtp.Address, reply: Reply) -> None:
        super().__init__(origin, reply.code, reply.text)  # type: ignore[no-untyped-call]  # Twisted's
        self.reply = reply


class RecipientRefused(smtp.SMTPBadRcpt):
    """A recipient is not taken; C{reply} is the client's answer."""

    def __init__(self, recipient: smtp.Address, reply: Reply) -> None:
        super().__init__(recipient, reply.code, reply.text)  # type: ignore[no-untyped-call]  # Twisted's
        self.reply = reply


def reply_of(error: smtp.SMTPServerError) -> Reply:
    """Give the client's answer to a refusal; a site's own delivery may raise twisted.mail's plain ones."""
    reply = getattr(error, "reply", None)
    if isinstance(reply, Reply):
        return reply
    words = error.resp.decode("ascii", "replace") if isinstance(error.resp, bytes) else str(error.resp)
    return Reply(error.code, f"{error.code // 100}.0.0", words)


class IDelivery(smtp.IMessageDelivery):
    """One session's delivery of mail. C{validateTo} fires with what makes the message; recipients may share one."""

    username = Attribute("C{str}: the canonical name of who is logged in, C{''} on MX")

    def reset() -> None:
        """The envelope is void."""

    def close() -> None:
        """The session is over: part from the backends, forget the password."""


class IStreamedMessage(IChunkedMessage, IConsumer):
    """A message whose destination takes it at its own pace, and only if it wants to.

    C{registerProducer} pauses what feeds it while the destination does not read.
    """

    async def begin() -> Reply:
        """Ask whether the text may come; 354 means yes. Called once, before the first C{dataReceived}."""
