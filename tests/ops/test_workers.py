"""Tests of L{mailgw.ops.workers}: a fleet whose processes are played."""

from __future__ import annotations

import json
import os

from twisted.internet.defer import Deferred
from twisted.internet.error import ProcessTerminated
from twisted.logger import LogLevel
from twisted.trial.unittest import SynchronousTestCase

from mailgw.ops import workers
from mailgw.ops.control import Refused
from mailgw.ops.descriptors import BOOT, ERRORS, FIRST_SOCKET, LOG, REPORTS, TALLY
from mailgw.ops.workers import BIRTH, GRACE, LATEST
from tests.ops.fleet import FleetCase


class BirthTests(FleetCase):
    """A generation comes up, or does not."""

    def test_boot(self) -> None:
        """The zygote gets its boot message behind its length, and its descriptors where it looks for them."""
        self.fleet.renew(self.blueprint)
        (process,) = self.reactor.processes
        self.assertEqual(process.written, b"\0\0\0\0\0\0\0\x04boot")
        wanted = {BOOT: "w", LOG: "r", ERRORS: "r", REPORTS: "r", TALLY: self.tally.fileno}
        wanted |= {FIRST_SOCKET: 20, FIRST_SOCKET + 1: 30}
        self.assertEqual({number: process.descriptors[number] for number in wanted}, wanted)

    def test_up(self) -> None:
        """Each worker has a region of its own; the generation is up with the last hello, and no timer is left."""
        up = self.fleet.renew(self.blueprint)
        (process,) = self.reactor.processes
        process.report("ready")
        self.assertEqual(process.written[12:], b"fork 0 0\nfork 1 1\n")
        process.report("forked 0 101", "forked 1 102")
        self.successResultOf(self.hello(1, 1, 102)[1])
        self.assertNoResult(up)
        self.successResultOf(self.hello(1, 0, 101)[1])
        self.successResultOf(up)
        self.assertEqual((len(self.fleet.links()), self.regions()), (2, 2))
        self.assertEqual(self.reactor.getDelayedCalls(), [])

    def test_hello_first(self) -> None:
        """A worker may be faster than the report of its birth."""
        up = self.fleet.renew(self.blueprint)
        self.reactor.processes[0].report("ready")
        for slot in (0, 1):
            self.successResultOf(self.hello(1, slot, 101 + slot)[1])
        self.successResultOf(up)

    def test_strangers(self) -> None:
        """Whoever does not know the token, or is no worker of now, is refused."""
        self.renewed()
        for generation, slot, pid, token in ((1, 0, 101, "open"), (2, 0, 101, "sesame"), (1, 2, 103, "sesame")):
            self.failureResultOf(self.hello(generation, slot, pid, token)[1], Refused)
        self.failureResultOf(self.hello(1, 0, 999)[1], Refused)
        self.assertEqual(len(self.fleet.links()), 2)

    def test_zygote_dies(self) -> None:
        """A zygote that ends before its workers are there: the start has failed, once."""
        up = self.fleet.renew(self.blueprint)
        self.reactor.processes[0].exit(ProcessTerminated(1))
        self.assertIn("the process that starts workers ended", self.failureResultOf(up, Refused).getErrorMessage())
        self.assertEqual((self.fleet.generations, self.regions()), ([], 0))

    def test_worker_dies(self) -> None:
        """So it is when a worker dies before it says hello; its sibling is killed, and nothing is left."""
        up = self.fleet.renew(self.blueprint)
        process = self.reactor.processes[0]
        process.report("ready", "forked 0 101", "forked 1 102", "ended 101 1")
        self.assertIn("a new worker ended before", self.failureResultOf(up, Refused).getErrorMessage())
        self.assertEqual(self.killed, [102])
        process.report("ended 102 -9")
        self.assertTrue(process.closed)
        process.exit()
        self.assertEqual((self.fleet.generations, self.regions()), ([], 0))
        self.reactor.advance(BIRTH)
        self.assertEqual(self.flushLoggedErrors(), [])

    def test_too_late(self) -> None:
        """A generation that does not come up is given up, and the old one stays."""
        _, links = self.renewed()
        up = self.fleet.renew(self.blueprint)
        process = self.reactor.processes[1]
        process.report("ready", "forked 0 201", "forked 1 202")
        self.successResultOf(self.hello(2, 0, 201)[1])
        self.reactor.advance(BIRTH)
        self.assertEqual(
            self.failureResultOf(up, Refused).getErrorMessage(), f"new workers were not ready within {BIRTH:g} s"
        )
        self.assertIn(202, self.killed)
        self.assertEqual([link.told for link in links], [[], []])
        self.assertEqual(len(self.fleet.links()), 3)

    def test_mute_zygote(self) -> None:
        """A zygote that never says a word is killed, and nobody else: 0 would be our own group."""
        up = self.fleet.renew(self.blueprint)
        self.reactor.advance(BIRTH)
        self.failureResultOf(up, Refused)
        self.reactor.advance(GRACE)
        self.assertEqual(self.killed, [100])

    def test_hanging_zygote(self) -> None:
        """So is one that forks nobody; the generation is over then, and its regions are free."""
        up = self.fleet.renew(self.blueprint)
        self.reactor.processes[0].report("ready")
        self.reactor.advance(BIRTH)
        self.failureResultOf(up, Refused)
        self.reactor.advance(GRACE)
        self.assertEqual(set(self.killed), {100})
        self.assertEqual((self.fleet.generations, self.regions()), ([], 0))

    def test_no_process(self) -> None:
        """A system that has no process left: nothing is left of the attempt, and the old generation stays."""
        self.renewed()
        self.reactor.trouble = OSError(11, "Resource temporarily unavailable")
        failure = self.failureResultOf(self.fleet.renew(self.blueprint), Refused)
        self.assertIn("Resource temporarily unavailable", failure.getErrorMessage())
        self.assertEqual((len(self.fleet.generations), self.reactor.getDelayedCalls()), (1, []))

    def test_first_start_again(self) -> None:
        """A first start that failed is tried again, and again, with longer and longer breaks."""
        up = self.fleet.renew(self.blueprint)
        up.addErrback(lambda failure: self.fleet.try_again())
        for number, wait in enumerate((0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0), 1):
            self.reactor.processes[-1].exit(ProcessTerminated(1))
            self.reactor.advance(wait - 0.01)
            self.assertEqual(len(self.reactor.processes), number)
            self.reactor.advance(0.01)
            self.assertEqual(len(self.reactor.processes), number + 1)
        self.birth(self.reactor.processes[-1])
        self.assertEqual(len(self.fleet.links()), 2)


class LifeTests(FleetCase):
    """Workers and zygotes that die."""

    def test_backoff(self) -> None:
        """A worker that dies again and again is replaced later and later; one that has lived long at once again."""
        process, _ = self.renewed()
        pid = 101
        for wait in (0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0):
            process.written = b""
            process.report(f"ended {pid} -11")
            self.assertEqual(self.regions(), 1)
            self.reactor.advance(wait - 0.01)
            self.assertEqual(process.written, b"")
            self.reactor.advance(0.01)
            self.assertEqual(process.written, b"fork 0 0\n")
            pid += 10
            process.report(f"forked 0 {pid}")
            self.hello(1, 0, pid)
        self.assertTrue(self.said("worker 101 ended (signal 11) after 0 s; a new one comes in 0.5 s"))
        self.reactor.advance(LATEST)
        process.report(f"ended {pid} 0")
        self.assertTrue(self.said(f"worker {pid} ended (status 0) after 30 s; a new one comes in 0.5 s"))

    def test_silent(self) -> None:
        """A worker that was forked again and says nothing is killed."""
        process, _ = self.renewed()
        process.report("ended 101 1")
        self.reactor.advance(0.5)
        process.report("forked 0 111")
        self.reactor.advance(BIRTH)
        self.assertEqual(self.killed, [111])

    def test_dead_zygote(self) -> None:
        """Workers without a zygote go on until a new generation is up."""
        process, links = self.renewed()
        process.exit(ProcessTerminated(signal=9))
        self.assertEqual(len(self.fleet.links()), 2)
        self.reactor.advance(0.5)
        self.birth(self.reactor.processes[1])
        self.assertEqual([link.told for link in links], [[("retire", {})]] * 2)
        for link in links:
            self.lose(link)
        self.assertEqual((len(self.fleet.generations), self.regions()), (1, 2))

    def test_dead_zygote_and_unborn(self) -> None:
        """A worker that was not born when its zygote died is given up, and refused if it comes after all."""
        process, links = self.renewed()
        process.report("ended 101 1")
        self.lose(links[0])
        self.reactor.advance(0.5)
        process.report("forked 0 111")
        process.exit(ProcessTerminated(signal=9))
        self.assertEqual((self.killed, self.regions()), ([111], 1))
        self.failureResultOf(self.hello(1, 0, 111)[1], Refused)
        stopped = self.fleet.stop(1.0)
        self.lose(links[1])
        self.successResultOf(stopped)

    def test_no_region(self) -> None:
        """When many generations drain, a worker may have to count alone, and that is said."""
        for _ in range(3):
            process, _ = self.renewed()
        self.assertIn(b"fork 1 -1\n", process.written)
        self.assertTrue(self.said("a worker counts alone: 5 others are there"))
        self.assertEqual(self.regions(), 5)

    def test_nonsense(self) -> None:
        """What is no report is told, and the next ones are heard all the same."""
        process, _links = self.renewed()
        nonsense = ["", "ready", "forked", "forked x y", "forked 7 7", "forked 0 -1", "ended", "ended 5", "dance 1 2"]
        process.report(*nonsense, "ended 999999 0")
        process.generation.childDataReceived(REPORTS, b"\xff\xfe\n")
        self.assertEqual((self.regions(), len(self.fleet.links())), (2, 2))
        process.report("ended 101 1")
        self.assertTrue(self.said("worker 101 ended"))
        self.assertEqual(self.killed, [])

    def test_closed_pipe(self) -> None:
        """A fork that is ordered from a zygote which dies just now is no fault of ours."""
        process, _ = self.renewed()

        def closed(descriptor: int, data: bytes) -> None:
            raise KeyError(descriptor)

        process.writeToChild = closed  # type: ignore[method-assign]
        process.report("ended 101 1")
        self.reactor.advance(0.5)
        process.exit(ProcessTerminated(signal=9))
        self.assertEqual(self.regions(), 1)


class EndTests(FleetCase):
    """Retirement, and the end."""

    def test_retire(self) -> None:
        """A new generation retires the old one, once; the last worker's end closes the zygote."""
        process, links = self.renewed()
        self.renewed()
        self.renewed()
        self.assertEqual([link.told for link in links], [[("retire", {})]] * 2)
        self.lose(links[0])
        process.report("ended 101 0")
        self.assertFalse(process.closed)
        process.report("ended 102 0")
        self.assertTrue(process.closed)
        self.assertEqual(
            ([one.number for one in self.fleet.generations], self.regions()), ([2, 3], 3)
        )  # one of six counts alone
        process.exit()
        self.reactor.advance(LATEST)
        self.assertEqual(len(self.reactor.processes), 3)

    def test_retire_unborn(self) -> None:
        """A worker that is just being born is not killed: it may have a client; it is told when it says hello."""
        process, _links = self.renewed()
        process.report("ended 101 1")
        self.reactor.advance(0.5)
        process.report("forked 0 111")
        self.renewed()
        self.assertEqual(self.killed, [])
        link, done = self.hello(1, 0, 111)
        self.successResultOf(done)
        self.assertEqual(link.told, [("retire", {})])

    def test_overtaken(self) -> None:
        """A generation that a newer one has overtaken is what was wanted, and does not hold up whoever waits."""
        slow = self.fleet.renew(self.blueprint)
        self.reactor.processes[0].report("ready")
        self.renewed()
        self.successResultOf(slow)

    def test_stop(self) -> None:
        """Workers are told how long they have; the end is when the last one is gone."""
        process, links = self.renewed()
        stopped = self.fleet.stop(30.0)
        self.assertEqual([link.told for link in links], [[("stop", {"drain": 30.0})]] * 2)
        process.report("ended 101 0")
        self.assertNoResult(stopped)
        process.report("ended 102 0")
        self.successResultOf(stopped)
        self.assertFalse(self.said("a new one comes"))
        self.assertEqual(self.killed, [])

    def test_stop_nobody(self) -> None:
        """Without workers that is at once."""
        self.successResultOf(self.fleet.stop(30.0))

    def test_stop_retired(self) -> None:
        """Workers of old generations, too, have until then."""
        _, links = self.renewed()
        self.renewed()
        self.fleet.stop(7.0)
        self.assertEqual(links[0].told, [("retire", {}), ("stop", {"drain": 7.0})])

    def test_grace(self) -> None:
        """A worker that does not end in time is killed."""
        process, _ = self.renewed()
        stopped = self.fleet.stop(3.0)
        self.reactor.advance(3.0 + GRACE - 0.1)
        self.assertEqual(self.killed, [])
        self.reactor.advance(0.1)
        self.assertEqual(sorted(self.killed), [101, 102])
        process.report("ended 101 -9", "ended 102 -9")
        self.successResultOf(stopped)

    def test_grace_without_zygote(self) -> None:
        """So it is when nobody is there to tell that it ended."""
        process, _ = self.renewed()
        process.exit(ProcessTerminated(signal=9))
        stopped = self.fleet.stop(3.0)
        self.reactor.advance(3.0 + GRACE)
        self.assertEqual(sorted(self.killed), [101, 102])
        self.successResultOf(stopped)

    def test_stop_during_birth(self) -> None:
        """A generation that is on its way is given up, and nothing is started again."""
        _, _links = self.renewed()
        up = self.fleet.renew(self.blueprint)
        self.reactor.processes[1].report("ready", "forked 0 201")
        stopped = self.fleet.stop(0.0)
        self.assertEqual(self.failureResultOf(up, Refused).getErrorMessage(), "the gateway stops")
        self.assertEqual(set(self.killed), {201})
        self.fleet.try_again()
        self.reactor.processes[0].report("ended 101 0", "ended 102 0")
        self.reactor.processes[1].report("ended 201 -9")
        self.reactor.advance(GRACE + LATEST)  # slot 1 was never forked
        self.successResultOf(stopped)
        self.assertEqual((len(self.reactor.processes), self.regions()), (2, 0))

    def test_farewell(self) -> None:
        """What a worker has counted outlives it, and is not counted twice while it is still there."""
        _, links = self.renewed()
        row = {"imap.logins": 3, "imap.sessions": 1}
        self.successResultOf(
            Deferred.fromCoroutine(self.fleet.commands(links[0])["farewell"](row, lambda row: None))  # type: ignore[arg-type]
        )
        self.assertEqual((self.fleet.past, self.fleet.links()), ({"imap.logins": 3}, [links[1]]))


class LogTests(FleetCase):
    """What workers say."""

    def setUp(self) -> None:
        super().setUp()
        self.fleet.renew(self.blueprint).addErrback(lambda failure: failure.trap(Refused))
        self.process = self.reactor.processes[0]
        self.events.clear()

    def feed(self, data: bytes, descriptor: int = LOG) -> None:
        """A worker writes."""
        self.process.generation.childDataReceived(descriptor, data)

    def test_events(self) -> None:
        """Lines of JSON are events of their level and place, whatever pieces they come in, braces and all."""
        line = json.dumps(["warn", "other.place", "50 % {of} it\nand ä"]).encode() + b"\n"
        for octet in line + line:
            self.feed(bytes([octet]))
        self.assertEqual(self.events, [(LogLevel.warn, "50 % {of} it\nand ä")] * 2)

    def test_garbage(self) -> None:
        """Whatever else is printed is an error with that text."""
        lines = [b"Segmentation fault", b"\xff\0", b"{}", b"[]", b"[1,2,3]", b'["shout","a","b"]', b"", b"[" * 5000]
        self.feed(b"\n".join(lines) + b"\n", ERRORS)
        self.assertEqual({level for level, _ in self.events}, {LogLevel.error})
        self.assertEqual([text for _, text in self.events][:3], ["Segmentation fault", "\\xff\0", "{}"])
        self.assertEqual(len(self.events), len(lines))

    def test_endless(self) -> None:
        """A line without an end is told in pieces, and what is begun when the zygote ends is told as well."""
        self.feed(b"x" * (1 << 16))
        self.assertEqual(self.events, [])
        self.feed(b"y")
        self.assertEqual([len(text) for _, text in self.events], [(1 << 16) + 1])
        self.feed(b"last words")
        self.process.exit(ProcessTerminated(1))
        self.assertTrue(self.said("last words"))


class KillTests(SynchronousTestCase):
    """Killing."""

    def test_nobody(self) -> None:
        """Whoever has no number is not killed, and who is gone is no fault."""
        calls: list[int] = []

        def kill(pid: int, number: int) -> None:
            calls.append(pid)
            raise ProcessLookupError

        self.patch(os, "kill", kill)
        for pid in (0, None, 5):
            workers._kill(pid)
        self.assertEqual(calls, [5])
