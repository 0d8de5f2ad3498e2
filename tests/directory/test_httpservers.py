"""Tests of L{mailgw.directory.httpservers} and L{mailgw.directory.httplink}: connections kept, failover, bounds."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import CancelledError, Deferred

from mailgw.errors import DirectoryDown
from mailgw.model import Identity
from tests.directory.contract import ALICE
from tests.directory.httptalk import AuthTestCase, answer

SECOND = "http://192.0.2.2/auth"
BOTH = {"uri": ["http://192.0.2.1/auth", SECOND]}


class ServersTestCase(AuthTestCase):
    """Logins of alice."""

    def login(self, directory: Any) -> Identity | None:
        """One that needs no time."""
        identity: Identity | None = self.wait(directory.authenticate(ALICE))
        return identity

    def down(self, directory: Any) -> str:
        """Why nobody can be asked, which needs no time to be known."""
        return str(self.fails(directory.authenticate(ALICE), DirectoryDown))

    def begun(self, directory: Any) -> Deferred[Identity | None]:
        """One that waits."""
        asking: Deferred[Identity | None] = self.begin(directory.authenticate(ALICE))
        return asking


class KeptConnectionTests(ServersTestCase):
    """Connections that go on from question to question."""

    def test_one_for_many(self) -> None:
        """Questions after each other share a connection."""
        directory = self.make()
        for _ in range(5):
            self.login(directory)
        self.assertEqual((len(self.reactor.wires), len(self.reactor.requests)), (1, 5))

    def test_closed_meanwhile(self) -> None:
        """A server that has closed the connection is asked on another one, without anybody's noticing."""
        directory = self.make()
        self.login(directory)
        self.reactor.wires[0].hang_up()
        self.login(directory)
        self.assertEqual(len(self.reactor.wires), 2)

    def test_closed_just_now(self) -> None:
        """A server that closes the kept connection instead of answering is asked once more on a new one."""
        directory = self.make()
        self.login(directory)
        wire = self.reactor.wires[0]
        wire.play = lambda headers: self.reactor.callLater(0, wire.hang_up) and None
        self.assertIsNotNone(self.login(directory))
        self.assertEqual(len(self.reactor.wires), 2)

    def test_not_a_third_time(self) -> None:
        """A server that closes new connections as well does not answer."""
        directory = self.make()
        self.login(directory)

        def leave(headers: object) -> None:
            self.reactor.callLater(0, self.reactor.wires[-1].hang_up)

        self.reactor.wires[0].play = self.reactor.servers["192.0.2.1"] = leave
        self.reactor.callLater(0, self.reactor.wires[0].hang_up)
        self.assertIn("192.0.2.1", self.down(directory))
        self.assertEqual(len(self.reactor.wires), 2)
        self.flushLoggedErrors()

    def test_closed_in_the_middle(self) -> None:
        """An answer that breaks off is no answer, and is not asked for again."""
        directory = self.make()
        self.login(directory)
        wire = self.reactor.wires[0]
        wire.play = lambda headers: b"HTTP/1.1 200 OK\r\nAuth-Status: OK\r\n"
        asking = self.begun(directory)
        wire.hang_up()
        self.failureResultOf(asking, DirectoryDown)
        self.assertEqual(len(self.reactor.wires), 1)

    def test_old_ones_are_closed(self) -> None:
        """An idle connection is closed after its time, counted from its last question, and no timer stays."""
        directory = self.make(keep_alive="10s")
        self.login(directory)
        self.assertEqual(self.reactor.open, 1)
        self.reactor.turn(6.0)
        self.login(directory)
        self.reactor.turn(6.0)
        self.assertEqual(self.reactor.open, 1)
        self.reactor.turn(4.0)
        self.assertEqual(self.reactor.open, 0)
        self.assertEqual(self.reactor.getDelayedCalls(), [])

    def test_none_kept(self) -> None:
        """With keep_alive = "0s" each question has its connection, and says so."""
        directory = self.make(keep_alive="0s")
        self.login(directory)
        self.login(directory)
        self.assertEqual((len(self.reactor.wires), self.reactor.open), (2, 0))
        self.assertIn(b"\r\nConnection: close\r\n", self.reactor.requests[0])

    def test_server_wants_to_close(self) -> None:
        """Connection: close and HTTP/1.0 answers end the connection."""
        for said in (b"HTTP/1.0 200 OK\r\nAuth-Status: OK\r\n\r\nbody", answer(connection="close")):
            self.plays(said)
            directory = self.make()
            self.login(directory)
            self.assertEqual(self.reactor.open, 0)
            self.login(directory)

    def test_unasked(self) -> None:
        """A server that speaks without being asked is left: its next words could be taken for an answer."""
        directory = self.make()
        self.login(directory)
        self.reactor.wires[0].say(answer("No"))
        self.reactor.turn()
        self.assertEqual(self.reactor.open, 0)
        self.assertIsNotNone(self.login(directory))

    def test_more_than_asked(self) -> None:
        """So is one that says more than it was asked."""
        self.plays(answer() + answer("No"))
        directory = self.make()
        self.login(directory)
        self.assertEqual(self.reactor.open, 0)

    def test_stop(self) -> None:
        """Stopping closes what is idle."""
        directory = self.make()
        self.login(directory)
        self.wait(directory.stop())
        self.assertEqual((self.reactor.open, self.reactor.getDelayedCalls()), (0, []))


class FailoverTests(ServersTestCase):
    """Servers that are down, hang, or talk nonsense."""

    def setUp(self) -> None:
        super().setUp()
        self.reactor.servers["192.0.2.2"] = lambda headers: answer(auth_server="second")

    def tearDown(self) -> None:
        self.flushLoggedErrors()

    def place(self, directory: Any) -> str:
        """Which server answered."""
        identity = self.login(directory)
        assert identity is not None
        return identity.attributes.get("auth-server", ("first",))[0]

    def test_refused(self) -> None:
        """A server that refuses connections is left alone for a while; back, it is the first again."""
        del self.reactor.servers["192.0.2.1"]
        directory = self.make(**BOTH)
        self.assertEqual(self.place(directory), "second")
        self.reactor.servers["192.0.2.1"] = lambda headers: answer()
        self.assertEqual(self.place(directory), "second")
        self.reactor.turn(3.0)
        self.assertEqual(self.place(directory), "first")

    def test_nonsense(self) -> None:
        """So is one that does not speak HTTP."""
        self.plays(b"220 mail ESMTP\r\n")
        self.assertEqual(self.place(self.make(**BOTH)), "second")

    def test_all_down(self) -> None:
        """Trouble everywhere is trouble, told with every reason and, until somebody tries again, at once."""
        self.reactor.servers.clear()
        directory = self.make(**BOTH)
        reason = self.down(directory)
        self.assertIn("http://192.0.2.1/auth: ", reason)
        self.assertIn("http://192.0.2.2/auth: ", reason)
        tried = len(self.reactor.tcpClients)
        self.assertIn("a moment ago", self.down(directory))
        self.assertEqual(len(self.reactor.tcpClients), tried)

    def test_silent(self) -> None:
        """A server that takes the question and says nothing has its share of the time, then the next one is asked."""
        self.plays(None)
        directory = self.make(**BOTH, timeout="4s")
        asking = self.begun(directory)
        self.reactor.turn(1.9)
        self.assertNoResult(asking)
        self.reactor.turn(0.1)
        self.assertEqual(self.successResultOf(asking).attributes["auth-server"], ("second",))
        self.assertEqual(self.place(directory), "second")
        self.assertFalse(self.reactor.wires[0].open)

    def test_hanging(self) -> None:
        """So has one that nobody reaches."""
        self.reactor.servers["192.0.2.1"] = None
        asking = self.begun(self.make(**BOTH, timeout="4s"))
        self.reactor.turn(2.0)
        self.assertEqual(self.successResultOf(asking).attributes["auth-server"], ("second",))

    def test_slow_for_one(self) -> None:
        """A question that takes too long, as one with a wrong password may be made to, keeps nobody else out."""
        directory = self.make(timeout="4s")
        self.plays(None)
        asking = self.begun(directory)
        self.reactor.turn(4.0)
        self.failureResultOf(asking, DirectoryDown)
        self.plays(answer())
        self.assertEqual(self.place(directory), "first")

    def test_dripping(self) -> None:
        """A server that answers octet by octet has no more time than others."""
        self.plays(None)
        asking = self.begun(self.make(timeout="4s"))
        for octet in b"HTTP/1.1":
            self.reactor.wires[0].say(bytes([octet]))
            self.reactor.turn(0.49)
        self.reactor.turn(0.1)
        self.assertIn("no answer in time", str(self.failureResultOf(asking, DirectoryDown).value))
        self.assertEqual(self.reactor.open, 0)

    def test_one_probes(self) -> None:
        """While one question finds out whether a silent server is back, others go to the next one at once."""
        directory = self.make(**BOTH, timeout="4s")
        self.plays(None)
        asking = self.begun(directory)
        self.reactor.turn(2.0)
        self.successResultOf(asking)
        self.reactor.turn(3.0)
        probing = self.begun(directory)
        self.assertNoResult(probing)
        self.assertEqual(self.place(directory), "second")
        self.reactor.turn(2.0)
        self.successResultOf(probing)

    def test_name_of_nobody(self) -> None:
        """A host whose name nobody knows is a server that is down."""
        error = self.begun(self.make(uri="http://nowhere.invalid/"))
        self.reactor.turn(10.0)
        self.failureResultOf(error, DirectoryDown)


class BoundsTests(ServersTestCase):
    """How many questions are under way, and how many wait."""

    def test_no_more_at_a_time(self) -> None:
        """Questions over the bound wait for their turn, in their order."""
        self.plays(None)
        directory = self.make(connections=2)
        asking = [self.begun(directory) for _ in range(4)]
        self.assertEqual(len(self.reactor.wires), 2)
        for wire in self.reactor.wires:
            wire.play = lambda headers: answer()
        self.reactor.wires[0].say(answer())
        self.reactor.turn()
        self.successResultOf(asking[0])
        self.assertNoResult(asking[1])
        self.assertIsNotNone(self.successResultOf(asking[2]))
        self.assertIsNotNone(self.successResultOf(asking[3]))
        self.assertEqual(len(self.reactor.wires), 2)

    def test_full(self) -> None:
        """What finds the queue full is told of trouble at once; the time of those who wait ends all the same."""
        self.plays(None)
        directory = self.make(connections=1, timeout="5s")
        asking = [self.begun(directory) for _ in range(201)]
        self.assertIn("too many questions", self.down(directory))
        self.reactor.turn(5.0)
        for one in asking:
            self.failureResultOf(one, DirectoryDown)
        self.plays(answer())
        self.assertIsNotNone(self.login(directory))
        self.flushLoggedErrors()

    def test_failing_queue(self) -> None:
        """A whole queue whose questions fail at once is worked off, without calls inside calls inside calls."""
        self.plays(None)
        directory = self.make(connections=1)
        asking = [self.begun(directory) for _ in range(201)]
        del self.reactor.servers["192.0.2.1"]
        self.reactor.wires[0].hang_up()
        for _ in range(20):
            self.reactor.turn()
        for one in asking:
            self.failureResultOf(one, DirectoryDown)
        self.flushLoggedErrors()

    def test_cancelled_while_asking(self) -> None:
        """A client that goes away ends its question, and its place is free."""
        self.plays(None)
        directory = self.make(connections=1)
        asking = self.begun(directory)
        asking.cancel()
        self.failureResultOf(asking, CancelledError)
        self.reactor.turn()
        self.assertEqual(self.reactor.open, 0)
        self.plays(answer())
        self.assertIsNotNone(self.login(directory))

    def test_cancelled_while_connecting(self) -> None:
        """So it does while the connection is being made."""
        self.reactor.servers["192.0.2.1"] = None
        directory = self.make(connections=1)
        asking = self.begun(directory)
        asking.cancel()
        self.failureResultOf(asking, CancelledError)
        self.plays(answer())
        self.assertIsNotNone(self.login(directory))

    def test_cancelled_while_waiting(self) -> None:
        """So it does while it waits for its turn; nobody else's is lost."""
        self.plays(None)
        directory = self.make(connections=1)
        first, second, third = (self.begun(directory) for _ in range(3))
        second.cancel()
        self.failureResultOf(second, CancelledError)
        self.reactor.wires[0].play = lambda headers: answer()
        self.reactor.wires[0].say(answer())
        self.reactor.turn()
        self.successResultOf(first)
        self.successResultOf(third)
