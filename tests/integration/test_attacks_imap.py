"""Attacks on IMAP, before the login and behind it, at a running gateway with its local store."""

from __future__ import annotations

import base64
import time
from pathlib import Path

from tests.integration.attacks import LOGIN_IMAP, WRONG, Attacker, AttackTestCase, plain, stranger
from tests.integration.embedded import PASSWORD, USER
from tests.integration.ports import wait_for

OUT = b"z LOGOUT\r\n"
WRONG_LOGIN = b"NO [AUTHENTICATIONFAILED] Wrong user name or password"


class ImapTests(AttackTestCase):
    """What strangers send, and then what users send, or others with their password."""

    def said(self, *segments: bytes) -> list[bytes]:
        """Send these over TLS; what is said between the greeting and the goodbye, which must have its place."""
        greeting, *lines = self.told(self.ports.imaps, *segments, OUT, source=stranger())
        self.assertRegex(greeting, rb"^\* OK \[CAPABILITY [^]]*\] localhost ready$")
        self.assertEqual(lines[-2:], [b"* BYE Logging out", b"z OK Logout completed"], segments)
        return lines[:-2]

    def last(self, *segments: bytes) -> bytes:
        """Send these over TLS; what is said last before the gateway ends the connection."""
        return self.told(self.ports.imaps, *segments)[-1]

    def test_literal_sizes(self) -> None:
        """A size that is none, or too large, is BAD; nothing is asked for, and the next command is one."""
        for size in (b"-1", b"-5", b"+5", b" 5", b"5 ", b"05", b"1_0", b"", b"x", b"0x5", b"\xb2"):
            self.assertEqual(self.said(b"a LOGIN {%b}\r\n" % size), [b"a BAD Malformed literal"], size)
        for size in (b"4097", b"4294967296", b"9999999999"):
            self.assertEqual(self.said(b"a LOGIN {%b}\r\n" % size), [b"a BAD Literal too large"], size)
        for size in (b"99999999999", b"99999999999999999999", b"1" * 4000):
            self.assertEqual(self.said(b"a LOGIN {%b}\r\n" % size), [b"a BAD Malformed literal"], size)

    def test_unasked_literals(self) -> None:
        """The octets of a refused literal that does not wait are never commands."""
        for command in (b"NOOP", b"FOO", b"STARTTLS", b"CAPABILITY"):
            (line,) = self.said(b"a %b {12+}\r\nb LOGOUT x\r\n\r\n" % command)
            self.assertTrue(line.startswith(b"a BAD "), line)
        for size, octets in ((b"9999", b"x LOGOUT\r\n" * 990), (b"-3", b"abc\r\n"), (b"99999999999", b"")):
            last = self.last(b"a LOGIN {%b+}\r\n" % size + octets)
            self.assertTrue(last.startswith(b"* BYE "), last)

    def test_tags(self) -> None:
        """A tag is at most 64 octets of its grammar; any other is not repeated."""
        for tag in (b"\0\0", b"%n%n%s", b"+", b"*", b"(", b"a{", b"\xff", b"\x1b[2J", b"t" * 65, b"", b'"a"'):
            self.assertEqual(self.said(tag + b" NOOP\r\n"), [b"* BAD Invalid tag"], tag)
        self.assertEqual(self.said(b"t" * 64 + b" NOOP\r\n"), [b"t" * 64 + b" OK Noop completed"])

    def test_line_ends(self) -> None:
        """A lone LF ends the session, a lone CR no line."""
        for line in (b"a NOOP\nb NOOP\r\n", b"a\nb NOOP\r\n", b"\n", b"a LOGIN {3}\nabc\r\n"):
            self.assertEqual(self.told(self.ports.imaps, line)[1:], [b"* BYE Lines end with CRLF"], line)
        self.assertEqual(self.said(b"a NOOP\rb NOOP\r\n"), [b"a BAD Unknown command"])

    def test_overlong(self) -> None:
        """A line without end is cut off, whatever it would have been."""
        for line in (
            b"a LOGIN " + b"(" * 16384,
            b"t" * 65536,
            b"a AUTHENTICATE PLAIN " + b"A" * (1 << 20),
            b"a AUTHENTICATE PLAIN\r\n" + b"A" * (1 << 20),
            b"x" * (8 << 20),
        ):
            with Attacker(self.ports.imaps, self.context) as wire:
                self.gateway.forget_peak()
                before = self.gateway.memory()
                wire.pour(line)
                self.assertTrue(wire.cut(), line[:50])
                self.assertLess(self.gateway.peak_memory() - before, 1 << 20, line[:50])

    def test_total(self) -> None:
        """What a client may use up before its login is bounded, whatever it is."""
        for flood in (b"a NOOP\r\n", b"a CAPABILITY\r\n", b'a ID ("a" "b")\r\n', b"a LOGIN {3+}\r\nabc {0+}\r\n\r\n"):
            lines = self.told(self.ports.imaps, flood * 5000)
            self.assertLessEqual(len(lines), 302, flood)
            self.assertTrue(lines[-1].startswith(b"* BYE Too m"), lines[-1])

    def test_bad_commands(self) -> None:
        """Two thousand bad commands get ten answers."""
        for bad in (
            b"a FOO\r\n",
            b"\r\n",
            b"a AUTHENTICATE PLAIN\r\n*\r\n",
            b"a AUTHENTICATE PLAIN !\r\n",
            b"a SELECT x\r\n",
        ):
            lines = self.told(self.ports.imaps, bad * 2000)
            self.assertEqual(lines[-1], b"* BYE Too many bad commands", bad)
            self.assertEqual(len([line for line in lines if b" BAD " in line]), 10, bad)

    def test_control_characters(self) -> None:
        """CR, LF and NUL in credentials are refused before anybody is asked, by whatever way they come."""
        user, before = b"u\r\nz LOGOUT x ", self.gateway.log().count("login refused")
        for command in (
            b"a LOGIN {%d+}\r\n%b {%d+}\r\n%b\r\n" % (len(user), user, len(WRONG), WRONG),
            b"a LOGIN %b {%d+}\r\n%b\r\nq\r\n" % (USER.encode(), len(WRONG) + 3, WRONG),
            b"a LOGIN {3+}\r\na\0b %b\r\n" % WRONG,
            b"a AUTHENTICATE PLAIN %b\r\n" % plain(b"u\r\nQUIT", WRONG),
            b"a AUTHENTICATE PLAIN %b\r\n" % plain(USER.encode(), WRONG + b"\r\nz LOGOUT"),
            b"a AUTHENTICATE PLAIN %b\r\n" % plain(USER.encode(), WRONG + b"\0x"),
            b"a AUTHENTICATE PLAIN %b\r\n" % plain(b"\x1b[2J", WRONG),
            b"a AUTHENTICATE PLAIN %b\r\n" % plain("\u0085\u009b".encode(), WRONG),
        ):
            (line,) = self.said(command)
            self.assertTrue(line.startswith(b"a BAD "), line)
        self.assertEqual(self.gateway.log().count("login refused"), before)

    def test_authorization_identity(self) -> None:
        """Nobody acts as somebody else, whoever the password is for."""
        said = self.said(b"a AUTHENTICATE PLAIN %b\r\n" % plain(USER.encode(), PASSWORD.encode(), b"admin"))
        self.assertEqual(said, [b"a NO [AUTHORIZATIONFAILED] You may not act as this user"])

    def test_empty_password(self) -> None:
        """An empty password or name is never right."""
        for user, password in ((USER.encode(), b""), (b"", PASSWORD.encode()), (b"", b"")):
            for command in (
                b'a LOGIN "%b" "%b"\r\n' % (user, password),
                b"a AUTHENTICATE PLAIN %b\r\n" % plain(user, password),
            ):
                (line,) = self.said(command)
                self.assertRegex(line, rb"^a (BAD|NO) ")

    def test_strict_base64(self) -> None:
        """What is not base64, with its padding and nothing else, is BAD."""
        right = plain(USER.encode(), PASSWORD.encode())
        for response in (
            right[:-1],
            b" " + right,
            right + b" ",
            right[:8] + b"!" + right[8:],
            right + b"=",
            b"*" + right,
        ):
            for command in (b"a AUTHENTICATE PLAIN " + response, b"a AUTHENTICATE PLAIN\r\n" + response):
                self.assertTrue(self.said(command + b"\r\n")[-1].startswith(b"a BAD "), response)

    def test_names(self) -> None:
        """Names that are paths, formats or look like others are names of nobody."""
        tricks = (
            *(
                "../../x",
                "a/../b@localhost",
                "..",
                ".",
                "/etc/passwd",
                "%{200000}n",
                "%s%n",
                "{user}",
                "tester@..",
                "tester/",
            ),
            *(
                "tester@evil.example",
                " tester",
                "tester ",
                "tester@localhost@evil",
                "ｔｅｓｔｅｒ",
                "tester\u00ad",
                "tеster",
            ),
            *(
                "tester:x",
                "tester*",
                "tester)(uid=*",
                "*",
                "tester\\",
                '"',
                "тester",
                "\u202etester",
                "tester@localhost.",
            ),
        )
        for name in tricks:
            name_, password = name.encode(), WRONG if name != " tester" else PASSWORD.encode()
            (line,) = self.said(b'a LOGIN {%d+}\r\n%b "%b"\r\n' % (len(name_), name_, password))
            self.assertEqual(line, b"a " + WRONG_LOGIN, name)
        for name in ("ｔｅｓｔｅｒ", "tester\u00ad", "tester@evil.example", "tester ", "tester\u200b"):
            said = self.said(b"a AUTHENTICATE PLAIN %b\r\n" % plain(name.encode(), PASSWORD.encode()))
            self.assertEqual(said, [b"a " + WRONG_LOGIN], name)
        mail = self.gateway.folder / "var" / "mail"
        self.assertLessEqual({path.name for path in mail.rglob("*") if path.parent.parent == mail}, {USER})

    def test_guessing(self) -> None:
        """Five hundred guesses in one write get five answers, and each has to wait for its own."""
        guesses = b"".join(b"a%d LOGIN %b %b%d\r\n" % (number, USER.encode(), WRONG, number) for number in range(500))
        began = time.monotonic()
        lines = self.told(self.ports.imaps, guesses, source=stranger())[1:]
        self.assertGreater(time.monotonic() - began, 0.05 + 0.1 + 0.2 + 0.4 + 0.8)
        self.assertEqual(lines[:-1], [b"a%d " % number + WRONG_LOGIN for number in range(5)])
        self.assertEqual(lines[-1], b"* BYE Too many failed logins")

    def test_after_failure(self) -> None:
        """Whoever guesses does not slow others down."""
        self.told(self.ports.imaps, b"a LOGIN x %b\r\n" % WRONG * 4 + OUT, source=stranger())
        began = time.monotonic()
        self.assert_serves()
        self.assertLess(time.monotonic() - began, 1.0)

    def test_not_yet(self) -> None:
        """No command of a session that is logged in is one before."""
        said = self.said(
            b'a SELECT INBOX\r\nb LIST "" *\r\nc APPEND INBOX {3+}\r\nabc\r\nd FETCH 1 BODY[]\r\ne IDLE\r\n'
        )
        self.assertEqual([line[:6] for line in said], [b"%c BAD " % tag for tag in b"abcde"])

    # --- behind the login --------------------------------------------------------------------------------------------

    def setUp(self) -> None:
        super().setUp()
        self.root = self.gateway.folder / "var" / "mail" / "localhost" / USER

    def inside(self, *segments: bytes, end: bytes = OUT) -> list[bytes]:
        """Log in and send these; what is said behind the login and, if there is one, before the goodbye."""
        _, login, *lines = self.told(self.ports.imaps, LOGIN_IMAP, *segments, end)
        self.assertTrue(login.startswith(b"a OK "), login)
        if end:
            self.assertEqual(lines[-2:], [b"* BYE Logging out", b"z OK LOGOUT completed"], segments)
        return lines[:-2] if end else lines

    def conditions(self, *segments: bytes) -> list[bytes]:
        """Tags and conditions of the tagged replies."""
        return [b" ".join(line.split()[:2]) for line in self.inside(*segments) if not line.startswith((b"*", b"+"))]

    def files(self) -> set[Path]:
        """Everything outside of the user's own mailbox."""
        folder = self.gateway.folder
        return {path for path in folder.rglob("*") if self.root not in path.parents and path.name != "output"}

    def test_literal_sizes_inside(self) -> None:
        """A size that is none is BAD, and what follows is a command."""
        for size in (b"-5", b"1_0", b" 5", b"05", b"99999999999", b"99999999999999999999"):
            for command in (b"CREATE", b"APPEND INBOX", b"SELECT"):
                said = self.inside(b"c %b {%b}\r\nd NOOP\r\n" % (command, size))
                self.assertEqual(said, [b"c BAD Malformed literal", b"d OK NOOP completed"], (command, size))

    def test_unasked_literals_inside(self) -> None:
        """The octets of a refused literal that does not wait are no commands."""
        for command in (b"NOOP", b"FOO", b"APPEND nobox", b"CREATE a/b"):
            self.assertIn(
                self.conditions(b"c %b {10+}\r\nx LOGOUT\r\n\r\n" % command), ([b"c BAD"], [b"c NO"]), command
            )

    def test_append(self) -> None:
        """A message is not asked for before all that can be refused is."""
        for arguments, condition in (
            (b"INBOX {9999999999}", b"c NO [TOOBIG]"),
            (b"INBOX {52428801}", b"c NO [TOOBIG]"),
            (b"nobox {10}", b"c NO [TRYCREATE]"),
            (b'"../../x" {10}', b"c NO [CANNOT]"),
            (b"INBOX {0}", b"c NO "),
            (b'INBOX "99-Jan-2020 99:99:99 +9999" {10}', b"c BAD "),
            (b"INBOX (a b (c) {10}", b"c BAD "),
        ):
            line, noop = self.inside(b"c APPEND %b\r\nd NOOP\r\n" % arguments)
            self.assertTrue(line.startswith(condition), (arguments, line))
            self.assertEqual(noop, b"d OK NOOP completed")
        (line,) = self.inside(b"c APPEND INBOX {9999999999+}\r\n", end=b"")
        self.assertEqual(line[:13], b"* BYE [TOOBIG")

    def test_abandoned_append(self) -> None:
        """A message that does not come to its end leaves nothing behind."""
        with Attacker(self.ports.imaps, self.context) as wire:
            wire.line()
            wire.send(LOGIN_IMAP + b"c APPEND INBOX {50000000}\r\n")
            wire.until(b"+ ")
            wire.send(b"x" * 1000000)
            wait_for("its file", lambda: list((self.root / "tmp").iterdir()))
        wait_for("it is removed", lambda: not list((self.root / "tmp").iterdir()))

    def test_tags_inside(self) -> None:
        """A tag that is none is not repeated."""
        for tag in (b"\0\0", b"%n%n", b"+", b"\xff", b"t" * 65, b""):
            self.assertEqual(self.inside(tag + b" NOOP\r\n"), [b"* BAD Invalid tag"], tag)
        for line in (b"a\nb NOOP\r\n", b"c NOOP\nd NOOP\r\n"):
            (told,) = self.inside(line, end=b"")
            self.assertTrue(told.startswith(b"* BYE "), told)

    def test_mailbox_names(self) -> None:
        """No name leads out of the user's own folder, or brings a line end into an answer."""
        before = self.files()
        for name in (
            *(
                b"../../../../tmp/evil",
                b"..",
                b"...",
                b"a/../b",
                b"/etc",
                b"a/b",
                b"&AC8-",
                b"&AC4ALg-",
                b"&AAA-",
                b"&",
                b"\xff",
            ),
            *(b"a\r\nb*", b"a\nb", b"a\0b", b"a\x1b[2J", b"x" * 250, b".", b".a", b"a..b", b"*", b"%", b""),
        ):
            literal = b"{%d+}\r\n%b" % (len(name), name)
            for command in (
                b"CREATE %b",
                b"SUBSCRIBE %b",
                b"RENAME INBOX %b",
                b"DELETE %b",
                b"SELECT %b",
                b"STATUS %b (MESSAGES)",
            ):
                conditions = self.conditions(b"c " + command % literal + b"\r\n")
                refused = (b"CREATE", b"RENAME", b"DELETE", b"SELECT", b"STATUS")
                if command.startswith(refused):
                    self.assertIn(conditions, ([b"c NO"], [b"c BAD"]), (command, name))
        self.assertEqual(self.files(), before)
        listed = self.inside(
            b'c LIST "" *\r\nd LSUB "" *\r\ne LIST "../" "../*"\r\nf LIST "/" *\r\ng LIST "" "(a+)+$"\r\n'
        )
        self.assertEqual([line for line in listed if b"evil" in line or b"etc" in line], [])

    def test_search_nesting(self) -> None:
        """A search is as deep as an honest one, or refused without being repeated."""
        select = b"s SELECT INBOX\r\nc SEARCH "
        for key in (
            b"(" * 7000 + b"ALL" + b")" * 7000,
            b"(" * 60000,
            b"NOT " * 10000 + b"ALL",
            b"OR " * 8000 + b"ALL " * 8001,
        ):
            said = self.inside(select + key.rstrip() + b"\r\n")
            self.assertTrue(said[-1].startswith(b"c BAD "), said[-1][:100])
            self.assertLess(len(said[-1]), 200)
        self.assertEqual(self.inside(select + b"(" * 40 + b"ALL" + b")" * 40 + b"\r\n")[-1], b"c OK SEARCH completed")

    def test_wildcards(self) -> None:
        """A pattern that would take a backtracking matcher years does not take long."""
        self.inside(b'c CREATE "%b"\r\n' % (b"a" * 100))
        began = time.monotonic()
        self.assertEqual(self.inside(b'c LIST "" "%bb"\r\n' % (b"*a" * 100))[-1], b"c OK LIST completed")
        self.assertLess(time.monotonic() - began, 1.0)

    def test_numbers(self) -> None:
        """Message numbers are those of messages."""
        self.inside(b"c APPEND INBOX {17+}\r\nSubject: x\r\n\r\nx\r\n\r\n")
        for numbers in (
            b"0",
            b"-1",
            b"4294967296",
            b"99999999999999999999",
            b"1_0",
            b"1:",
            b":",
            b"1:2:3",
            b"$",
            b"",
            b"999",
        ):
            for command in (b"FETCH %b FLAGS", b"STORE %b +FLAGS (\\Deleted)", b"COPY %b INBOX"):
                (condition,) = self.conditions(b"s EXAMINE INBOX\r\nc " + command % numbers + b"\r\n")[1:]
                self.assertIn(condition, (b"c BAD", b"c NO"), (command, numbers))
        for partial in (b"<-1.5>", b"<0.0>", b"<99999999999.1>", b"<1>", b"<1.2.3>"):
            self.assertEqual(
                self.conditions(b"s EXAMINE INBOX\r\nc FETCH 1 BODY[]%b\r\n" % partial), [b"s OK", b"c BAD"]
            )

    def test_idle(self) -> None:
        """Only DONE ends IDLE."""
        said = self.inside(b"c IDLE\r\nd LOGOUT\r\nDONE x\r\ne NOOP\r\nDONE\r\n")
        self.assertEqual([line for line in said if line.startswith((b"c ", b"d ", b"e "))], [b"c OK IDLE completed"])

    def test_login_again(self) -> None:
        """Whoever is logged in stays who it is."""
        again = b"c LOGIN other x\r\nd AUTHENTICATE PLAIN\r\ne STARTTLS\r\nf AUTHENTICATE PLAIN %b\r\n" % plain(
            b"o", WRONG
        )
        self.assertEqual(self.conditions(again), [b"c BAD", b"d BAD", b"e BAD", b"f BAD"])

    def test_overlong_inside(self) -> None:
        """A line without end is cut off."""
        for line in (b"c NOOP " + b"x" * 70000, b"c FETCH " + b"1," * (1 << 20)):
            with Attacker(self.ports.imaps, self.context) as wire:
                wire.send(LOGIN_IMAP)
                wire.pour(line)
                self.assertTrue(wire.cut(), line[:20])

    def test_silent_reader(self) -> None:
        """A client that asks and asks, and reads nothing, costs less than a MiB; others notice nothing."""
        self.assert_serves()
        wires = [Attacker(self.ports.imaps, self.context, 0.2) for _ in range(5)]
        for wire in wires:
            wire.send(LOGIN_IMAP)
            wire.until(b"Logged in\r\n")
        self.gateway.forget_peak()
        before, until = self.gateway.memory(), time.monotonic() + 1.5
        while time.monotonic() < until:
            for wire in wires:
                wire.pour(b'c LIST "" *\r\nd CAPABILITY\r\n' * 1000)
        self.assertLess(self.gateway.peak_memory() - before, len(wires) << 20)
        began = time.monotonic()
        self.assert_serves()
        self.assertLess(time.monotonic() - began, 1.0)
        for wire in wires:
            wire.__exit__()
        self.gateway.wait_for_sessions_to_end()

    def test_secrets_elsewhere(self) -> None:
        """No file of the store or of the state has a password in it, but for the hash."""
        self.assert_serves()
        encoded = base64.b64encode(PASSWORD.encode())
        for path in (self.gateway.folder / "var").rglob("*"):
            if path.is_file():
                content = path.read_bytes()
                self.assertNotIn(PASSWORD.encode(), content, path)
                self.assertNotIn(encoded, content, path)
