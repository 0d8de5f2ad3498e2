"""Attacks on POP3, before the login and behind it, at a running gateway with its local store."""

from __future__ import annotations

import time

from tests.integration.attacks import LOGIN_POP3, WRONG, Attacker, AttackTestCase, plain, stranger
from tests.integration.embedded import PASSWORD, USER

OUT = b"QUIT\r\n"
WRONG_LOGIN = b"-ERR [AUTH] Wrong user name or password"
NO_SUCH = b"-ERR No such message"


class Pop3Tests(AttackTestCase):
    """What strangers send, and then what users send, or others with their password."""

    def said(self, *segments: bytes) -> list[bytes]:
        """Send these over TLS; what is said between the greeting and the goodbye, which must have its place."""
        greeting, *lines = self.told(self.ports.pop3s, *segments, OUT, source=stranger())
        self.assertEqual(greeting, b"+OK localhost ready")
        self.assertEqual(lines[-1:], [b"+OK Goodbye"], segments)
        return lines[:-1]

    def test_rubbish(self) -> None:
        """What is no command is answered with one -ERR, and nothing of it is repeated."""
        for line in (
            b"\xff",
            b"\0\0",
            b"",
            b" ",
            b"\x1b[2J",
            b"%n%s",
            b"FOO \r x",
            b"RETR 1",
            b"STAT",
            b"DELE 1",
            b"APOP x 0",
        ):
            (told,) = self.said(line + b"\r\n")
            self.assertRegex(told, rb"^-ERR [A-Za-z ]*[A-Z3a-z ]+$", line)

    def test_arguments(self) -> None:
        """Commands with arguments that are missing, or none of theirs, do no harm."""
        for line in (
            b"USER",
            b"USER ",
            b"PASS",
            b"PASS x",
            b"CAPA x",
            b"QUIT x",
            b"NOOP x",
            b"AUTH FOO",
            b"AUTH PLAIN *",
        ):
            (told,) = self.said(line + b"\r\n")
            self.assertTrue(told.startswith(b"-ERR "), line)
        self.assertEqual(self.said(b"USER a b c\r\nPASS %b\r\n" % WRONG)[-1], WRONG_LOGIN)

    def test_line_ends(self) -> None:
        """A lone LF ends the session."""
        for line in (b"USER tester\nPASS %b\r\n" % WRONG, b"\n", b"NOOP\n"):
            self.assertEqual(self.told(self.ports.pop3s, line)[1:], [b"-ERR Lines end with CRLF"], line)

    def test_overlong(self) -> None:
        """A line without end is cut off, and costs nothing."""
        for line in (b"USER " + b"x" * 9000, b"AUTH PLAIN " + b"A" * (1 << 20), b"AUTH PLAIN\r\n" + b"A" * (8 << 20)):
            with Attacker(self.ports.pop3s, self.context) as wire:
                self.gateway.forget_peak()
                before = self.gateway.memory()
                wire.pour(line)
                self.assertTrue(wire.cut(), line[:50])
                self.assertLess(self.gateway.peak_memory() - before, 1 << 20, line[:50])

    def test_floods(self) -> None:
        """Two thousand commands, good or bad, are cut short."""
        for line, most in ((b"FOO\r\n", 11), (b"USER x\r\n", 102), (b"CAPA\r\n", 1000), (b"AUTH PLAIN\r\n*\r\n", 22)):
            lines = self.told(self.ports.pop3s, line * 2000)
            self.assertLessEqual(len(lines), most, line)

    def test_control_characters(self) -> None:
        """CR, LF and NUL in credentials are refused before anybody is asked, by whatever way they come."""
        before = self.gateway.log().count("login refused")
        for commands in (
            b"AUTH PLAIN %b\r\n" % plain(b"u\r\nQUIT", WRONG),
            b"AUTH PLAIN %b\r\n" % plain(USER.encode(), WRONG + b"\r\nDELE 1"),
            b"AUTH PLAIN %b\r\n" % plain(USER.encode(), WRONG + b"\0x"),
            b"USER te\0ster\r\nPASS %b\r\n" % WRONG,
            b"USER tester\r\nPASS %b\0\r\n" % WRONG,
            b"USER tester\r\nPASS %b\rx\r\n" % WRONG,
        ):
            *_, told = self.said(commands)
            self.assertTrue(told.startswith(b"-ERR "), told)
        self.assertEqual(self.gateway.log().count("login refused"), before)

    def test_authorization_identity(self) -> None:
        """Nobody acts as somebody else."""
        said = self.said(b"AUTH PLAIN %b\r\n" % plain(USER.encode(), PASSWORD.encode(), b"admin"))
        self.assertEqual(said, [b"-ERR [AUTH] You may not act as this user"])

    def test_base64(self) -> None:
        """What is not base64, with its padding and nothing else, is refused."""
        right = plain(USER.encode(), PASSWORD.encode())
        for response in (right[:-1], b" " + right, right[:8] + b"!" + right[8:], right + b"=", b"="):
            for command in (b"AUTH PLAIN " + response, b"AUTH PLAIN\r\n" + response):
                self.assertTrue(self.said(command + b"\r\n")[-1].startswith(b"-ERR "), response)

    def test_names(self) -> None:
        """Names that are paths, formats or look like others are names of nobody."""
        for name in (
            "../../x",
            "a/../b@localhost",
            "..",
            "%{200000}n",
            "tester@evil.example",
            "tester/",
            "ｔｅｓｔｅｒ",
            "*",
        ):
            self.assertEqual(self.said(b"USER %b\r\nPASS %b\r\n" % (name.encode(), WRONG))[-1], WRONG_LOGIN, name)
        for name in (" tester", "tester ", "ｔｅｓｔｅｒ", "tester@evil.example"):
            said = self.said(b"USER %b\r\nPASS %b\r\n" % (name.encode(), PASSWORD.encode()))
            self.assertEqual(said[-1], WRONG_LOGIN, name)

    def test_guessing(self) -> None:
        """Five hundred guesses in one write get five answers, and each has to wait for its own."""
        guesses = b"".join(b"USER %b\r\nPASS %b%d\r\n" % (USER.encode(), WRONG, number) for number in range(500))
        began = time.monotonic()
        lines = self.told(self.ports.pop3s, guesses, source=stranger())[1:]
        self.assertGreater(time.monotonic() - began, 0.05 + 0.1 + 0.2 + 0.4 + 0.8)
        self.assertEqual(lines, [b"+OK", WRONG_LOGIN] * 5)

    # --- behind the login --------------------------------------------------------------------------------------------

    def setUp(self) -> None:
        super().setUp()
        imap = self.imap("implicit")
        imap.login(USER, PASSWORD)
        imap.select()
        for number in range(3 - imap.count()):
            imap.append_message(b"Subject: message %d\r\n\r\nx\r\n" % number)
        imap.logout()

    def inside(self, *segments: bytes, end: bytes = OUT) -> list[bytes]:
        """Log in and send these; what is said behind the login and, if there is one, before the goodbye."""
        _, _, login, *lines = self.told(self.ports.pop3s, LOGIN_POP3, *segments, end)
        self.assertTrue(login.startswith(b"+OK Logged in"), login)
        if end:
            self.assertEqual(lines[-1:], [b"+OK Bye"], segments)
        return lines[:-1] if end else lines

    def test_numbers(self) -> None:
        """There are the messages 1 to N, and no others: above all, none is the last one by another number."""
        (stat,) = self.inside(b"STAT\r\n")
        for number in (
            b"0",
            b"-1",
            b"-0",
            b"99",
            b"abc",
            b"1_0",
            b"+1",
            b"",
            b"\xb2",
            b"1.0",
            b"99999999999999999999",
            b"0x1",
        ):
            for command in (b"DELE %b", b"RETR %b", b"LIST %b", b"UIDL %b", b"TOP %b 0"):
                self.assertEqual(self.inside(command % number + b"\r\n"), [NO_SUCH], (command, number))
        for lines in (b"-1", b"x", b"99999999999", b""):
            (told,) = self.inside(b"TOP 1 %b\r\n" % lines)
            self.assertTrue(told.startswith(b"-ERR "), lines)
        for line in (b"DELE", b"DELE 1 2", b"RETR", b"TOP 1", b"RSET 1", b"STAT 1"):
            (told,) = self.inside(line + b"\r\n")
            self.assertEqual(told, b"-ERR Wrong number of arguments")
        self.assertEqual(self.inside(b"STAT\r\n"), [stat])

    def test_deleted(self) -> None:
        """A deleted message is not there, until RSET brings it back."""
        for command in (b"DELE 1", b"RETR 1", b"LIST 1", b"UIDL 1", b"TOP 1 0"):
            said = self.inside(b"DELE 1\r\n" + command + b"\r\nRSET\r\n")
            self.assertTrue(said[1].startswith(b"-ERR "), said)

    def test_lost_connection(self) -> None:
        """Nothing is deleted without QUIT."""
        (stat,) = self.inside(b"STAT\r\n")
        with Attacker(self.ports.pop3s, self.context) as wire:
            wire.send(LOGIN_POP3 + b"DELE 1\r\nDELE 2\r\n")
            wire.until(b"Marked for deletion\r\n")
        self.assertEqual(self.inside(b"STAT\r\n"), [stat])

    def test_dots(self) -> None:
        """Dots at the beginning of lines are doubled, wherever the pieces of a message end."""
        bodies = [b".first octet\r\n\r\n.\r\n..\r\n...\r\nend\r\n"]
        for edge in (16384, 1 << 16, 1 << 18):
            head = b"Subject: dots\r\n\r\n"
            bodies += [head + b"x" * (edge - len(head) - back) + b"\r\n.\r\nQUIT\r\n..\r\n" for back in range(5)]
        imap = self.imap("implicit")
        imap.login(USER, PASSWORD)
        for body in bodies:
            imap.append_message(body)
        imap.logout()
        pop3 = self.pop3("implicit")
        pop3.login(USER, PASSWORD.encode())
        count = pop3.stat()[0]
        numbers = range(count - len(bodies) + 1, count + 1)
        self.assertEqual([pop3.message(number) for number in numbers], bodies)
        for number in numbers:
            pop3.dele(number)
        pop3.quit()

    def test_login_again(self) -> None:
        """Whoever is logged in stays who it is."""
        said = self.inside(b"USER other\r\nPASS %b\r\nAUTH PLAIN %b\r\nSTLS\r\n" % (WRONG, plain(b"other", WRONG)))
        self.assertEqual(said, [b"-ERR Unknown command"] * 4)

    def test_lines(self) -> None:
        """A lone LF, or a line without end, ends the session."""
        for line in (b"STAT\nSTAT\r\n", b"STAT " + b"x" * 5000 + b"\r\n", b"x" * 100000):
            (told,) = self.inside(line, end=b"")
            self.assertTrue(told.startswith(b"-ERR "), told)

    def test_silent_reader(self) -> None:
        """A client that asks and asks, and reads nothing, costs less than a MiB; others notice nothing."""
        self.assert_serves()
        wires = [Attacker(self.ports.pop3s, self.context, 0.2) for _ in range(5)]
        for wire in wires:
            wire.send(LOGIN_POP3)
            wire.until(b"messages\r\n")
        self.gateway.forget_peak()
        before, until = self.gateway.memory(), time.monotonic() + 1.5
        while time.monotonic() < until:
            for wire in wires:
                wire.pour(b"CAPA\r\nUIDL\r\nRETR 1\r\n" * 1000)
        self.assertLess(self.gateway.peak_memory() - before, len(wires) << 20)
        began = time.monotonic()
        self.assert_serves()
        self.assertLess(time.monotonic() - began, 1.0)
        for wire in wires:
            wire.__exit__()
        self.gateway.wait_for_sessions_to_end()
