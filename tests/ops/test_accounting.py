"""Tests of L{mailgw.ops.accounting}."""

from __future__ import annotations

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from mailgw.interfaces import IAccountant
from mailgw.model import Refusal, RefusalKind, SessionKey
from mailgw.ops.accounting import Accountant
from mailgw.ops.tally import LocalTally
from mailgw.settings import Limits


def key(session: str, username: str = "alice", protocol: str = "imap") -> SessionKey:
    """A session of alice."""
    return SessionKey(session, protocol, "192.0.2.1", username)


class AccountantTests(SynchronousTestCase):
    def setUp(self) -> None:
        """An accountant who grants two sessions a user."""
        self.tally = LocalTally(Clock().seconds)
        self.accountant = Accountant(Limits(connections_per_user=2), self.tally)

    def enter(self, one: SessionKey) -> Refusal | None:
        """What the accountant says to a session."""
        return self.successResultOf(Deferred.fromCoroutine(self.accountant.enter(one)))

    def test_provides_the_interface(self) -> None:
        """The accountant is what the session asks for."""
        self.assertTrue(verifyObject(IAccountant, self.accountant))

    def test_limit(self) -> None:
        """One session too many of a user is refused over all protocols, and others are not concerned."""
        self.assertIsNone(self.enter(key("s1")))
        self.assertIsNone(self.enter(key("s2", protocol="pop3")))
        refusal = self.enter(key("s3"))
        self.assertEqual(refusal, Refusal(RefusalKind.LIMIT, "alice has 2 sessions already"))
        self.assertIsNone(self.enter(key("s4", "bob")))
        self.assertEqual((self.accountant.count("alice"), len(self.accountant)), (2, 3))

    def test_leave(self) -> None:
        """A session that leaves makes room for one, however often it leaves."""
        for session in ("s1", "s2"):
            self.enter(key(session))
        for _ in range(3):
            self.accountant.leave(key("s1"))
        self.assertIsNone(self.enter(key("s3")))
        self.assertIsNotNone(self.enter(key("s4")))

    def test_refused_session_leaves(self) -> None:
        """A session that was refused takes nothing away when it leaves."""
        for session in ("s1", "s2", "s3"):
            self.enter(key(session))
        self.accountant.leave(key("s3"))
        self.assertEqual(self.accountant.count("alice"), 2)

    def test_counted_once(self) -> None:
        """A session that enters again, as another user too, is counted once."""
        for username in ("alice", "alice", "bob"):
            self.assertIsNone(self.enter(key("s1", username)))
        self.assertEqual((self.accountant.count("alice"), self.accountant.count("bob")), (0, 1))
        self.accountant.leave(key("s1", "alice"))
        self.assertEqual(self.accountant.count("bob"), 0)

    def test_nobody(self) -> None:
        """Sessions without a user are not limited here."""
        for number in range(5):
            self.assertIsNone(self.enter(key(f"s{number}", "")))
        self.accountant.leave(key("s0", ""))
        self.assertEqual(len(self.accountant), 4)

    def test_nothing_piles_up(self) -> None:
        """Users who are gone, or were only asked about, leave nothing behind."""
        for number in range(100):
            self.accountant.count(f"user{number}")
            self.enter(key("s1", f"user{number}"))
            self.accountant.leave(key("s1"))
        self.assertEqual((len(self.accountant), len(self.tally)), (0, 0))

    def test_new_limits(self) -> None:
        """New limits hold from the next session on."""
        for session in ("s1", "s2"):
            self.enter(key(session))
        self.accountant.limits = Limits(connections_per_user=3)
        self.assertIsNone(self.enter(key("s3")))
        self.accountant.limits = Limits(connections_per_user=1)
        self.assertIsNotNone(self.enter(key("s4")))
