"""Tests of L{mailgw.edge.nest}: real descriptors, and a reactor that a test turns by hand."""

from __future__ import annotations

import os
import select
import socket
from collections.abc import Callable
from typing import Any

from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.internet.interfaces import IHalfCloseableDescriptor, IReactorFDSet, IReadDescriptor
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer
from zope.interface.verify import verifyObject

from mailgw.edge.nest import MOST, Nest


class HandReactor(Clock):
    """Knows whom it would watch."""

    def __init__(self) -> None:
        super().__init__()
        self.readers: set[Any] = set()

    def addReader(self, reader: Any) -> None:
        self.readers.add(reader)

    def removeReader(self, reader: Any) -> None:
        self.readers.discard(reader)


@implementer(IHalfCloseableDescriptor)
class Watched:
    """One end of a socket pair; tells what happened to it."""

    def __init__(self, test: NestTests, name: str = "") -> None:
        self.socket, self.far = socket.socketpair()
        for one in (self.socket, self.far):
            one.setblocking(False)
            test.addCleanup(one.close)
        self.name, self.told = name, test.told
        self.reading: Callable[[], None] = lambda: None
        self.fileno = self.socket.fileno

    def doRead(self) -> None:
        self.told.append(f"{self.name} read")
        self.reading()

    def doWrite(self) -> None:
        self.told.append(f"{self.name} write")

    def readConnectionLost(self, reason: Failure) -> None:
        assert reason.check(ConnectionDone)
        self.told.append(f"{self.name} read end")

    def writeConnectionLost(self, reason: Failure) -> None:
        """Nobody tells it."""

    def connectionLost(self, reason: Failure) -> None:
        self.told.append(f"{self.name} {reason.type.__name__}")


class NestTests(SynchronousTestCase):
    def setUp(self) -> None:
        """A nest, and what was told to those in it."""
        self.told: list[str] = []
        self.reactor = HandReactor()
        self.nest = Nest(self.reactor)

    def turn(self) -> list[str]:
        """One turn of the reactor; what it has told."""
        if self.nest in self.reactor.readers:
            self.nest.doRead()
        self.reactor.advance(0)
        told, self.told[:] = list(self.told), []
        return told

    def test_interface(self) -> None:
        """Streams find there what they need of a reactor, and the reactor a reader."""
        self.assertTrue(verifyObject(IReactorFDSet, self.nest))
        self.assertTrue(verifyObject(IReadDescriptor, self.nest))

    def test_events(self) -> None:
        """Who can read is told so, who can write too, and both in this order; again until they do not ask."""
        a, b = Watched(self, "a"), Watched(self, "b")
        a.far.send(b"x")
        for one in (a, b):
            self.nest.addReader(one)
        self.assertEqual([self.turn(), self.turn()], [["a read"], ["a read"]])
        self.nest.addWriter(a)
        self.assertEqual(self.turn(), ["a read", "a write"])
        self.nest.removeReader(a)
        self.assertEqual(self.turn(), ["a write"])
        self.nest.removeWriter(a)
        self.assertEqual(self.turn(), [])

    def test_asked_twice(self) -> None:
        """To ask twice, or to leave what was never asked for, changes nothing."""
        a = Watched(self, "a")
        self.nest.removeReader(a)
        for _ in range(2):
            self.nest.addReader(a)
        self.nest.removeWriter(a)
        self.assertEqual((self.nest.getReaders(), self.nest.getWriters()), ([a], []))
        for _ in range(2):
            self.nest.removeReader(a)
        self.assertEqual(self.nest.getReaders(), [])

    def test_reactor(self) -> None:
        """The reactor watches the nest only while somebody is in it, and can see that there is something."""
        a = Watched(self, "a")
        self.assertEqual(self.reactor.readers, set())
        self.nest.addReader(a)
        self.assertEqual(self.reactor.readers, {self.nest})
        self.assertEqual(select.select([self.nest], [], [], 0)[0], [])
        a.far.send(b"x")
        self.assertEqual(select.select([self.nest], [], [], 0)[0], [self.nest])
        self.nest.removeReader(a)
        self.assertEqual(self.reactor.readers, set())

    def test_ended_by_another(self) -> None:
        """Whom an event before has ended is not told of his own; nor is who has got his number since."""
        a, b, heir = Watched(self, "a"), Watched(self, "b"), Watched(self, "heir")
        for one in (a, b):
            one.far.send(b"x")
            self.nest.addReader(one)
            one.reading = self.end_all([a, b], heir)
        first = self.turn()
        self.assertEqual(len(first), 1)
        self.assertEqual(self.turn(), ["heir read"])

    def end_all(self, ended: list[Watched], heir: Watched) -> Callable[[], None]:
        """End them, and give the number of the last one to another."""

        def end() -> None:
            for one in ended:
                self.nest.removeReader(one)
            number = ended[-1].fileno()
            heir.far.send(b"x")
            ended[-1].socket.close()
            moved = socket.socket(fileno=os.dup2(heir.fileno(), number))
            self.addCleanup(moved.close)
            heir.socket.close()
            heir.socket, heir.fileno = moved, moved.fileno
            heir.reading = lambda: self.nest.removeReader(heir)
            self.nest.addReader(heir)

        return end

    def test_hung_up(self) -> None:
        """An end that brings nothing to read is told to who reads as such, and to others as a loss."""
        reader, writer = Watched(self, "reader"), Watched(self, "writer")
        for one in (reader, writer):
            one.socket.shutdown(socket.SHUT_RDWR)
            one.far.close()
        self.nest.addWriter(writer)
        self.assertIn("writer ConnectionLost", self.turn())
        self.nest.removeWriter(writer)
        self.nest.addReader(reader)
        self.nest._ended(reader, select.EPOLLHUP)
        self.assertEqual(self.turn(), ["reader read end"])
        self.assertEqual(self.nest.getReaders(), [])

    def test_exception(self) -> None:
        """What one raises is logged and ends it, and nobody else."""
        a, b = Watched(self, "a"), Watched(self, "b")
        for one in (a, b):
            one.far.send(b"x")
            self.nest.addReader(one)

        def breaks() -> None:
            raise ZeroDivisionError

        a.reading = breaks
        self.assertEqual(sorted(self.turn()), ["a ZeroDivisionError", "a read", "b read"])
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)

    def test_put_off(self) -> None:
        """A call without a delay, made in an event, comes behind all events; made in such a call, a turn later."""
        a, b = Watched(self, "a"), Watched(self, "b")
        for one in (a, b):
            one.far.send(b"x")
            self.nest.addReader(one)
            one.reading = lambda: self.assertIsNone(self.nest.callLater(0, self.later))
        self.nest.doRead()
        self.assertEqual((sorted(self.told[:2]), self.told[2:]), (["a read", "b read"], ["later", "later"]))
        self.assertEqual(self.reactor.getDelayedCalls(), [])

    def later(self) -> None:
        """A call that was put off."""
        self.told.append("later")

    def test_put_off_is_in_order(self) -> None:
        """Calls that were put off come in their order, and one that breaks does not keep the next from coming."""
        a = Watched(self, "a")
        a.far.send(b"x")
        self.nest.addReader(a)

        def reading() -> None:
            self.nest.callLater(0, self.told.append, "first")
            self.nest.callLater(0, [].pop)
            self.nest.callLater(0, self.nest.callLater, 0, self.told.append, "last")

        a.reading = reading
        self.assertEqual(self.turn(), ["a read", "first", "last"])
        self.assertEqual(len(self.flushLoggedErrors(IndexError)), 1)

    def test_timer(self) -> None:
        """A call with a delay, or from outside of an event, is the reactor's."""
        self.nest.callLater(5, self.later)
        self.nest.callLater(0, self.later)
        self.assertEqual(len(self.reactor.getDelayedCalls()), 2)
        self.reactor.advance(0)
        self.assertEqual(self.told, ["later"])

    def test_fair(self) -> None:
        """One turn takes a bounded number of events."""
        many = [Watched(self, str(number)) for number in range(MOST + 20)]
        for one in many:
            one.far.send(b"x")
            self.nest.addReader(one)
        self.assertEqual(len(self.turn()), MOST)

    def test_stop(self) -> None:
        """When the reactor stops, everybody hears of it."""
        a = Watched(self, "a")
        self.nest.addReader(a)
        self.nest.connectionLost(Failure(ConnectionLost()))
        self.assertEqual(self.turn(), ["a ConnectionLost"])
        self.assertEqual(self.nest.getReaders(), [])
