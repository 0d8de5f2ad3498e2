"""Tests of L{mailgw.directory.ldapentry}."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from mailgw.directory.ldapentry import (
    Entry,
    EntryFault,
    Outcome,
    comparable_dn,
    fill,
    places,
    read_identity,
    why_refused,
)
from mailgw.model import Identity

DN = "uid=alice,dc=example"


def read(raw: dict[str, list[bytes]], groups: tuple[str, ...] = ()) -> Identity:
    entry = Entry.read(DN, raw)
    return read_identity(entry, "ldap-1", "uid", ("mail", "proxyAddresses"), ("mailHost", "l"), groups)


class ReadIdentityTests(SynchronousTestCase):
    """L{read_identity}."""

    def test_whole(self) -> None:
        """Everything comes from the entry; attributes have the names of the settings, whatever the server's case."""
        identity = read(
            {
                "UID": [b" alice "],
                "mail": [b"Alice@Example.ORG", b"a@x"],
                "proxyaddresses": [b"SMTP:a@x", b"smtp:al@x"],
                "MAILHOST": [b"be1"],
                "l": [],
            },
            ("cn=g",),
        )
        self.assertEqual(identity.username, "alice")
        self.assertEqual((identity.directory, identity.dn, identity.groups), ("ldap-1", DN, ("cn=g",)))
        self.assertEqual(identity.addresses, ("alice@example.org", "a@x", "al@x"))
        self.assertEqual(dict(identity.attributes), {"mailHost": ("be1",)})

    def test_case_is_kept(self) -> None:
        """The canonical name is the attribute's value, not its lower case."""
        self.assertEqual(read({"uid": [b"Alice"]}).username, "Alice")

    def test_no_name(self) -> None:
        """Without exactly one value of the attribute nobody knows who this is."""
        for values in ([], [b""], [b"  "], [b"a", b"b"], [b"\xff"]):
            self.assertRaises(EntryFault, read, {"uid": values})
        self.assertRaises(EntryFault, read, {"mail": [b"a@b"]})

    def test_strange_name(self) -> None:
        """Control characters in a name would be commands, or a terminal's, further on."""
        for value in (b"a\0b", b"a\r\nb", b"a\x1b[2J", b"a" * 257):
            error = self.assertRaises(EntryFault, read, {"uid": [value]})
            self.assertNotIn("\x1b", str(error))

    def test_binary_values(self) -> None:
        """Values that are no text are left out."""
        self.assertEqual(read({"uid": [b"a"], "mail": [b"\xff\xfe", b"a@b"]}).addresses, ("a@b",))


class WhyRefusedTests(SynchronousTestCase):
    """L{why_refused}."""

    def test_reasons(self) -> None:
        """Result code, Active Directory's data and the password policy's control each tell the reason."""
        for outcome, reason in (
            (Outcome(49), "wrong password"),
            (Outcome(53, "x"), "unwilling to perform, as a disabled account answers"),
            (Outcome(99), "result code 99"),
            (Outcome(49, "80090308: LdapErr: DSID-0C0903A9, comment: x, data 775, v1db1"), "account locked"),
            (Outcome(49, "80090308: LdapErr: DSID-0C0903A9, comment: x, data 52e, v1db1"), "wrong password"),
            (Outcome(49, "", b"\x30\x03\x81\x01\x00"), "password expired"),
            (Outcome(49, "", b"\x30\x03\x81\x01\x01"), "account locked"),
            (Outcome(49, "", b"\x30\x00"), "wrong password"),
            (Outcome(49, "", b"\x30\x03\x81\x01\x63"), "wrong password"),
        ):
            self.assertEqual(why_refused(outcome), reason)


class TemplateTests(SynchronousTestCase):
    """L{fill} and L{places}."""

    def test_fill(self) -> None:
        """Every value is escaped, and what a value has in braces is only text."""
        filled = fill("(|(uid={user})(mail={user})(x={domain}))", str.upper, {"user": "a{domain}", "domain": "d"})
        self.assertEqual(filled, "(|(uid=A{DOMAIN})(mail=A{DOMAIN})(x=D))")

    def test_places(self) -> None:
        """The names in braces."""
        self.assertEqual(places("(&(uid={user})(x={})(y={user.x}))"), {"user", ""})


class ComparableDnTests(SynchronousTestCase):
    """L{comparable_dn}."""

    def test_same(self) -> None:
        """Case, blanks at separators, semicolons and the ways to escape make no difference."""
        for one, other in (
            ("cn=Mail,ou=Groups,dc=x", "CN=mail, OU=groups ,DC=X"),
            ("cn=a;dc=x", "cn=a,dc=x"),
            ("cn=a\\2Cb,dc=x", "cn=a\\,b,dc=x"),
            ("cn=a\\2cb,dc=x", "cn=a\\2Cb,dc=x"),
            ("cn=J\\C3\\B6rg,dc=x", "cn=Jörg,dc=x"),
            (" cn = a , dc = x ", "cn=a,dc=x"),
        ):
            self.assertEqual(comparable_dn(one), comparable_dn(other), one)

    def test_different(self) -> None:
        """An escaped separator is none."""
        for one, other in (
            ("cn=a,dc=x", "cn=a\\,dc=x"),
            ("cn=a\\2cdc\\3dx", "cn=a,dc=x"),
            ("cn=a,dc=x", "cn=a,dc=y"),
            ("cn=a,dc=x", "cn=a"),
        ):
            self.assertNotEqual(comparable_dn(one), comparable_dn(other), one)
