"""Tests of L{mailgw.wire.http}: answers fed whole, cut at every octet and made up by hypothesis; hostile ones."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from mailgw.wire.http import MAX_BODY, MAX_HEAD, Answer, AnswerReader, Malformed, header_lines, request_line

Read = Answer | Malformed | None

GOOD = b"HTTP/1.1 200 OK\r\nAuth-Status: OK\r\nContent-Length: 0\r\n\r\n"


def read(*segments: bytes) -> Read:
    """What a reader makes of these, fed until there is an answer."""
    reader = AnswerReader()
    for segment in segments:
        answer = reader.feed(segment)
        if answer is not None:
            return answer
    return None


def octets(data: bytes) -> list[bytes]:
    """The same, one octet at a time."""
    return [data[place : place + 1] for place in range(len(data))]


class AnswerTests(SynchronousTestCase):
    """Answers of servers that mean well."""

    def answer(self, data: bytes, *, keep: bool, status: int = 200) -> Answer:
        """The answer, which is the same however it is cut."""
        whole = read(data)
        assert isinstance(whole, Answer), whole
        self.assertEqual((whole.status, whole.keep), (status, keep))
        for place in range(1, len(data)):
            self.assertEqual(read(data[:place], data[place:]), whole, place)
        self.assertEqual(read(*octets(data)), whole)
        return whole

    def test_no_body(self) -> None:
        """An empty body: the connection goes on."""
        self.assertEqual(self.answer(GOOD, keep=True).headers[b"auth-status"], b"OK")

    def test_length(self) -> None:
        """A counted body is passed over, whatever is in it."""
        self.answer(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nHTTP/1.1 ", keep=True)

    def test_chunks(self) -> None:
        """A body in chunks, with extensions and trailers."""
        head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: Chunked\r\n\r\n"
        self.answer(head + b"0\r\n\r\n", keep=True)
        self.answer(head + b"3;a=b\r\nabc\r\n0b \r\n0\r\n\r\n6789ab\r\n000\r\nX: y\r\nZ: \r\n\r\n", keep=True)

    def test_without_a_length(self) -> None:
        """A body that ends with the connection is not waited for."""
        self.answer(b"HTTP/1.1 200 OK\r\nAuth-Status: OK\r\n\r\n", keep=False)
        self.assertEqual(
            read(b"HTTP/1.1 200 OK\r\nAuth-Status: OK\r\n\r\nand more"), Answer(200, {b"auth-status": b"OK"}, False)
        )

    def test_closing(self) -> None:
        """C{Connection: close}, in any list and casing, and HTTP/1.0: not used again, and no body is waited for."""
        for line in (b"Connection: close", b"connection: Keep-Alive, CLOSE", b"Connection: a\r\nConnection: close"):
            self.answer(b"HTTP/1.1 200 OK\r\n" + line + b"\r\nContent-Length: 5\r\n\r\n", keep=False)
        self.answer(b"HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n", keep=False)

    def test_old_keep_alive(self) -> None:
        """HTTP/1.0 with C{Connection: keep-alive} goes on."""
        self.answer(b"HTTP/1.0 200 OK\r\nConnection: Keep-Alive\r\nContent-Length: 2\r\n\r\nok", keep=True)

    def test_statuses_without_body(self) -> None:
        """204 and 304 have none, whatever their headers say."""
        for status in (204, 304):
            head = b"HTTP/1.1 %d X\r\n" % status
            self.answer(head + b"\r\n", keep=True, status=status)
            self.answer(head + b"Content-Length: 7\r\n\r\n", keep=True, status=status)

    def test_interim(self) -> None:
        """Interim answers are passed over."""
        self.answer(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Hints\r\nLink: x\r\n\r\n" + GOOD, keep=True)

    def test_bare_line_feeds(self) -> None:
        """Lines may end with LF alone (RFC 9112 §2.2): servers made by hand do that."""
        found = self.answer(b"HTTP/1.1 200 OK\nAuth-Status: OK\nContent-Length: 0\n\n", keep=True)
        self.assertEqual(found.headers[b"auth-status"], b"OK")

    def test_no_reason(self) -> None:
        """The reason may be empty, or missing with its blank."""
        self.answer(b"HTTP/1.1 401 \r\nContent-Length: 0\r\n\r\n", keep=True, status=401)
        self.answer(b"HTTP/1.1 401\r\nContent-Length: 0\r\n\r\n", keep=True, status=401)

    def test_values(self) -> None:
        """Names are lower case, values without the blanks around them and otherwise untouched; repeated ones joined."""
        found = self.answer(
            b"HTTP/1.1 200 OK\r\nA:b\r\nEMPTY:\r\nAuth-Pass: \t p:\xc3\xa4 \t s \t\r\na: c\r\n"
            b"Content-Length: 0\r\n\r\n",
            keep=True,
        )
        self.assertEqual(
            dict(found.headers),
            {b"a": b"b, c", b"empty": b"", b"auth-pass": b"p:\xc3\xa4 \t s", b"content-length": b"0"},
        )

    def test_not_in_a_repr(self) -> None:
        """Headers may hold a password."""
        self.assertNotIn("secret", repr(read(b"HTTP/1.1 200 OK\r\nAuth-Pass: secret\r\n\r\n")))

    def test_long_body(self) -> None:
        """A body that is too long to be read is not waited for."""
        self.answer(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (MAX_BODY + 1), keep=False)
        chunk = b"1000\r\n" + b"x" * 4096 + b"\r\n"
        found = read(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", *[chunk] * 20)
        assert isinstance(found, Answer)
        self.assertFalse(found.keep)

    def test_more_than_asked(self) -> None:
        """What follows an answer was not asked for: the connection is not used again."""
        for data in (GOOD + b"x", GOOD + GOOD, b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nx"):
            found = read(data)
            assert isinstance(found, Answer)
            self.assertFalse(found.keep)


class HostileAnswerTests(SynchronousTestCase):
    """Answers of servers that do not speak HTTP, or mean harm."""

    def assertMalformed(self, data: bytes) -> None:
        """It is found out, however it is cut."""
        self.assertIsInstance(read(data), Malformed, data)
        self.assertIsInstance(read(*octets(data)), Malformed, data)

    def test_other_protocols(self) -> None:
        """Another protocol is found out with its first octets, not when the time is over."""
        for data in (
            b"220 mail ESMTP\r\n",
            b"* OK",
            b"HTTP/2 200\r\n",
            b"\r\n",
            b"\x15\x03\x01",
            b"HTTP/1,1",
            b"http/1.1",
        ):
            self.assertMalformed(data)

    def test_status_lines(self) -> None:
        """Status lines that are none."""
        for line in (
            b"HTTP/1.1 OK",
            b"HTTP/1.1 2000 OK",
            b"HTTP/1.1  200 OK",
            b"HTTP/1.1 099 X",
            b"HTTP/1.10 200 OK",
            b"HTTP/1.1 200OK",
        ):
            self.assertMalformed(line + b"\r\nContent-Length: 0\r\n\r\n")

    def test_headers(self) -> None:
        """Headers that are none: folded, with blanks before the colon, without a colon, with control characters."""
        for line in (
            b" folded: x",
            b"A : b",
            b"nothing",
            b": x",
            b"A: b\0",
            b"A: b\rc",
            b"A\x80: b",
            b"A: \x1b[2J",
            b"A: b\n\tc",
        ):
            self.assertMalformed(b"HTTP/1.1 200 OK\r\n" + line + b"\r\nContent-Length: 0\r\n\r\n")

    def test_lengths(self) -> None:
        """Bodies of doubtful length: two framings, two lengths, signs, other codings."""
        for lines in (
            b"Content-Length: 1\r\nContent-Length: 2",
            b"Content-Length: 1, 2",
            b"Content-Length: +1",
            b"Content-Length: -1",
            b"Content-Length: 0x1",
            b"Content-Length: 1_0",
            b"Content-Length: ",
            b"Content-Length: " + b"9" * 16,
            b"Content-Length: 0\r\nTransfer-Encoding: chunked",
            b"Transfer-Encoding: gzip, chunked",
            b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
            b"Transfer-Encoding: identity",
        ):
            self.assertMalformed(b"HTTP/1.1 200 OK\r\n" + lines + b"\r\n\r\n")
        self.assertMalformed(b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")

    def test_equal_lengths(self) -> None:
        """The same length twice is one (RFC 9110 §8.6)."""
        found = read(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\nab")
        assert isinstance(found, Answer)
        self.assertTrue(found.keep)

    def test_chunks(self) -> None:
        """Chunks that are none, and lines in a body that do not end."""
        for body in (
            b"x\r\n",
            b"-1\r\n",
            b"+1\r\n",
            b"0x1\r\n",
            b"1\r\nab\r\n",
            b"123456789\r\n",
            b"\r\n",
            b"1 1\r\n",
            b"1;" + b"x" * 300,
            b"0\r\n" + b"y" * 300,
        ):
            self.assertMalformed(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + body)

    def test_endless_head(self) -> None:
        """A head that does not end."""
        self.assertMalformed(b"HTTP/1.1 200 " + b"x" * MAX_HEAD)
        self.assertIsInstance(read(b"HTTP/1.1 200 OK\r\n", *[b"A: b\r\n"] * 4000), Malformed)
        self.assertIsInstance(read(b"HTTP/1.1 200 OK\r\nA: " + b"x" * MAX_HEAD + b"\r\n\r\n"), Malformed)

    def test_endless_interim(self) -> None:
        """Interim answers that do not end, and an upgrade that nobody wanted."""
        self.assertMalformed(b"HTTP/1.1 100 Continue\r\n\r\n" * 10)
        self.assertMalformed(b"HTTP/1.1 101 Switching Protocols\r\n\r\n")

    def test_endless_trailers(self) -> None:
        """Trailers that do not end."""
        head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n"
        found = read(head, *[b"X: " + b"y" * 200 + b"\r\n"] * 400)
        assert isinstance(found, Answer)
        self.assertFalse(found.keep)

    @settings(max_examples=300, deadline=None, database=None, derandomize=True)
    @given(
        st.lists(
            st.sampled_from(
                [
                    b"HTTP/1.1 200 OK",
                    b"HTTP/1.1 100 C",
                    b"\r\n",
                    b"\n",
                    b"\r",
                    b"Content-Length: 3",
                    b"Transfer-Encoding: chunked",
                    b"3",
                    b"0",
                    b"abc",
                    b": ",
                    b"\0",
                    b" ",
                ]
            ),
            max_size=14,
        ),
        st.integers(1, 5),
    )
    def test_anything(self, parts: list[bytes], step: int) -> None:
        """Whatever comes, nothing raises, and whole or in pieces it is the same but for what comes too late."""
        data = b"".join(parts)
        whole = read(data)
        pieces = read(*(data[place : place + step] for place in range(0, len(data), step)))
        self.assertIs(type(whole), type(pieces))
        if isinstance(whole, Answer) and isinstance(pieces, Answer):
            self.assertEqual((whole.status, whole.headers), (pieces.status, pieces.headers))

    @settings(max_examples=200, deadline=None, database=None, derandomize=True)
    @given(st.binary(max_size=200))
    def test_noise(self, noise: bytes) -> None:
        """Noise behind a good beginning raises nothing."""
        for head in (b"HTTP/1.1 ", b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"):
            self.assertIsInstance(read(head + noise), Answer | Malformed | None)

    @settings(max_examples=200, deadline=None, database=None, derandomize=True)
    @given(st.lists(st.binary(min_size=1, max_size=40), max_size=6), st.integers(1, 30))
    def test_bodies_in_chunks(self, chunks: list[bytes], step: int) -> None:
        """Whatever a body holds, its end is found."""
        data = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
        data += b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks) + b"0\r\n\r\n"
        found = read(*(data[place : place + step] for place in range(0, len(data), step)))
        assert isinstance(found, Answer)
        self.assertTrue(found.keep)


class RequestTests(SynchronousTestCase):
    """What is written."""

    def test_request(self) -> None:
        """A GET, its host, and headers."""
        text = request_line("/auth?a=b", "auth.example:8080") + header_lines(
            [("X-Auth-Key", " sécret "), ("Empty", "")]
        )
        self.assertEqual(
            text,
            b"GET /auth?a=b HTTP/1.1\r\nHost: auth.example:8080\r\nX-Auth-Key: s\xc3\xa9cret\r\nEmpty: \r\n",
        )

    def test_nothing_slips_in(self) -> None:
        """Line ends and blanks never reach the wire."""
        for target, host in (("/a b", "h"), ("/a\r\nX: y", "h"), ("/", "h\n"), ("", "h"), ("/ä", "h"), ("/", "")):
            self.assertRaises(ValueError, request_line, target, host)
        for name, value in (
            ("X", "a\r\nb"),
            ("X", "a\nb"),
            ("X", "a\rb"),
            ("X", "a\0"),
            ("X Y", "a"),
            ("", "a"),
            ("X:", "a"),
            ("ä", "a"),
        ):
            error = self.assertRaises(ValueError, header_lines, [(name, value)])
            self.assertNotIn("a\\r", str(error))
