"""Tests of L{mailgw.directory.cache}."""

from __future__ import annotations

import pickle
from dataclasses import replace
from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase, TestCase

from mailgw.directory.cache import CachedDirectory
from mailgw.errors import DirectoryDown, LoginRefused
from mailgw.interfaces import IDirectory
from mailgw.model import Identity, Login
from tests.directory.contract import ALICE, DirectoryContract, FakeDirectory


class CacheContractTests(DirectoryContract, TestCase):
    """A cached directory is a directory."""

    def make(self) -> IDirectory:
        return CachedDirectory(FakeDirectory(alice=b"alicepw"), Clock(), 60)


class CachedDirectoryTests(SynchronousTestCase):
    """L{CachedDirectory}."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.directory = FakeDirectory(alice=b"alicepw", bob=b"bobpw")
        self.cache = CachedDirectory(self.directory, self.clock, 60, size=3)

    def ask(self, login: Login = ALICE) -> Deferred[Identity | None]:
        return Deferred.fromCoroutine(self.cache.authenticate(login))

    def good(self, login: Login = ALICE) -> Identity | None:
        return self.successResultOf(self.ask(login))

    def times(self) -> int:
        return len(self.directory.asked)

    def test_remembers(self) -> None:
        """A good login is not asked about again, until its time is over."""
        first = self.good()
        self.clock.advance(59.9)
        self.assertEqual(self.good(), first)
        self.assertEqual(self.times(), 1)
        self.clock.advance(0.1)
        self.good()
        self.assertEqual(self.times(), 2)

    def test_use_does_not_prolong(self) -> None:
        """A login that is used all the time is asked about again all the same."""
        for _ in range(7):
            self.good()
            self.clock.advance(10)
        self.assertEqual(self.times(), 2)

    def test_different_password(self) -> None:
        """A different password always asks, and is refused while the right one is remembered."""
        self.good()
        for _ in range(2):
            self.failureResultOf(self.ask(replace(ALICE, password=b"wrong")), LoginRefused)
        self.assertEqual(self.times(), 3)
        self.good()
        self.assertEqual(self.times(), 3)

    def test_every_field_counts(self) -> None:
        """User, mechanism and authorization identity are part of what is remembered."""
        self.good()
        for login in (
            replace(ALICE, username="alice"),
            replace(ALICE, mechanism="LOGIN"),
            replace(ALICE, authzid="alice@example.org"),
        ):
            before = self.times()
            self.good(login)
            self.assertEqual(self.times(), before + 1, login)

    def test_fields_do_not_run_together(self) -> None:
        """What moves from one field to the next makes another key."""
        digest: Any = self.cache._digest
        keys = {digest("ab", b"c", ""), digest("a", b"bc", ""), digest("abc", b"", ""), digest("ab", b"", "c")}
        self.assertEqual(len(keys), 4)

    def test_directories_do_not_share(self) -> None:
        """Two caches have different keys for the same login."""
        other = CachedDirectory(self.directory, self.clock, 60)
        self.assertNotEqual(self.cache._digest("a"), other._digest("a"))

    def test_no_password(self) -> None:
        """Neither keys nor entries hold a password."""
        self.good()
        entries = self.cache._memory._entries
        held = pickle.dumps((list(entries), [repr(entry) for entry in entries.values()]))
        self.assertNotIn(b"alicepw", held)

    def test_refusals_not_remembered(self) -> None:
        """A refusal is not remembered: the password may have been set a moment later."""
        login = replace(ALICE, password=b"new")
        self.failureResultOf(self.ask(login), LoginRefused)
        self.directory.users["alice"] = b"new"
        self.good(login)

    def test_unknown_not_remembered(self) -> None:
        """An unknown user is not remembered either."""
        login = Login("carol", b"c")
        self.assertIsNone(self.good(login))
        self.directory.users["carol"] = b"c"
        self.assertIsNotNone(self.good(login))

    def test_trouble(self) -> None:
        """Trouble is trouble, and not remembered; what is remembered is served meanwhile."""
        self.good()
        self.directory.trouble = DirectoryDown("gone")
        self.good()
        self.failureResultOf(self.ask(Login("bob", b"bobpw")), DirectoryDown)
        self.directory.trouble = None
        self.good(Login("bob", b"bobpw"))

    def test_new_password_ends_the_old_one(self) -> None:
        """As soon as a new password was good, the old one is asked about again."""
        self.good()
        self.directory.users["alice"] = b"new"
        self.good(replace(ALICE, password=b"new"))
        self.failureResultOf(self.ask(), LoginRefused)

    def test_bounded(self) -> None:
        """The entry not used for longest makes room."""
        names = ["u1", "u2", "u3", "u4"]
        self.directory.users.update(dict.fromkeys(names, b"x"))
        for name in names[:3]:
            self.good(Login(name, b"x"))
        self.good(Login("u1", b"x"))
        self.good(Login("u4", b"x"))
        self.assertEqual(self.times(), 4)
        self.good(Login("u1", b"x"))
        self.assertEqual(self.times(), 4)
        self.good(Login("u2", b"x"))
        self.assertEqual(self.times(), 5)
        self.assertEqual(len(self.cache._memory._entries), 3)

    def test_index_does_not_grow(self) -> None:
        """What is forgotten leaves nothing behind."""
        self.good(), self.good(replace(ALICE, mechanism="LOGIN")), self.good(Login("bob", b"bobpw"))
        self.cache.flush()
        self.assertEqual((len(self.cache._memory._entries), len(self.cache._memory._keys)), (0, 0))

    def test_off(self) -> None:
        """Zero seconds turn it off."""
        self.cache = CachedDirectory(self.directory, self.clock, 0)
        self.good(), self.good()
        self.assertEqual(self.times(), 2)

    def test_flush_user(self) -> None:
        """A user is forgotten by canonical name or as typed, others stay."""
        self.good(Login("ALICE", b"alicepw")), self.good(Login("bob", b"bobpw"))
        self.assertEqual(self.cache.flush("Alice"), 1)
        self.good(Login("ALICE", b"alicepw"))
        self.assertEqual(self.cache.flush("alice@example.org"), 1)
        before = self.times()
        self.good(Login("bob", b"bobpw"))
        self.assertEqual(self.times(), before)

    def test_flush_while_asking(self) -> None:
        """An answer that was on its way when the cache was flushed is not remembered."""
        self.directory.held = held = []
        asked = self.ask()
        self.cache.flush()
        held[0].callback(None)
        self.successResultOf(asked)
        self.ask()
        self.assertEqual(self.times(), 2)
        held[1].callback(None)

    def test_shared(self) -> None:
        """The same login at the same time is asked about once, another password on its own."""
        self.directory.held = held = []
        askers = [self.ask(), self.ask()]
        other = self.ask(replace(ALICE, password=b"wrong"))
        self.assertEqual(self.times(), 2)
        for waiting in held:
            waiting.callback(None)
        for asker in askers:
            self.assertIsNotNone(self.successResultOf(asker))
        self.failureResultOf(other, LoginRefused)

    def test_cancel_one_of_many(self) -> None:
        """Who hangs up takes nobody else's login away."""
        self.directory.held = held = []
        first, second = self.ask(), self.ask()
        first.cancel()
        self.failureResultOf(first, CancelledError)
        held[0].callback(None)
        self.assertIsNotNone(self.successResultOf(second))

    def test_lookup_passes(self) -> None:
        """Look-ups go through, every time."""
        for _ in range(2):
            self.successResultOf(Deferred.fromCoroutine(self.cache.lookup("alice@example.org")))
        self.assertEqual(self.times(), 2)

    def test_stop_forgets(self) -> None:
        """Stopping forgets everything and stops the directory."""
        self.cache.start()
        self.assertTrue(self.directory.running)
        self.good()
        self.successResultOf(Deferred.fromCoroutine(self.cache.stop()))
        self.assertFalse(self.directory.running)
        self.assertEqual(len(self.cache._memory._entries), 0)
