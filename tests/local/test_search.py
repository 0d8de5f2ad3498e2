"""Tests for L{mailgw.local.search}."""

from __future__ import annotations

from tests.local.contract import ImapCase


class SearchTests(ImapCase):
    def setUp(self) -> None:
        super().setUp()
        texts = (
            b"From: Ann <ann@x>\r\nTo: bob@y\r\nSubject: =?utf-8?q?Gr=C3=BC=C3=9Fe?=\r\n"
            b"Date: Mon, 2 Mar 2026 23:59:00 -0800\r\n\r\nplain words\r\n",
            b"From: carl@x\r\nCc: ann@x\r\nX-Note: yes\r\nSubject: two\r\nContent-Type: text/plain; charset=utf-8\r\n"
            b"Content-Transfer-Encoding: base64\r\n\r\ngeheime W\xc3\xb6rter".replace(
                b"geheime W\xc3\xb6rter", b"Z2VoZWltZSBXw7ZydGVy"
            )
            + b"\r\n",
        )
        for text in texts:
            self.talk(b"a APPEND INBOX {%d+}\r\n%b\r\n" % (len(text), text))
        self.talk.line(b"SELECT INBOX")
        self.talk.line(b"STORE 2 +FLAGS.SILENT (\\Seen \\Flagged)")

    def test_keys(self) -> None:
        """Every kind of key."""
        for keys, expected in (
            (b"ALL", b"1 2"),
            (b"SEEN", b"2"),
            (b"UNSEEN UNDELETED", b"1"),
            (b"NOT FLAGGED", b"1"),
            (b"OR SEEN SUBJECT gr\xc3\xbc\xc3\x9fe".replace(b"gr\xc3\xbc\xc3\x9fe", b'"zwei"'), b"2"),
            (b"FROM ANN", b"1"),
            (b"TO bob CC x", b""),
            (b"CC ann", b"2"),
            (b'HEADER X-Note ""', b"2"),
            (b'HEADER X-None ""', b""),
            (b"BODY words", b"1"),
            (b"TEXT carl", b"2"),
            (b"TEXT PLAIN", b"1 2"),
            (b"2", b"2"),
            (b"UID 1:1,7", b"1"),
            (b"(1:2 (SEEN))", b"2"),
            (b"LARGER 10 SMALLER 1000", b"1 2"),
            (b"SENTON 2-Mar-2026", b"1"),
            (b"SENTBEFORE 3-Mar-2026", b"1"),
            (b'SENTSINCE "3-Mar-2026"', b""),
            (b"SINCE 1-Jan-2020", b"1 2"),
            (b"NEW", b"1"),
            (b"OLD", b""),
            (b"RECENT", b"1 2"),
            (b"CHARSET UTF-8 ALL", b"1 2"),
        ):
            answer = self.talk.line(b"SEARCH " + keys)
            self.assertEqual(
                answer, [b"* SEARCH " + expected if expected else b"* SEARCH", b"a OK SEARCH completed"], keys
            )

    def test_decoded(self) -> None:
        """Encoded words and bodies are found as what they say."""
        for keys, expected in ((b"SUBJECT", "GRÜßE"), (b"BODY", "Wörter")):
            literal = expected.lower().encode()
            self.talk.line(b"SEARCH CHARSET UTF-8 %b {%d}" % (keys, len(literal)))
            self.assertRegex(self.talk(literal + b"\r\n"), rb"^\* SEARCH [12]\r\n")

    def test_bad(self) -> None:
        """What is no key is BAD, an unknown charset NO."""
        for keys in (b"", b"XYZZY", b"NOT", b"OR SEEN", b"(SEEN", b"SEEN)", b"SINCE yesterday", b"UID x", b"LARGER -1"):
            self.assertTrue(self.talk.line(b"SEARCH " + keys)[-1].startswith(b"a BAD "), keys)
        self.assertTrue(self.talk.line(b"SEARCH CHARSET X-Y ALL")[0].startswith(b"a NO [BADCHARSET (US-ASCII"))

    def test_depth(self) -> None:
        """Nesting and length have limits, and what breaks them is not sent back."""
        for keys in (b"(" * 7000, b"NOT " * 7000 + b"SEEN", b"OR " * 60 + b"SEEN", b"SEEN " * 600 + b"SEEN"):
            (answer,) = self.talk.line(b"SEARCH " + keys)
            self.assertTrue(answer.startswith(b"a BAD "))
            self.assertLess(len(answer), 80)
        self.assertEqual(self.talk.line(b"SEARCH " + b"(" * 40 + b"SEEN" + b")" * 40)[0], b"* SEARCH 2")
