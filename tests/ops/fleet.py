"""A fleet whose zygotes, workers, links and time are played by the test."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.error import ProcessDone
from twisted.internet.task import Clock
from twisted.logger import LogLevel, globalLogPublisher
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from mailgw.ops import workers
from mailgw.ops.control import ControlLink, Emit, Row
from mailgw.ops.descriptors import BOOT, REPORTS
from mailgw.ops.tally import SharedMemory
from mailgw.ops.workers import Blueprint, Fleet, Generation


class FakeProcess:
    """A zygote as its transport."""

    def __init__(self, generation: Generation, pid: int, descriptors: dict[int, Any]) -> None:
        self.generation, self.pid, self.descriptors = generation, pid, descriptors
        self.written, self.closed = b"", False

    def writeToChild(self, descriptor: int, data: bytes) -> None:
        assert descriptor == BOOT
        self.written += data

    def closeStdin(self) -> None:
        self.closed = True

    def report(self, *lines: str) -> None:
        """Say something to the master."""
        self.generation.childDataReceived(REPORTS, "".join(f"{line}\n" for line in lines).encode())

    def exit(self, reason: Exception | None = None) -> None:
        """The zygote is gone."""
        self.generation.processExited(Failure(reason or ProcessDone(0)))
        self.generation.processEnded(Failure(reason or ProcessDone(0)))


class FakeReactor(Clock):
    """Time that is played, and processes."""

    def __init__(self) -> None:
        super().__init__()
        self.processes: list[FakeProcess] = []
        self.trouble: OSError | None = None

    def spawnProcess(self, generation: Generation, path: str, command: Any, env: Any, childFDs: Any) -> None:
        if self.trouble:
            raise self.trouble
        process = FakeProcess(generation, 100 * (len(self.processes) + 1), childFDs)
        self.processes.append(process)
        generation.makeConnection(process)


class FakeLink(ControlLink):
    """A link to a worker: what it is told is kept."""

    def __init__(self) -> None:
        super().__init__()
        self.told: list[tuple[str, Row]] = []

    def ask(self, command: str, arguments: Row, emit: Emit) -> Deferred[None]:
        self.told.append((command, arguments))
        return Deferred()


class FleetCase(SynchronousTestCase):
    """A fleet of two workers."""

    def setUp(self) -> None:
        self.reactor = FakeReactor()
        self.tally = SharedMemory(5)
        self.addCleanup(self.tally.close)
        self.fleet = Fleet(self.reactor, self.tally, "sesame")
        self.killed: list[int] = []
        self.patch(workers.os, "kill", lambda pid, number: self.killed.append(pid))
        self.events: list[tuple[LogLevel, str]] = []

        def observe(event: dict[str, Any]) -> None:
            if event.get("log_namespace", "").startswith(("mailgw", "other")):
                self.events.append((event["log_level"], event["log_format"].format_map(event)))

        globalLogPublisher.addObserver(observe)
        self.addCleanup(globalLogPublisher.removeObserver, observe)

    def blueprint(self, generation: int) -> Blueprint:
        """Of each generation."""
        return Blueprint(["python", str(generation)], b"boot", [20, 30], 2)

    def regions(self) -> int:
        """How many regions of the tally are taken."""
        return len(list(self.tally.written()))

    def said(self, words: str) -> bool:
        """Whether the log has a line with that."""
        return any(words in text for _, text in self.events)

    def hello(self, generation: int, slot: int, pid: int, token: str = "sesame") -> tuple[FakeLink, Deferred[None]]:
        """A worker says hello."""
        link = FakeLink()
        row = {"token": token, "generation": generation, "slot": slot, "pid": pid}
        return link, Deferred.fromCoroutine(self.fleet.commands(link)["hello"](row, lambda row: None))  # type: ignore[arg-type]

    def birth(self, process: FakeProcess) -> list[FakeLink]:
        """Both workers of a generation come up; their process ids are the zygote's and one or two."""
        process.report("ready")
        links = []
        for slot in (0, 1):
            process.report(f"forked {slot} {process.pid + slot + 1}")
            link, done = self.hello(process.generation.number, slot, process.pid + slot + 1)
            self.successResultOf(done)
            links.append(link)
        return links

    def renewed(self) -> tuple[FakeProcess, list[FakeLink]]:
        """A generation that is up."""
        up = self.fleet.renew(self.blueprint)
        process = self.reactor.processes[-1]
        links = self.birth(process)
        self.successResultOf(up)
        return process, links

    def lose(self, link: ControlLink) -> None:
        """A worker's link ends."""
        link.connectionLost()
