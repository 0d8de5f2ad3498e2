"""Tests of L{mailgw.crew}, with real threads and no waiting but for them."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import TestCase

from mailgw.crew import Crew
from mailgw.errors import DirectoryDown, LoginRefused
from mailgw.model import RefusalKind


class CrewTests(TestCase):
    """L{Crew}."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.crew = Crew("crew-1", reactor, self.clock, size=2, queue=1, patience=5.0)  # type: ignore[arg-type]
        self.crew.start()
        self.go_on, self.begun = threading.Event(), threading.Event()
        self.ran: list[str] = []
        self.addCleanup(lambda: Deferred.fromCoroutine(self.crew.stop()))
        self.addCleanup(self.go_on.set)

    def run_job(self, job: Callable[..., Any], *arguments: Any) -> Deferred[Any]:
        return Deferred.fromCoroutine(self.crew.run(job, *arguments))

    def hang(self, name: str) -> str:
        self.begun.set()
        self.go_on.wait(20)
        self.ran.append(name)
        return name

    async def test_result(self) -> None:
        """A job runs in a thread of the crew, and its result comes back to the reactor's."""

        def job(*arguments: int) -> tuple[str, tuple[int, ...]]:
            return threading.current_thread().name, arguments

        name, arguments = await self.run_job(job, 1, 2)
        self.assertIn("crew-1", name)
        self.assertEqual(arguments, (1, 2))
        self.assertEqual(self.crew.outstanding, 0)

    async def test_error(self) -> None:
        """What a job raises comes back as it is."""

        def job() -> None:
            raise LoginRefused(RefusalKind.CREDENTIALS, "no")

        await self.assertFailure(self.run_job(job), LoginRefused)
        self.assertEqual(self.crew.outstanding, 0)

    async def test_overloaded(self) -> None:
        """A job too many is refused at once, the others get their results."""
        jobs = [self.run_job(self.hang, str(number)) for number in range(3)]
        refused = self.run_job(self.hang, "too many")
        self.failureResultOf(refused, DirectoryDown)
        self.go_on.set()
        self.assertEqual([await job for job in jobs], ["0", "1", "2"])
        self.assertEqual(self.crew.outstanding, 0)

    async def test_patience(self) -> None:
        """Who has waited long enough is told that the directory is down; the job's place stays taken until it ends."""
        job = self.run_job(self.hang, "slow")
        self.begun.wait(20)
        self.clock.advance(4.9)
        self.assertNoResult(job)
        self.clock.advance(0.1)
        self.failureResultOf(job, DirectoryDown)
        self.assertEqual(self.crew.outstanding, 1)
        self.go_on.set()
        await self.crew.stop()
        self.assertEqual(self.ran, ["slow"])

    async def test_abandoned(self) -> None:
        """A job that nobody waits for any more is not begun."""
        running = [self.run_job(self.hang, "running") for _ in range(2)]
        self.begun.wait(20)
        waiting = self.run_job(self.hang, "waiting")
        waiting.cancel()
        self.failureResultOf(waiting, CancelledError)
        self.go_on.set()
        for job in running:
            await job
        await self.crew.stop()
        self.assertEqual(self.ran, ["running", "running"])

    async def test_not_running(self) -> None:
        """Before start() and after stop() the directory is down."""
        await self.crew.stop()
        self.failureResultOf(self.run_job(self.hang, "late"), DirectoryDown)
        self.assertEqual(self.crew.outstanding, 0)
        await self.crew.stop()

    async def test_stop_waits(self) -> None:
        """Stopping waits for the running jobs, without blocking the reactor."""
        job = self.run_job(self.hang, "running")
        stopped = Deferred.fromCoroutine(self.crew.stop())
        self.assertNoResult(stopped)
        self.go_on.set()
        await stopped
        await job

    async def test_stop_is_patient_no_longer(self) -> None:
        """Stopping does not wait for a thread that hangs, nor will the end of the process."""
        job = self.run_job(lambda: threading.current_thread().daemon and self.hang("hangs"))
        stopped = Deferred.fromCoroutine(self.crew.stop())
        self.clock.advance(5.0)
        self.successResultOf(stopped)
        self.failureResultOf(job, DirectoryDown)
        self.go_on.set()

    async def test_tell(self) -> None:
        """A thread can have something called in the reactor's thread."""
        told: Deferred[threading.Thread] = Deferred()
        await self.run_job(self.crew.tell, lambda: told.callback(threading.current_thread()))
        self.assertIs(await told, threading.current_thread())
