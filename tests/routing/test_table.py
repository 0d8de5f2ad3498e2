"""Tests of L{mailgw.routing.table}."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.logger import globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase

from mailgw.errors import SettingsError
from mailgw.model import Identity, Origin, Peer, Route
from mailgw.routing.regexmap import MapFaults
from mailgw.routing.table import NameMap, TableRule
from mailgw.settings import Names, Settings
from tests.routing.contract import FakeHouse, RoutingTestCase, RuleContract


class NameMapTests(SynchronousTestCase):
    def test_lines(self) -> None:
        """Users, hosts, ports and backend users are read, comments and blanks are not."""
        content = NameMap.parse(
            "# a comment\n\nhorms:localhost\n  jain : jane@foo.bar:110  # moved\nkate:[::1]:143\nlong: \\\n  be1\r\n"
            "a#b: be2\nbob@example.org: 10.0.0.7\n"
        )
        self.assertEqual(len(content), 6)
        for user, value in (
            ("horms", "localhost"),
            ("jain", "jane@foo.bar:110"),
            ("kate", "[::1]:143"),
            ("long", "be1"),
            ("a#b", "be2"),
            ("bob@example.org", "10.0.0.7"),
            ("HORMS", None),
            ("# a comment", None),
        ):
            self.assertEqual(content.find(user), value)
        self.assertEqual(content.notes, ())

    def test_twice(self) -> None:
        """A name that comes twice keeps its first host, and that is noted unless both are the same."""
        content = NameMap.parse("a: h1\nb: h1\na: h2\nb: h1\n")
        self.assertEqual(content.find("a"), "h1")
        self.assertEqual(len(content.notes), 1)
        self.assertTrue(content.notes[0].startswith("3: 'a' "))

    def test_faults(self) -> None:
        """Every line that is not user and host is told, by its number."""
        with self.assertRaises(MapFaults) as caught:
            NameMap.parse("a\n: h1\nb:\nc: h 1\nd: # h1\ne: h1\nf: x@\n")
        self.assertEqual([fault.partition(":")[0] for fault in caught.exception.faults], ["1", "2", "3", "4", "5", "7"])

    @given(
        st.dictionaries(
            st.text(
                alphabet=st.characters(codec="utf-8", exclude_categories=["C", "Z"], exclude_characters=":\\"),
                min_size=1,
            ),
            st.from_regex(r"[a-z][a-z0-9]{0,9}(:[1-9][0-9]{0,3})?", fullmatch=True),
        )
    )
    def test_round_trip(self, entries: dict[str, str]) -> None:
        """What is written is found, whatever the users are called."""
        entries = {name: value for name, value in entries.items() if not name.startswith("#")}
        content = NameMap.parse("".join(f"{name}: {value}\n" for name, value in entries.items()))
        self.assertEqual({name: content.find(name) for name in entries}, entries)
        self.assertEqual(len(content), len(entries))

    @given(st.text(alphabet="ab:@.\\# \n\t[1]"))
    def test_nothing_else_is_raised(self, text: str) -> None:
        """Any file is a map or at fault."""
        try:
            NameMap.parse(text)
        except MapFaults as error:
            self.assertTrue(error.faults)


class TableRuleTests(RuleContract, RoutingTestCase):
    known = Identity("alice@example.org")

    def setUp(self) -> None:
        """A map file, and a house with a clock."""
        self.path = Path(self.mktemp())
        self.path.write_text("alice@example.org: be1\nlab: labs\nmoved: other@be2\n")
        self.house = FakeHouse()

    def make(self, **options: Any) -> TableRule:
        """The rule for the file, with the pool main."""
        options = {"file": str(self.path), "pool": "main", **options}
        return TableRule.from_options("table-1", TableRule.Options(**options), self.house)

    def replace(self, text: str | bytes) -> None:
        """Put another file in the file's place, and let a second pass."""
        new = self.path.with_suffix(".new")
        new.write_bytes(text.encode() if isinstance(text, str) else text)
        new.replace(self.path)
        self.house.reactor.advance(1)

    def logged(self) -> list[dict[str, Any]]:
        """What the rule logs from now on."""
        seen: list[dict[str, Any]] = []

        def observe(event: dict[str, Any]) -> None:
            if event["log_namespace"] == "mailgw.routing.table.TableRule":
                seen.append(event)

        globalLogPublisher.addObserver(observe)
        self.addCleanup(globalLogPublisher.removeObserver, observe)
        return seen

    def levels(self, events: list[dict[str, Any]]) -> list[str]:
        """The levels of what was logged."""
        return [event["log_level"].name for event in events]

    def test_found(self) -> None:
        """A value is a pool, or a backend of the rule's pool; who is not in the file is the next rule's business."""
        rule = self.make()
        self.assertEqual(self.answer(rule, "alice@example.org"), Route("main", "be1"))
        self.assertEqual(self.answer(rule, "lab"), Route("labs"))
        self.assertIsNone(self.answer(rule, "nobody"))

    def test_username(self) -> None:
        """With username = true a value also says who to log in as; the last at sign counts."""
        self.path.write_text("moved: other@be2\nlong: a@b.example@be2:143\nplain: be1\nlab: x@labs\n")
        rule = self.make(username=True)
        for user, route in (
            ("moved", Route("main", "be2", username="other")),
            ("long", Route("main", "be2:143", username="a@b.example")),
            ("plain", Route("main", "be1")),
            ("lab", Route("labs", username="x")),
        ):
            self.assertEqual(self.answer(rule, user), route)

    def test_username_of_the_client_making(self) -> None:
        """A name that an expression made of the user's own is checked as any other."""
        self.path.write_text("(.*)/at/(.*): $1@$2\n")
        rule = self.make(username=True, match="regex")
        self.assertEqual(self.answer(rule, "bob/at/be1"), Route("main", "be1", username="bob"))
        self.assertIn("no user of a backend", self.refused(rule, "b\x01ob/at/be1").reason)

    def test_hostile_names(self) -> None:
        """A name is looked up as a whole, whatever is in it."""
        rule = self.make()
        for name in (
            "alice@example.org: be2",
            "alice@example.org\n",
            "# alice@example.org",
            "a\0",
            "\udc80",
            "x" * 9999,
        ):
            self.assertIsNone(self.answer(rule, name), name)

    def test_without_a_pool(self) -> None:
        """A rule without a pool refuses values that name none."""
        rule = self.make(pool=None)
        self.assertEqual(self.answer(rule, "lab"), Route("labs"))
        self.refused(rule, "alice@example.org")

    def test_regex_file(self) -> None:
        """A file of expressions is read as such when the settings say so."""
        self.replace("^(.*)@example\\.org: $1@127.0.0.1:143\n^x: $9\n^y: $0@\n")
        rule = self.make(match="regex")
        self.assertEqual(self.answer(rule, "alice@example.org"), Route("main", "127.0.0.1:143"))
        self.assertIn("names no host", self.refused(rule, "y").reason)

    def test_backend_user(self) -> None:
        """The user that a value names for the backend is left out, and the log says so once."""
        rule, events = self.make(), self.logged()
        for _ in range(2):
            self.assertEqual(self.answer(rule, "moved"), Route("main", "be2"))
        self.assertEqual(self.levels(events), ["warn"])

    def test_keys(self) -> None:
        """What is looked up is one key after the other, made of the name as the settings want it looked up."""
        self.replace("alice: be1\n@example.org: be2\n192.0.2.2: be3\n")
        self.house.settings = Settings(names=Names(lower_case=("lookup",)))  # type: ignore[arg-type]
        rule = self.make(keys=("{local}", "@{domain}", "{address}"))
        origin = Origin("s1", "imap", Peer("192.0.2.1", 4711, "192.0.2.2"))
        for name, backend in (("Alice@Example.ORG", "be1"), ("bob@Example.org", "be2"), ("bob", "be3")):
            route = self.wait(rule.route(Identity(name), "imap", origin))
            self.assertEqual(route, Route("main", backend), name)
        self.assertIsNone(self.answer(rule, "bob"))

    def test_changes(self) -> None:
        """A changed file is read again, but looked at only once a second."""
        rule = self.make()
        self.path.write_text("alice@example.org: be2:1143\n")
        self.assertEqual(self.answer(rule), Route("main", "be1"))
        self.house.reactor.advance(1)
        self.assertEqual(self.answer(rule), Route("main", "be2:1143"))

    def test_file_that_is_being_written(self) -> None:
        """A file that changed within the last second may be half of one, and waits; the first file of all does not."""
        self.house.reactor.advance(self.path.stat().st_mtime + 0.5)
        rule = self.make()
        self.house.reactor.advance(10)
        self.path.write_text("")
        os.utime(self.path, (0, self.house.reactor.seconds() + 0.5))
        self.house.reactor.advance(1)
        self.assertEqual(self.answer(rule), Route("main", "be1"))
        self.path.write_text("alice@example.org: be2\n")
        os.utime(self.path, (0, self.house.reactor.seconds()))
        self.house.reactor.advance(1)
        self.assertEqual(self.answer(rule), Route("main", "be2"))

    def test_another_file_of_the_same_age_and_size(self) -> None:
        """A file moved into place counts as changed even where its time and size are the old one's."""
        rule, old = self.make(), self.path.stat()
        new = self.path.with_suffix(".new")
        new.write_text(self.path.read_text().replace("be1", "be3"))
        os.utime(new, ns=(old.st_atime_ns, old.st_mtime_ns))
        new.replace(self.path)
        self.house.reactor.advance(1)
        self.assertEqual(self.answer(rule), Route("main", "be3"))

    def test_broken_file_changes_nothing(self) -> None:
        """A file that turns out broken leaves the old content in force, and is complained of once, by line."""
        rule, events = self.make(), self.logged()
        for text in ("alice@example.org: be2\nbob\n", b"alice@example.org: be2\n\xff: be1\n"):
            self.replace(text)
            for _ in range(3):
                self.assertEqual(self.answer(rule), Route("main", "be1"))
                self.house.reactor.advance(1)
        self.assertEqual(self.levels(events), ["error", "error"])
        self.assertIn(f"{self.path}:2: ", events[0]["trouble"])
        self.replace("alice@example.org: be3\n")
        self.assertEqual(self.answer(rule), Route("main", "be3"))

    def test_file_that_vanishes_changes_nothing(self) -> None:
        """A file that is gone leaves its content in force, complained of once, until there is one again."""
        rule, events = self.make(), self.logged()
        self.path.unlink()
        for _ in range(3):
            self.house.reactor.advance(1)
            self.assertEqual(self.answer(rule), Route("main", "be1"))
        self.assertEqual(self.levels(events), ["error"])
        self.replace("alice@example.org: be2\n")
        self.assertEqual(self.answer(rule), Route("main", "be2"))

    def test_pitfall_12_nothing_loaded(self) -> None:
        """Until a file was good for the first time everybody meets temporary trouble, and nobody falls through."""
        self.path.unlink()
        rule = self.make()
        self.assertIn("No such file", self.refused(rule, "nobody").reason)
        self.replace("broken\n")
        self.assertIn(":1: no colon", self.refused(rule, "nobody").reason)
        self.house.reactor.advance(1)
        self.assertIn(":1: no colon", self.refused(rule, "nobody").reason)
        self.replace("alice@example.org: be2\n")
        self.assertIsNone(self.answer(rule, "nobody"))

    def test_odd_lines_are_noted(self) -> None:
        """What is odd about a good file is logged with its line."""
        rule, events = self.make(), self.logged()
        self.replace("\ufeffa: h1\na: h2\n")
        self.assertEqual(self.answer(rule, "a"), Route("main", "h1"))
        self.assertEqual(self.levels(events), ["info", "warn"])

    def test_unknown_pool(self) -> None:
        """A pool that does not exist stops the start."""
        self.assertRaises(SettingsError, self.make, pool="other")
