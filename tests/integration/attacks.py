"""What the attacks on a running gateway have in common: bare connections from many addresses, and what no log may hold.

The attacks themselves are in the C{test_attacks_*} files, by protocol.
"""

from __future__ import annotations

import base64
import contextlib
import itertools
import re
import socket
import ssl
from collections.abc import Iterable

from tests.integration.clients import Wire, _connected
from tests.integration.embedded import PASSWORD, USER, Embedded, EmbeddedTestCase
from tests.integration.gateway import Gateway

WRONG = b"wr0ng-pass-w0rd"
"""What every attacker guesses; like the right password, it must never be found in a log."""
LOGIN_IMAP = b'a LOGIN %b "%b"\r\n' % (USER.encode(), PASSWORD.encode())
LOGIN_POP3 = b"USER %b\r\nPASS %b\r\n" % (USER.encode(), PASSWORD.encode())
HELLO = b"EHLO client.example\r\n"
LONE = re.compile(rb"\r(?!\n)|(?<!\r)\n|\0")
"""What no other server may ever see in a message."""


def plain(username: bytes, password: bytes, authzid: bytes = b"") -> bytes:
    """A response of SASL PLAIN."""
    return base64.b64encode(b"\0".join((authzid, username, password)))


LOGIN_SMTP = HELLO + b"AUTH PLAIN " + plain(USER.encode(), PASSWORD.encode()) + b"\r\n"


def spellings(secret: bytes) -> Iterable[bytes]:
    """How a secret may look in a log: as it is, in hexadecimal, and in base64, whatever stands before and behind it."""
    yield secret
    yield secret.hex().encode()
    for before in range(3):
        encoded = base64.b64encode(b"\0" * before + secret + b"\0" * (-(before + len(secret)) % 3))
        # the first and last groups have octets of the neighbours in them
        if middle := encoded[4 if before else 0 : -4]:
            yield middle


def leaked(text: bytes, *secrets: bytes) -> list[bytes]:
    """Those spellings of the secrets that the text has."""
    return [found for secret in secrets for found in spellings(secret) if found in text]


class Attacker(Wire):
    """A bare connection from an address of loopback of one's own: limits and penalties count by address."""

    def __init__(
        self, port: int, context: ssl.SSLContext | None = None, seconds: float = 10.0, source: str = ""
    ) -> None:
        self._socket = _connected(port, seconds, source or "127.0.0.1", context)
        self.port = port
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._buffer = b""

    def __enter__(self) -> Attacker:
        return self

    def pour(self, data: bytes) -> None:
        """Send as much as the gateway takes before it hangs up, or before our patience ends."""
        with contextlib.suppress(OSError):
            self.send(data)

    def cut(self) -> bool:
        """Whether the gateway ends the connection, what it said before it left aside."""
        try:
            self.rest()
        except TimeoutError:
            return False
        return True


_numbers = itertools.count(1)


def stranger() -> str:
    """An address that nobody has had yet: who has guessed wrong has to wait ever longer."""
    number = next(_numbers)
    return f"127.9.{number >> 8}.{number & 255}"


def assert_nothing_told(gateway: Gateway, *secrets: bytes) -> None:
    """See that a gateway's log has none of these.

    @raise AssertionError: it has; with the lines.
    """
    log = gateway.log().encode()
    found = leaked(log, *secrets)
    lines = [line for line in log.splitlines() for word in found if word in line]
    assert not found, f"{found} in the gateway's log:\n{lines[:5]!r}"


class AttackTestCase(EmbeddedTestCase):
    """Attacks on the embedded default."""

    def tearDown(self) -> None:
        assert_nothing_told(self.gateway, PASSWORD.encode(), WRONG)
        super().tearDown()

    @classmethod
    def start_servers(cls) -> None:
        cls.gateway = cls.run_server(cls.make())
        cls.ports, cls.ca = cls.gateway.ports, cls.gateway.ca
        cls.context = cls.trust()

    @classmethod
    def make(cls) -> Embedded:
        """The gateway to attack."""
        return Embedded()

    @classmethod
    def trust(cls) -> ssl.SSLContext:
        """What clients trust."""
        return ssl.create_default_context(cafile=str(cls.ca))

    def told(self, port: int, *segments: bytes, clear: bool = False, source: str = "") -> list[bytes]:
        """Send these to a port with implicit TLS, or in clear; all lines until the gateway ends the connection.

        The last segment has to bring that about.
        """
        with Attacker(port, None if clear else self.context, 20.0, source) as wire:
            wire.send(*segments)
            try:
                said = wire.rest()
            except TimeoutError:
                self.fail(f"the connection goes on after {segments[0][:100]!r}")
        return said.split(b"\r\n")[:-1]

    def assert_serves(self) -> None:
        """Somebody else can log in, now."""
        self.assertIn(b"a OK", self.told(self.ports.imaps, LOGIN_IMAP + b"z LOGOUT\r\n")[1][:4])
