"""Workers: a fleet of processes that are kept alive, generation by generation.

A generation is one zygote, which has loaded everything and runs no reactor, and the workers that it forks. A reload is
a new generation, while the workers of the old one go on until their last session is over. What the processes do is not
known here: they are started with a command and get a boot message, see L{mailgw.zygote}.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall
from twisted.internet.protocol import ProcessProtocol
from twisted.logger import Logger, LogLevel
from twisted.python.failure import Failure

from mailgw.ops.control import Command, ControlLink, Emit, Refused, Row
from mailgw.ops.descriptors import BOOT, ERRORS, FIRST_SOCKET, LAST_RESORT, LOG, REPORTS, TALLY
from mailgw.ops.tally import SharedMemory

BIRTH = 60.0
"""Seconds that a zygote may take to load everything, and a worker to say hello."""
SOONEST, LATEST = 0.5, 30.0
"""Seconds before a worker that died is replaced: the first time, and at most. A worker that has lived for L{LATEST}
begins anew with the first.
"""
GRACE = 5.0
"""Seconds that a worker may take to end behind its time, before it is killed."""

LONGEST_LINE = 1 << 16
"""Octets of a line that a process may print."""


@dataclass(slots=True)
class _Worker:
    """A worker that lives, or shall live.

    @ivar region: of the shared tally; C{None}: none was left, it counts alone.
    """

    slot: int
    region: int | None
    pid: int = 0
    since: float = 0.0
    link: ControlLink | None = None
    timer: IDelayedCall | None = None
    wait: float = SOONEST
    retired: bool = False


@dataclass(frozen=True)
class Blueprint:
    """What a generation is made of.

    @ivar command: the zygote's.
    @ivar boot: its boot message but for what L{Fleet} adds.
    @ivar sockets: descriptors that it and its workers inherit; they see them as L{FIRST_SOCKET} and so on.
    """

    command: Sequence[str]
    boot: bytes
    sockets: Sequence[int]
    workers: int
    environment: Mapping[str, str] = field(default_factory=dict)


class Generation(ProcessProtocol):
    """One zygote, and its workers."""

    log = Logger()
    transport: Any

    def __init__(self, fleet: Fleet, number: int, blueprint: Blueprint) -> None:
        self.number, self._fleet, self._blueprint = number, fleet, blueprint
        self.workers: dict[int, _Worker] = {}
        self.up: Deferred[None] = Deferred()
        self.retiring = False
        self._lines = {LOG: _Lines(self._tell), ERRORS: _Lines(self._tell), REPORTS: _Lines(self._hear)}
        self._deadline = fleet.reactor.callLater(BIRTH, self._late)
        self._ended = False

    # --- the zygote --------------------------------------------------------------------------------------------------

    def connectionMade(self) -> None:
        self.transport.writeToChild(BOOT, len(self._blueprint.boot).to_bytes(8, "big") + self._blueprint.boot)

    def childDataReceived(self, childFD: int, data: bytes) -> None:
        self._lines[childFD].feed(data)

    def _tell(self, line: bytes) -> None:
        self._fleet.tell(line)

    def _hear(self, line: bytes) -> None:
        """A report of the zygote."""
        what, *numbers = line.decode().split()
        match what, [int(number) for number in numbers]:
            case "ready", []:
                for slot in range(self._blueprint.workers):
                    self._fork(slot, SOONEST)
            case "forked", [slot, pid]:
                self.workers[slot].pid = pid
            case "ended", [pid, status]:
                self._worker_ended(pid, status)

    def _fork(self, slot: int, wait: float) -> None:
        if self._ended or self.retiring:
            return
        region = self._fleet.tally.take_region()
        if region is None:
            self.log.warn("a worker counts alone: {count} others are there", count=self._fleet.tally.regions)
        worker = self.workers[slot] = _Worker(slot, region, since=self._fleet.reactor.seconds(), wait=wait)
        worker.timer = self._fleet.reactor.callLater(BIRTH, self._silent, worker)
        self._command(f"fork {slot} {-1 if region is None else region}")

    def _command(self, words: str) -> None:
        if not self._ended:
            self.transport.writeToChild(BOOT, words.encode() + b"\n")

    def _late(self) -> None:
        """The generation is not up in time: it is given up, and the one before stays."""
        if not self.up.called:
            self._fail(f"new workers were not ready within {BIRTH:g} s")

    def _fail(self, reason: str) -> None:
        up, self.up = self.up, Deferred()
        self.end()
        up.errback(Refused(reason))

    def processEnded(self, reason: Failure) -> None:
        """The zygote is gone, and all workers that could have written to our pipes."""
        for lines in self._lines.values():
            lines.rest()

    def processExited(self, reason: Failure) -> None:
        """The zygote is gone; workers that are left are nobody's children, and known by their links only."""
        self._ended = True
        if not self.up.called:
            self._fail(f"the process that starts workers ended: {reason.getErrorMessage()}")
        if not any(worker.link for worker in self.workers.values()):
            for worker in list(self.workers.values()):
                self._forget(worker)
        self._fleet.zygote_ended(self)

    # --- workers -----------------------------------------------------------------------------------------------------

    def greet(self, slot: int, pid: int, link: ControlLink) -> None:
        """A worker says hello."""
        worker = self.workers[slot]
        worker.pid, worker.link = pid, link
        if worker.timer is not None and worker.timer.active():
            worker.timer.cancel()
        link.gone.addCallback(lambda _: self._unlinked(worker))
        if not self.up.called and all(one.link for one in self.workers.values()):
            self._stop_deadline()
            self.up.callback(None)

    def _stop_deadline(self) -> None:
        if self._deadline.active():
            self._deadline.cancel()

    def _silent(self, worker: _Worker) -> None:
        self.log.error("worker {pid} does not say hello, and is killed", pid=worker.pid)
        _kill(worker.pid)

    def _unlinked(self, worker: _Worker) -> None:
        worker.link = None
        if self._ended:  # nobody else will report its end
            self._forget(worker)

    def _worker_ended(self, pid: int, status: int) -> None:
        worker = next((one for one in self.workers.values() if one.pid == pid), None)
        if worker is None:
            return
        self._forget(worker)
        lived = self._fleet.reactor.seconds() - worker.since
        if self.retiring:
            return
        wait = SOONEST if lived >= LATEST else worker.wait
        self.log.error(
            "worker {pid} ended ({how}) after {lived:.0f} s; a new one comes in {wait:g} s",
            pid=pid,
            how=_how(status),
            lived=lived,
            wait=wait,
        )
        if not self.up.called:
            self._fail("a new worker ended before it was ready; the log has more")
        else:
            self._fleet.reactor.callLater(wait, self._fork, worker.slot, min(2 * wait, LATEST))

    def _forget(self, worker: _Worker) -> None:
        if self.workers.get(worker.slot) is worker:
            del self.workers[worker.slot]
        if worker.timer is not None and worker.timer.active():
            worker.timer.cancel()
        if worker.region is not None:
            self._fleet.tally.give_region(worker.region)
        if self.retiring and not self.workers:
            self._close_zygote()
            self._fleet.over(self)

    def _close_zygote(self) -> None:
        if not self._ended:
            self.transport.closeStdin()

    # --- the end -----------------------------------------------------------------------------------------------------

    def retire(self) -> None:
        """Accept nobody any more; the workers end with their last session."""
        self._leave("retire", {})

    def end(self, drain: float = 0.0) -> None:
        """End, at the latest when C{drain} seconds are over."""
        self._leave("stop", {"drain": drain})
        self._fleet.reactor.callLater(drain + GRACE, self._kill_all)

    def _leave(self, command: str, arguments: Row) -> None:
        self.retiring = True
        self._stop_deadline()
        for worker in list(self.workers.values()):
            if worker.link is not None:
                worker.link.ask(command, arguments, _nothing).addErrback(lambda failure: failure.trap(Refused))
            elif worker.pid:
                _kill(worker.pid)
        if not self.workers:
            self._close_zygote()
            self._fleet.over(self)

    def _kill_all(self) -> None:
        for worker in list(self.workers.values()):
            self.log.warn("worker {pid} does not end, and is killed", pid=worker.pid)
            _kill(worker.pid)
        if not self._ended:
            self._close_zygote()


class _Lines:
    """Cuts what a pipe brings into lines."""

    def __init__(self, take: Callable[[bytes], None]) -> None:
        self._take, self._begun = take, b""

    def feed(self, data: bytes) -> None:
        *lines, self._begun = (self._begun + data).split(b"\n")
        if len(self._begun) > LONGEST_LINE:
            lines, self._begun = [*lines, self._begun], b""
        for line in lines:
            self._take(line)

    def rest(self) -> None:
        """Nothing more comes: what has no line end is a line too."""
        if self._begun:
            self._take(self._begun)


class Fleet:
    """All generations.

    @ivar tally: on which all workers count.
    @ivar past: what workers had counted that are gone.
    """

    log = Logger()

    def __init__(self, reactor: Any, tally: SharedMemory, token: str) -> None:
        """@param token: what a worker shows to say hello."""
        self.reactor, self.tally, self._token = reactor, tally, token
        self.generations: list[Generation] = []
        self.past: Counter[str] = Counter()
        self.stopping = False
        self._blueprint: Callable[[int], Blueprint] | None = None
        self._born = 0
        self._over: Deferred[None] | None = None
        self._loggers: dict[str, Logger] = {}
        self._wait = SOONEST

    def renew(self, blueprint: Callable[[int], Blueprint]) -> Deferred[None]:
        """Start a generation, and retire those before it once it is up.

        @param blueprint: gets the generation's number.
        @return: fires then; fails with L{Refused} where it did not come up: all stays as it was.
        """
        self._born += 1
        plan = blueprint(self._born)
        self._blueprint = self._blueprint or blueprint
        generation = Generation(self, self._born, plan)
        self.generations.append(generation)
        descriptors: dict[int, Any] = {BOOT: "w", LOG: "r", ERRORS: "r", REPORTS: "r"}
        descriptors |= {TALLY: self.tally.fileno, LAST_RESORT: sys.__stderr__.fileno() if sys.__stderr__ else 2}
        descriptors |= {FIRST_SOCKET + number: one for number, one in enumerate(plan.sockets)}
        self.reactor.spawnProcess(generation, plan.command[0], plan.command, env=plan.environment, childFDs=descriptors)

        def up(_: None) -> None:
            self._blueprint, self._wait = blueprint, SOONEST
            for older in self.generations[: self.generations.index(generation)]:
                older.retire()

        return generation.up.addCallback(up)

    def commands(self, link: ControlLink) -> Mapping[str, Command]:
        """What a worker may ask for on a link that it has made."""

        async def hello(arguments: Row, emit: Emit) -> None:
            if arguments.get("token") != self._token:
                raise Refused("not a worker of this gateway")
            for generation in self.generations:
                if generation.number == arguments["generation"]:
                    generation.greet(arguments["slot"], arguments["pid"], link)

        async def farewell(arguments: Row, emit: Emit) -> None:
            self.past.update({name: count for name, count in arguments.items() if not name.endswith(".sessions")})

        return {"hello": hello, "farewell": farewell}

    def links(self) -> list[ControlLink]:
        """To all workers that can be asked."""
        workers = [worker for generation in self.generations for worker in generation.workers.values()]
        return [worker.link for worker in workers if worker.link is not None]

    def stop(self, drain: float) -> Deferred[None]:
        """End all workers; fires when the last one is gone."""
        self.stopping = True
        self._over = Deferred()
        over = self._over
        for generation in list(self.generations):
            generation.end(drain)
        self._look()
        return over

    def over(self, generation: Generation) -> None:
        """The last worker of a generation that was to end is gone."""
        with suppress(ValueError):
            self.generations.remove(generation)
        self._look()

    def _look(self) -> None:
        if self._over is not None and not self.generations and not self._over.called:
            self._over.callback(None)

    def zygote_ended(self, generation: Generation) -> None:
        """Without a zygote no worker can be replaced: another generation comes in its place."""
        if not (generation.retiring or self.stopping):
            self.try_again(generation)

    def try_again(self, generation: Generation | None = None) -> None:
        """Start the generation that was good before, or the first one, in a while.

        @param generation: unless this one has an heir meanwhile.
        """
        self.log.error("another start of workers comes in {wait:g} s", wait=self._wait)
        self.reactor.callLater(self._wait, self._start_again, generation)
        self._wait = min(2 * self._wait, LATEST)

    def _start_again(self, generation: Generation | None) -> None:
        if self.stopping or self._blueprint is None or (generation is not None and generation.retiring):
            return

        def failed(failure: Failure) -> None:
            self.log.error("{reason}", reason=failure.getErrorMessage())
            self.try_again(generation)

        self.renew(self._blueprint).addErrback(failed)

    def tell(self, line: bytes) -> None:
        """Put a line of a worker's log into ours: C{[level, namespace, text]} in JSON, or whatever was printed."""
        try:
            level, namespace, text = json.loads(line)
            logger = self._loggers.get(namespace) or self._loggers.setdefault(namespace, Logger(namespace))
            logger.emit(LogLevel.levelWithName(level), "{text}", text=text)
        except Exception:  # a process that dies prints what it likes
            self.log.error("{line}", line=line.decode("utf-8", "backslashreplace"))


def _nothing(_: Row) -> None:
    """Rows that nobody needs."""


def _kill(pid: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def _how(status: int) -> str:
    """An exit status as C{os.waitstatus_to_exitcode} gives it, in words."""
    return f"signal {-status}" if status < 0 else f"status {status}"
