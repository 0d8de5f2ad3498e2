"""Tests for L{mailgw.local.names}."""

from __future__ import annotations

import os

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from mailgw.local.names import BadName, creatable, decode, encode, folder_name, folder_path, full_pattern, matches

TEXT = st.text(alphabet=st.characters(max_codepoint=0x1FFFF), max_size=40)


class MailboxNameTests(SynchronousTestCase):
    def test_refused(self) -> None:
        """Names with control characters, slashes, empty levels, or in a spelling that is not canonical."""
        for wire in (
            b"",
            b".",
            b"..",
            b"a..b",
            b".a",
            b"a.",
            b"../../etc/passwd",
            b"a/b",
            b"a\r\nb",
            b"a\0b",
            b"&AAo-",  # a line feed
            b"&AC8-",  # a slash
            b"&AGE-",  # an "a" that need not be encoded
            b"&",
            b"&AOk",
            b"\xc3\xa9",
            b"&2AA-",  # half of a surrogate pair
            b"x" * 201,
        ):
            self.assertRaises(BadName, decode, wire)

    def test_inbox(self) -> None:
        """INBOX is INBOX in any case, as the first level only."""
        self.assertEqual(decode(b"inBox"), "INBOX")
        self.assertEqual(decode(b"inbox.inbox"), "INBOX.inbox")
        self.assertEqual(decode(b"inboxes"), "inboxes")

    def test_international(self) -> None:
        """Names are text inside and modified UTF-7 outside."""
        self.assertEqual(decode(b"Entw&APw-rfe"), "Entwürfe")
        self.assertEqual(encode("R&D"), b"R&-D")
        self.assertEqual(decode(encode("Post \U0001f4ec")), "Post \U0001f4ec")

    def test_wildcards(self) -> None:
        """A mailbox that LIST's patterns could not name is not made."""
        for name in ("a*", "a%"):
            self.assertRaises(BadName, creatable, name)

    @given(TEXT)
    def test_never_outside(self, name: str) -> None:
        """Whatever a client calls a mailbox, its folder is the root, or directly in it and no other entry there."""
        try:
            wire = encode(name)
            path = folder_path("/root/user", decode(wire))
        except (BadName, UnicodeError):
            return
        self.assertEqual(os.path.normpath(path), path)
        if path != "/root/user":
            self.assertEqual(os.path.dirname(path), "/root/user")
            self.assertRegex(os.path.basename(path), r"^\.[^./]")
            self.assertEqual(folder_name(os.path.basename(path)), decode(wire))

    def test_strangers(self) -> None:
        """Files of the Maildir itself, and folders with names that nobody can say, are no mailboxes."""
        for entry in ("cur", ".", "..", "..mailgw-deleted-1", ".a&b", ".\udcff", "mailgw-uids"):
            self.assertIsNone(folder_name(entry))


class PatternTests(SynchronousTestCase):
    def test_wildcards(self) -> None:
        """C{*} goes over levels, C{%} does not."""
        for pattern, name, expected in (
            ("*", "a.b.c", True),
            ("%", "a", True),
            ("%", "a.b", False),
            ("a.%", "a.b", True),
            ("a.%", "a.b.c", False),
            ("%.c", "a.c", True),
            ("*c", "a.b.c", True),
            ("a", "ab", False),
            ("", "a", False),
            ("a%c*", "abc.d", True),
            ("[a]", "a", False),
        ):
            self.assertEqual(matches(pattern, name), expected, (pattern, name))

    def test_inbox(self) -> None:
        """INBOX is found in any case."""
        self.assertTrue(matches(full_pattern("", "inbox"), "INBOX"))
        self.assertTrue(matches(full_pattern("inbox.", "%"), "INBOX.a"))

    def test_no_explosion(self) -> None:
        """A pattern made to backtrack is answered at once."""
        self.assertFalse(matches("*a" * 60 + "b", "a" * 200))
