"""Tests of L{mailgw.routing.regexmap}."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from twisted.trial.unittest import SynchronousTestCase

from mailgw.errors import SettingsError
from mailgw.model import Identity, Origin, Peer, Route
from mailgw.routing.regexmap import MapFaults, RegexMap, RegexRule, logical_lines
from tests.routing.contract import FakeHouse, RoutingTestCase, RuleContract


class RegexRuleTests(RuleContract, RoutingTestCase):
    known = Identity("bob@labs.example")

    def make(self, **options: Any) -> RegexRule:
        """The rule of the settings' example."""
        options = {"match": r"@labs\.example$", "backend": "labs.internal", "pool": "main", **options}
        return RegexRule.from_options("regex-1", RegexRule.Options(**options), FakeHouse())

    def test_searches(self) -> None:
        """The expression is searched for anywhere in the name; whom it does not match is the next rule's business."""
        self.assertEqual(self.answer(self.make(), "bob@labs.example"), Route("main", "labs.internal"))
        self.assertIsNone(self.answer(self.make(), "bob@labs.example.org"))

    def test_groups(self) -> None:
        r"""Groups of the match are filled in as \1 and by name."""
        rule = self.make(match=r"@(?P<site>\w+)\.(\w+)$", backend=r"\g<site>-\2.internal:1143")
        self.assertEqual(self.answer(rule, "bob@labs.example"), Route("main", "labs-example.internal:1143"))

    def test_group_that_did_not_take_part(self) -> None:
        """An optional group that matched nothing is empty; the pool then refuses what is no host."""
        self.assertEqual(
            self.answer(self.make(match="(x)?bob", backend=r"\1.internal"), "bob"), Route("main", ".internal")
        )

    def test_username(self) -> None:
        """Who to log in as is made of the match, and has to be a name."""
        rule = self.make(match=r"^(.*)@(\w+)\.example$", username=r"\1+\2")
        self.assertEqual(self.answer(rule, "bob@labs.example"), Route("main", "labs.internal", username="bob+labs"))
        self.assertIn("no user of a backend", self.refused(rule, "b\rob@labs.example").reason)
        self.assertIn("no user of a backend", self.refused(self.make(match="(x)?bob", username=r"\1"), "bob").reason)

    def test_keys(self) -> None:
        """The expression is searched for in one key after the other; groups are those of the first that matches."""
        rule = self.make(keys=("{domain}", "{local}@{address}"), match=r"^(b\w+)", backend=r"\1.internal")
        origin = Origin("s1", "imap", Peer("192.0.2.1", 4711, "192.0.2.2"))
        for name, backend in (("anna@be1.example", "be1"), ("ben", "ben"), ("ben@be2", "be2")):
            route = self.wait(rule.route(Identity(name), "imap", origin))
            self.assertEqual(route, Route("main", f"{backend}.internal"), name)
        self.assertIsNone(self.wait(rule.route(Identity("ben"), "imap")))

    def test_hostile_names(self) -> None:
        """A name fills in groups as it is; nothing in it is a reference, and what is no host the pool refuses."""
        rule = self.make(match=r"^(.*)@x$", backend=r"\1.internal")
        for name in (r"\1", r"\g<0>", "a b", "a\nb", "$1", "x" * 5000):
            self.assertEqual(
                self.answer(rule, f"{name}@x"), Route("main", f"{name}.internal") if "\n" not in name else None
            )

    def test_without_a_backend(self) -> None:
        """Without a backend the pool chooses."""
        rule = RegexRule.from_options("regex-1", RegexRule.Options(match="^b", pool="labs"), FakeHouse())
        self.assertEqual(self.answer(rule, "bob"), Route("labs"))

    def test_bad_options(self) -> None:
        """An expression that does not compile, or a group that it does not have, stops the start."""
        for options, words in (
            ({"match": "(", "pool": "main"}, "not a regular expression"),
            ({"match": "(a)", "backend": r"\2", "pool": "main"}, "invalid group reference 2"),
            ({"match": "a", "backend": r"\g<site>", "pool": "main"}, "unknown group name"),
            ({"match": "a", "username": r"\1", "pool": "main"}, "username: invalid group reference 1"),
            ({"match": "a"}, "Field required"),
        ):
            with self.assertRaises(ValidationError) as caught:
                RegexRule.Options(**options)
            self.assertIn(words, str(caught.exception))

    def test_unknown_pool(self) -> None:
        """A pool that does not exist stops the start."""
        self.assertRaises(SettingsError, self.make, pool="other")


class LogicalLinesTests(SynchronousTestCase):
    def test_joins(self) -> None:
        """A backslash before the end of a line joins the next one; an escaped backslash does not."""
        self.assertEqual(
            list(logical_lines("a\nb\\\nc\\\r\nd\ne\\\\\nf\\")),
            [(1, "a"), (2, "bcd"), (5, "e\\\\"), (6, "f")],
        )

    @given(st.lists(st.text(alphabet=st.characters(exclude_characters="\\\n\r"))))
    def test_keeps_what_has_no_backslash(self, lines: list[str]) -> None:
        """Lines without a backslash come as they are, under their own numbers."""
        self.assertEqual(list(logical_lines("\n".join(lines))), list(enumerate(lines or [""], 1)))


class RegexMapTests(SynchronousTestCase):
    def assertFinds(self, text: str, **expected: str | None) -> None:
        """Assert what a file says of some users."""
        content = RegexMap.parse(text)
        self.assertEqual({user: content.find(user) for user in expected}, expected)

    def assertFault(self, text: str, *faults: str) -> None:
        """Assert what is wrong with a file: each fault begins so."""
        with self.assertRaises(MapFaults) as caught:
            RegexMap.parse(text)
        self.assertEqual(len(caught.exception.faults), len(faults))
        for fault, expected in zip(caught.exception.faults, faults, strict=True):
            self.assertTrue(fault.startswith(expected), fault)

    def test_file_of_the_distribution(self) -> None:
        """The examples of Perdition's manual answer as it describes them."""
        content = RegexMap.parse(
            "# popmap.re\n\n^[a-k]: localhost\n^user: user2@localhost\n(.*)@(.*): $1_$2@localhost:143\n"
        )
        self.assertEqual(len(content), 3)
        self.assertEqual(content.find("adam"), "localhost")
        self.assertEqual(content.find("user7"), "user2@localhost")
        self.assertEqual(content.find("x@y.z.de"), "x_y.z.de@localhost:143")
        self.assertIsNone(content.find("zoe"))

    def test_first_match_wins(self) -> None:
        """Lines are tried in their order."""
        self.assertFinds("^a: h1\n^ab: h2\n.*: h3", abc="h1", b="h3")

    def test_no_implicit_anchors(self) -> None:
        """An expression matches anywhere in the name, and what it skipped is not put before the host."""
        self.assertFinds("flim: localhost", flim="localhost", itsflimsy="localhost", flam=None)

    def test_colon_and_blanks(self) -> None:
        """The colon may be missing, blanks may go before the expression, and the host is one word."""
        self.assertFinds(" \t^a:\t h1 h9\r\n^b h2", a="h1", b="h2")

    def test_comments(self) -> None:
        """A # begins a comment anywhere in a line, unless it is escaped or quoted."""
        self.assertFinds("^a: h1#x\n# ^b: h2\n'^c#': h3\n^d\\#: h4", **{"a": "h1", "b": None, "c#": "h3", "d#": "h4"})

    def test_quotes_and_escapes(self) -> None:
        """Quotes and backslashes protect blanks, and each other."""
        self.assertFinds(
            "^a\\ b: h1\n'^c d': h2\n\"^e' f\": h3\n^g\\': h4",
            **{"a b": "h1", "c d": "h2", "e' f": "h3", "g'": "h4"},
        )

    def test_backslash_means_the_character(self) -> None:
        """An escaped dot is a dot, however often the file's writer thought that it must be escaped."""
        for key in (r"^a\.b$", r"^a\\.b$", r"'^a\.b$'", r'"^a\.b$"', r'"^a\\.b$"', "^a[.]b$", r"^a[\.]b$"):
            self.assertFinds(f"{key}: h1", **{"a.b": "h1", "axb": None, "a\\b": None})

    def test_backslash_before_a_letter(self) -> None:
        """A backslash before a letter says nothing, as in Perdition: POSIX knows no classes of that kind."""
        self.assertFinds(r"^\d$: h1", d="h1", **{"1": None})

    def test_bracket_expressions(self) -> None:
        """POSIX classes and its rules for ], ^ and backslash hold."""
        self.assertFinds(
            "^[[:digit:][:upper:]_]+$: h1\n^[]^a]$: h2", **{"A_1": "h1", "a": "h2", "]": "h2", "^": "h2", "b": None}
        )
        self.assertFinds("^[^]a]$: h1", **{"]": None, "b": "h1", "a": None, "[": "h1"})
        self.assertFinds(r"""'^[\x]$': h1""", **{"\\": "h1", "x": "h1", "y": None})

    def test_references(self) -> None:
        """$0 to $9 are filled in; a group that does not exist stays as it is, and is no host."""
        self.assertFinds("^(x|y)-(z)?: $1.$0$2$9", **{"x-1": "x.x-$2$9", "y-z": "y.y-zz$9"})

    def test_reference_is_not_expanded_twice(self) -> None:
        """What a user is called is never read as a reference."""
        self.assertFinds("^(.*)@(.*)$: $1.$2", **{"$2@b": "$2.b"})

    def test_faults(self) -> None:
        """Every line that cannot be understood is told, by its number."""
        self.assertFault("^a: h1\n\n^b:h2\n^c(: h3\n", "3: no host", "4: not a regular expression")
        self.assertFault("'^a: h1", "1: a ' is not closed")
        self.assertFault("[[:word:]]: h1\n[a: h1\n[[.a.]]: h1", "1: there is no class", "2: a [ is not", "3: [. .]")
        self.assertFault(": h1", "1: no expression")
        self.assertFault("*@example.org: h1", "1: not a regular expression")
        self.assertFault("^a: user@be/1", "1: 'be/1' is no host")
        self.assertFault("^a: h1\n\\\n^d :h4", "2: ':h4' is no host")

    @given(st.text(alphabet="ab.*[]:^$\\'\"#\n $1@h"))
    def test_nothing_else_is_raised(self, text: str) -> None:
        """Any file is a map or at fault, and any map can be asked."""
        try:
            content = RegexMap.parse(text)
        except MapFaults:
            return
        content.find("ab.a@h")
