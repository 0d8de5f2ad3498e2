"""Tests of the server's side of SMTP: transcripts, whole and octet by octet."""

from __future__ import annotations

import base64

from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from mailgw.interfaces import IEnvelopeDialogue
from mailgw.model import Refusal, RefusalKind
from mailgw.wire.events import Close, Mail, Recipient, Reply, Reset, Send, StartTLS
from mailgw.wire.protocol import Terms
from mailgw.wire.smtp import SmtpServer
from tests.wire.smtptalk import OK, Talk, mx, octets, sending

PLAIN = base64.b64encode(b"\0user\0secret")
WRONG = base64.b64encode(b"\0user\0wrong")


def inside(**terms: object) -> Talk:
    """A submission conversation inside TLS, EHLO said."""
    talk = Talk(True, tls="implicit", **terms)
    talk.say(b"EHLO client.example\r\n")
    return talk


def logged_in(**terms: object) -> Talk:
    """The same, logged in."""
    talk = inside(**terms)
    assert talk.say(b"AUTH PLAIN " + PLAIN + b"\r\n") == b"235 2.7.0 Authentication successful\r\n"
    return talk


class GreetingTests(SynchronousTestCase):
    """EHLO, HELO and what is announced."""

    def test_interface(self) -> None:
        """The dialogue is an envelope dialogue."""
        self.assertTrue(verifyObject(IEnvelopeDialogue, SmtpServer(Terms("h"), False)))

    def test_mx(self) -> None:
        """An mx listener offers TLS and no login, and after TLS it offers it no more."""
        talk = mx(message_size=1000)
        self.assertEqual(talk.sent, b"220 mx.example.com ESMTP\r\n")
        self.assertEqual(
            talk.say(b"EHLO client.example\r\n", octets),
            b"250-mx.example.com\r\n250-PIPELINING\r\n250-SIZE 1000\r\n250-STARTTLS\r\n250-ENHANCEDSTATUSCODES\r\n"
            b"250 8BITMIME\r\n",
        )
        talk.say(b"STARTTLS\r\n")
        talk.upgrade()
        self.assertNotIn(b"STARTTLS", talk.say(b"EHLO client.example\r\n"))

    def test_submission(self) -> None:
        """A login is offered inside TLS only, unless the listener's terms are lax."""
        for tls, secure, starttls, auth in (
            *(("starttls", False, True, False), ("starttls", True, False, True), ("optional", False, True, True)),
            *(("implicit", True, False, True), ("none", False, False, True)),
        ):
            offer = Talk(secure, tls=tls).say(b"EHLO client.example\r\n")
            self.assertEqual((b"STARTTLS" in offer, b"AUTH PLAIN LOGIN" in offer), (starttls, auth))

    def test_names(self) -> None:
        """Only a domain or an address literal is a name."""
        for name in (b"a", b"host_1.example.", b"1.2.3.4", b"[1.2.3.4]", b"[IPv6:::1]", b"[fe80::1%eth0]"):
            expected = [501] if name.endswith(b".") else [250]
            self.assertEqual(mx().codes(b"EHLO " + name + b"\r\n"), expected, name)
        for name in (b"", b"a b", b"-a", b"a..b", b"\xc3", b"\xc3\xa4", b"a<b>", b"[", b"x" * 256, b"a:b"):
            self.assertEqual(mx().codes(b"EHLO " + name + b"\r\n"), [501], name)

    def test_helo(self) -> None:
        """HELO is a greeting without extensions; both are remembered for the trace."""
        talk = mx()
        self.assertEqual(talk.say(b"HELO old.example\r\n"), b"250 mx.example.com\r\n")
        self.assertEqual((talk.server.helo, talk.server.esmtp), ("old.example", False))
        talk.say(b"ehlo new.example\r\n")
        self.assertEqual((talk.server.helo, talk.server.esmtp), ("new.example", True))

    def test_minimum(self) -> None:
        """NOOP, HELP, VRFY, RSET and QUIT work before and after EHLO; unknown commands are 500."""
        talk = mx()
        for _ in range(2):
            self.assertEqual(
                talk.codes(b"NOOP\r\nnoop x\r\nHELP\r\nVRFY u\r\nVRFY\r\nRSET\r\nEXPN x\r\nBDAT 5\r\n"),
                [250, 250, 214, 252, 501, 250, 500, 500],
            )
            talk.say(b"EHLO a\r\n")
        self.assertEqual(talk.codes(b"QUIT\r\nNOOP\r\n"), [221])
        self.assertEqual(talk.closed, "QUIT")


class StartTlsTests(SynchronousTestCase):
    """STARTTLS on the server's side."""

    def test_upgrade(self) -> None:
        """TLS begins after the go-ahead, and everything before it is forgotten."""
        talk = mx()
        talk.say(b"EHLO client.example\r\nMAIL FROM:<pre@x>\r\nRCPT TO:<v@d>\r\n")
        self.assertEqual(talk.say(b"STARTTLS\r\n"), b"220 2.0.0 Ready to start TLS\r\n")
        self.assertEqual(talk.events[-2:], [Reset(), StartTLS(b"220 2.0.0 Ready to start TLS\r\n")])
        talk.upgrade()
        self.assertEqual((talk.server.helo, talk.server.secure), ("", True))
        self.assertEqual(talk.codes(b"DATA\r\nMAIL FROM:<a@x>\r\nRCPT TO:<v@d>\r\n"), [503, 503, 503])

    def test_injection(self) -> None:
        """Anything behind STARTTLS in clear ends the session without a go-ahead, at every cut after it too."""
        for extra in (b"EHLO y\r\n", b"N", b"\x16\x03\x01"):
            talk = mx()
            talk.say(b"EHLO x\r\n")
            self.assertEqual(talk.say(b"STARTTLS\r\n" + extra), b"")
            self.assertIsNotNone(talk.closed)
            late = mx()
            late.say(b"EHLO x\r\n")
            self.assertEqual(late.say(b"STARTTLS\r\n" + extra, octets), b"220 2.0.0 Ready to start TLS\r\n")
            self.assertIsNotNone(late.closed)

    def test_refused(self) -> None:
        """It takes no argument, is not offered twice, nor without a certificate, nor after a login."""
        self.assertEqual(mx().codes(b"STARTTLS foo\r\n"), [501])
        self.assertEqual(mx(True).codes(b"STARTTLS\r\n"), [503])
        self.assertEqual(mx(tls="none").codes(b"STARTTLS\r\n"), [502])
        talk = Talk(tls="optional")
        talk.say(b"EHLO x\r\nAUTH PLAIN " + PLAIN + b"\r\n")
        self.assertEqual(talk.codes(b"STARTTLS\r\n"), [503])


class AuthTests(SynchronousTestCase):
    """AUTH (RFC 4954)."""

    def test_variants(self) -> None:
        """PLAIN and LOGIN work with and without initial response, whole and octet by octet."""
        user, password = base64.b64encode(b"user"), base64.b64encode(b"secret")
        for lines in (
            [b"AUTH PLAIN " + PLAIN],
            [b"auth plain", PLAIN],
            [b"AUTH LOGIN", user, password],
            [b"AUTH login " + user, password],
        ):
            for cut in (octets, lambda data: [data]):
                talk = inside()
                for line in lines:
                    reply = talk.say(line + b"\r\n", cut)
                self.assertEqual(reply, b"235 2.7.0 Authentication successful\r\n")
                self.assertEqual([(login.username, login.password) for login in talk.logins], [("user", b"secret")])

    def test_challenges(self) -> None:
        """The challenges of LOGIN are the customary ones, that of PLAIN is empty."""
        talk = inside()
        self.assertEqual(talk.say(b"AUTH LOGIN\r\n"), b"334 VXNlcm5hbWU6\r\n")
        self.assertEqual(talk.say(b"dXNlcg==\r\n"), b"334 UGFzc3dvcmQ6\r\n")
        self.assertEqual(talk.codes(b"*\r\n"), [501])
        self.assertEqual(talk.say(b"AUTH PLAIN\r\n"), b"334 \r\n")

    def test_pipelined_behind(self) -> None:
        """What comes in one piece with the login is answered after it, in order."""
        talk = inside()
        data = b"AUTH PLAIN " + PLAIN + b"\r\nMAIL FROM:<a@x>\r\nRCPT TO:<b@d>\r\nDATA\r\n"
        self.assertEqual(talk.codes(data), [235, 250, 250, 354])

    def test_not_offered(self) -> None:
        """Before TLS the password is not used; on mx there is no login; EHLO comes first; once is enough."""
        talk = Talk()
        talk.say(b"EHLO x\r\n")
        self.assertEqual(
            talk.say(b"AUTH PLAIN " + PLAIN + b"\r\n"), b"530 5.7.0 Must issue a STARTTLS command first\r\n"
        )
        self.assertEqual(talk.logins, [])
        self.assertEqual(mx().codes(b"EHLO x\r\nAUTH PLAIN " + PLAIN + b"\r\n"), [250, 503])
        self.assertEqual(Talk(True).codes(b"AUTH PLAIN " + PLAIN + b"\r\n"), [503])
        self.assertEqual(logged_in().codes(b"AUTH PLAIN " + PLAIN + b"\r\n"), [503])
        self.assertEqual(logged_in().codes(b"MAIL FROM:<a@x>\r\nAUTH PLAIN " + PLAIN + b"\r\n"), [250, 503])

    def test_malformed(self) -> None:
        """Nothing that is no AUTH brings a login."""
        long = b"A" * 9000
        for line, code in (
            *((b"AUTH", 501), (b"AUTH PLAIN =", 501), (b"AUTH PLAIN *", 501), (b"AUTH PLAIN aGVsbG8=", 535)),
            *((b"AUTH PLAIN a b", 501), (b"AUTH FOO", 504), (b"AUTH PLAIN a===", 501), (b"AUTH PLAIN " + long, 500)),
            (b"AUTH PLAIN " + base64.b64encode(b"\0u\r\nQUIT\0p"), 535),
            (b"AUTH PLAIN " + base64.b64encode(b"\0u\0"), 535),
        ):
            talk = inside()
            self.assertEqual(talk.codes(line + b"\r\n"), [code], line[:30])
            self.assertEqual(talk.logins, [])

    def test_attempts(self) -> None:
        """Wrong passwords are 535, and after the last that is allowed the connection is closed with 421."""
        talk = inside(login_attempts=2)
        self.assertEqual(talk.codes(b"AUTH PLAIN " + WRONG + b"\r\n"), [535])
        self.assertEqual(talk.codes(b"AUTH PLAIN " + WRONG + b"\r\nNOOP\r\n"), [535, 421])
        self.assertEqual(len(talk.logins), 2)

    def test_refusals(self) -> None:
        """Every kind of refusal has its reply; trouble of ours never counts as an attempt."""
        for kind, code in (
            *((RefusalKind.CREDENTIALS, b"535 5.7.8"), (RefusalKind.AUTHZ, b"535 5.7.8")),
            *((RefusalKind.DISABLED, b"535 5.7.8"), (RefusalKind.TLS_REQUIRED, b"530 5.7.0")),
            *((RefusalKind.LIMIT, b"421 4.7.0"), (RefusalKind.UNAVAILABLE, b"454 4.7.0")),
        ):
            server = SmtpServer(Terms("h", login_attempts=3), True)
            events = server.feed(b"EHLO x\r\nAUTH PLAIN " + PLAIN + b"\r\nNOOP\r\n")
            self.assertEqual(len(events), 2)
            said = b"".join(
                event.data for event in server.refuse(Refusal(kind, "x")) if isinstance(event, Send | Close)
            )
            self.assertTrue(said.startswith(code), said)
            self.assertEqual(said.endswith(b"250 2.0.0 Ok\r\n"), kind is not RefusalKind.LIMIT)
        server = SmtpServer(Terms("h", login_attempts=1), True)
        server.feed(b"EHLO x\r\n")
        for _ in range(3):
            server.feed(b"AUTH PLAIN " + PLAIN + b"\r\n")
            self.assertIsInstance(server.refuse(Refusal(RefusalKind.UNAVAILABLE))[0], Send)

    def test_required(self) -> None:
        """On submission no mail goes before the login."""
        self.assertEqual(Talk().say(b"MAIL FROM:<a@x>\r\n"), b"530 5.7.0 Must issue a STARTTLS command first\r\n")
        self.assertEqual(inside().say(b"MAIL FROM:<a@x>\r\n"), b"530 5.7.0 Authentication required\r\n")

    def test_secret_not_shown(self) -> None:
        """No representation of the dialogue or its events shows a password."""
        talk = logged_in()
        self.assertNotIn("secret", repr(talk.events) + repr(vars(talk.server)))


class EnvelopeTests(SynchronousTestCase):
    """MAIL, RCPT, DATA, RSET."""

    def test_message(self) -> None:
        """A message goes through, whole and octet by octet; then the next one."""
        for cut in (octets, lambda data: [data]):
            talk = mx()
            for _ in range(2):
                self.assertEqual(talk.codes(b"EHLO c\r\nMAIL FROM:<a@x>\r\nRCPT TO:<b@d>\r\nDATA\r\n", cut)[-1], 354)
                self.assertEqual(talk.codes(b"Subject: x\r\n\r\n..\r\n.\r\n", cut), [250])
            self.assertEqual(talk.messages, [("a@x", ["b@d"], b"Subject: x\r\n\r\n.\r\n")] * 2)

    def test_serial(self) -> None:
        """Nothing is answered while a decision is awaited; then everything, in order."""
        talk = mx()
        talk.say(b"EHLO c\r\n")
        talk.held = True
        self.assertEqual(talk.say(b"MAIL FROM:<a@x>\r\nRCPT TO:<b@d>\r\nNOOP\r\nRCPT TO:<c@d>\r\n", octets), b"")
        self.assertEqual(talk.events[-1], Mail("a@x"))
        talk.held = True
        self.assertEqual(
            talk.answer(Reply(550, "5.7.1", "no")),
            b"550 5.7.1 no\r\n" + b"503 5.5.1 Bad sequence of "
            b"commands\r\n250 2.0.0 Ok\r\n503 5.5.1 Bad sequence of commands\r\n",
        )

    def test_flood_while_waiting(self) -> None:
        """What is pipelined behind an event is kept under a limit."""
        talk = mx()
        talk.say(b"EHLO c\r\n")
        talk.held = True
        talk.say(b"MAIL FROM:<a@x>\r\n")
        for _ in range(5):
            talk.say(b"NOOP\r\n" * 16384)
        self.assertEqual(talk.closed, "pipelined too much")

    def test_sequence(self) -> None:
        """Out of order is 503; DATA without recipients is 554."""
        talk = mx(bad_commands=99)
        self.assertEqual(talk.codes(b"MAIL FROM:<a@x>\r\nRCPT TO:<a@x>\r\nDATA\r\nEHLO c\r\n"), [503, 503, 503, 250])
        self.assertEqual(
            talk.codes(b"RCPT TO:<a@x>\r\nDATA\r\nMAIL FROM:<a@x>\r\nMAIL FROM:<a@x>\r\nDATA\r\nDATA x\r\n"),
            [503, 503, 250, 503, 554, 501],
        )

    def test_reset(self) -> None:
        """RSET, EHLO, HELO and QUIT void an open transaction, and say so once."""
        for line in (b"RSET", b"EHLO c", b"HELO c", b"QUIT"):
            talk = mx()
            talk.say(b"EHLO c\r\nRSET\r\nMAIL FROM:<a@x>\r\n")
            self.assertNotIn(Reset(), talk.events)
            talk.say(line + b"\r\n")
            self.assertEqual(talk.events.count(Reset()), 1)
            self.assertIn(talk.codes(b"RCPT TO:<b@d>\r\n"), ([503], []))

    def test_paths(self) -> None:
        """Addresses are read by the grammar, and come out canonical."""
        for path, address in (
            *((b"<a@x>", "a@x"), (b" <a@x>", "a@x"), (b"<@r1,@r2:a@x>", "a@x"), (b'<"a"@x>', "a@x")),
            *((b'<"a b"@x>', '"a b"@x'), (b'<"a\\"b"@x>', '"a\\"b"@x'), (b'<"a>b"@x>', '"a>b"@x')),
            *((b"<a+b/c=d@x-y.example>", "a+b/c=d@x-y.example"), (b"<a@[127.0.0.1]>", "a@[127.0.0.1]")),
            *((b"<a@[IPv6:::1]>", "a@[IPv6:::1]"), (b"<>", ""), (b"<../../etc@d>", None), (b"<..@d>", None)),
            *((b'<""@x>', None), (b"<@x>", None), (b"<a@>", None), (b"<a>", None), (b"a@x", None), (b"<a@x", None)),
            *((b"<a b@x>", None), (b"<a@x y>", None), (b"<a@-x>", None), (b"<a@x..y>", None), (b"<a@[1.2.3]>", None)),
            *((b"<" + b"a" * 64 + b"@x>", "a" * 64 + "@x"), (b"<" + b"a" * 65 + b"@x>", None)),
            (b"<a@" + b".".join([b"x" * 60] * 5) + b">", None),
        ):
            talk = mx()
            codes = talk.codes(b"EHLO c\r\nMAIL FROM:" + path + b"\r\n")
            self.assertEqual(codes, [250, 501 if address is None else 250], path)
            if address is not None:
                self.assertEqual(talk.events[-2], Mail(address))

    def test_recipients(self) -> None:
        """RCPT takes postmaster without a domain and never the null path."""
        talk = mx()
        talk.say(b"EHLO c\r\nMAIL FROM:<>\r\n")
        self.assertEqual(talk.codes(b"RCPT TO:<Postmaster>\r\nRCPT TO:<>\r\nRCPT TO: <b@d>\r\n"), [250, 501, 250])
        self.assertEqual(
            [event for event in talk.events if isinstance(event, Recipient)],
            [Recipient("postmaster"), Recipient("b@d")],
        )

    def test_too_many_recipients(self) -> None:
        """After the limit 452, and the accepted ones stand."""
        talk = mx(recipients=2)
        talk.say(b"EHLO c\r\nMAIL FROM:<a@x>\r\n")
        self.assertEqual(talk.codes(b"RCPT TO:<b@d>\r\n" * 4 + b"DATA\r\n"), [250, 250, 452, 452, 354])

    def test_parameters(self) -> None:
        """SIZE, BODY and, where there is a login, AUTH are understood, everything else is 555 or 501."""
        for words, code in (
            *((b"SIZE=100", 250), (b"BODY=8BITMIME", 250), (b"body=7bit size=1", 250), (b"SIZE=99999999999", 552)),
            *((b"FOO=bar", 555), (b"SMTPUTF8", 555), (b"SIZE=-1", 501), (b"SIZE=", 501), (b"SIZE=1 SIZE=1", 501)),
            *((b"BODY=BINARYMIME", 501), (b"=", 501), (b"RET=HDRS", 555), (b"SIZE", 501), (b"AUTH=<>", 555)),
        ):
            self.assertEqual(mx().codes(b"EHLO c\r\nMAIL FROM:<a@x> " + words + b"\r\n"), [250, code], words)
        self.assertEqual(logged_in().codes(b"MAIL FROM:<a@x> AUTH=<>\r\n"), [250])
        talk = mx()
        talk.say(b"EHLO c\r\nMAIL FROM:<a@x> SIZE=7 BODY=8bitmime\r\n")
        self.assertEqual(talk.events[-2], Mail("a@x", 7, "8BITMIME"))
        self.assertEqual(talk.codes(b"RCPT TO:<b@d> NOTIFY=NEVER\r\n"), [555])

    def test_beyond_ascii(self) -> None:
        """An address in UTF-8 is 553, one that is not even UTF-8 is 501."""
        talk = mx()
        talk.say(b"EHLO c\r\n")
        self.assertEqual(
            talk.codes(b"MAIL FROM:<\xc3\xa4@x>\r\nMAIL FROM:<\xf0\x9f@x>\r\nMAIL FROM:<a@x>\r\n"), [553, 501, 250]
        )
        self.assertEqual(talk.codes(b"RCPT TO:<\xf0\x9f@d>\r\nRCPT TO:<a@\xc3\xa4>\r\n"), [501, 553])

    def test_refused_data(self) -> None:
        """An answer other than 354 refuses the message, and ends the transaction."""
        talk = mx()
        talk.say(b"EHLO c\r\nMAIL FROM:<a@x>\r\nRCPT TO:<b@d>\r\n")
        talk.held = True
        talk.say(b"DATA\r\n")
        self.assertEqual(talk.answer(Reply(451, "4.3.0", "later")), b"451 4.3.0 later\r\n")
        self.assertEqual(talk.events[-1], Reset())
        self.assertEqual(talk.codes(b"MAIL FROM:<a@x>\r\n"), [250])

    def test_replies_cannot_inject(self) -> None:
        """Whatever a reply's text holds, only whole lines of printable ASCII go out."""
        talk = mx()
        talk.say(b"EHLO c\r\n")
        talk.held = True
        talk.say(b"MAIL FROM:<a@x>\r\n")
        self.assertEqual(talk.answer(Reply(550, "5.7.1", "a\r250 b\n\xe4\0")), b"550-5.7.1 a?250 b\r\n550 5.7.1 ??\r\n")

    def test_unasked_answer(self) -> None:
        """An answer when nothing waits changes nothing."""
        talk = mx()
        self.assertEqual(talk.server.answer(OK), [])


class LimitTests(SynchronousTestCase):
    """What ends a conversation."""

    def test_bad_commands(self) -> None:
        """So many bad commands, and it is closed with 421."""
        talk = mx(bad_commands=3)
        self.assertEqual(talk.codes(b"X\r\n" * 9), [500, 500, 500, 421])
        self.assertIsNotNone(talk.closed)

    def test_idle_commands(self) -> None:
        """Commands that move nothing are limited; a message makes good."""
        talk = mx()
        self.assertEqual(talk.codes(b"NOOP\r\n" * 200), [250] * 100 + [421])
        busy = mx()
        for _ in range(9):
            sending(busy).say(b".\r\n")
            busy.say(b"NOOP\r\n" * 90)
        self.assertIsNone(busy.closed)

    def test_total_before_login(self) -> None:
        """On submission all octets before the login are counted, wherever they are cut."""
        talks = Talk(True, max_total=100), Talk(True, max_total=100)
        self.assertEqual(talks[0].say(b"NOOP\r\n" * 99), talks[1].say(b"NOOP\r\n" * 99, octets))
        self.assertTrue(talks[0].sent.endswith(b"421 4.7.0 mx.example.com Too much before login\r\n"))

    def test_expire(self) -> None:
        """The parting words are 421."""
        self.assertEqual(mx().server.expire("Timeout"), b"421 4.7.0 mx.example.com Timeout\r\n")
