"""Tests for L{mailgw.local.mime} and L{mailgw.local.envelope}."""

from __future__ import annotations

import io
import random

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from mailgw.local.envelope import addresses, envelope, string, structure
from mailgw.local.fetch import find
from mailgw.local.mime import MAX_LINE, Part, pick_fields, read_header, scan

INNER = b"Subject: inner\r\nFrom: c@d\r\n\r\nin\r\nside\r\n"
MIXED = (
    b"From: a@b\r\n"
    b'Content-Type: multipart/mixed; boundary="=b 1"\r\n'
    b"\r\n"
    b"preamble\r\n"
    b"--=b 1\r\n"
    b"\r\n"
    b"one\r\n"
    b"\r\n"
    b"--=b 1  \r\n"
    b"Content-Type: multipart/alternative; boundary=c\r\n\r\n"
    b"--c\r\nContent-Type: TEXT/HTML; charset=utf-8\r\n\r\n<p>\r\n"
    b"--c--\r\nepilogue\r\n"
    b"--=b 1\r\n"
    b'Content-Type: message/rfc822\r\nContent-Disposition: attachment; filename="m.eml"\r\n\r\n' + INNER + b"\r\n"
    b"--=b 1--\r\n"
    b"epilogue\r\n--=b 1\r\nno part\r\n"
)


def parts(text: bytes) -> Part:
    """Scan a message."""
    return scan(io.BytesIO(text))


class ScanTests(SynchronousTestCase):
    def body(self, text: bytes, *path: int) -> bytes | None:
        """The body of a part."""
        part = find(parts(text), path)
        return None if part is None else text[part.body : part.end]

    def test_plain(self) -> None:
        """A message without parts has one."""
        self.assertEqual(self.body(b"A: b\r\n\r\ntext\r\n", 1), b"text\r\n")
        self.assertIsNone(self.body(b"A: b\r\n\r\ntext\r\n", 2))

    def test_mixed(self) -> None:
        """Parts, parts of parts, and a message in a message."""
        self.assertEqual(self.body(MIXED, 1), b"one\r\n")
        self.assertEqual(self.body(MIXED, 2, 1), b"<p>")
        self.assertEqual(self.body(MIXED, 3), INNER)
        self.assertEqual(self.body(MIXED, 3, 1), b"in\r\nside\r\n")
        self.assertIsNone(self.body(MIXED, 4))
        self.assertIsNone(self.body(MIXED, 2, 2))
        inner = find(parts(MIXED), (3,))
        assert inner is not None
        assert inner.message is not None
        self.assertEqual(MIXED[inner.message.start : inner.message.body], b"Subject: inner\r\nFrom: c@d\r\n\r\n")

    def test_lines(self) -> None:
        """Lines are counted as they end within the body."""
        found = parts(MIXED)
        self.assertEqual([find(found, path).lines for path in ((1,), (2, 1), (3,))], [1, 0, 5])  # type: ignore[union-attr]

    def test_broken(self) -> None:
        """Headers without end, boundaries without end, multiparts without parts, messages cut at any octet."""
        self.assertEqual(self.body(b"", 1), b"")
        self.assertEqual(self.body(b"A: b\r\n", 1), b"")
        self.assertEqual(self.body(b"Content-Type: multipart/mixed; boundary=x\r\n\r\nno\r\n", 1), b"no\r\n")
        self.assertEqual(self.body(b"Content-Type: multipart/mixed\r\n\r\n--\r\nno\r\n", 1), b"--\r\nno\r\n")
        for cut in range(len(MIXED)):
            self.check(parts(MIXED[:cut]), 0, cut)

    def check(self, part: Part, start: int, end: int) -> None:
        """A part lies in the one around it, and its body behind its header."""
        self.assertTrue(start <= part.start <= part.body <= part.end <= end, (part, start, end))
        for child in part.children:
            self.check(child, part.body, part.end)
        if part.message is not None:
            self.check(part.message, part.body, part.end)
        self.assertTrue(structure(part, extended=True).startswith(b"("))

    @given(st.integers(0, 1 << 32))
    def test_anything(self, seed: int) -> None:
        """Whatever the lines, parts lie within parts and BODYSTRUCTURE has as many ( as )."""
        chance = random.Random(seed)
        rows = (
            b"Content-Type: multipart/mixed; boundary=x",
            b"Content-Type: multipart/digest; boundary=y",
            b"",
            b"text",
            b"Content-Type: message/rfc822",
            b"--x",
            b"--y",
            b"--x--",
            b"--y--",
            b" folded; boundary=y",
            b"--",
            b"\xff:",
        )
        text = b"".join(chance.choice(rows) + b"\r\n" for _ in range(chance.randint(0, 40)))
        found = parts(text)
        self.check(found, 0, len(text))
        shown = structure(found, extended=True)
        self.assertEqual(shown.count(b"("), shown.count(b")"))

    def test_depth(self) -> None:
        """What is nested too deep, or has too many parts, is left undivided; the time is that of one reading."""
        deep = b"".join(b"Content-Type: multipart/mixed; boundary=b%d\r\n\r\n--b%d\r\n" % (n, n) for n in range(3000))
        self.check(parts(deep), 0, len(deep))
        messages = b"Content-Type: message/rfc822\r\n\r\n" * 3000
        self.check(parts(messages), 0, len(messages))
        wide = b"Content-Type: multipart/mixed; boundary=x\r\n\r\n" + b"--x\r\n\r\n" * 5000
        self.assertEqual(len(parts(wide).children), 2000)

    def test_long_lines(self) -> None:
        """A boundary, and the end of a header, is where a line begins, not where our reading does."""
        for extra in (0, 1):
            text = (
                b"Content-Type: multipart/mixed; boundary=x\r\n\r\n--x\r\n\r\n"
                + b"y" * (MAX_LINE + extra)
                + b"--x\r\nz\r\n--x--\r\n"
            )
            self.assertEqual(len(parts(text).children), 1)
            header = b"A: " + b"y" * (MAX_LINE - 3 + extra) + b"\r\nB: c\r\n\r\n"
            self.assertEqual(read_header(io.BytesIO(header + b"body")), header)
            self.assertEqual(parts(header + b"body").body, len(header))


class FieldTests(SynchronousTestCase):
    def test_folded(self) -> None:
        """Fields are picked with their folded lines, in their order."""
        header = b"A: 1\r\n\t2\r\nB: 3\r\nnonsense\r\n more\r\na : 4\r\n\r\n"
        self.assertEqual(pick_fields(header, frozenset({"a"}), negate=False), b"A: 1\r\n\t2\r\na : 4\r\n\r\n")
        self.assertEqual(pick_fields(header, frozenset({"a"}), negate=True), b"B: 3\r\n\r\n")


class EnvelopeTests(SynchronousTestCase):
    def test_envelope(self) -> None:
        """Sender and Reply-To default to From; what is missing is NIL."""
        header = (
            b'Date: Mon, 2 Mar 2026 10:00:00 +0000\r\nSubject: a "b"\r\nFrom: "Ann \\"X\\" Y" <ann@x>\r\n'
            b"To: bob@y,\r\n carl@z\r\nMessage-ID: <1@x>\r\n\r\n"
        )
        ann = b'(("Ann \\"X\\" Y" NIL "ann" "x"))'
        self.assertEqual(
            envelope(header),
            b'("Mon, 2 Mar 2026 10:00:00 +0000" "a \\"b\\"" '
            + b" ".join([ann] * 3)
            + b' ((NIL NIL "bob" "y")(NIL NIL "carl" "z")) NIL NIL NIL "<1@x>")',
        )
        self.assertEqual(envelope(b"\r\n"), b"(" + b" ".join([b"NIL"] * 10) + b")")

    def test_addresses(self) -> None:
        """Groups without members, nonsense and emptiness are NIL; 8-bit names go as literals."""
        for value in (None, b"", b"undisclosed-recipients:;"):
            self.assertEqual(addresses(value), b"NIL")
        self.assertEqual(addresses("Gr\xfc <a@b>".encode("latin-1")), b'(({3}\r\nGr\xfc NIL "a" "b"))')

    def test_nested_parentheses(self) -> None:
        """A thousand open parentheses from a stranger are no addresses, and no end of the world."""
        for field in (b"To: " + b"(" * 1000, b"From: x@y " + b"(" * 5000):
            self.assertTrue(envelope(field + b"\r\n\r\n").startswith(b"("))

    def test_string(self) -> None:
        """What a quoted string cannot hold is a literal; NUL cannot be sent at all."""
        for value, expected in (
            (None, b"NIL"),
            (b"", b'""'),
            (b'a"\\', b'"a\\"\\\\"'),
            (b"\xe9", b"{1}\r\n\xe9"),
            (b"a\r\nb", b"{4}\r\na\r\nb"),
            (b"a\0b", b'"ab"'),
            (b"x" * 1001, b"{1001}\r\n" + b"x" * 1001),
        ):
            self.assertEqual(string(value), expected)

    def test_structure(self) -> None:
        """BODYSTRUCTURE and BODY of a message with all kinds of parts."""
        inner = b'("text" "plain" ("charset" "us-ascii") NIL NIL "7bit" 10 2'
        about = b'(NIL "inner" ((NIL NIL "c" "d")) ((NIL NIL "c" "d")) ((NIL NIL "c" "d")) NIL NIL NIL NIL NIL)'
        self.assertEqual(
            structure(parts(MIXED), extended=False),
            b'(("text" "plain" ("charset" "us-ascii") NIL NIL "7bit" 5 1)'
            b'(("text" "html" ("charset" "utf-8") NIL NIL "7bit" 3 0) "alternative")'
            b'("message" "rfc822" NIL NIL NIL "7bit" %d %b %b) 5) "mixed")' % (len(INNER), about, inner),
        )
        extended = structure(parts(MIXED), extended=True)
        self.assertIn(b'("attachment" ("filename" "m.eml")) NIL NIL)', extended)
        self.assertTrue(extended.endswith(b'"mixed" ("boundary" "=b 1") NIL NIL NIL)'))
