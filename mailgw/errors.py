"""The errors of the house: one small tree. Misbehaviour of a peer is an event (L{mailgw.wire.events}), not an error."""

from __future__ import annotations

from collections.abc import Sequence

from mailgw.model import Failure, Refusal, RefusalKind


class MailgwError(Exception):
    """The root of every error that mailgw raises on purpose."""


class SettingsError(MailgwError):
    """The settings have faults.

    @ivar faults: one finished line a fault, C{FILE:LINE: path.to.key: what is wrong}; never a secret in it.
    """

    def __init__(self, faults: Sequence[str]) -> None:
        super().__init__("\n".join(faults))
        self.faults = tuple(faults)


class LoginRefused(MailgwError):
    """A login failed; L{Refusal.kind} tells the client, L{Refusal.reason} our log."""

    def __init__(self, kind: RefusalKind, reason: str = "") -> None:
        super().__init__(f"{kind.value}: {reason}" if reason else kind.value)
        self.refusal = Refusal(kind, reason)


class DirectoryDown(MailgwError):
    """A directory could not be asked: temporary trouble, never a wrong password."""


class BackendFailed(MailgwError):
    """A backend could not be used.

    @ivar kind: what failed.
    @ivar reason: for our log; may quote the backend's words, escaped.
    """

    def __init__(self, kind: Failure, reason: str) -> None:
        super().__init__(f"{kind.value}: {reason}")
        self.kind = kind
        self.reason = reason
