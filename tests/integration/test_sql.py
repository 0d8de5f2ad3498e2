"""Databases say where users go: a real PostgreSQL and SQLite, with whatever can happen to them."""

from __future__ import annotations

import imaplib
import os
import socket
import sqlite3
import time
from contextlib import closing
from pathlib import Path

from twisted.internet import reactor
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.threads import deferToThread
from twisted.trial.unittest import TestCase

from mailgw.errors import LoginRefused
from mailgw.model import RefusalKind
from mailgw.routing import sqlsource
from mailgw.routing.database import Database, Rows
from mailgw.routing.sqlsource import Trust, source_of
from tests.integration.case import ServersTestCase
from tests.integration.certificates import certificates
from tests.integration.clients import Imap, trusting
from tests.integration.dovecot import Dovecot
from tests.integration.gateway import ROOMY, Gateway
from tests.integration.ports import HOST, free_port, needs
from tests.integration.postgresql import DATABASE, PASSWORD, USER, Postgresql

TABLE = "CREATE TABLE users (name TEXT, backend TEXT, login TEXT)"
QUERY = "SELECT backend, login FROM users WHERE name = %(user)s"
HOSTILE = (
    *("' OR '1'='1", "x'; DROP TABLE users; --", "\\'; DROP TABLE users; --", "E'\\x27", "$$", "%", "%%", "%(user)s"),
    *("{user}", ":user", "?", "$1", "a\r\nb", "ünïcödé@bücher.example", "x" * 5000),
)
SKIP = needs("initdb", "postgres", "psql")


def quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


class PostgresqlTests(TestCase):
    """L{Database} on a real PostgreSQL."""

    skip = SKIP
    timeout = 120

    def setUp(self) -> None:
        self.server = Postgresql()
        self.addCleanup(self.server.stop)
        self.server.start()
        grant = f"; GRANT ALL ON users TO {USER}"
        rows = ", ".join(f"({quoted(name)}, 'be-{number}', NULL)" for number, name in enumerate(("alice", *HOSTILE)))
        self.server.run_sql(f"{TABLE}{grant}; INSERT INTO users VALUES {rows}")
        self.database = self.make()

    def make(
        self, uri: str = "", timeout: float = 2.0, size: int = 2, password: str = PASSWORD, **trust: object
    ) -> Database:
        source = source_of(uri or self.server.uri, password.encode(), timeout, Trust(**trust))  # type: ignore[arg-type]
        database = Database("sql-1", source, reactor, size, 10, timeout)
        self.addCleanup(lambda: Deferred.fromCoroutine(database.stop()))
        return database

    async def ask(self, user: str = "alice", text: str = QUERY) -> Rows:
        return await self.database.ask(text, {"user": user})

    async def trouble(self, text: str = QUERY, user: str = "alice") -> str:
        """The reason of a refusal, which never has a password in it."""
        try:
            await self.ask(user, text)
        except LoginRefused as error:
            self.assertIs(error.refusal.kind, RefusalKind.UNAVAILABLE)
            self.assertNotIn(PASSWORD, error.refusal.reason)
            return error.refusal.reason
        raise AssertionError("no trouble")

    async def test_rows(self) -> None:
        """Rows and the names of their columns, by TCP and by the socket."""
        for uri in (self.server.uri, self.server.socket_uri):
            self.database = self.make(uri)
            self.assertEqual(await self.ask(), Rows(("backend", "login"), [("be-0", None)]))
            self.assertEqual((await self.ask("nobody")).rows, [])

    async def test_hostile_names(self) -> None:
        """Each name finds itself and nobody else, and the table is still there."""
        for number, name in enumerate(HOSTILE, 1):
            self.assertEqual((await self.ask(name)).rows, [(f"be-{number}", None)], name)
            self.assertEqual((await self.ask(name + "x")).rows, [], name)
        for name in ("a\0b", "\udc80"):  # no text of PostgreSQL's
            self.assertTrue(await self.trouble(user=name))
        self.assertEqual((await self.ask()).rows, [("be-0", None)])

    async def test_per_cent(self) -> None:
        """Per cent signs of a query from the settings are doubled, and mean themselves again."""
        found = await self.ask(text="SELECT backend FROM users WHERE name LIKE 'ali%%' AND name = %(user)s")
        self.assertEqual(found.rows, [("be-0",)])

    async def test_only_reads(self) -> None:
        """The account may write and the rule does not."""
        for text in (
            "DELETE FROM users WHERE name = %(user)s RETURNING backend",
            "INSERT INTO users VALUES (%(user)s) RETURNING backend",
        ):
            self.assertIn("read-only transaction", await self.trouble(text))
        self.assertEqual((await self.ask()).rows, [("be-0", None)])

    async def test_restarted(self) -> None:
        """After the server was away the first question on every connection is answered."""
        slow = "SELECT backend FROM users, pg_sleep(0.2) WHERE name = %(user)s"
        both = [Deferred.fromCoroutine(self.ask(text=slow)) for _ in range(2)]
        await gatherResults(both)
        self.assertEqual(len(self.database._connections.connections), 2)
        await deferToThread(self.server.end)
        self.assertIn("refused", await self.trouble())
        await deferToThread(self.server.start)
        both = [Deferred.fromCoroutine(self.ask(text=slow)) for _ in range(2)]
        self.assertEqual([found.rows for found in await gatherResults(both)], [[("be-0",)]] * 2)

    async def test_connection_ended_by_the_server(self) -> None:
        """A connection that somebody has ended is renewed in the middle of a question; nobody notices."""
        await self.ask()
        ended = f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = '{USER}'"
        await deferToThread(self.server.run_sql, ended)
        self.assertEqual((await self.ask()).rows, [("be-0", None)])

    async def test_hangs(self) -> None:
        """A server that hangs is trouble within the timeout, keeps no thread, and is asked again when it goes on."""
        self.database = self.make(timeout=0.5, size=1)
        await self.ask()
        self.server.pause()
        began = time.monotonic()
        self.assertIn("did not answer within 0.5 s", await self.trouble())
        self.assertLess(time.monotonic() - began, 1.5)
        while self.database._crew.outstanding:
            await deferToThread(time.sleep, 0.01)
        self.assertLess(time.monotonic() - began, 3.0)
        self.server.resume()
        self.assertEqual((await self.ask()).rows, [("be-0", None)])

    async def test_query_without_end(self) -> None:
        """The server itself stops a query that takes too long, so that no thread is lost."""
        self.database = self.make(timeout=0.5, size=1)
        await self.trouble("SELECT backend FROM users, pg_sleep(60) WHERE name = %(user)s")
        began = time.monotonic()
        self.assertEqual((await self.ask()).rows, [("be-0", None)])
        self.assertLess(time.monotonic() - began, 1.0)

    async def test_silent_server(self) -> None:
        """A port that accepts and says nothing is trouble within the timeout."""
        with closing(socket.create_server((HOST, free_port()))) as deaf:
            port = deaf.getsockname()[1]
            self.database = self.make(f"postgresql://{USER}@{HOST}:{port}/{DATABASE}", timeout=0.5)
            began = time.monotonic()
            self.assertIn("did not answer", await self.trouble())
            self.assertLess(time.monotonic() - began, 1.5)

    async def test_wrong_password(self) -> None:
        """A password that the database refuses is trouble, and is not shown."""
        self.database = self.make(password="wrong")
        reason = await self.trouble()
        self.assertIn("password authentication failed", reason)

    async def test_tls(self) -> None:
        """Over a network there is TLS, with a certificate that is checked by CA and name."""
        secure = "SELECT CASE WHEN ssl THEN 'yes' END FROM pg_stat_ssl WHERE pid = pg_backend_pid() AND %(user)s <> ''"
        ca = str(certificates().ca)
        elsewhere = self.server.uri.replace(HOST, "0.0.0.0")  # leads here, and is no address of ours to the rule
        self.database = self.make(elsewhere, ca=ca)
        self.assertIn("certificate", await self.trouble(secure))
        self.database = self.make(elsewhere, verify=False)
        self.assertEqual((await self.ask(text=secure)).rows, [("yes",)])
        self.patch(sqlsource, "_at_home", lambda parts: False)
        self.database = self.make(ca=ca)
        self.assertEqual((await self.ask(text=secure)).rows, [("yes",)])
        self.database = self.make()
        self.assertIn("certificate", await self.trouble(secure))  # no CA of this system


class GatewayTests(ServersTestCase):
    """Two Dovecots; a database says who is on which, first PostgreSQL, then a file."""

    skip = needs("dovecot", "initdb", "postgres", "psql")
    one: Dovecot
    two: Dovecot
    server: Postgresql

    @classmethod
    def start_servers(cls) -> None:
        users = dict.fromkeys(("anna", "ben", "carl", "mbox17"), b"pw")
        cls.one, cls.two = (cls.run_server(Dovecot(users)) for _ in range(2))
        cls.server = cls.run_server(Postgresql())
        cls.server.run_sql(f"{TABLE}; GRANT SELECT ON users TO {USER}; INSERT INTO users VALUES {cls.rows()}")

    @classmethod
    def rows(cls) -> str:
        one, two = (f"'{HOST}:{server.imap}'" for server in (cls.one, cls.two))
        return f"('anna', {one}, NULL), ('ben', {two}, NULL), ('alias', {two}, 'mbox17'), ('bad', 'a b', NULL)"

    def start(self, rule: str, workers: int = 0) -> Gateway:
        """A gateway with one rule, and behind it one that knows everybody: it must not be asked in trouble."""
        gateway = Gateway()
        gateway.workers = workers
        self.addCleanup(gateway.stop)
        names = ("anna", "ben", "carl", "alias", "bad")
        (gateway.folder / "passwd").write_text("".join(f"{name}:{{PLAIN}}pw\n" for name in names))
        (gateway.folder / "database.secret").write_text(PASSWORD + "\n")
        gateway.write(f"""
[domains]
accept = ["example.org"]
[[directory]]
kind = "passwd"
file = "passwd"
[[route]]
kind = "sql"
{rule}
pool = "main"
[[route]]
kind = "regex"
match = "."
backend = "{HOST}:{self.one.imap}"
pool = "main"
[pool.main]
members = []
ca = "ca.pem"
[pool.main.imap]
[pool.main.pop3]
[pool.main.smtp]
{ROOMY}""")
        self.prepare(gateway.folder)
        gateway.start()
        return gateway

    def prepare(self, folder: Path) -> None:
        """A SQLite database in the gateway's folder."""
        with closing(sqlite3.connect(folder / "users.db")) as connection, connection:
            connection.executescript(f"{TABLE}; INSERT INTO users VALUES {self.rows()}")

    def postgresql(self, more: str = "", workers: int = 0) -> Gateway:
        query = "SELECT backend, login AS username FROM users WHERE name = {user}"
        secret = 'password = {file = "database.secret"}'
        return self.start(
            f'database = "{self.server.uri}"\n{secret}\nquery = "{query}"\ntimeout = "1s"\n{more}', workers
        )

    def lands_on(self, gateway: Gateway, user: str) -> tuple[Dovecot, str]:
        """The backend that a login reaches, and as whom."""
        before = {server: server.log().count("Login: user=<") for server in (self.one, self.two)}
        client = Imap(gateway.ports.imaps, "implicit", trusting(certificates().ca))
        client.login(user, "pw")
        client.logout()
        (server,) = (server for server in before if server.log().count("Login: user=<") > before[server])
        return server, server.log().rpartition("Login: user=<")[2].partition(">")[0]

    def trouble(self, gateway: Gateway, user: str) -> None:
        """A login is told of temporary trouble."""
        client = Imap(gateway.ports.imaps, "implicit", trusting(certificates().ca))
        error = self.assertRaises(imaplib.IMAP4.error, client.login, user, "pw")
        self.assertIn("UNAVAILABLE", str(error))
        client.shutdown()

    def check_users(self, gateway: Gateway) -> None:
        """Everybody lands where the table says, and whom it does not know is the next rule's."""
        self.assertEqual(self.lands_on(gateway, "anna"), (self.one, "anna"))
        self.assertEqual(self.lands_on(gateway, "ben"), (self.two, "ben"))
        self.assertEqual(self.lands_on(gateway, "alias"), (self.two, "mbox17"))
        self.assertEqual(self.lands_on(gateway, "carl"), (self.one, "carl"))
        self.trouble(gateway, "bad")

    def test_postgresql(self) -> None:
        """Users are where PostgreSQL says; while it is away there is trouble, and no default."""
        gateway = self.postgresql()
        self.check_users(gateway)
        self.server.end()
        try:
            self.trouble(gateway, "carl")
            self.trouble(gateway, "anna")
        finally:
            self.server.start()
        self.check_users(gateway)

    def test_workers(self) -> None:
        """Workers have connections of their own, and they too find a database again that was away."""
        gateway = self.postgresql(workers=2)
        for _ in range(3):
            self.check_users(gateway)
        self.server.end()
        self.server.start()
        for _ in range(3):
            self.check_users(gateway)

    def test_cache(self) -> None:
        """What is remembered is still known while the database is away."""
        gateway = self.postgresql('cache = "1h"\ncache_negative = "1h"')
        self.check_users(gateway)
        self.server.end()
        try:
            self.assertEqual(self.lands_on(gateway, "ben"), (self.two, "ben"))
            self.assertEqual(self.lands_on(gateway, "carl"), (self.one, "carl"))
            self.trouble(gateway, "bad")
        finally:
            self.server.start()

    def test_sqlite(self) -> None:
        """Users are where the file beside the settings says, also when a new one takes its place."""
        query = "SELECT backend, login AS username FROM users WHERE name = {user}"
        gateway = self.start(f'database = "sqlite:users.db"\nquery = "{query}"')
        self.check_users(gateway)
        with closing(sqlite3.connect(gateway.folder / "new.db")) as connection, connection:
            connection.executescript(f"{TABLE}; INSERT INTO users VALUES ('anna', '{HOST}:{self.two.imap}', NULL)")
        os.rename(gateway.folder / "new.db", gateway.folder / "users.db")
        self.assertEqual(self.lands_on(gateway, "anna"), (self.two, "anna"))
        gateway.reload()
        gateway.wait_for_log("reloaded")
        self.assertEqual(self.lands_on(gateway, "anna"), (self.two, "anna"))
        os.unlink(gateway.folder / "users.db")
        self.trouble(gateway, "carl")
        checked = gateway.run("check").stdout.decode()
        self.assertIn("users.db: cannot be read: No such file", checked)
