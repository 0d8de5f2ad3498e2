"""Tests of what those in front tell of their clients, by ID and by XCLIENT."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from mailgw.model import Forward, Peer
from mailgw.wire.clientside import xclient
from mailgw.wire.events import Close, Forwarded, Send
from mailgw.wire.forwarded import from_id, from_xclient, hops
from mailgw.wire.imap import ImapServer
from mailgw.wire.managesieve import SieveServer
from mailgw.wire.pop3 import Pop3Server
from mailgw.wire.protocol import Terms
from mailgw.wire.smtp import SmtpServer
from mailgw.wire.transfer import xclient_lines

PEER = Peer("203.0.113.7", 4242, "192.0.2.1", 993)
TERMS = Terms("gw.example", tls="none", trusted=True)
STRANGERS = Terms("gw.example", tls="none")


class IdTests(SynchronousTestCase):
    """Dovecot's fields of an IMAP ID."""

    def test_all(self) -> None:
        """Every field that we write ourselves is read."""
        said = {
            b"x-originating-ip": b"203.0.113.7",
            b"x-originating-port": b"4242",
            b"x-connected-ip": b"192.0.2.1",
            b"x-connected-port": b"993",
            b"x-session-id": b"abc/def+1=",
            b"x-proxy-ttl": b"6",
            b"name": b"webmail",
        }
        self.assertEqual(from_id(said), Forwarded(PEER, "abc/def+1=", 6))
        self.assertEqual(from_id({b"name": b"webmail"}), Forwarded())

    def test_nonsense(self) -> None:
        """What is no address, number or name was not told."""
        for bad in (b"x", b"1.2.3", b"fe80::1%eth0", b"203.0.113.7 ", b"\xff", b""):
            self.assertEqual(from_id({b"x-originating-ip": bad, b"x-session-id": b"a b"}), Forwarded())
        for bad in (b"-1", b"x", b"100000", b"65536", "٣".encode(), b""):
            self.assertIsNone(hops({b"x-proxy-ttl": bad}))
            self.assertEqual(
                from_id({b"x-originating-ip": b"::1", b"x-originating-port": bad}), Forwarded(Peer("::1", 0))
            )

    def test_mapped(self) -> None:
        """IPv4 in IPv6 is IPv4."""
        self.assertEqual(from_id({b"x-originating-ip": b"::ffff:203.0.113.7"}).peer, Peer("203.0.113.7", 0))


class XclientTests(SynchronousTestCase):
    """The attributes of XCLIENT."""

    def test_own_words(self) -> None:
        """What we tell backends we understand ourselves, IPv6 too."""
        for host, here in (("203.0.113.7", "192.0.2.1"), ("2001:db8::1", "2001:db8::2")):
            forward = Forward("s1", Peer(host, 4242, here, 25), True, 6, helo="client.example", login="anna")
            told = from_xclient(xclient(forward).decode().partition(" ")[2])
            self.assertEqual(told, Forwarded(Peer(host, 4242), "s1", 6))
            announced = frozenset(["ADDR", "PORT", "SESSION", "TTL", "PROTO", "HELO", "LOGIN", "DESTADDR", "DESTPORT"])
            [line] = xclient_lines(forward, announced, True)
            told = from_xclient(line.decode().strip().partition(" ")[2], xtext=True)
            self.assertEqual(told, Forwarded(forward.peer, "s1", 6, "client.example"))

    def test_unknown(self) -> None:
        """What the other side does not know, and what we do not use, is passed over."""
        told = from_xclient("NAME=[UNAVAILABLE] ADDR=[TEMPUNAVAIL] LOGIN=anna CLIENT-TRANSPORT=TLS TTL=3")
        self.assertEqual(told, Forwarded(ttl=3))

    def test_wrong(self) -> None:
        """Anything malformed is refused whole."""
        for bad in (
            *("", " ", "ADDR", "ADDR=", "=1", "ADDR=x", "ADDR=1.2.3.4 PORT=x", "PORT=99999", "TTL=-1", "SESSION=<x>"),
            *("HELO=a+20b", "ADDR=fe80::1%1", "ADDR=1.2.3.4\0", "DESTADDR=x", "HELO=+0D+0Ax"),
        ):
            self.assertIsNone(from_xclient(bad, xtext=True), bad)


class DialogueTests(SynchronousTestCase):
    """What each protocol makes of it."""

    def test_imap(self) -> None:
        """An ID brings a client; from strangers only the number of hops is taken."""
        line = b'a ID ("x-originating-ip" "203.0.113.7" "x-session-id" "s1" "x-proxy-ttl" "3")\r\n'
        answer = Send(b'* ID ("name" "mailgw")\r\na OK ID completed\r\n')
        self.assertEqual(ImapServer(TERMS, False).feed(line), [Forwarded(Peer("203.0.113.7", 0), "s1", 3), answer])
        self.assertEqual(ImapServer(STRANGERS, False).feed(line), [Forwarded(ttl=3), answer])
        for terms in (TERMS, STRANGERS):
            self.assertEqual(ImapServer(terms, False).feed(b'a ID ("name" "x")\r\n'), [answer])

    def test_pop3(self) -> None:
        """XCLIENT is offered to the trusted, and unknown to everybody else."""
        dialogue = Pop3Server(TERMS, False)
        self.assertEqual(dialogue.greet(), [Send(b"+OK [XCLIENT] gw.example ready\r\n")])
        [listed] = dialogue.feed(b"CAPA\r\n")
        self.assertIn(b"\r\nXCLIENT\r\n", listed.data)  # type: ignore[union-attr]
        told = Forwarded(Peer("203.0.113.7", 1), "s", 6)
        self.assertEqual(
            dialogue.feed(b"XCLIENT ADDR=203.0.113.7 PORT=1 SESSION=s TTL=6\r\n"), [told, Send(b"+OK Updated\r\n")]
        )
        self.assertEqual(dialogue.feed(b"XCLIENT ADDR=x\r\n"), [Send(b"-ERR Invalid arguments\r\n")])
        stranger = Pop3Server(STRANGERS, False)
        self.assertEqual(stranger.greet(), [Send(b"+OK gw.example ready\r\n")])
        self.assertEqual(stranger.feed(b"XCLIENT ADDR=203.0.113.7\r\n"), [Send(b"-ERR Unknown command\r\n")])
        self.assertNotIn(b"XCLIENT", stranger.feed(b"CAPA\r\n")[0].data)  # type: ignore[union-attr]

    def test_managesieve(self) -> None:
        """Likewise."""
        dialogue = SieveServer(TERMS, False)
        self.assertIn(b'\r\n"XCLIENT"\r\n', dialogue.greet()[0].data)  # type: ignore[union-attr]
        told = Forwarded(Peer("2001:db8::1", 5), "s", 7)
        self.assertEqual(
            dialogue.feed(b"XCLIENT ADDR=2001:db8::1 PORT=5 SESSION=s TTL=7\r\n"), [told, Send(b'OK "Updated"\r\n')]
        )
        self.assertEqual(dialogue.feed(b"XCLIENT\r\n"), [Send(b'NO "Invalid arguments"\r\n')])
        stranger = SieveServer(STRANGERS, False)
        self.assertNotIn(b"XCLIENT", stranger.greet()[0].data)  # type: ignore[union-attr]
        self.assertEqual(stranger.feed(b"XCLIENT ADDR=::1\r\n"), [Send(b'NO "Unknown command"\r\n')])

    def test_smtp(self) -> None:
        """After XCLIENT all begins anew, under the name that the client has called itself; LOGIN logs nobody in."""
        dialogue = SmtpServer(TERMS, False)
        [offer] = dialogue.feed(b"EHLO front.example\r\n")
        self.assertIn(b"\r\n250-XCLIENT NAME ADDR PORT ", offer.data)  # type: ignore[union-attr]
        told = Forwarded(Peer("203.0.113.7", 1), "s", 6, "client.example")
        line = b"XCLIENT ADDR=203.0.113.7 PORT=1 SESSION=s TTL=6 HELO=client.example LOGIN=anna\r\n"
        self.assertEqual(dialogue.feed(line), [told, Send(b"220 gw.example ESMTP\r\n")])
        self.assertFalse(dialogue.authenticated)
        self.assertEqual(dialogue.helo, "")
        dialogue.feed(b"EHLO front.example\r\n")
        self.assertEqual(dialogue.helo, "client.example")
        self.assertEqual(dialogue.feed(b"XCLIENT ADDR=x\r\n")[0].data[:4], b"501 ")  # type: ignore[union-attr]
        dialogue.secured()
        dialogue.feed(b"EHLO front.example\r\n")
        self.assertEqual(dialogue.helo, "front.example")

    def test_smtp_stranger(self) -> None:
        """Everybody else is refused, and often enough thrown out."""
        dialogue = SmtpServer(STRANGERS, False)
        self.assertNotIn(b"XCLIENT", dialogue.feed(b"EHLO x\r\n")[0].data)  # type: ignore[union-attr]
        refused = Send(b"550 5.7.0 XCLIENT is not for you\r\n")
        for _ in range(STRANGERS.bad_commands - 1):
            self.assertEqual(dialogue.feed(b"XCLIENT ADDR=203.0.113.7\r\n"), [refused])
        self.assertIsInstance(dialogue.feed(b"XCLIENT ADDR=203.0.113.7\r\n")[-1], Close)

    def test_smtp_too_late(self) -> None:
        """Neither in a transaction nor after a login."""
        dialogue = SmtpServer(TERMS, False)
        dialogue.authenticated = True
        self.assertEqual(dialogue.feed(b"XCLIENT ADDR=::1\r\n")[0].data[:4], b"503 ")  # type: ignore[union-attr]
