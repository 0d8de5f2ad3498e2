"""Attacks on SMTP: smuggling, injection and floods, on mx and submission, seen by what was stored and sent."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable

from tests.integration.attacks import HELLO, LOGIN_SMTP, LONE, WRONG, Attacker, AttackTestCase, plain, stranger
from tests.integration.case import ServersTestCase
from tests.integration.embedded import ADDRESS, PASSWORD, USER
from tests.integration.gateway import ROOMY, Gateway
from tests.integration.liars import Heard, Liar

OUT = b"QUIT\r\n"
MAIL = b"MAIL FROM:<someone@elsewhere.example>\r\n"
RCPT = b"RCPT TO:<%b>\r\n" % ADDRESS.encode()
SMUGGLED = b"MAIL FROM:<smug@x.example>\r\nRCPT TO:<%b>\r\nDATA\r\nSmuggled\r\n.\r\n" % ADDRESS.encode()
FALSE_ENDS = (
    *(b"\n.\n", b"\n.\r", b"\r.\n", b"\r.\r", b"\n.\r\n", b"\r.\r\n", b"\r\n.\n", b"\r\n.\r"),
    *(b"\r\n\0.\r\n", b"\r\n.\0\r\n", b"\r\0\n.\r\n", b"\r\n.\r\0\n"),
    *(b"\r\n.\r\r\n", b"\r\r\n.\r\r\n", b"\r\n. \r\n", b"\r\n.\t\r\n", b"\r\n..\r\n", b"\n\r.\r\n", b"\r\n.\x0b\r\n"),
    *(b"\r\n\x85.\r\n", b"\r\n\xe2\x80\xa8.\r\n", b"\r\n.\r\n"[:3] + b" .\r\n"),
)
"""What some server or other takes, or took, for the end of a message."""
MIXED = (b"\r\n\n.\r\n", b"\n\r\n.\n", b"\r\r\n.\r\n")


def whole(data: bytes) -> Iterable[bytes]:
    """In one piece."""
    return [data]


def octets(data: bytes) -> Iterable[bytes]:
    """Octet by octet."""
    return [data[at : at + 1] for at in range(len(data))]


def at_dots(data: bytes) -> Iterable[bytes]:
    """Cut before and behind every dot, CR and LF."""
    return [piece for piece in re.split(rb"(?<=[.\r\n])|(?=[.\r\n])", data) if piece]


CUTS: tuple[Callable[[bytes], Iterable[bytes]], ...] = (whole, octets, at_dots)


class SmtpTestCase(AttackTestCase):
    """Attacks on SMTP."""

    def on_disk(self) -> list[bytes]:
        """All messages in the user's mailbox, as they are on the disk."""
        root = self.gateway.folder / "var" / "mail" / "localhost" / USER
        return [path.read_bytes() for folder in ("new", "cur") for path in sorted((root / folder).glob("*"))]

    def at_text(self) -> Attacker:
        """A connection to mx that has its 354."""
        wire = Attacker(self.ports.mx)
        self.addCleanup(wire.__exit__)
        wire.reply()
        for line, code in ((HELLO, b"250"), (MAIL, b"250"), (RCPT, b"250"), (b"DATA\r\n", b"354")):
            wire.send(line)
            reply = wire.reply()
            self.assertEqual(reply[:3], code, reply)
        return wire

    def codes(self, *segments: bytes, port: int = 0, clear: bool = True, end: bytes = OUT) -> list[bytes]:
        """Send these; the codes of all replies behind the greeting and before the goodbye."""
        lines = self.told(port or self.ports.mx, *segments, end, clear=clear, source=stranger())
        codes = [line[:3] for line in lines if line[3:4] != b"-"]
        self.assertEqual(codes[0], b"220")
        if end:
            self.assertEqual(codes[-1], b"221", segments)
        return codes[1:-1] if end else codes[1:]


class SmtpTests(SmtpTestCase):
    """What the world sends, and then what users submit. Only CRLF.CRLF ends a message."""

    def test_false_ends(self) -> None:
        """No false end makes two messages of one, wherever the stream is cut, and nothing uncanny is stored."""
        for sequence in (*FALSE_ENDS, *MIXED):
            text = b"Subject: x\r\n\r\nbody" + sequence + SMUGGLED
            ends = text.count(b"\r\n.\r\n")
            for cut in CUTS if ends == 1 else ():
                before = len(self.on_disk())
                wire = self.at_text()
                wire.send(*cut(text), b"QUIT\r\n")
                replies = wire.rest().split(b"\r\n")[:-1]
                self.assertEqual([reply[:3] for reply in replies][1:], [b"221"], (sequence, replies))
                good = not LONE.search(text)
                self.assertEqual(replies[0][:3] == b"250", good, (sequence, replies))
                self.assertEqual(len(self.on_disk()) - before, int(good), sequence)
        for message in self.on_disk():
            self.assertIsNone(LONE.search(message), message)
            self.assertEqual(message.count(b"Return-Path:"), 1)
            self.assertIn(b"Return-Path: <someone@elsewhere.example>\r\n", message)

    def test_faults_before_a_true_end(self) -> None:
        """A message with a fault that does end is refused once, and what follows are commands like any others."""
        for sequence, code in ((b"\0\r\n.\r\n", b"554"), (b"\r\r\n.\r\n", b"550"), (b"\n\r\n.\r\n", b"550")):
            before = len(self.on_disk())
            wire = self.at_text()
            wire.send(b"Subject: x\r\n\r\nbody" + sequence + b"RSET\r\nQUIT\r\n")
            self.assertEqual([wire.reply()[:3] for _ in range(3)], [code, b"250", b"221"], sequence)
            self.assertEqual(len(self.on_disk()), before)

    def test_behind_the_end(self) -> None:
        """What is glued to a true end and begins with NUL is no command."""
        before = len(self.on_disk())
        wire = self.at_text()
        wire.send(b"Subject: x\r\n\r\nbody\r\n.\r\n\0" + SMUGGLED + OUT)
        codes = [line[:3] for line in wire.rest().split(b"\r\n")[:-1]]
        self.assertEqual(codes, [b"250", b"500", b"503", b"503", b"500", b"500", b"221"])
        self.assertEqual(len(self.on_disk()), before + 1)

    def test_empty(self) -> None:
        """A dot at offset 0 is an empty message."""
        for cut in CUTS:
            wire = self.at_text()
            wire.send(*cut(b".\r\nRSET\r\n"))
            self.assertIn(wire.reply()[:3], (b"250", b"554"))
            self.assertEqual(wire.reply()[:3], b"250")

    def test_long_lines(self) -> None:
        """A line of any length stays a part of its message."""
        for length in (998, 999, 2047, 2048, 2049, 8192, 8193, 16384, 16385, 17000, 1 << 20):
            before = len(self.on_disk())
            wire = self.at_text()
            wire.send(b"Subject: x\r\n\r\n" + b"A" * length, b"\r\n" + SMUGGLED[:-3] + b"rest\r\n.\r\nRSET\r\nQUIT\r\n")
            replies = [line[:3] for line in wire.rest().split(b"\r\n")[:-1]]
            self.assertEqual(replies, [b"250" if length <= 8192 else b"554", b"250", b"221"], length)
            self.assertEqual(len(self.on_disk()) - before, int(length <= 8192), length)

    def test_before_the_go_ahead(self) -> None:
        """Text that does not wait for 354 is not taken, nor run."""
        before = len(self.on_disk())
        codes = self.codes(HELLO + MAIL + RCPT + b"DATA\r\nSubject: x\r\n\r\n.\r\n", end=b"")
        self.assertEqual(codes, [b"250", b"250", b"250", b"554"])
        self.assertEqual(len(self.on_disk()), before)

    def test_lost_connection(self) -> None:
        """A message without its end is no message, and leaves nothing behind."""
        before = len(self.on_disk())
        for text in (b"Subject: x\r\n\r\nhalf", b"Subject: x\r\n\r\nhalf\r\n.\r", b"\r\n."):
            wire = self.at_text()
            wire.send(text)
            wire.__exit__()
        self.gateway.wait_for_sessions_to_end()
        self.assertEqual(len(self.on_disk()), before)
        root = self.gateway.folder / "var" / "mail" / "localhost" / USER
        self.assertEqual(list((root / "tmp").iterdir()), [])

    # --- what is no proper command -----------------------------------------------------------------------------------

    def test_hello(self) -> None:
        """Nothing but a name or an address gets into the trace."""
        for name in (
            b"a\rX: y",
            b"a\0b",
            b"a\x1b[2J",
            b"a\tb",
            b"\xc3",
            b"a b",
            b"a (c)",
            b"a;b",
            b"a" * 256,
            b"",
            b"<a>",
        ):
            for verb in (b"EHLO ", b"HELO "):
                (code,) = self.codes(verb + name + b"\r\n")
                self.assertIn(code, (b"500", b"501"), name)
        self.assertEqual(self.codes(b"EHLO a\nX-Injected: yes\r\n", end=b""), [b"500"])
        for message in self.on_disk():
            self.assertNotIn(b"X-Injected", message)

    def test_addresses(self) -> None:
        """A recipient is a mailbox by the grammar, and one that exists."""
        for path, code in (
            (b'<"v\rw"@localhost>', b"500"),
            (b'<"v\0"@localhost>', b"500"),
            (b"<v\x1b@localhost>", b"500"),
            (b"<v\x7f@localhost>", b"500"),
            (b"<\xf0\x9f@localhost>", b"501"),
            ("<ü@localhost>".encode(), b"553"),
            (b"<../../etc@localhost>", b"501"),
            (b'<"../../x"@localhost>', b"550"),
            (b"<tester@../../x>", b"501"),
            (b"<tester%evil.example@localhost>", b"550"),
            (b"<tester@evil.example@localhost>", b"501"),
            (b"<tester@evil.example>", b"550"),
            *((path, b"501") for path in (b'<""@localhost>', b"<@localhost>", b"<a@>", b"<>", b"", b"<", b"x")),
            (b"<" + b"a" * 65 + b"@localhost>", b"501"),
            (b"<a@" + b"b" * 64 + b".example>", b"501"),
            (b"<a@" + b"b." * 150 + b"example>", b"501"),
            (b"<tester@localhost> NOTIFY=NEVER", b"555"),
            (b"<tester@localhost> <w@localhost>", b"555"),
        ):
            self.assertEqual(self.codes(HELLO + MAIL + b"RCPT TO:" + path + b"\r\n")[-1], code, path)
        self.assertEqual(
            self.codes(HELLO + MAIL + b'RCPT TO:<"v\nRCPT TO:<w@localhost>\nQ"@localhost>\r\n', end=b"")[-1], b"500"
        )

    def test_parameters(self) -> None:
        """What is not offered is not understood; what is too big is not taken."""
        for parameters, code in (
            (b"SIZE=99999999999 FOO=bar", b"555"),
            (b"SIZE=99999999999", b"552"),
            (b"SIZE=-1", b"501"),
            (b"SIZE=1_0", b"501"),
            (b"SIZE=" + b"9" * 400, b"501"),
            (b"SIZE=1 SIZE=2", b"501"),
            (b"BODY=BINARYMIME", b"501"),
            (b"SMTPUTF8", b"555"),
            (b"AUTH=<>", b"555"),
        ):
            self.assertEqual(self.codes(HELLO + MAIL[:-2] + b" " + parameters + b"\r\n")[-1], code, parameters)

    def test_strangers_xclient(self) -> None:
        """XCLIENT from somebody whom nobody trusts is refused."""
        self.assertEqual(self.codes(b"XCLIENT ADDR=192.0.2.1 LOGIN=x\r\nNOOP\r\n"), [b"550", b"250"])

    def test_strangers_proxy_header(self) -> None:
        """A PROXY header from somebody whom nobody trusts ends the connection."""
        with Attacker(self.ports.mx, source=stranger()) as wire:
            wire.reply()
            wire.send(b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\nNOOP\r\n")
            self.assertNotIn(b"250", wire.rest())

    def test_unknown(self) -> None:
        """What is not offered, or no command at all, is 500 and swallows nothing."""
        unknown = (
            b"BDAT 5 LAST",
            b"BDAT 99999999999999999999",
            b"BDAT -1",
            b"BDAT 0 LAST",
        )
        for line in (
            *unknown,
            b"\xff",
            b"\0",
            b"",
            b" ",
            b"TURN",
            b"ETRN x",
            b"LHLO x",
        ):
            self.assertEqual(self.codes(line + b"\r\nNOOP\r\n"), [b"500", b"250"], line)

    def test_overlong(self) -> None:
        """A command without end is cut off, and costs nothing."""
        for line in (b"MAIL FROM:<" + b"a" * 5000 + b"@x.example>\r\n", b"NOOP " + b"x" * (1 << 20), b"x" * (16 << 20)):
            with Attacker(self.ports.mx, source=stranger()) as wire:
                wire.reply()
                self.gateway.forget_peak()
                before = self.gateway.memory()
                wire.pour(HELLO + line)
                self.assertTrue(wire.cut(), line[:20])
                self.assertLess(self.gateway.peak_memory() - before, 1 << 20, line[:20])

    def test_floods(self) -> None:
        """Two thousand commands that bring no mail are cut short, refused addresses among them."""
        for flood, most in (
            (b"FOO\r\n", 11),
            (b"NOOP\r\n", 101),
            (b"RSET\r\n", 101),
            (b"VRFY x\r\n", 101),
            (b"EHLO x\r\n", 101),
            (HELLO + MAIL + b"RSET\r\n", 152),
            (HELLO + MAIL + b"RCPT TO:<nobody@localhost>\r\n" * 1000, 102),
            (HELLO + MAIL + b"DATA\r\n" * 1000, 102),
        ):
            codes = self.codes(flood * 2000 if len(flood) < 200 else flood, end=b"")
            self.assertEqual(codes[-1], b"421", flood[:80])
            self.assertLessEqual(len(codes), most, flood[:80])

    def test_many_recipients(self) -> None:
        """Of ten thousand recipients a thousand are taken, one after the other, and they get one copy."""
        before = len(self.on_disk())
        wire = Attacker(self.ports.mx, seconds=30.0)
        self.addCleanup(wire.__exit__)
        wire.reply()
        wire.send(HELLO + MAIL)
        wire.reply(), wire.reply()
        codes: list[bytes] = []
        for _ in range(20):
            wire.send(RCPT * 500)
            codes += [wire.reply()[:3] for _ in range(500)]
        self.assertEqual((codes[:1000], codes[1000:]), ([b"250"] * 1000, [b"452"] * 9000))
        wire.send(b"DATA\r\n")
        wire.reply()
        wire.send(b"Subject: x\r\n\r\n.\r\n")
        self.assertEqual(wire.reply()[:3], b"250")
        self.assertEqual(len(self.on_disk()), before + 1)

    def test_silent_reader(self) -> None:
        """A client that says EHLO and reads nothing costs nothing to speak of."""
        wires = [Attacker(self.ports.mx, None, 0.2, stranger()) for _ in range(5)]
        self.gateway.forget_peak()
        before = self.gateway.memory()
        for _ in range(5):
            for wire in wires:
                wire.pour(HELLO * 5000)
        self.assertLess(self.gateway.peak_memory() - before, len(wires) << 20)
        for wire in wires:
            wire.__exit__()

    # --- logins, and who sends as whom -------------------------------------------------------------------------------

    def submitted(self, *segments: bytes, end: bytes = OUT) -> list[bytes]:
        """Codes behind EHLO, over TLS."""
        codes = self.codes(HELLO, *segments, port=self.ports.submissions, clear=False, end=end)
        self.assertEqual(codes[0], b"250")
        return codes[1:]

    def test_login(self) -> None:
        """What is no login is none, and does no harm."""
        user, password = USER.encode(), PASSWORD.encode()
        for line, code in (
            (b"AUTH", b"501"),
            (b"AUTH PLAIN *", b"501"),
            (b"AUTH PLAIN =", b"501"),
            (b"AUTH PLAIN !!!!", b"501"),
            (b"AUTH PLAIN aGVsbG8=", b"535"),
            (b"AUTH FOO", b"504"),
            (b"AUTH PLAIN " + plain(b"u\r\nQUIT", WRONG), b"535"),
            (b"AUTH PLAIN " + plain(user, WRONG + b"\r\nRSET"), b"535"),
            (b"AUTH PLAIN " + plain(user, b""), b"535"),
            (b"AUTH PLAIN " + plain(user, password, b"admin"), b"535"),
            (b"AUTH PLAIN " + plain(user, password)[:-1], b"501"),
            (b"AUTH PLAIN " + plain("ｔｅｓｔｅｒ".encode(), password), b"535"),
            (b"AUTH PLAIN " + plain(b"../../x", WRONG), b"535"),
            (b"AUTH PLAIN " + b"A" * 8180, b"535"),
        ):
            self.assertEqual(self.submitted(line + b"\r\n"), [code], line[:60])
        for line in (b"AUTH PLAIN " + b"A" * 12000, b"AUTH PLAIN\r\n" + b"A" * (1 << 20)):
            self.assertEqual(self.submitted(line + b"\r\n", end=b"")[-1], b"500")

    def test_sequence(self) -> None:
        """A login comes after EHLO, before mail, and once."""
        port = self.ports.submissions
        self.assertEqual(self.codes(b"AUTH PLAIN AAAA\r\n", port=port, clear=False), [b"503"])
        self.assertEqual(
            self.submitted(LOGIN_SMTP + b"AUTH PLAIN %b\r\n" % plain(b"x", WRONG)), [b"250", b"235", b"503"]
        )
        mail = b"MAIL FROM:<%b>\r\n" % ADDRESS.encode()
        self.assertEqual(
            self.submitted(LOGIN_SMTP + mail + b"AUTH PLAIN AAAA\r\nSTARTTLS\r\n")[2:], [b"250", b"503", b"503"]
        )
        self.assertEqual(self.submitted(mail + RCPT + b"DATA\r\n"), [b"530", b"503", b"503"])

    def test_senders(self) -> None:
        """A user sends as that user, whatever the address is dressed in."""
        for sender, code in (
            (b"<boss@localhost>", b"553"),
            (b"<tester@evil.example>", b"553"),
            (b"<@x:boss@localhost>", b"553"),
            (b'<"boss"@localhost>', b"553"),
            (b"<boss@localhost> AUTH=<tester@localhost>", b"553"),
            (b'<"tester"@localhost>', b"250"),
            (b"<>", b"250"),
        ):
            self.assertEqual(self.submitted(LOGIN_SMTP + b"MAIL FROM:" + sender + b"\r\n")[-1], code, sender)

    def test_guessing(self) -> None:
        """Five hundred guesses in one write get five answers, and each has to wait for its own."""
        guesses = b"".join(b"AUTH PLAIN %b\r\n" % plain(USER.encode(), WRONG + b"%d" % number) for number in range(500))
        began = time.monotonic()
        self.assertEqual(self.submitted(guesses, end=b""), [b"535"] * 5 + [b"421"])
        self.assertGreater(time.monotonic() - began, 0.05 + 0.1 + 0.2 + 0.4 + 0.8)


def filling(count: int) -> bytes:
    """So many octets in lines of 100, the last one not ended."""
    return (b"x" * 98 + b"\r\n") * (count // 100) + b"x" * (count % 100)


def undotted(data: bytes) -> bytes:
    """A message without its transparency dots and its final dot."""
    return data.removesuffix(b".\r\n").replace(b"\r\n.", b"\r\n")


def taking(heard: Heard) -> None:
    """A backend that takes all mail, and says nothing of STARTTLS."""
    heard.say(b"220 backend.example ESMTP\r\n")
    while True:
        line = heard.line()
        if line.startswith(b"DATA"):
            heard.say(b"354 go\r\n")
            while heard.line() != b".":
                pass
        heard.say(b"250 ok\r\n")


class OnwardTests(ServersTestCase):
    """What leaves the gateway for the next server."""

    gateway: Gateway
    backend: Liar

    @classmethod
    def start_servers(cls) -> None:
        cls.backend = Liar(taking)
        cls.at_end(cls.backend.stop)
        gateway = Gateway()
        (gateway.folder / "passwd").write_text(f"{USER}@example.org:{{PLAIN}}{PASSWORD}\n")
        gateway.write(f"""
[[directory]]
kind = "passwd"
file = "passwd"
[[route]]
kind = "pool"
pool = "main"
[pool.main]
members = [{{host = "127.0.0.1", smtp = {cls.backend.port}}}]
health = "0s"  # what the backend hears is looked at octet by octet
[pool.main.smtp]
tls = "none"
[domains]
accept = ["example.org"]
{ROOMY}
""")
        cls.gateway = cls.run_server(gateway)

    def tearDown(self) -> None:
        self.gateway.check_log()
        super().tearDown()

    def send(self, *segments: bytes) -> tuple[bytes, bytes]:
        """Send a message, its final dot included; the reply, and what the backend heard of it."""
        self.backend.forget()
        with Attacker(self.gateway.ports.mx, None, 30.0) as wire:
            wire.reply()
            for line in (HELLO, MAIL, b"RCPT TO:<%b@example.org>\r\n" % USER.encode(), b"DATA\r\n"):
                wire.send(line)
                reply = wire.reply()
                self.assertIn(reply[:3], (b"250", b"354"), reply)
            wire.send(*segments)
            reply = wire.reply()
            wire.send(b"QUIT\r\n")
            wire.rest()
        return reply, self.backend.heard[True].partition(b"DATA\r\n")[2].removesuffix(b"QUIT\r\n")

    def test_false_ends(self) -> None:
        """Nothing that another server could take for an end goes on; what is refused is not ended there either."""
        for sequence in FALSE_ENDS:
            text = b"Subject: x\r\n\r\nbody" + sequence + SMUGGLED
            for cut in (whole, at_dots):
                reply, heard = self.send(*cut(text))
                if LONE.search(text):
                    self.assertEqual(reply[:2], b"55", sequence)
                    self.assertNotIn(b"\r\n.\r\n", heard, sequence)
                else:
                    self.assertEqual(reply[:3], b"250", sequence)
                    sent = text.removesuffix(b".\r\n")
                    self.assertEqual(
                        undotted(heard.partition(b"\r\n\r\n")[2]), undotted(sent.partition(b"\r\n\r\n")[2])
                    )
                self.assertIsNone(LONE.search(heard.rstrip(b"\r")), (sequence, heard))

    def test_every_edge(self) -> None:
        """Dots are doubled wherever the pieces of a message end."""
        head, tail = b"Subject: edges\r\n\r\n", b"\r\n..\r\nMAIL FROM:<s@x.example>\r\n..\r\n...x\r\n.\r\n"
        for edge in (1 << 14, 1 << 15, 1 << 16, 1 << 17):
            for back in range(6):
                text = head + filling(edge - len(head) - back) + tail
                for segments in ([text], [text[:edge], *octets(text[edge:])]):
                    reply, heard = self.send(*segments)
                    self.assertEqual(reply[:3], b"250", reply)
                    sent, _, behind = heard.partition(b"\r\n.\r\n")
                    self.assertTrue(sent.endswith(text[:-5]), (edge, back, sent[-100:]))
                    self.assertEqual(behind, b"")
