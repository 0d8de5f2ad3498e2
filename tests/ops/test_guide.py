"""Tests of L{mailgw.ops.guide}."""

from __future__ import annotations

from typing import Any, cast

from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from mailgw.errors import BackendFailed, DirectoryDown, LoginRefused
from mailgw.interfaces import IDirectory, IPool, IRouter
from mailgw.model import LOCAL, Backend, Failure, Identity, RefusalKind, Route, Step
from mailgw.ops.board import Board
from mailgw.ops.control import Refused, Row
from mailgw.ops.guide import OVERRIDE, Guide
from mailgw.ops.holds import HOLD

ANNA = Identity("anna@x", "ldap-1", "uid=anna,o=x", ("anna@x",), ("cn=mail",), {"mailHost": ("be1",)})


class FakeDirectory:
    """Knows Anna by her uid, or nobody; can be down."""

    def __init__(self, name: str, *known: Identity) -> None:
        self.name, self.known, self.down, self.asked = name, known, False, list[str]()

    async def lookup(self, address: str, envelope: object = None) -> Identity | None:
        self.asked.append(address)
        if self.down:
            raise DirectoryDown(f"{self.name}: nobody answers")
        return next((one for one in self.known if one.username.partition("@")[0] == address), None)


class ToldDirectory(FakeDirectory):
    """Can say what it asks, has a cache, and finds readers by a way of their own."""

    def question(self, user: str) -> str:
        return f"(uid={user})"

    def flush(self, user: str | None = None) -> int:
        return 3

    def holds(self, user: str) -> int:
        return 2

    async def locate(self, user: str, protocol: str) -> Identity | None:
        self.asked.append(f"{user} by {protocol}")
        return await FakeDirectory.lookup(self, user)


class FakeRouter:
    """Sends everybody to one place, or raises."""

    def __init__(self) -> None:
        self.answer: Route | Exception = Route("main")

    async def route(self, identity: Identity, protocol: str) -> Route:
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer

    async def explain(self, identity: Identity, protocol: str) -> list[Step]:
        return [Step("override", "not its business"), Step("pool", "pool main")]

    def flush(self, user: str | None = None) -> int:
        return 5


class FakePool:
    """Two members; be2 is preferred."""

    name = "main"
    trouble = False

    def rows(self) -> list[Row]:
        names = ("be1", "be2", "be3")
        return [{"pool": "main", "name": name, "protocol": protocol} for name in names for protocol in ("imap", "pop3")]

    def candidates(self, username: str, protocol: str, route: Route) -> list[Backend]:
        if self.trouble:
            raise BackendFailed(Failure.TEMPFAIL, "out of service (drain)")
        return [Backend("main", "be2", "10.0.0.2", 143), Backend("main", "be1", "10.0.0.1", 143)]


class GuideTests(SynchronousTestCase):
    def setUp(self) -> None:
        """Two directories; the second one knows Anna."""
        self.first, self.second = FakeDirectory("passwd-1"), ToldDirectory("ldap-1", ANNA)
        self.router, self.pool, self.board = FakeRouter(), FakePool(), Board()
        self.guide = Guide(
            cast(list[IDirectory], [self.first, self.second]),
            cast(IRouter, self.router),
            cast(dict[str, IPool], {"main": self.pool}),
            self.board,
            str.lower,
            self.target,
        )

    @staticmethod
    def target(text: str) -> str:
        """What a backend means."""
        if text == "be9":
            raise ValueError("be9 is nothing")
        return f"main/{text}"

    def explain(self, user: str = "anna", protocol: str = "imap") -> Row:
        """All about a user."""
        said: Row = self.successResultOf(Deferred.fromCoroutine(self.guide.explain(user, protocol)))
        return said

    def meaning(self, user: str, backend: str | None) -> Deferred[Row]:
        """Who and where that is."""
        return Deferred.fromCoroutine(self.guide.meaning(user, backend))

    def test_whole(self) -> None:
        """Each directory, the user, each rule, the members in the order of preference, and the one who is chosen."""
        self.board.post(OVERRIDE, "anna@x", "main/be2")
        self.board.post(HOLD, "anna@x", "30")
        row = self.explain("ANNA")
        self.assertEqual(
            row["directories"],
            [
                {"directory": "passwd-1", "query": "", "answer": "not known here"},
                {"directory": "ldap-1", "query": "(uid=anna)", "answer": "anna@x uid=anna,o=x"},
            ],
        )
        expected: dict[str, Any] = {
            "user": "ANNA",
            "username": "anna@x",
            "groups": ["cn=mail"],
            "attributes": {"mailHost": ["be1"]},
            "override": "main/be2",
            "hold": "30",
            "pool": "main",
            "backend": "main/be2 (10.0.0.2:143)",
            "refused": None,
            "cache": {"logins": 2, "routes": None},
        }
        self.assertEqual({name: row[name] for name in expected}, expected)
        self.assertEqual([one["name"] for one in row["members"]], ["be2", "be1", "be3"])
        self.assertEqual({one["protocol"] for one in row["members"]}, {"imap"})
        self.assertEqual(self.second.asked, ["anna by imap", "anna"])

    def test_mail(self) -> None:
        """For mail the question is that for a recipient."""
        self.explain(protocol="smtp")
        self.assertEqual(self.second.asked, ["anna"])

    def test_local(self) -> None:
        """The local store has no pool."""
        self.router.answer = LOCAL
        row = self.explain()
        self.assertEqual((row["pool"], row["backend"], row["members"]), (None, "local", []))

    def test_refused(self) -> None:
        """Why somebody would be refused, with all that is known up to there."""
        self.assertEqual(self.explain("carl")["refused"], "no directory knows this user")
        self.router.answer = LoginRefused(RefusalKind.UNAVAILABLE, "no rule answered")
        row = self.explain()
        self.assertEqual((row["refused"], len(row["rules"])), ("unavailable: no rule answered", 2))
        self.router.answer, self.pool.trouble = Route("main"), True
        row = self.explain()
        self.assertIn("out of service", row["refused"])
        self.assertEqual((row["backend"], len(row["members"])), (None, 3))

    def test_directory_down(self) -> None:
        """Trouble of one directory is no answer of the next."""
        self.first.down = True
        row = self.explain()
        self.assertEqual(row["refused"], "a directory cannot tell now")
        self.assertEqual([one["directory"] for one in row["directories"]], ["passwd-1"])
        self.assertIn("cannot tell who 'anna' is", str(self.failureResultOf(self.meaning("anna", None), Refused).value))

    def test_meaning(self) -> None:
        """The canonical name and the word for the board."""
        for user, backend, row in (
            ("Anna", "be1", {"user": "anna@x", "target": "main/be1"}),
            ("anna", None, {"user": "anna@x", "target": None}),
            ("carl", "be1", {"user": None, "target": "main/be1"}),
        ):
            self.assertEqual(self.successResultOf(self.meaning(user, backend)), row)
        self.assertEqual(str(self.failureResultOf(self.meaning("anna", "be9"), Refused).value), "be9 is nothing")

    def test_flush(self) -> None:
        """What directories and rules have forgotten."""
        self.assertEqual(self.guide.flush(None), {"logins": 3, "routes": 5})

    def test_backends(self) -> None:
        """The pools' rows, with a name that says which pool."""
        self.assertEqual({row["at"] for row in self.guide.backends()}, {"main/be1", "main/be2", "main/be3"})
