"""What a login protocol is: a server dialogue for the client's side, a client dialogue for the backend's, and terms.

Adding a protocol is one file in this room that ends with one L{LoginProtocol}.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from mailgw.interfaces import IClientDialogue, IServerDialogue
from mailgw.model import Access, Forward


@dataclass(frozen=True, slots=True)
class Terms:
    """On which terms a listener talks; one value for all of its connections.

    @ivar tls: C{"starttls"} (no login before it), C{"optional"}, C{"implicit"} or C{"none"}.
    @ivar authenticate: SMTP only: true on submission, false on mx.
    @ivar max_line: octets of a command line; C{max_literal}: of one IMAP literal; C{max_total}: of all that a client
        sends before it is logged in.
    @ivar bad_commands: how many are answered before the connection is closed.
    @ivar login_attempts: how many logins may fail before the connection is closed.
    @ivar capabilities: what is told before the login instead of our own list; never of TLS and of logging in.
    @ivar learned: what every backend announces that a client could reach, as far as that is known.
    @ivar trusted: this client is a proxy or a webmail, and may tell whom it brings.
    """

    hostname: str
    tls: str = "starttls"
    authenticate: bool = True
    max_line: int = 8192
    max_literal: int = 4096
    max_total: int = 65536
    bad_commands: int = 10
    login_attempts: int = 5
    message_size: int = 50 << 20
    recipients: int = 1000
    trusted: bool = False
    capabilities: tuple[str, ...] = ()
    learned: Callable[[], frozenset[str]] = frozenset

    @property
    def upgradable(self) -> bool:
        """STARTTLS is offered while the connection is in clear."""
        return self.tls in ("starttls", "optional")

    def may_login(self, secure: bool) -> bool:
        """Whether a password may be asked for now."""
        return secure or self.tls in ("optional", "none")


@dataclass(frozen=True, slots=True)
class LoginProtocol:
    """A protocol that is a login and then a stream of bytes.

    @ivar name: C{"imap"}, as routes, pools and logs say it.
    @ivar ports: the plain and the TLS port of the classic assignment.
    @ivar server: makes the dialogue with a client; the flag says whether the connection is encrypted already.
    @ivar client: makes the dialogue with a backend; the flag demands STARTTLS.
    """

    name: str
    ports: tuple[int, int]
    server: Callable[[Terms, bool], IServerDialogue]
    client: Callable[[Access, Forward, bool], IClientDialogue]
