"""The embedded default for tests: the settings of C{etc/mailgw.toml} on free ports, with one account.

Whoever wants other settings writes them with L{tests.integration.gateway}.
"""

from __future__ import annotations

import re
import ssl
from collections.abc import Sequence
from pathlib import Path

from tests.integration.case import ServersTestCase
from tests.integration.clients import Imap, Pop3, Smtp, trusting
from tests.integration.gateway import CHECKOUT, Gateway, Ports
from tests.integration.ports import needs, wait_for

USER, ADDRESS, PASSWORD = "tester", "tester@localhost", "correct horse"
_STANDARD = {
    "mx": 1025,
    "submission": 1587,
    "submissions": 1465,
    "imap": 1143,
    "imaps": 1993,
    "pop3": 1110,
    "pop3s": 1995,
}


class Embedded(Gateway):
    """The gateway on the checkout's own settings file."""

    def __init__(self) -> None:
        super().__init__(folder="etc")
        self.ca = self.folder / "certs" / "localhost.crt"
        made = self.run("cert", "--dir", str(self.ca.parent), "--name", "localhost")
        assert made.returncode == 0, made
        added = self.run("user", "add", USER, "--password-stdin", stdin=PASSWORD.encode() + b"\n")
        assert added.returncode == 0, added

    def command(self) -> Sequence[str]:
        # the tests knock more often than a client does
        return [*super().command(), "--set", "limits.failure_delay=50ms", "--set", "limits.logins_per_address=10000"]

    def write(self, settings: str) -> None:
        text = (CHECKOUT / "etc" / "mailgw.toml").read_text()
        for name, port in _STANDARD.items():
            text, count = re.subn(rf"(?<=[:]){port}\b", str(getattr(self.ports, name)), text)
            assert count, f"etc/mailgw.toml has no port {port}"
        self.settings.write_text(text)


class EmbeddedTestCase(ServersTestCase):
    """Tests that share a gateway on the embedded default."""

    skip = needs("openssl")
    gateway: Embedded
    ports: Ports
    ca: Path
    context: ssl.SSLContext

    @classmethod
    def start_servers(cls) -> None:
        cls.gateway = cls.run_server(Embedded())
        cls.ports, cls.ca = cls.gateway.ports, cls.gateway.ca
        cls.context = trusting(cls.ca)

    def tearDown(self) -> None:
        self.gateway.check_log()
        super().tearDown()

    def imap(self, tls: str = "starttls") -> Imap:
        """An IMAP client before its login."""
        return Imap(self.ports.imaps if tls == "implicit" else self.ports.imap, tls, self.context)

    def pop3(self, tls: str = "starttls") -> Pop3:
        """A POP3 client before its login."""
        return Pop3(self.ports.pop3s if tls == "implicit" else self.ports.pop3, tls, self.context)

    def submission(self, tls: str = "starttls") -> Smtp:
        """A submission client before its login."""
        return Smtp(self.ports.submissions if tls == "implicit" else self.ports.submission, tls, self.context)

    def stored(self, mark: bytes) -> bytes:
        """The message with that in it, by IMAP, once it is there."""
        imap = self.imap()
        imap.login(USER, PASSWORD)
        found: list[bytes] = []

        def there() -> list[bytes]:
            imap.select()
            found.extend(m for m in map(imap.message, range(1, imap.count() + 1)) if mark in m)
            return found

        wait_for(f"a message with {mark!r}", there)
        imap.logout()
        return found[0]
