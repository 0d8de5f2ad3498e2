"""Tests that a password arrives at the backend as it was typed: every octet, every way in, every way out.

What our dialogues with backends send is compared with bytes built here by hand, and read by our dialogues with clients.
"""

from __future__ import annotations

import base64
from collections.abc import Callable
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from mailgw.model import Access, Forward, Login, Peer
from mailgw.wire.events import Ready, Send
from mailgw.wire.imap import ImapServer
from mailgw.wire.imapclient import ImapClient
from mailgw.wire.managesieve import SieveServer
from mailgw.wire.managesieveclient import SieveClient
from mailgw.wire.pop3 import Pop3Server
from mailgw.wire.pop3client import Pop3Client
from mailgw.wire.protocol import Terms

OCTETS = [bytes([octet]) for octet in range(1, 256) if octet not in b"\r\n"]
EVERYTHING = b"".join(OCTETS)
PASSWORDS = [
    *(octet + b"a" + octet for octet in OCTETS),
    EVERYTHING,
    *(b" ", b"  ", b"=", b"*", b"{5}", b"{5+}", b'"', b"\\", b'\\"', b"a\\\\bc", b'""', b"NIL", b")", b"+OK", b"."),
    "pässwörd".encode(),
]
TERMS = Terms("mx.example", tls="none")
FORWARD = Forward("id", Peer("192.0.2.1", 1))
NAME = 'bü "b\\'
"""A name that needs every kind of care, too."""


def b64(data: bytes) -> bytes:
    """Base64, by the standard library."""
    return base64.b64encode(data)


def quote(data: bytes) -> bytes:
    """An IMAP quoted string."""
    return b'"' + data.replace(b"\\", b"\\\\").replace(b'"', b'\\"') + b'"'


def counted(data: bytes, plus: bytes = b"") -> bytes:
    """An IMAP literal."""
    return b"{%d%b}\r\n%b" % (len(data), plus, data)


def plain(name: bytes, password: bytes) -> bytes:
    """The response of PLAIN, in base64."""
    return b64(b"\0" + name + b"\0" + password)


Encoding = Callable[[bytes, bytes], bytes]
IMAP_IN: dict[str, Encoding] = {
    "quoted": lambda name, password: b"a LOGIN " + quote(name) + b" " + quote(password) + b"\r\n",
    "literal": lambda name, password: b"a LOGIN " + counted(name) + b" " + counted(password) + b"\r\n",
    "literal+": lambda name, password: b"a LOGIN " + counted(name, b"+") + b" " + counted(password, b"+") + b"\r\n",
    "quoted, literal": lambda name, password: b"a LOGIN " + quote(name) + b" " + counted(password) + b"\r\n",
    "literal, quoted": lambda name, password: b"a LOGIN " + counted(name) + b" " + quote(password) + b"\r\n",
    "PLAIN": lambda name, password: b"a AUTHENTICATE PLAIN\r\n" + plain(name, password) + b"\r\n",
    "PLAIN at once": lambda name, password: b"a AUTHENTICATE PLAIN " + plain(name, password) + b"\r\n",
    "LOGIN": lambda name, password: b"a AUTHENTICATE LOGIN\r\n" + b64(name) + b"\r\n" + b64(password) + b"\r\n",
    "LOGIN at once": lambda name, password: b"a AUTHENTICATE LOGIN " + b64(name) + b"\r\n" + b64(password) + b"\r\n",
}
POP3_IN: dict[str, Encoding] = {
    "PASS": lambda name, password: b"USER " + name + b"\r\nPASS " + password + b"\r\n",
    "PLAIN": lambda name, password: b"AUTH PLAIN\r\n" + plain(name, password) + b"\r\n",
    "PLAIN at once": lambda name, password: b"AUTH PLAIN " + plain(name, password) + b"\r\n",
    "LOGIN": lambda name, password: b"AUTH LOGIN\r\n" + b64(name) + b"\r\n" + b64(password) + b"\r\n",
    "LOGIN at once": lambda name, password: b"AUTH LOGIN " + b64(name) + b"\r\n" + b64(password) + b"\r\n",
}
SIEVE_IN: dict[str, Encoding] = {
    "PLAIN": lambda name, password: b'AUTHENTICATE "PLAIN"\r\n"' + plain(name, password) + b'"\r\n',
    "PLAIN at once": lambda name, password: b'AUTHENTICATE "PLAIN" "' + plain(name, password) + b'"\r\n',
    "literal": lambda name, password: b'AUTHENTICATE "PLAIN" ' + counted(plain(name, password), b"+") + b"\r\n",
    "LOGIN": lambda name, password: b'AUTHENTICATE "LOGIN"\r\n"' + b64(name) + b'"\r\n"' + b64(password) + b'"\r\n',
}
Way = tuple[bytes, list[bytes], Encoding]
IMAP_OUT: dict[str, Way] = {
    "PLAIN at once": (
        b"SASL-IR AUTH=PLAIN",
        [],
        lambda name, password: b"L AUTHENTICATE PLAIN " + plain(name, password) + b"\r\n",
    ),
    "PLAIN": (
        b"AUTH=PLAIN",
        [b"+\r\n"],
        lambda name, password: b"L AUTHENTICATE PLAIN\r\n" + plain(name, password) + b"\r\n",
    ),
    "LOGIN": (
        b"AUTH=LOGIN",
        [b"+ VXNlcm5hbWU6\r\n", b"+ UGFzc3dvcmQ6\r\n"],
        lambda name, password: b"L AUTHENTICATE LOGIN\r\n" + b64(name) + b"\r\n" + b64(password) + b"\r\n",
    ),
    "literal+": (
        b"LITERAL+",
        [],
        lambda name, password: b"L LOGIN " + counted(name, b"+") + b" " + counted(password, b"+") + b"\r\n",
    ),
    "literal": (
        b"X",
        [b"+ go\r\n", b"+ go\r\n"],
        lambda name, password: b"L LOGIN " + counted(name) + b" " + counted(password) + b"\r\n",
    ),
}
POP3_OUT: dict[str, Way] = {
    "PLAIN": (
        b"SASL PLAIN",
        [b"+\r\n"],
        lambda name, password: (
            b"AUTH PLAIN " + plain(name, password) + b"\r\n"
            if len(plain(name, password)) <= 242
            else b"AUTH PLAIN\r\n" + plain(name, password) + b"\r\n"
        ),
    ),
    "USER": (b"USER", [b"+OK\r\n"], lambda name, password: b"USER " + name + b"\r\nPASS " + password + b"\r\n"),
    "LOGIN": (
        b"SASL LOGIN",
        [b"+ VXNlcm5hbWU6\r\n", b"+ UGFzc3dvcmQ6\r\n"],
        lambda name, password: b"AUTH LOGIN\r\n" + b64(name) + b"\r\n" + b64(password) + b"\r\n",
    ),
}
SIEVE_OUT: dict[str, Way] = {
    "PLAIN": (
        b"PLAIN",
        [],
        lambda name, password: b'AUTHENTICATE "PLAIN" "' + plain(name, password) + b'"\r\n',
    ),
    "LOGIN": (
        b"LOGIN",
        [b'"VXNlcm5hbWU6"\r\n', b'"UGFzc3dvcmQ6"\r\n'],
        lambda name, password: b'AUTHENTICATE "LOGIN"\r\n"' + b64(name) + b'"\r\n"' + b64(password) + b'"\r\n',
    ),
}


def presented(dialogue: Any, stream: bytes) -> list[tuple[str, bytes]]:
    """The logins that one of our server dialogues reads from a stream."""
    return [(event.username, event.password) for event in dialogue.feed(stream) if isinstance(event, Login)]


def sent(dialogue: Any, start: bytes, replies: list[bytes]) -> bytes:
    """What one of our client dialogues sends to a backend that says this, its first question left out."""
    said = dialogue.feed(start)
    for reply in replies:
        said += [event for event in dialogue.feed(reply) if isinstance(event, Send)]
    return b"".join(event.data for event in said if isinstance(event, Send)).removeprefix(b"CAPA\r\n")


def to_imap(password: bytes, way: Way) -> bytes:
    """What ImapClient sends."""
    words, replies, _ = way
    start = b"* OK [CAPABILITY IMAP4rev1 " + words + b"] hi\r\n"
    return sent(ImapClient(Access(NAME, password), FORWARD, False), start, replies)


def to_pop3(password: bytes, way: Way) -> bytes:
    """What Pop3Client sends."""
    words, replies, _ = way
    start = b"+OK hi\r\n+OK\r\n" + words + b"\r\n.\r\n"
    return sent(Pop3Client(Access(NAME, password), FORWARD, False), start, replies)


def to_managesieve(password: bytes, way: Way) -> bytes:
    """What SieveClient sends."""
    words, replies, _ = way
    start = b'"SASL" "' + words + b'"\r\nOK\r\n'
    return sent(SieveClient(Access(NAME, password), FORWARD, False), start, replies)


class WayInTests(SynchronousTestCase):
    """From the client to us."""

    def check(self, server: Callable[[Terms, bool], Any], ways: dict[str, Encoding]) -> None:
        """Assert that every way brings every password."""
        for password in PASSWORDS:
            for name, encode in ways.items():
                stream = encode(NAME.encode(), password)
                self.assertEqual(presented(server(TERMS, False), stream), [(NAME, password)], name)

    def test_imap(self) -> None:
        """IMAP: quoted, both literals, both mechanisms, and mixtures."""
        self.check(ImapServer, IMAP_IN)

    def test_pop3(self) -> None:
        """POP3: PASS and both mechanisms."""
        self.check(Pop3Server, POP3_IN)

    def test_managesieve(self) -> None:
        """ManageSieve: quoted and literal, both mechanisms."""
        self.check(SieveServer, SIEVE_IN)


class WayOutTests(SynchronousTestCase):
    """From us to the backend."""

    def check(
        self, send: Callable[[bytes, Way], bytes], server: Callable[[Terms, bool], Any], ways: dict[str, Way]
    ) -> None:
        """Assert that every way sends the right bytes, and that they can be read again."""
        for password in PASSWORDS:
            for name, way in ways.items():
                stream = send(password, way)
                self.assertEqual(stream, way[2](NAME.encode(), password), name)
                self.assertEqual(presented(server(TERMS, False), stream), [(NAME, password)], name)

    def test_imap(self) -> None:
        """IMAP: PLAIN with and without initial response, LOGIN, both literals."""
        self.check(to_imap, ImapServer, IMAP_OUT)

    def test_pop3(self) -> None:
        """POP3: PLAIN with and without initial response, USER and PASS, LOGIN."""
        self.check(to_pop3, Pop3Server, POP3_OUT)

    def test_managesieve(self) -> None:
        """ManageSieve: both mechanisms."""
        self.check(to_managesieve, SieveServer, SIEVE_OUT)


class ThroughTests(SynchronousTestCase):
    """From the client through us to the backend."""

    def check(self, server: Callable[[Terms, bool], Any], ways_in: dict[str, Encoding], pairs: list[Any]) -> None:
        """Assert that what went in one way comes out every way."""
        for password in PASSWORDS:
            for encode in ways_in.values():
                [(name, received)] = presented(server(TERMS, False), encode(NAME.encode(), password))
                self.assertEqual(name, NAME)
                for send, way in pairs:
                    self.assertEqual(send(received, way), way[2](NAME.encode(), password))

    def test_imap(self) -> None:
        """Every way in by every way out, IMAP."""
        self.check(ImapServer, IMAP_IN, [(to_imap, way) for way in IMAP_OUT.values()])

    def test_pop3(self) -> None:
        """Every way in by every way out, POP3."""
        self.check(Pop3Server, POP3_IN, [(to_pop3, way) for way in POP3_OUT.values()])

    def test_managesieve(self) -> None:
        """Every way in by every way out, ManageSieve."""
        self.check(SieveServer, SIEVE_IN, [(to_managesieve, way) for way in SIEVE_OUT.values()])

    def test_ready(self) -> None:
        """The whole way: our client dialogue logs in on our server dialogue, in each protocol."""
        for client, server in ((ImapClient, ImapServer), (Pop3Client, Pop3Server), (SieveClient, SieveServer)):
            backend: Any = server(TERMS, False)
            gateway = client(Access(NAME, EVERYTHING), FORWARD, False)
            spoken = [backend.greet()[0].data]
            events: list[Any] = []
            while spoken:
                events = gateway.feed(spoken.pop(0))
                for event in events:
                    for reply in backend.feed(event.data) if isinstance(event, Send) else []:
                        if isinstance(reply, Send):
                            spoken.append(reply.data)
                        elif isinstance(reply, Login):
                            spoken.append(backend.admit(b"[CAPABILITY X] in")[0])
            self.assertIsInstance(events[-1], Ready)
