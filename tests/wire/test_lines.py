"""Tests of the line buffer: framing, faults, literals, and the same outcome for every cut."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from mailgw.wire.lines import BARE_LF, OVERLONG, LineBuffer
from tests.wire.transcripts import at

PIECES = st.sampled_from([b"\r", b"\n", b"\r\n", b"a", b"\0", b"bc", b"xxxxxx"])
STREAMS = st.lists(PIECES, max_size=16).map(b"".join)


def read(stream: bytes, cuts: list[int], max_line: int = 8) -> tuple[list[bytes], str, bytes]:
    """All lines of a stream cut at the given places, the fault, and what stays."""
    buffer = LineBuffer(max_line)
    found = []
    for piece in at(stream, cuts):
        buffer.feed(piece)
        while (line := buffer.next_line()) is not None:
            found.append(line)
    return found, buffer.fault, buffer.rest()


class LineBufferTests(SynchronousTestCase):
    """L{LineBuffer}."""

    def test_lines(self) -> None:
        """Lines come without their CRLF; the rest stays."""
        self.assertEqual(read(b"one\r\n\r\nthree\r\nfo", []), ([b"one", b"", b"three"], "", b"fo"))

    def test_lone_cr(self) -> None:
        """A lone CR is an octet of its line."""
        self.assertEqual(read(b"a\rb\r\r\n", [])[0], [b"a\rb\r"])

    def test_bare_lf(self) -> None:
        """A lone LF is a fault, and no line comes any more."""
        for stream in (b"\n", b"a\n", b"ok\r\na\nb\r\n", b"a\n\r\n"):
            self.assertEqual(read(stream, [])[1], BARE_LF, stream)
        self.assertEqual(read(b"ok\r\na\nb\r\n", [])[0], [b"ok"])

    def test_cr_and_lf_in_two_segments(self) -> None:
        """CRLF is one line end wherever it is cut; an LF at the start of a segment alone is none."""
        self.assertEqual(read(b"a\r\nb\r\n", [2]), ([b"a", b"b"], "", b""))
        self.assertEqual(read(b"a\r\n\nb", [3])[1], BARE_LF)

    def test_longest_line(self) -> None:
        """A line may have max_line octets, and not one more."""
        self.assertEqual(read(b"x" * 8 + b"\r\n", []), ([b"x" * 8], "", b""))
        self.assertEqual(read(b"x" * 9 + b"\r\n", [])[1], OVERLONG)

    def test_no_end(self) -> None:
        """A line without end is found out as soon as it is too long; a CR may still be its last octet."""
        self.assertEqual(read(b"x" * 8 + b"\r", [])[1], "")
        self.assertEqual(read(b"x" * 10, [])[1], OVERLONG)

    def test_overlong_before_bare(self) -> None:
        """The fault of a line that is both too long and ended by LF does not depend on the cut."""
        stream = b"x" * 20 + b"\n"
        self.assertEqual({read(stream, cuts)[1] for cuts in ([], [5], [20], list(range(21)))}, {OVERLONG})

    def test_take(self) -> None:
        """Octets are taken whole or not at all, and lines go on behind them."""
        buffer = LineBuffer()
        buffer.feed(b"\n\0")
        self.assertIsNone(buffer.take(3))
        buffer.feed(b"\rnext\r\n")
        self.assertEqual(buffer.take(3), b"\n\0\r")
        self.assertEqual(buffer.take(0), b"")
        self.assertEqual(buffer.next_line(), b"next")

    def test_take_after_a_look_for_a_line(self) -> None:
        """A vain look for a line does not make a line end in what follows be missed."""
        buffer = LineBuffer()
        buffer.feed(b"abc")
        self.assertIsNone(buffer.next_line())
        self.assertEqual(buffer.take(2), b"ab")
        buffer.feed(b"\r\n")
        self.assertEqual(buffer.next_line(), b"c")

    def test_drain(self) -> None:
        """Draining tells how many octets are gone."""
        buffer = LineBuffer()
        buffer.feed(b"12345")
        self.assertEqual((buffer.drain(3), len(buffer), buffer.drain(9), len(buffer)), (3, 2, 2, 0))

    def test_begins(self) -> None:
        """The first octets can be looked at before the line is complete."""
        buffer = LineBuffer()
        self.assertFalse(buffer.begins(b"\x16"))
        buffer.feed(b"\x16\x03")
        self.assertTrue(buffer.begins(b"\x16"))

    @settings(max_examples=400, deadline=None, database=None, derandomize=True)
    @given(STREAMS, st.lists(st.integers(0, 200), max_size=6))
    def test_every_cut(self, stream: bytes, cuts: list[int]) -> None:
        """Lines and fault are those of the uncut stream."""
        self.assertEqual(read(stream, cuts)[:2], read(stream, [])[:2])
        self.assertEqual(read(stream, list(range(len(stream))))[:2], read(stream, [])[:2])
