"""Tests of L{mailgw.routing.sql}. The queries are run by SQLite, in this thread."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretBytes, ValidationError

from mailgw.errors import LoginRefused, SettingsError
from mailgw.model import Identity, Origin, Peer, RefusalKind, Route
from mailgw.routing.database import Rows
from mailgw.routing.sql import SqlRule
from tests.routing.contract import ALICE, FakeHouse, RoutingTestCase, RuleContract

QUERY = "SELECT backend, pool, login AS username FROM users WHERE name = {user}"
TABLE = """
CREATE TABLE users (name TEXT, backend TEXT, pool TEXT, login TEXT, number INTEGER);
INSERT INTO users VALUES ('alice@example.org', 'be1', NULL, NULL, 7);
INSERT INTO users VALUES ('bob@example.org', 'be2', 'labs', 'mbox17', NULL);
INSERT INTO users VALUES ('carol', NULL, 'labs', NULL, NULL);
INSERT INTO users VALUES ('dave', 'labs', NULL, ' mbox18 ', NULL);
INSERT INTO users VALUES ('twice', 'be1', NULL, NULL, NULL), ('twice', 'be1', NULL, NULL, NULL);
INSERT INTO users VALUES ('nowhere', NULL, NULL, NULL, NULL), ('blank', ' ', '', NULL, NULL);
INSERT INTO users VALUES ('badpool', NULL, 'mian', NULL, NULL), ('baduser', 'be1', NULL, 'a' || char(10) || 'b', NULL);
INSERT INTO users VALUES ('nouser', 'be1', NULL, '', NULL);
"""


class Here:
    """A database in this thread's memory."""

    def __init__(self) -> None:
        self.connection = sqlite3.connect(":memory:")
        self.connection.executescript(TABLE)
        self.asked: list[tuple[str, Mapping[str, str]]] = []
        self.down = False
        self.stopped = False

    async def ask(self, text: str, values: Mapping[str, str]) -> Rows:
        self.asked.append((text, values))
        if self.down:
            raise LoginRefused(RefusalKind.UNAVAILABLE, "down")
        cursor = self.connection.execute(text, values)
        return Rows(tuple(str(column[0]).lower() for column in cursor.description), cursor.fetchmany(2))

    async def stop(self) -> None:
        self.stopped = True
        self.connection.close()


class SqlRuleTests(RuleContract, RoutingTestCase):
    """L{SqlRule}."""

    def setUp(self) -> None:
        self.house = FakeHouse()

    def options(self, **others: Any) -> SqlRule.Options:
        """The options, with the pool main."""
        return SqlRule.Options.model_validate({"database": "sqlite:/x.db", "query": QUERY, "pool": "main", **others})

    def make(self, **others: Any) -> SqlRule:
        """The rule on a database of its own."""
        options = self.options(**others)
        self.here = Here()
        self.addCleanup(self.here.connection.close)
        return SqlRule(options, "named", self.here, self.house)

    def test_rows(self) -> None:
        """A backend, a pool or both, and perhaps who to log in as."""
        rule = self.make()
        for user, route in (
            ("alice@example.org", Route("main", "be1")),
            ("bob@example.org", Route("labs", "be2", username="mbox17")),
            ("carol", Route("labs")),
            ("dave", Route("labs", username="mbox18")),
            ("nobody", None),
        ):
            self.assertEqual(self.answer(rule, user), route)

    def test_rows_of_no_use(self) -> None:
        """Several rows, empty ones, pools and users that are none: trouble, never a guess."""
        rule = self.make()
        for user, words in (
            ("twice", "several rows"),
            ("nowhere", "neither backend nor pool"),
            ("blank", "neither backend nor pool"),
            ("badpool", "no pool 'mian'"),
            ("baduser", "no user of a backend"),
            ("nouser", "no user of a backend"),
        ):
            self.assertIn(words, self.refused(rule, user).reason)

    def test_columns(self) -> None:
        """The names of columns say what they are; a column alone may be called anything."""
        self.assertEqual(
            self.answer(self.make(query="SELECT 'be1' FROM users WHERE name = {user}")), Route("main", "be1")
        )
        self.assertEqual(
            self.answer(self.make(query="SELECT 'labs' AS POOL FROM users WHERE name = {user}")), Route("labs")
        )
        rule = self.make(query="SELECT backend, login FROM users WHERE name = {user}")
        self.assertIn("column 'login' is none of backend, pool, username", self.refused(rule).reason)
        rule = self.make(query="SELECT number FROM users WHERE name = {user}")
        self.assertIn("holds no text", self.refused(rule).reason)

    def test_without_a_pool(self) -> None:
        """A rule without a pool takes rows that name one, and refuses the others."""
        rule = self.make(pool=None)
        self.assertEqual(self.answer(rule, "carol"), Route("labs"))
        self.assertIn("names no pool", self.refused(rule).reason)

    def test_down(self) -> None:
        """A database that cannot answer is trouble, and no default."""
        rule = self.make()
        self.here.down = True
        self.assertEqual(self.refused(rule).reason, "down")

    def test_remembered(self) -> None:
        """With a cache it is asked once for all protocols, and again after a flush."""
        rule = self.make(cache="60s")
        for protocol in ("imap", "pop3", "smtp"):
            self.answer(rule, protocol=protocol)
        self.assertEqual(len(self.here.asked), 1)
        self.assertEqual(rule.flush("alice@example.org"), 1)
        self.answer(rule)
        self.assertEqual(len(self.here.asked), 2)

    def test_remembered_by_what_was_asked(self) -> None:
        """Where the query asks for the session, sessions that differ there share nothing."""
        rule = self.make(query="SELECT backend FROM users WHERE name = {user} AND {sni} <> 'x'", cache="60s")
        for sni in ("a.example", "b.example", "a.example"):
            self.wait(rule.route(ALICE, "imap", Origin("s", "imap", Peer("192.0.2.1", 1), sni=sni)))
        self.assertEqual([values["sni"] for _, values in self.here.asked], ["a.example", "b.example"])

    def test_stop(self) -> None:
        """Stopping hangs up."""
        rule = self.make()
        self.wait(rule.stop())
        self.assertTrue(self.here.stopped)

    def test_hostile_names(self) -> None:
        """No name is anything but a value: it finds only itself, and the text asked with is always the same."""
        rule = self.make()
        for name in (
            *(
                "' OR '1'='1",
                "x' UNION SELECT 'be1',NULL,NULL --",
                "'; DROP TABLE users; --",
                "\\' OR 1=1 --",
                "%",
                "_",
            ),
            *(":user", "?", "%(user)s", "{user}", "{domain}", "a\0b", "a\r\nb", "alice@example.org' --", "x" * 5000),
        ):
            self.assertIsNone(self.answer(rule, name), name)
            self.here.connection.execute("INSERT INTO users VALUES (?, 'be3', NULL, NULL, NULL)", (name,))
            self.assertEqual(self.answer(rule, name), Route("main", "be3"), name)
        self.assertEqual(len({text for text, _ in self.here.asked}), 1)
        self.assertEqual(self.answer(rule), Route("main", "be1"))

    @given(st.text(alphabet=st.characters(codec="utf-8")))
    def test_any_name(self, name: str) -> None:
        """Whatever a user is called, nobody else's row comes back."""
        identity = Identity(f"{name}x{name}", "test-1")  # like none in the table
        self.assertIsNone(self.answer(self.make(), identity))

    def test_from_options(self) -> None:
        """The rule is built without a connection; what is wrong stops the start."""
        rule = SqlRule.from_options("sql-1", self.options(database="postgresql://u@h/d", password="x"), self.house)
        self.assertEqual(rule.name, "sql")
        for wrong in ({"pool": "mian"}, {"database": "mysql://u@h/d", "ca": "/nowhere.pem"}):
            self.assertRaises(SettingsError, SqlRule.from_options, "sql-1", self.options(**wrong), self.house)
        options = self.options(database="postgresql://u@h/d").model_copy(update={"password": SecretBytes(b"\xff")})
        error = self.assertRaises(SettingsError, SqlRule.from_options, "sql-1", options, self.house)
        self.assertIn("not UTF-8", str(error))

    def test_options(self) -> None:
        """A query that could not be asked is a fault of the settings."""
        for wrong in (
            *({"query": "SELECT 1"}, {"query": "SELECT 1 WHERE n = '{user}'"}, {"database": "x.db"}, {"timeout": "0s"}),
            *({"connections": 0}, {"cache": "x"}),
        ):
            self.assertRaises(ValidationError, self.options, **wrong)

    def test_file(self) -> None:
        """A check of the settings sees the file of a SQLite database."""
        self.assertEqual(self.options().file, "/x.db")
        self.assertIsNone(self.options(database="mysql://u@h/d").file)
