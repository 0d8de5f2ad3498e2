"""Tests of the end-of-data scanner and of dot-stuffing: against a slow and simple reference, at every split."""

from __future__ import annotations

import re
from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from mailgw.wire.body import BARE, LONG_LINE, NUL, TOO_BIG, BodyScanner, Stuffer

FALSE_ENDS = [
    *(b"\n.\n", b"\n.\r", b"\r.\n", b"\r.\r", b"\n.\r\n", b"\r.\r\n", b"\r\n.\n", b"\r\n.\r"),
    *(b"\r\n\0.\r\n", b"\r\n.\0\r\n", b"\0\r\n.\r\n", b"\r\0\n.\r\n", b"\r\n.\r\0\n"),
    *(b"\r\n.\r\r\n", b"\r\r\n.\r\r\n", b"\r\n. \r\n", b"\r\n.\t\r\n", b"\r\n..\r\n", b"\n\r.\r\n"),
    *(b"\r\n.\x0b\r\n", b"\r\n\x85.\r\n"),
]
"""Everything that somebody's server takes for the end of DATA and that is not CRLF.CRLF, or has a NUL near it."""

PIECES = st.sampled_from([b"\r", b"\n", b".", b"\r\n", b"\r\n.", b"a", b"\0", b"\r\n.\r\n", b"bcd", b"xxxxxxxxxxxx"])
STREAMS = st.lists(PIECES, max_size=14).map(b"".join)


def scan(stream: bytes, cuts: list[int], limit: int = 0, max_line: int = 9) -> tuple[bytes, str, bytes | None]:
    """Feed a stream cut at the given places: message, fault, and what is behind the end (None: no end)."""
    scanner = BodyScanner(limit, max_line)
    bounds = [0, *sorted(cut % (len(stream) + 1) for cut in cuts), len(stream)]
    message = b""
    for start, end in pairwise(bounds):
        piece, rest = scanner.feed(stream[start:end])
        message += piece
        if rest is not None:
            return message, scanner.fault, rest + stream[end:]
    return message, scanner.fault, None


def reference(stream: bytes, limit: int = 0, max_line: int = 9) -> tuple[bytes, str, bytes | None]:
    """Say the same, slowly."""
    end = (b"\r\n" + stream).find(b"\r\n.\r\n")
    if end < 0:
        return b"", "", None
    raw, rest = stream[:end], stream[end + 3 :]
    lines = raw.split(b"\r\n")
    message = b"\r\n".join(line.removeprefix(b".") for line in lines)
    fault = TOO_BIG if limit and len(message) > limit else ""
    if any(len(run) > max_line + 2 for run in re.findall(rb"[^\n]*\n", raw)):
        fault = LONG_LINE
    if any(b"\r" in line or b"\n" in line for line in lines):
        fault = BARE
    if b"\0" in raw:
        fault = NUL
    return message, fault, rest


def split_everywhere(stuff: bytes) -> list[bytes]:
    """Stuff a message octet by octet, cut in two at every place, and whole; return the different results."""
    results = set()
    for cut in range(len(stuff) + 1):
        out = Stuffer()
        results.add(out.feed(stuff[:cut]) + out.feed(stuff[cut:]) + out.finish())
    out = Stuffer()
    results.add(b"".join(out.feed(stuff[at : at + 1]) for at in range(len(stuff))) + out.finish())
    return sorted(results)


class BodyScannerTests(SynchronousTestCase):
    """L{BodyScanner}."""

    def test_message(self) -> None:
        """A message comes out without its dots, up to the end, and the rest is handed back."""
        self.assertEqual(
            scan(b"Subject: x\r\n\r\n..a\r\n.b\r\n.\r\nQUIT\r\n", [], max_line=99),
            (b"Subject: x\r\n\r\n.a\r\nb\r\n", "", b"QUIT\r\n"),
        )

    def test_empty(self) -> None:
        """A dot at offset 0 ends an empty message, wherever it is cut."""
        for cut in range(4):
            self.assertEqual(scan(b".\r\n", [cut]), (b"", "", b""))

    def test_false_ends(self) -> None:
        """No false end ends a message, at any split; the true end does, once."""
        for sequence in FALSE_ENDS:
            body = b"Subject: x\r\n\r\nbody" + sequence + b"MAIL FROM:<smug@x>\r\nDATA\r\nSmuggled"
            if b"\0\r\n.\r\n" in body:
                continue  # that one is a true end behind a NUL
            for cut in range(len(body) + 5):
                message, fault, rest = scan(body + b"\r\n.\r\n", [cut], max_line=99)
                self.assertEqual(rest, b"", sequence)
                clean = b"\0" not in sequence and not re.search(rb"\r(?!\n)|(?<!\r)\n", body)
                self.assertEqual(fault == "", clean, sequence)
                if clean:
                    self.assertIn(b"Smuggled", message)

    def test_nul_before_true_end(self) -> None:
        """A NUL in the last line is a fault of the message that ends there."""
        self.assertEqual(scan(b"a\0\r\n.\r\nQUIT\r\n", [])[1:], (NUL, b"QUIT\r\n"))

    def test_line_limit(self) -> None:
        """A line of exactly the limit passes and one octet more is a fault, at every split; the end is still found."""
        for length, fault in ((9, ""), (10, LONG_LINE)):
            stream = b"ab\r\n" + b"x" * length + b"\r\nz\r\n.\r\n"
            for cut in range(len(stream)):
                self.assertEqual(scan(stream, [cut])[1:], (fault, b""))

    def test_size(self) -> None:
        """The size is counted without transparency dots; one octet over the limit is a fault."""
        for limit, fault in ((6, ""), (5, TOO_BIG)):
            self.assertEqual(scan(b"..\r\na\r\n.\r\n", [3], limit=limit)[1:], (fault, b""))

    def test_fault_gives_nothing_more(self) -> None:
        """Once a fault is known no octet of the message comes out, and the scanner stays until the end."""
        scanner = BodyScanner()
        self.assertEqual(scanner.feed(b"bad\nline\r\n"), (b"", None))
        self.assertEqual(scanner.feed(b"good\r\n" * 100), (b"", None))
        self.assertEqual(scanner.feed(b".\r\nX"), (b"", b"X"))

    def test_endless_line(self) -> None:
        """A line without end costs no memory."""
        scanner = BodyScanner()
        for _ in range(200):
            self.assertEqual(scanner.feed(b"A" * 16384)[1], None)
        self.assertEqual((scanner.fault, len(scanner._held)), (LONG_LINE, 0))

    @settings(max_examples=400, deadline=None)
    @given(STREAMS, st.lists(st.integers(0, 200), max_size=6), st.sampled_from([0, 5, 20]))
    def test_like_reference(self, stream: bytes, cuts: list[int], limit: int) -> None:
        """For any stream and any cuts the result is the reference's."""
        message, fault, rest = scan(stream, cuts, limit)
        expected = reference(stream, limit)
        if expected[2] is None:
            self.assertIsNone(rest)
        else:
            self.assertEqual((fault, rest), expected[1:])
            if not fault:
                self.assertEqual(message, expected[0])


class StufferTests(SynchronousTestCase):
    """L{Stuffer}."""

    def test_dots(self) -> None:
        """Every line that begins with a dot gets one more, whatever the split."""
        self.assertEqual(split_everywhere(b".a\r\n..b\r\n.\r\nc.\r\n"), [b"..a\r\n...b\r\n..\r\nc.\r\n.\r\n"])

    def test_last_line_end(self) -> None:
        """The final dot always stands on a line of its own."""
        for message, wire in (
            (b"", b".\r\n"),
            (b"a", b"a\r\n.\r\n"),
            (b"a\r\n", b"a\r\n.\r\n"),
            (b"a\r", b"a\r\n.\r\n"),
        ):
            self.assertEqual(split_everywhere(message), [wire])

    @settings(max_examples=300, deadline=None)
    @given(st.lists(st.sampled_from([b"\r\n", b".", b"a", b"..", b"bc"]), max_size=12).map(b"".join), st.data())
    def test_round_trip(self, message: bytes, data: st.DataObject) -> None:
        """What is stuffed in any pieces is scanned to the same message, with nothing left over."""
        cut = data.draw(st.integers(0, len(message)))
        stuffer = Stuffer()
        wire = stuffer.feed(message[:cut]) + stuffer.feed(message[cut:]) + stuffer.finish()
        whole = message if not message or message.endswith(b"\r\n") else message + b"\r\n"
        self.assertEqual(scan(wire, [cut], max_line=99), (whole, "", b""))
