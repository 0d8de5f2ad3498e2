"""Tests of L{mailgw.directory.names}."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from mailgw.directory.names import password_fault, split_name, well_formed


class NamesTests(SynchronousTestCase):
    """Names and passwords."""

    def test_well_formed(self) -> None:
        """Control characters of both sets, emptiness and more than 256 octets make a name none."""
        for name in ("", "a\0", "a\n", "\x1f", "a\x7f", "a\x85", "a" * 257, "ä" * 129):
            self.assertFalse(well_formed(name), ascii(name))
        for name in ("a", "a@b", "jörg", "O'Neil (x)", "a" * 256):
            self.assertTrue(well_formed(name), name)

    def test_password(self) -> None:
        """Every octet but CR, LF and NUL may be in a password of 1 to 1024 octets."""
        for octet in range(256):
            self.assertEqual(bool(password_fault(b"a" + bytes([octet]))), octet in (0, 10, 13), octet)
        self.assertEqual(password_fault(b"x" * 1024), "")
        self.assertTrue(password_fault(b"x" * 1025))
        self.assertTrue(password_fault(b""))

    def test_split(self) -> None:
        """The last @ counts, and a name without one is its own local part."""
        self.assertEqual(split_name("a@b"), ("a", "b"))
        self.assertEqual(split_name('"a@b"@c'), ('"a@b"', "c"))
        self.assertEqual(split_name("alice"), ("alice", ""))
        self.assertEqual(split_name("alice@"), ("alice", ""))
