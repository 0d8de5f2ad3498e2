"""Policy: who may send as whom, which domains are ours, and when a message has travelled too far.

It asks no directory and knows no route: it judges what others found out.
"""

from __future__ import annotations

import re
from collections.abc import Collection

from mailgw.model import Identity
from mailgw.wire.events import Reply

MAX_HOPS = 100
"""Received headers of a message that must be going in circles (RFC 5321 §6.3)."""

NOT_YOURS = Reply(553, "5.7.1", "Sender address rejected: not owned by this login")
RELAY_DENIED = Reply(550, "5.7.1", "Relaying denied")
NO_SUCH_USER = Reply(550, "5.1.1", "No such user here")
ANOTHER_DESTINATION = Reply(452, "4.5.3", "Send to this recipient in a transaction of its own")
LOOP = Reply(554, "5.4.6", "Too many hops, mail loop")

_RECEIVED = re.compile(rb"\r\nreceived:", re.IGNORECASE)


class Policy:
    """What the settings say about senders and recipients."""

    def __init__(self, domains: Collection[str]) -> None:
        """@param domains: the ones that are ours, lower case."""
        self._domains = tuple(domains)

    def sender(self, identity: Identity | None, sender: str) -> Reply | None:
        """Why this address must not be the sender, or C{None}.

        On MX the world may send as anybody. A login may send as one of its addresses, as its canonical name, and as
        nobody: notifications of receipt have the null sender (RFC 8098 §2.1).

        @param identity: who is logged in, C{None} on MX.
        """
        if identity is None or not sender:
            return None
        name = identity.username.lower()
        own = {name, *(address.lower() for address in identity.addresses)}
        if "@" not in name:
            own.update(f"{name}@{domain}" for domain in self._domains)
        return None if sender.lower() in own else NOT_YOURS

    def is_ours(self, address: str) -> bool:
        """Whether a recipient's domain is ours; C{postmaster} without a domain is (RFC 5321 §4.5.1)."""
        return "@" not in address or address.rpartition("@")[2].lower() in self._domains

    def lookup_name(self, address: str) -> str:
        """What a directory is asked for: lower case, with a domain."""
        if "@" not in address and self._domains:
            return f"{address}@{self._domains[0]}".lower()
        return address.lower()


class HopCounter:
    """Counts the Received headers of a message as it streams by. After the headers it costs nothing."""

    __slots__ = ("_tail", "hops")

    def __init__(self) -> None:
        self._tail: bytes | None = b"\r\n"
        self.hops = 0

    def feed(self, chunk: bytes) -> None:
        """Take the next piece of the message."""
        if self._tail is None:
            return
        text = self._tail + chunk
        end = text.find(b"\r\n\r\n")
        self.hops += len(_RECEIVED.findall(text, 0, end + 2 if end >= 0 else len(text)))
        # Shorter than what is counted, so that nothing counts twice; longer than the headers' end.
        self._tail = None if end >= 0 else text[-10:]

    @property
    def looping(self) -> bool:
        """Too many."""
        return self.hops > MAX_HOPS
