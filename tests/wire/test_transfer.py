"""Tests of the client's side of SMTP and LMTP: transcripts with backends, good and bad ones, cut anywhere."""

from __future__ import annotations

from typing import Any

from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from mailgw.interfaces import IClientDialogue
from mailgw.model import Access, Failure, Forward, Peer
from mailgw.wire.events import Answered, Ready, Refused, Reply, Send, StartTLS
from mailgw.wire.transfer import DATA, END, MAIL, RCPT, Transfer, xclient_lines, xtext
from tests.wire.smtptalk import octets

FORWARD = Forward("sess1", Peer("2001:db8::1", 4711, "192.0.2.1", 25), helo="client.example", login="u@x")
USER = Access("user", b"sec\xe4ret")
EHLO = "EHLO gw.example\r\n"


def transfer(**options: Any) -> Transfer:
    """A transfer to nobody in particular."""
    given: dict[str, Any] = {"access": None, "forward": FORWARD, "starttls": False, "hostname": "gw.example"}
    return Transfer(**(given | options))


def play(dialogue: Transfer, *script: str | type | Any, cut: bool = False) -> None:
    """Run C{S:…} (the backend says), C{C:…} (we must say) and expected events; C{TLS} is a handshake that worked."""
    events: list[Any] = []
    for step in script:
        if isinstance(step, str) and step.startswith("S:"):
            assert not events, events
            data = step[2:].encode("latin-1") + b"\r\n"
            for piece in octets(data) if cut else [data]:
                events += dialogue.feed(piece)
        elif step == "TLS":
            assert events.pop(0) == StartTLS(b"")
            events += dialogue.secured()
        elif isinstance(step, str):
            assert events.pop(0) == Send(step[2:].encode("latin-1") + b"\r\n"), step
        else:
            event = events.pop(0)
            assert event == step, (event, step)
    assert not events, events


def outcome(dialogue: Transfer, *said: str) -> Refused:
    """Let a backend speak; return why it was refused."""
    events = [event for line in said for event in dialogue.feed(line.encode() + b"\r\n")]
    assert dialogue.feed(b"250 more\r\n") == []
    refused = events[-1]
    assert isinstance(refused, Refused), events
    assert "AHVzZXIAc2Vj5HJldA==" not in refused.text
    return refused


def ready(**options: Any) -> Transfer:
    """A transfer to a modest backend, ready for mail."""
    dialogue = transfer(**options)
    hello = "LHLO" if options.get("lmtp") else "EHLO"
    play(dialogue, "S:220 x", f"C:{hello} gw.example", "S:250-x\r\n250-SIZE 1000\r\n250 8BITMIME", Ready(b""))
    return dialogue


class LoginTests(SynchronousTestCase):
    """From the greeting to L{Ready}."""

    def test_interface(self) -> None:
        """A transfer is a client dialogue."""
        self.assertTrue(verifyObject(IClientDialogue, transfer()))

    def test_plain(self) -> None:
        """Without demands it is ready after EHLO, whole and octet by octet, multi-line greeting included."""
        for cut in (False, True):
            dialogue = transfer()
            play(dialogue, "S:220-x\r\n220 y", "C:EHLO gw.example", "S:250-x\r\n250 PIPELINING", Ready(b""), cut=cut)
            self.assertTrue(dialogue.pipelining)

    def test_starttls(self) -> None:
        """What was announced before TLS is forgotten."""
        dialogue = transfer(starttls=True, access=USER)
        play(
            dialogue,
            "S:220 x",
            "C:EHLO gw.example",
            "S:250-x\r\n250-AUTH PLAIN\r\n250 STARTTLS",
            "C:STARTTLS",
            "S:220 go",
            "TLS",
            "C:EHLO gw.example",
            "S:250-x\r\n250 AUTH LOGIN",
            "C:AUTH LOGIN",
            "S:334 VXNl",
            "C:dXNlcg==",
            "S:334 UGFz",
            "C:c2Vj5HJldA==",
            "S:235 ok",
            Ready(b""),
        )

    def test_no_fall_back(self) -> None:
        """TLS not announced, refused, or with something glued to its go-ahead: no word more."""
        for said in (
            ("220 x", "250 x"),
            ("220 x", "250-x\r\n250 STARTTLS", "454 no"),
            ("220 x", "250-x\r\n250 STARTTLS", "502 no"),
            ("220 x", "250-x\r\n250 STARTTLS", "220 go\r\n250-INJECTED\r\n250 AUTH PLAIN"),
            ("220 x", "250-x\r\n250 STARTTLS", "220 go\r\n2"),
            ("220 x", "250-x\r\n250 STARTTLS", "220 go", "250 late"),
        ):
            self.assertEqual(outcome(transfer(starttls=True, access=USER), *said).kind, Failure.TLS, said)

    def test_login_demanded(self) -> None:
        """A backend that offers no login is refused, and never sees the password."""
        self.assertEqual(outcome(transfer(access=USER), "220 x", "250 x").kind, Failure.PROTOCOL)
        offer = ("220 x", "250-x\r\n250 AUTH CRAM-MD5 LOGIN")
        self.assertEqual(outcome(transfer(access=Access("m", b"p", "user")), *offer).kind, Failure.PROTOCOL)

    def test_initial_response(self) -> None:
        """PLAIN goes with its response in one line of at most 512 octets, else the response comes after 334."""
        greeting = "S:220 x", "C:EHLO gw.example", "S:250-x\r\n250 AUTH PLAIN"
        play(transfer(access=USER), *greeting, "C:AUTH PLAIN AHVzZXIAc2Vj5HJldA==", "S:235 ok", Ready(b""))
        long = Access("user", b"x" * 400)
        dialogue = transfer(access=long)
        play(dialogue, *greeting, "C:AUTH PLAIN")
        (send,) = dialogue.feed(b"334 \r\n")
        self.assertGreater(len(send.data), 512)
        self.assertEqual(dialogue.feed(b"235 ok\r\n"), [Ready(b"")])

    def test_refusals(self) -> None:
        """Only 535 means the credentials; 4xx is temporary; anything else is a backend gone wrong."""
        for code, kind in (
            (535, Failure.REJECTED),
            (454, Failure.TEMPFAIL),
            (504, Failure.PROTOCOL),
            (250, Failure.PROTOCOL),
        ):
            offer = ("220 x", "250-x\r\n250 AUTH PLAIN", f"{code} no AHVzZXIAc2Vj5HJldA==")
            self.assertEqual(outcome(transfer(access=USER), *offer).kind, kind)
        endless = ("220 x", "250-x\r\n250 AUTH PLAIN", "334 ", "334 ")
        self.assertEqual(outcome(transfer(access=USER), *endless).kind, Failure.PROTOCOL)

    def test_unwelcome(self) -> None:
        """A backend that does not greet, does not know EHLO, or says what is no SMTP is refused."""
        for said, kind in (
            *(
                (("421 busy",), Failure.TEMPFAIL),
                (("554 no",), Failure.PROTOCOL),
                (("220 x", "500 ?"), Failure.PROTOCOL),
            ),
            *((("* OK IMAP4",), Failure.PROTOCOL), (("220 x", "250-a\r\n251 b"), Failure.PROTOCOL)),
            *((("x" * 5000,), Failure.PROTOCOL), (("220-" + "x" * 4000 + "\r\n",) * 20, Failure.PROTOCOL)),
            (("220 x", "250 x\r\n250 unasked"), Failure.PROTOCOL),
        ):
            self.assertEqual(outcome(transfer(), *said).kind, kind, said[0][:20])

    def test_unfit(self) -> None:
        """Credentials that would break a command or a response never go out."""
        access = Access("user", b"a\0b")
        self.assertEqual(outcome(transfer(access=access), "220 x", "250-x\r\n250 AUTH PLAIN").kind, Failure.PROTOCOL)

    def test_endless_greeting(self) -> None:
        """A gigabyte without a line end is cut off soon."""
        dialogue = transfer()
        for _ in range(10):
            events = dialogue.feed(b"x" * 1000)
            if events:
                break
        self.assertEqual(events[0].kind, Failure.PROTOCOL)


class XclientTests(SynchronousTestCase):
    """XCLIENT."""

    def test_announced_only(self) -> None:
        """Only what was announced is told, in xtext, IPv6 with its prefix, ADDR last, and EHLO comes again."""
        play(
            transfer(),
            "S:220 x",
            "C:EHLO gw.example",
            "S:250-x\r\n250 XCLIENT NAME ADDR PROTO HELO PORT LOGIN",
            "C:XCLIENT PROTO=ESMTP HELO=client.example PORT=4711 ADDR=IPV6:2001:db8::1",
            "S:220 x",
            "C:EHLO gw.example",
            "S:250-x\r\n250 XCLIENT ADDR",
            Ready(b""),
        )

    def test_session(self) -> None:
        """Dovecot's SESSION and TTL are told where they are announced; LOGIN only where it is the login."""
        lines = list(xclient_lines(FORWARD, frozenset({"SESSION", "TTL", "LOGIN", "DESTADDR", "DESTPORT"}), True))
        self.assertEqual(lines, [b"XCLIENT SESSION=sess1 TTL=7 LOGIN=u@x DESTADDR=192.0.2.1 DESTPORT=25\r\n"])

    def test_login_demanded(self) -> None:
        """Where XCLIENT is the login, its absence or refusal is the end."""
        for said in (("250-x\r\n250 XCLIENT ADDR",), ("250 x",), ("250-x\r\n250 XCLIENT LOGIN", "550 no")):
            self.assertEqual(outcome(transfer(xclient_login=True), "220 x", *said).kind, Failure.PROTOCOL)

    def test_not_trusted(self) -> None:
        """A backend that refuses XCLIENT still gets the mail, and is not asked again."""
        play(
            transfer(),
            "S:220 x",
            "C:EHLO gw.example",
            "S:250-x\r\n250 XCLIENT PORT",
            "C:XCLIENT PORT=4711",
            "S:550 no",
            Ready(b""),
        )

    def test_xtext(self) -> None:
        """Nothing that could end a word or a line stays itself."""
        self.assertEqual(xtext("a+b=c d\r\n\u00e4"), "a+2Bb+3Dc+20d+0D+0A+C3+A4")

    def test_long(self) -> None:
        """Commands have at most 512 octets; ADDR is in the last one."""
        forward = Forward("s" * 200, Peer("192.0.2.9", 1), helo="h" * 255, login="l" * 200)
        lines = list(xclient_lines(forward, frozenset({"SESSION", "HELO", "LOGIN", "ADDR", "PORT"}), True))
        self.assertEqual([len(line) <= 512 for line in lines], [True, True])
        self.assertTrue(lines[-1].endswith(b" ADDR=192.0.2.9\r\n"))


class TransactionTests(SynchronousTestCase):
    """MAIL, RCPT, DATA and the final dot."""

    def test_smtp(self) -> None:
        """One transaction after the other; parameters are passed on where the backend knows them."""
        dialogue = ready()
        for _ in range(2):
            self.assertEqual(dialogue.mail("a@x", 5, "8BITMIME"), [Send(b"MAIL FROM:<a@x> SIZE=5 BODY=8BITMIME\r\n")])
            self.assertEqual(dialogue.recipient("b@d"), [Send(b"RCPT TO:<b@d>\r\n")])
            play(
                dialogue,
                "S:250 2.1.0 ok\r\n550-5.1.1 no\r\n550 5.1.1 such",
                Answered(MAIL, Reply(250, "2.1.0", "ok")),
                Answered(RCPT, Reply(550, "5.1.1", "no\nsuch")),
            )
            self.assertEqual(dialogue.data(), [Send(b"DATA\r\n")])
            play(dialogue, "S:354 go", Answered(DATA, Reply(354, "", "go")))
            self.assertEqual(dialogue.chunk(b".a\r"), [Send(b"..a\r")])
            self.assertEqual(dialogue.chunk(b"\n.b\r\n"), [Send(b"\n..b\r\n")])
            self.assertEqual(dialogue.finish(), [Send(b".\r\n")])
            play(dialogue, "S:250 stored", Answered(END, Reply(250, "2.0.0", "stored")), cut=True)

    def test_modest_backend(self) -> None:
        """To a backend without extensions a message goes without parameters."""
        dialogue = transfer()
        play(dialogue, "S:220 x", "C:EHLO gw.example", "S:250 x", Ready(b""))
        self.assertEqual(dialogue.mail("", 5, "8BITMIME"), [Send(b"MAIL FROM:<>\r\n")])

    def test_lmtp(self) -> None:
        """LMTP says LHLO, and has a reply for each accepted recipient."""
        dialogue = ready(lmtp=True)
        dialogue.mail("a@x")
        for name in "bcd":
            dialogue.recipient(f"{name}@d")
        self.assertEqual(len(dialogue.feed(b"250 ok\r\n250 ok\r\n550 no\r\n250 ok\r\n")), 4)
        dialogue.data()
        dialogue.feed(b"354 go\r\n")
        dialogue.finish()
        play(
            dialogue,
            "S:250 2.0.0 b\r\n452 4.2.2 d",
            Answered(END, Reply(250, "2.0.0", "b")),
            Answered(END, Reply(452, "4.2.2", "d")),
        )
        self.assertEqual(outcome(dialogue, "250 2.0.0 third").kind, Failure.PROTOCOL)

    def test_out_of_turn(self) -> None:
        """A reply that nobody asked for, one that makes no sense, and 421 are the end of the backend."""
        for said, kind in (("354 go", Failure.PROTOCOL), ("421 bye", Failure.TEMPFAIL), ("334 ", Failure.PROTOCOL)):
            dialogue = ready()
            dialogue.mail("a@x")
            self.assertEqual(outcome(dialogue, said).kind, kind)
        self.assertEqual(outcome(ready(), "250 ok").kind, Failure.PROTOCOL)
        self.assertEqual(outcome(ready(), "451 ok").kind, Failure.TEMPFAIL)
        dialogue = ready()
        dialogue.data()
        self.assertEqual(outcome(dialogue, "250 ok").kind, Failure.PROTOCOL)

    def test_words(self) -> None:
        """A backend's words become printable ASCII of at most 400 octets, its enhanced code must fit the code."""
        dialogue = ready()
        dialogue.mail("a@x")
        (answered,) = dialogue.feed(b"550 2.0.0 \x1b[2J\xe4" + b"x" * 999 + b"\r\n")
        self.assertEqual(answered.reply.enhanced, "5.0.0")
        self.assertEqual(answered.reply.text, ("2.0.0 ?[2J?" + "x" * 999)[:400])

    def test_address_law(self) -> None:
        """No address that could break out of its brackets is ever sent."""
        for address in ("a\r\nRSET@x", "\u00e4@x", "a\0@x"):
            self.assertRaises(ValueError, ready().mail, address)
            self.assertRaises(ValueError, ready().recipient, address)
