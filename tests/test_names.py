"""Tests of L{mailgw.names}."""

from __future__ import annotations

from itertools import product
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from mailgw.model import Origin, Peer
from mailgw.names import VALUES, Form, Keys, Names, asked_for, key_parts, split
from mailgw.settings import Names as Options

ORIGIN = Origin(
    "abcdefgh", "imap", Peer("198.51.100.7", 40000, "192.0.2.1", 993), True, sni="mail.a.example", listener="tcp:993"
)
HOSTILE = st.text(alphabet=st.sampled_from("aB@%.{}user domain\0\r\n\x7fÄİK\u202e$\\1*()"))


class SplitTests(SynchronousTestCase):
    """L{split}."""

    def test_cut(self) -> None:
        """At the last of all delimiters, however long they are; empty parts are parts."""
        for name, delimiters, wanted in (
            ("anna", "@", ("anna", "")),
            ("anna@a.example", "@", ("anna", "a.example")),
            ("a@b@c", "@", ("a@b", "c")),
            ("@a.example", "@", ("", "a.example")),
            ("anna@", "@", ("anna", "")),
            ("", "@", ("", "")),
            ("@", "@", ("", "")),
            ("a@b%c", "@%", ("a@b", "c")),
            ("a%b@c", "@%", ("a%b", "c")),
            ("a@b", "%", ("a@b", "")),
        ):
            self.assertEqual(split(name, tuple(delimiters)), wanted, name)

    def test_long_delimiters(self) -> None:
        """Several characters are one delimiter; of two that end together the longer one counts."""
        self.assertEqual(split("anna+at+a.example", ["+at+"]), ("anna", "a.example"))
        self.assertEqual(split("anna@a.example", ["+at+"]), ("anna@a.example", ""))
        for delimiters in (["@", "@@"], ["@@", "@"]):
            self.assertEqual(split("anna@@b", delimiters), ("anna", "b"))

    @given(HOSTILE, st.lists(st.sampled_from(["@", "%", "@@", "."]), min_size=1))
    def test_nothing_is_lost(self, name: str, delimiters: list[str]) -> None:
        """Both parts and one delimiter are the whole name, and the domain has no delimiter any more."""
        local, domain = split(name, delimiters)
        if any(one in name for one in delimiters):
            self.assertIn(name, [local + one + domain for one in delimiters])
            self.assertFalse([one for one in delimiters if one in domain and len(one) == 1])
        else:
            self.assertEqual((local, domain), (name, ""))


class FormTests(SynchronousTestCase):
    """L{Form}."""

    def test_steps(self) -> None:
        """Every combination: first the domain goes, then another one comes, then letters become small."""
        names = ("Anna", "Anna@B.example", "Anna@B@C", "@B", "Anna@")
        wanted = {
            (False, False, False): names,
            (False, False, True): ("anna", "anna@b.example", "anna@b@c", "@b", "anna@"),
            (False, True, False): ("Anna@X.example", *names[1:]),
            (False, True, True): ("anna@x.example", "anna@b.example", "anna@b@c", "@b", "anna@"),
            (True, False, False): ("Anna", "Anna", "Anna@B", "@B", "Anna"),
            (True, False, True): ("anna", "anna", "anna@b", "@b", "anna"),
            (True, True, False): ("Anna@X.example", "Anna@X.example", "Anna@B", "@B", "Anna@X.example"),
            (True, True, True): ("anna@x.example", "anna@x.example", "anna@b", "@b", "anna@x.example"),
        }
        for strip, add, lower in product((False, True), repeat=3):
            form = Form(strip, add, lower, default="X.example")
            self.assertEqual(tuple(form(name, None) for name in names), wanted[strip, add, lower], (strip, add, lower))
            self.assertEqual(form.changes, strip or add or lower)

    def test_no_domain(self) -> None:
        """Where there is no domain to add, names stay without."""
        self.assertEqual(Form(add=True)("anna", ORIGIN), "anna")

    def test_delimiters(self) -> None:
        """Any of them parts, the first of them joins."""
        form = Form(add=True, delimiters=("%", "@"), default="x")
        self.assertEqual([form(name, None) for name in ("a", "a@b", "a%b")], ["a%x", "a@b", "a%b"])
        form = Form(strip=True, delimiters=("%", "@"))
        self.assertEqual([form(name, None) for name in ("a", "a@b", "a%b", "a%b@c")], ["a", "a", "a", "a%b"])

    def test_doors(self) -> None:
        """The default domain is that of the server name, of the address, of the listener, or the common one."""
        domains = {"mail.a.example": "sni", "192.0.2.1": "address", "tcp:993": "listener"}
        for door in (*domains, ""):
            form = Form(add=True, default="default", domains=dict(domains))
            self.assertEqual(form("anna", ORIGIN), f"anna@{domains.get(door, 'default')}")
            domains.pop(door, None)

    def test_wildcards(self) -> None:
        """C{*.a.example} stands for one label."""
        form = Form(add=True, default="default", domains={"*.a.example": "a"})
        for sni, wanted in (("mail.a.example", "a"), ("x.mail.a.example", "default"), ("a.example", "default")):
            self.assertEqual(form.domain(Origin("x", "imap", Peer("", 0), sni=sni)), wanted, sni)

    def test_mapped_address(self) -> None:
        """An IPv4 address is one on a socket of both families, too; an IPv6 address is left alone."""
        for address, wanted in (("::ffff:192.0.2.1", "a"), ("192.0.2.1", "a"), ("::ffff:c000:201", "default")):
            form = Form(add=True, default="default", domains={"192.0.2.1": "a"})
            self.assertEqual(form.domain(Origin("x", "imap", Peer("", 0, address))), wanted, address)

    def test_nobody_known(self) -> None:
        """Without a session, the common default."""
        self.assertEqual(Form(add=True, default="x", domains={"": "y"})("anna", None), "anna@x")

    def test_control_characters(self) -> None:
        """They are not lost with a domain that is taken away: whoever is asked for such a name sees them."""
        for name in ("anna@a\0", "An\r\nna@b", "\x9fA", "A@\x7f"):
            self.assertEqual(Form(True, True, True, default="x")(name, None), name)

    @given(HOSTILE, st.booleans(), st.booleans(), st.booleans())
    def test_never_empty(self, name: str, strip: bool, add: bool, lower: bool) -> None:
        """No name becomes empty, and none grows by more than a domain and what small letters need."""
        found = Form(strip, add, lower, ("@", "%"), "x.example")(name, ORIGIN)
        if name:
            self.assertNotEqual(found, "")
        self.assertLessEqual(len(found), 2 * len(name) + len("@x.example"))


class NamesTests(SynchronousTestCase):
    """L{Names}."""

    def test_apart(self) -> None:
        """Each place has its own form."""
        names = Names(
            Options(
                lower_case=("directory", "lookup"),  # type: ignore[arg-type]
                strip_domain=("backend",),  # type: ignore[arg-type]
                add_domain=("lookup",),  # type: ignore[arg-type]
                default_domain="x",
            )
        )
        found = [form(name, None) for form in (names.directory, names.lookup, names.backend) for name in ("A", "A@b")]
        self.assertEqual(found, ["a", "a@b", "a@x", "a@b", "A", "A"])

    def test_defaults(self) -> None:
        """Nothing changes unless the settings say so."""
        names = Names(Options())
        self.assertFalse(names.directory.changes or names.lookup.changes or names.backend.changes)


class AskedForTests(SynchronousTestCase):
    """L{asked_for}."""

    def test_names(self) -> None:
        """Host names are taken in lower case, everything else is nothing."""
        for octets, wanted in (
            (b"Mail.A.example", "mail.a.example"),
            (b"mail.a.example.", "mail.a.example"),
            (b"a_b", "a_b"),
            (None, ""),
            (b"", ""),
            (b"a\0b", ""),
            (b"a\nb", ""),
            (b"*", ""),
            (b"{user}", ""),
            (b"..", ""),
            ("ä.example".encode(), ""),
            (b"tcp:993", ""),
            (b"a" * 254, ""),
        ):
            self.assertEqual(asked_for(octets), wanted, octets)


class KeysTests(SynchronousTestCase):
    """L{Keys} and L{key_parts}."""

    def keys(self, *templates: str, name: str = "Anna@b.example", origin: Origin | None = ORIGIN, **names: Any) -> Any:
        return tuple(Keys(templates, Options(**names)).of(name, origin))

    def test_values(self) -> None:
        """Every placeholder has its value."""
        wanted = {
            "user": "Anna@b.example",
            "local": "Anna",
            "domain": "b.example",
            "client": "198.51.100.7",
            "client_port": "40000",
            "address": "192.0.2.1",
            "port": "993",
            "sni": "mail.a.example",
            "listener": "tcp:993",
            "protocol": "imap",
        }
        self.assertEqual(set(wanted), set(VALUES))
        for name, value in wanted.items():
            self.assertEqual(self.keys(f"<{{{name}}}>"), (f"<{value}>",), name)

    def test_in_order(self) -> None:
        """Keys come in the order of the settings, each once."""
        found = self.keys("{user}", "{local}@{sni}", "@{domain}", "{local}@b.example", "default")
        self.assertEqual(found, ("Anna@b.example", "Anna@mail.a.example", "@b.example", "default"))

    def test_no_value(self) -> None:
        """A key with a part that is not there is left out."""
        self.assertEqual(self.keys("{domain}", "@{domain}", "{user}", name="anna"), ("anna",))
        found = self.keys(*(f"x{{{name}}}" for name in VALUES), name="anna", origin=None)
        self.assertEqual(found, ("xanna",))
        local = Origin("x", "imap", Peer("local", 0))
        self.assertEqual(self.keys("{client_port}", "{port}", "{address}", "{sni}", "{listener}", origin=local), ())

    def test_form(self) -> None:
        """Keys are made of the form for look-ups."""
        found = self.keys("{user}", "{local}", "{domain}", lower_case=("lookup",))
        self.assertEqual(found, ("anna@b.example", "anna", "b.example"))
        self.assertEqual(self.keys("{user}", "@{domain}", strip_domain=("lookup",)), ("Anna",))
        self.assertEqual(self.keys("{user}", lower_case=("directory", "backend")), ("Anna@b.example",))

    def test_delimiters(self) -> None:
        """Parts are those between the delimiters of the settings."""
        self.assertEqual(self.keys("{local}|{domain}", name="a%b", domain_delimiter=("@", "%")), ("a|b",))
        self.assertEqual(self.keys("{local}", "{domain}", name="a@b", domain_delimiter=("%",)), ("a@b",))

    def test_first(self) -> None:
        """The first key that finds anything ends the search; found is everything but C{None}."""
        asked: list[str] = []
        found = {"Anna": "", "@b.example": "x"}

        def find(key: str) -> str | None:
            asked.append(key)
            return found.get(key)

        keys = Keys(("{user}", "{local}", "@{domain}"), Options())
        self.assertEqual(keys.first(find, "Anna@b.example", ORIGIN), "")
        self.assertEqual(asked, ["Anna@b.example", "Anna"])
        self.assertEqual(keys.first(find, "ben@b.example", ORIGIN), "x")
        self.assertIsNone(keys.first(find, "ben", ORIGIN))

    def test_plain(self) -> None:
        """Without settings the canonical name is looked up as it is, whatever is in it."""
        for name in ("", "{domain}", "a@b", "\0"):
            self.assertEqual(Keys(("{user}",), Options()).first(lambda key: [key], name, None), [name])

    def test_unknown(self) -> None:
        """What could be no key is refused."""
        for bad in ("", "{", "}", "{}", "{User}", "{user", "user}", "{{user}}", "{user!r}", "{user.x}", "{0}"):
            self.assertRaises(ValueError, key_parts, bad)

    @given(HOSTILE, HOSTILE)
    def test_values_are_not_looked_at_again(self, name: str, sni: str) -> None:
        """What a client chose stands in the key as it is."""
        origin = Origin("x", "imap", Peer("", 0), sni=sni)
        found = tuple(Keys(("<{user}|{sni}>",), Options()).of(name, origin))
        self.assertEqual(found, (f"<{name}|{sni}>",) if name and sni else ())
