"""Tests of L{mailgw.routing.database} with real files and real threads."""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager

from twisted.internet import reactor
from twisted.internet.defer import Deferred, gatherResults
from twisted.trial.unittest import TestCase

from mailgw.errors import LoginRefused
from mailgw.model import RefusalKind
from mailgw.routing.database import Database, Rows
from mailgw.routing.sqlsource import Trust, source_of

QUERY = "SELECT backend FROM users WHERE name = :user"
FOR_EVER = "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n) SELECT max(x) FROM n WHERE x <> :user"


class DatabaseTests(TestCase):
    """L{Database} on SQLite."""

    timeout = 60

    def setUp(self) -> None:
        self.path = os.path.abspath(self.mktemp()) + " ?#%41.db"
        self.write(self.path, "be1")
        self.database = self.make()

    def make(self, timeout: float = 10.0, size: int = 2, queue: int = 10) -> Database:
        """A database over the file."""
        source = source_of(f"sqlite:{self.path}", b"", timeout, Trust())
        database = Database("sql-1", source, reactor, size, queue, timeout)
        self.addCleanup(lambda: Deferred.fromCoroutine(database.stop()))
        return database

    def write(self, path: str, backend: str) -> None:
        """A new file with one user."""
        with closing(sqlite3.connect(path)) as connection, connection:
            connection.execute("CREATE TABLE users (name TEXT, backend TEXT)")
            connection.execute("INSERT INTO users VALUES ('alice', ?)", (backend,))

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Nobody can read meanwhile."""
        with closing(sqlite3.connect(self.path)) as connection:
            connection.execute("BEGIN EXCLUSIVE")
            yield

    async def backend(self, user: str = "alice") -> object:
        """What stands in the user's row."""
        found = await self.database.ask(QUERY, {"user": user})
        self.assertEqual(found.columns, ("backend",))
        return found.rows[0][0] if found.rows else None

    async def trouble(self, text: str = QUERY, user: str = "alice") -> str:
        """The reason of a refusal."""
        try:
            await self.database.ask(text, {"user": user})
        except LoginRefused as error:
            self.assertIs(error.refusal.kind, RefusalKind.UNAVAILABLE)
            return error.refusal.reason
        raise AssertionError("no trouble")

    async def test_rows(self) -> None:
        """Rows, their columns, and no more than two of them."""
        self.assertEqual(await self.backend(), "be1")
        self.assertIsNone(await self.backend("nobody"))
        many = await self.database.ask("VALUES (:user), (2), (3)", {"user": "x"})
        self.assertEqual(many, Rows(("column1",), [("x",), (2,)]))

    async def test_only_reads(self) -> None:
        """What would write is trouble, and nothing is written."""
        self.assertIn("readonly", await self.trouble("DELETE FROM users WHERE name = :user"))
        self.assertEqual(await self.backend(), "be1")

    async def test_no_rows_at_all(self) -> None:
        """A statement that can bring no rows is trouble, not a user who is not there."""
        self.assertIn("brings no rows", await self.trouble("PRAGMA shrink_memory"))

    async def test_faults_of_the_query(self) -> None:
        """Tables and columns that are not there are trouble with the database's words."""
        self.assertIn("no such table: absent", await self.trouble("SELECT 1 FROM absent WHERE :user"))

    async def test_names_that_cannot_be_asked_for(self) -> None:
        """A name that cannot be encoded is trouble, and the next one is asked as usual."""
        self.assertIn("sql-1", await self.trouble(user="\udc80"))
        self.assertEqual(await self.backend(), "be1")

    async def test_file_that_is_not_there(self) -> None:
        """A missing file is trouble and not made; once it is there it is used."""
        os.rename(self.path, self.path + ".away")
        self.assertTrue(await self.trouble())
        self.assertFalse(os.path.exists(self.path))
        os.rename(self.path + ".away", self.path)
        self.assertEqual(await self.backend(), "be1")

    async def test_file_replaced(self) -> None:
        """A new file moved into the old one's place counts with the next question."""
        self.assertEqual(await self.backend(), "be1")
        self.write(self.path + ".new", "be2")
        os.rename(self.path + ".new", self.path)
        self.assertEqual(await self.backend(), "be2")

    async def test_file_changed(self) -> None:
        """So does a change in the file."""
        self.assertEqual(await self.backend(), "be1")
        with closing(sqlite3.connect(self.path)) as connection, connection:
            connection.execute("UPDATE users SET backend = 'be3'")
        self.assertEqual(await self.backend(), "be3")

    async def test_file_that_is_none(self) -> None:
        """A file that is no database is trouble."""
        with open(self.path, "wb") as stream:
            stream.write(b"alice: be1\n" * 1000)
        self.assertIn("not a database", await self.trouble())

    async def test_query_without_end(self) -> None:
        """A query that takes too long is trouble, and its thread is free again."""
        self.database = self.make(timeout=0.2, size=1)
        self.assertTrue(await self.trouble(FOR_EVER))
        await self.until_idle()
        self.assertEqual(await self.backend(), "be1")

    async def test_locked(self) -> None:
        """So is a database that somebody has locked."""
        self.database = self.make(timeout=0.2, size=1)
        with self.locked():
            self.assertTrue(await self.trouble())
        await self.until_idle()
        self.assertEqual(await self.backend(), "be1")

    async def test_overloaded(self) -> None:
        """Questions past the queue's bound are trouble at once; the others are answered."""
        self.database = self.make(size=1, queue=2)
        with self.locked():
            asked = [Deferred.fromCoroutine(self.backend()) for _ in range(3)]
            self.assertIn("overloaded", await self.trouble())
        self.assertEqual(await gatherResults(asked), ["be1"] * 3)

    async def test_threads(self) -> None:
        """There are no more threads than connections, and none before the first question."""

        def ours() -> int:
            return sum(thread.name.startswith("PoolThread-sql-1") for thread in threading.enumerate())

        self.assertEqual(ours(), 0)
        self.database = self.make(size=2, queue=100)
        await gatherResults([Deferred.fromCoroutine(self.backend()) for _ in range(20)])
        self.assertLessEqual(ours(), 2)

    async def test_stop(self) -> None:
        """After the stop there are no connections, and nobody is asked; stopping what never began is nothing."""
        await self.backend()
        self.assertEqual(len(self.database._connections.connections), 1)
        await self.database.stop()
        self.assertEqual(self.database._connections.connections, {})
        self.assertIn("not running", await self.trouble())
        idle = self.make()
        await idle.stop()
        self.database = idle
        self.assertIn("not running", await self.trouble())

    async def until_idle(self) -> None:
        """Wait until no thread is at work."""
        while self.database._crew.outstanding:
            turn: Deferred[None] = Deferred()
            reactor.callLater(0.01, turn.callback, None)  # type: ignore[attr-defined]
            await turn
