"""Health checks: the dialogues that find out whether a backend is there, by speaking its protocol up to a login.

Each is the dialogue that logs users in, so that a check finds what a user would find; without a probe account it stops
before the login. It tells a backend nothing about any client, and decides on nobody's health.
"""

from __future__ import annotations

from collections.abc import Iterable

from mailgw.model import Access, Forward, Peer
from mailgw.wire.events import Event, Ready
from mailgw.wire.imapclient import ImapClient
from mailgw.wire.managesieveclient import SieveClient
from mailgw.wire.pop3client import Pop3Client
from mailgw.wire.transfer import QUIT, Transfer

NOBODY = Access("", b"")
OURSELVES = Forward("", Peer("", 0))


class ImapCheck(ImapClient):
    """IMAP: greeting, STARTTLS, CAPABILITY.

    @ivar capabilities: what the backend announced last, as L{mailgw.interfaces.IPool.capabilities} has it; empty
        before L{mailgw.wire.events.Ready}, which says that all is well.
    @ivar farewell: what to say then; the backend answers and hangs up.
    """

    farewell = b"Z LOGOUT\r\n"
    forward = None  # type: ignore[assignment]  # there is no client

    def __init__(self, access: Access | None, starttls: bool) -> None:
        """@param access: the probe account."""
        super().__init__(access or NOBODY, OURSELVES, starttls)
        self._probing = access is not None
        self.capabilities: frozenset[str] = frozenset()

    def _identification(self) -> list[bytes]:
        return []

    def _login(self) -> list[Event]:
        return super()._login() if self._probing else self._ready(b"")

    def _ready(self, text: bytes, kept: bytes = b"") -> list[Event]:
        self.capabilities = _texts(self._capabilities or ())
        self._over = True
        return [Ready(text)]


class Pop3Check(Pop3Client):
    """POP3: greeting, STLS, CAPA. As L{ImapCheck}."""

    farewell = b"QUIT\r\n"
    forward = None  # type: ignore[assignment]

    def __init__(self, access: Access | None, starttls: bool) -> None:
        super().__init__(access or NOBODY, OURSELVES, starttls)
        self._probing = access is not None
        self.capabilities: frozenset[str] = frozenset()

    def _proceed(self) -> list[Event]:
        self._hinted = False  # there is no client whose address could be told
        (self._capabilities or {}).pop(b"XCLIENT", None)
        return super()._proceed()

    def _login(self) -> list[Event]:
        return super()._login() if self._probing else self._ready(b"")

    def _ready(self, text: bytes, kept: bytes = b"") -> list[Event]:
        known = self._capabilities or {}
        self.capabilities = _texts(b" ".join([name, *sorted(_octets(words))]) for name, words in known.items())
        self._over = True
        return [Ready(text)]


class SieveCheck(SieveClient):
    """ManageSieve: the capabilities with which it greets, and again after STARTTLS. As L{ImapCheck}."""

    farewell = b"LOGOUT\r\n"
    forward = None  # type: ignore[assignment]

    def __init__(self, access: Access | None, starttls: bool) -> None:
        super().__init__(access or NOBODY, OURSELVES, starttls)
        self._probing = access is not None
        self.capabilities: frozenset[str] = frozenset()

    def _login(self) -> list[Event]:
        self._capabilities.pop(b"XCLIENT", None)
        # one that has no value stands there with its own name
        known = self._capabilities.items()
        self.capabilities = _texts(name if value == name else b"%b %b" % (name, value) for name, value in known)
        return super()._login() if self._probing else self._ready(b"")

    def _ready(self, text: bytes, kept: bytes = b"") -> list[Event]:
        self._over = True
        return [Ready(text)]


class TransferCheck(Transfer):
    """SMTP and LMTP: greeting, EHLO or LHLO, STARTTLS; a login where AUTH is announced. As L{ImapCheck}."""

    farewell = QUIT
    forward = None  # type: ignore[assignment]

    def __init__(self, access: Access | None, starttls: bool, hostname: str, lmtp: bool = False) -> None:
        """@param hostname: what we call ourselves."""
        super().__init__(access, OURSELVES, starttls, hostname, lmtp)
        self.capabilities: frozenset[str] = frozenset()

    def _introduce(self) -> list[Event]:
        return self._log_in()

    def _log_in(self) -> list[Event]:
        if "AUTH" not in self.extensions:  # port 25 often takes mail from whom it knows, and logs nobody in
            self._access = None
        return super()._log_in()

    def _ready(self) -> list[Event]:
        self.capabilities = frozenset(f"{name} {words}".rstrip() for name, words in self.extensions.items())
        self._access = self._expect = None
        return [Ready(b"")]


Check = ImapCheck | Pop3Check | SieveCheck | TransferCheck


def check_of(protocol: str, access: Access | None, starttls: bool, hostname: str, lmtp: bool = False) -> Check:
    """Make the check of a protocol: C{imap}, C{pop3}, C{managesieve} or C{smtp}.

    @param access: the probe account, C{None} for no login.
    @param starttls: demand it before anything else.
    @param hostname: what we call ourselves in SMTP and LMTP.
    """
    match protocol:
        case "imap":
            return ImapCheck(access, starttls)
        case "pop3":
            return Pop3Check(access, starttls)
        case "managesieve":
            return SieveCheck(access, starttls)
    return TransferCheck(access, starttls, hostname, lmtp)


def _octets(words: frozenset[str]) -> list[bytes]:
    return [word.encode("ascii", "replace") for word in words]


def _texts(words: Iterable[bytes]) -> frozenset[str]:
    return frozenset(word.decode("ascii", "replace") for word in words)
