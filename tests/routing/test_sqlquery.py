"""Tests of L{mailgw.routing.sqlquery}."""

from __future__ import annotations

import re
import sqlite3

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from mailgw.model import Origin, Peer
from mailgw.names import VALUES, Names
from mailgw.routing.sqlquery import Query
from mailgw.settings import Names as Options

NAMES = Names(Options())
ORIGIN = Origin("s", "imap", Peer("192.0.2.1", 4, "192.0.2.2", 143), sni="mail.example.org", listener="tcp:143")


class QueryTests(SynchronousTestCase):
    """L{Query}."""

    def fault(self, text: str) -> str:
        """Why a query is refused."""
        return str(self.assertRaises(ValueError, Query, text))

    def test_styles(self) -> None:
        """Keys become what the driver calls a parameter, as often as they stand there."""
        query = Query("SELECT b FROM u WHERE n = {user} OR n LIKE {user} AND d={domain}")
        self.assertEqual(query.written("named"), "SELECT b FROM u WHERE n = :user OR n LIKE :user AND d=:domain")
        self.assertEqual(
            query.written("pyformat"), "SELECT b FROM u WHERE n = %(user)s OR n LIKE %(user)s AND d=%(domain)s"
        )

    def test_values(self) -> None:
        """Only the keys that stand in the query have values; without a domain {local} is the whole name."""

        def values(text: str, name: str, origin: Origin | None = ORIGIN, names: Names = NAMES) -> dict[str, str]:
            return Query(text).values(name, origin, names)

        self.assertEqual(
            values("{user}{local}{domain}{sni}", "alice@example.org"),
            {"user": "alice@example.org", "local": "alice", "domain": "example.org", "sni": "mail.example.org"},
        )
        self.assertEqual(values("{local}{domain}", "bob"), {"local": "bob", "domain": ""})
        self.assertEqual(values("{user}{client}", "bob", None), {"user": "bob", "client": ""})
        shouting = Names(Options(lower_case=("lookup",), strip_domain=("lookup",)))
        self.assertEqual(values("{user}", "BOB@x", names=shouting), {"user": "bob"})

    def test_per_cent(self) -> None:
        """A per cent sign of the query stays one, whatever the style."""
        query = Query("SELECT b FROM u WHERE n LIKE '%x' AND m % 2 = {user}")
        self.assertEqual(query.written("pyformat") % {"user": "?"}, "SELECT b FROM u WHERE n LIKE '%x' AND m % 2 = ?")
        self.assertIn("LIKE '%x' AND m % 2", query.written("named"))

    def test_quotes(self) -> None:
        """Quotes, comments and doubled braces are left alone."""
        text = "SELECT '{', \"}\", `{x}`, {{}} /* ' { */ -- it's {\n FROM u WHERE n = {user}"
        written = text.replace("{{", "{").replace("}}", "}").replace("{user}", ":user")
        self.assertEqual(Query(text).written("named"), written)

    def test_key_in_quotes(self) -> None:
        """A key in quotes or comments would be no key; it is told, not asked for literally."""
        for text in ("n = '{user}'", 'n = "x{local}"', "n = {user} -- {domain}", "{user} /* {user} */", "`{user}`"):
            self.assertIn("stands inside quotes", self.fault(f"SELECT b FROM u WHERE {text}"))

    def test_faults(self) -> None:
        """What cannot be meant is refused, and told."""
        for text, words in (
            ("n = {usr}", "unknown {usr}; there are {user}, {local}, {domain}, "),
            ("n = {}", "unknown {}"),
            ("n = {user", "a single {; write {{"),
            ("n = {user}}", "a single }"),
            ("n = {user} AND x = '", "' is not closed"),
            ("n = {user} /* ", "/* is not closed"),
            ("n = 1", "asks the same for every user"),
            ("n = {user.__class__}", "unknown {user.__class__}"),
        ):
            self.assertIn(words, self.fault(f"SELECT b FROM u WHERE {text}"))

    @given(st.text(alphabet="{}us'\"`-/*% \n\\", max_size=30))
    def test_whatever_stands_there(self, text: str) -> None:
        """Any text with a key is refused in words, or comes out with nothing but its keys and braces changed."""
        try:
            query = Query(text + "{user}")
        except ValueError as error:
            self.assertTrue(str(error))
            return
        named = query.written("named")
        self.assertTrue(named.endswith(":user"))
        unescaped = query.written("pyformat") % {"user": ":user"}
        self.assertEqual(unescaped, named)

    @given(st.text(), st.sampled_from(sorted(VALUES)))
    def test_no_name_gets_into_the_text(self, name: str, key: str) -> None:
        """The text is the same for every user, and a database gets the name back as it is."""
        query = Query(f"SELECT {{{key}}}")
        self.assertTrue(re.fullmatch(r"SELECT :\w+", query.written("named")))
        try:
            name.encode()
        except UnicodeEncodeError:
            return
        database = sqlite3.connect(":memory:")
        self.addCleanup(database.close)
        values = query.values(name, ORIGIN, NAMES)
        self.assertEqual(database.execute(query.written("named"), values).fetchone(), (values[key],))
