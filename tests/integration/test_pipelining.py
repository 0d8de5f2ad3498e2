"""What a client sends behind its login reaches the store in order, wherever the stream of bytes is cut."""

from __future__ import annotations

import base64
import re

from tests.integration.clients import Wire
from tests.integration.embedded import ADDRESS, PASSWORD, USER, EmbeddedTestCase

_LOGIN = b'a LOGIN %s "%s"\r\n' % (USER.encode(), PASSWORD.encode())
_PLAIN = base64.b64encode(b"\0%s\0%s" % (USER.encode(), PASSWORD.encode()))
_IMAP = b'b SELECT INBOX\r\nc LIST "" ""\r\nd NOOP\r\ne LOGOUT\r\n'


def cuts(data: bytes) -> list[list[bytes]]:
    """Several ways of sending it: at once, in two at every fifth octet, and octet by octet."""
    ways = [[data], [data[i : i + 1] for i in range(len(data))]]
    return ways + [[data[:i], data[i:]] for i in range(1, len(data), 5)]


class PipeliningTests(EmbeddedTestCase):
    def imap_tags(self, segments: list[bytes]) -> list[bytes]:
        """Send these over TLS; the tagged replies until the end of the connection, tag and condition of each."""
        with Wire(self.ports.imaps, self.context) as wire:
            wire.send(*segments)
            found: list[bytes] = re.findall(rb"(?m)^(\w+ [A-Z]+)\b", wire.rest())
            return found

    def test_imap_login(self) -> None:
        """IMAP: commands behind LOGIN are answered in order."""
        for segments in cuts(_LOGIN + _IMAP):
            self.assertEqual(self.imap_tags(segments), [b"a OK", b"b OK", b"c OK", b"d OK", b"e OK"], segments)

    def test_imap_authenticate(self) -> None:
        """IMAP: commands behind AUTHENTICATE with an initial response are answered in order."""
        for segments in cuts(b"a AUTHENTICATE PLAIN " + _PLAIN + b"\r\n" + _IMAP)[:12]:
            self.assertEqual(self.imap_tags(segments), [b"a OK", b"b OK", b"c OK", b"d OK", b"e OK"], segments)

    def test_imap_literals(self) -> None:
        """IMAP: literals that need no go-ahead carry name and password, and commands behind them are answered."""
        words = (USER.encode(), PASSWORD.encode())
        login = b"a LOGIN {%d+}\r\n%s {%d+}\r\n%s\r\n" % (len(words[0]), words[0], len(words[1]), words[1])
        for segments in cuts(login + _IMAP):
            self.assertEqual(self.imap_tags(segments), [b"a OK", b"b OK", b"c OK", b"d OK", b"e OK"], segments)

    def test_pop3(self) -> None:
        """POP3: commands behind PASS are answered in order."""
        commands = b"USER %s\r\nPASS %s\r\nSTAT\r\nUIDL 999999\r\nNOOP\r\nQUIT\r\n" % (USER.encode(), PASSWORD.encode())
        for segments in cuts(commands):
            with Wire(self.ports.pop3s, self.context) as wire:
                wire.send(*segments)
                lines = wire.rest().split(b"\r\n")
            self.assertEqual([line.split(b" ")[0] for line in lines[:-1]], [b"+OK"] * 4 + [b"-ERR", b"+OK", b"+OK"])
            self.assertRegex(lines[3], rb"^\+OK \d+ \d+$")

    def test_submission(self) -> None:
        """SMTP: MAIL, RCPT and DATA in one group are answered in order, and so is what follows the message."""
        group = b"MAIL FROM:<%s>\r\nRCPT TO:<%s>\r\nRCPT TO:<x@foreign.example>\r\nDATA\r\n" % ((ADDRESS.encode(),) * 2)
        for segments in cuts(group):
            with Wire(self.ports.submissions, self.context) as wire:
                wire.reply()
                wire.send(b"EHLO client.example\r\n")
                self.assertIn(b"PIPELINING", wire.reply())
                wire.send(b"AUTH PLAIN " + _PLAIN + b"\r\n")
                self.assertTrue(wire.reply().startswith(b"235 "))
                wire.send(*segments)
                self.assertEqual([wire.reply()[:3] for _ in range(4)], [b"250", b"250", b"550", b"354"])
                wire.send(b"Subject: pipelined\r\n\r\n.\r\nRSET\r\nNOOP\r\nQUIT\r\n")
                self.assertEqual([wire.reply()[:3] for _ in range(4)], [b"250", b"250", b"250", b"221"])
