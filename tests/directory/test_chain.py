"""Tests of L{mailgw.directory.chain}."""

from __future__ import annotations

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase, TestCase

from mailgw.directory.cache import CachedDirectory
from mailgw.directory.chain import Chain
from mailgw.errors import DirectoryDown, LoginRefused
from mailgw.interfaces import IDirectory
from mailgw.model import Login
from tests.directory.contract import ALICE, DirectoryContract, FakeDirectory


class ChainContractTests(DirectoryContract, TestCase):
    """A chain is a directory."""

    def make(self) -> IDirectory:
        return Chain([FakeDirectory(bob=b"bobpw"), FakeDirectory(alice=b"alicepw")])


class ChainTests(SynchronousTestCase):
    """L{Chain}."""

    def setUp(self) -> None:
        self.first, self.second = FakeDirectory("one", bob=b"1"), FakeDirectory("two", bob=b"2", alice=b"alicepw")
        self.chain = Chain([self.first, self.second])

    def test_order(self) -> None:
        """The first directory that knows a user answers."""
        identity = self.successResultOf(Deferred.fromCoroutine(self.chain.authenticate(Login("bob", b"1"))))
        self.assertEqual(identity.directory, "one")
        self.assertEqual(self.second.asked, [])
        identity = self.successResultOf(Deferred.fromCoroutine(self.chain.lookup("alice@x")))
        self.assertEqual(identity.directory, "two")

    def test_wrong_password_stops(self) -> None:
        """A user known to the first directory cannot log in with the second one's password."""
        asked = Deferred.fromCoroutine(self.chain.authenticate(Login("bob", b"2")))
        self.failureResultOf(asked, LoginRefused)
        self.assertEqual(self.second.asked, [])

    def test_trouble_stops(self) -> None:
        """A directory that is down is never passed over: the next one might know somebody else of that name."""
        self.first.trouble = DirectoryDown("one")
        for asked in (self.chain.authenticate(ALICE), self.chain.lookup("alice@x")):
            self.failureResultOf(Deferred.fromCoroutine(asked), DirectoryDown)
        self.assertEqual(self.second.asked, [])

    def test_start_stop(self) -> None:
        """All are started; all are stopped, although one fails to."""
        self.chain.start()
        self.assertTrue(self.first.running and self.second.running)
        self.first.trouble = ValueError("no")
        self.failureResultOf(Deferred.fromCoroutine(self.chain.stop()), ValueError)
        self.assertFalse(self.second.running)

    def test_empty(self) -> None:
        """Without directories nobody is known."""
        self.assertIsNone(self.successResultOf(Deferred.fromCoroutine(Chain([]).authenticate(ALICE))))

    def test_flush(self) -> None:
        """Caches in the chain are flushed, others have nothing to forget."""
        chain = Chain([self.first, CachedDirectory(self.second, Clock(), 60)])
        self.successResultOf(Deferred.fromCoroutine(chain.authenticate(ALICE)))
        self.assertEqual(chain.flush("alice@example.org"), 1)
        self.assertEqual(chain.flush(), 0)
