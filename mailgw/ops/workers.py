"""Workers: a fleet of processes that are kept alive, generation by generation.

A generation is one zygote, which has loaded everything and runs no reactor, and the workers that it forks. A reload is
a new generation, while the workers of the old one go on until their last session is over. What the processes do is not
known here: they are started with a command and get a boot message, see L{mailgw.zygote}.
"""

from __future__ import annotations

import json
import os
import signal
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from twisted.internet.defer import Deferred, fail
from twisted.internet.interfaces import IDelayedCall
from twisted.internet.protocol import ProcessProtocol
from twisted.logger import Logger, LogLevel
from twisted.python.failure import Failure

from mailgw.ops.control import Command, ControlLink, Emit, Refused, Row
from mailgw.ops.descriptors import BOOT, ERRORS, FIRST_SOCKET, LOG, OUTPUT, REPORTS, TALLY
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


@dataclass(frozen=True)
class Blueprint:
    """What a generation is made of.

    @ivar command: the zygote's.
    @ivar boot: its boot message but for what L{Fleet} adds.
    @ivar output: a descriptor for what they have to say without the master.
    @ivar sockets: descriptors that it and its workers inherit; they see them as L{FIRST_SOCKET} and so on.
    """

    command: Sequence[str]
    boot: bytes
    sockets: Sequence[int]
    workers: int
    output: int = 2
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
        self._parting: tuple[str, Row] = ("retire", {})
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
        """A report of the zygote; an exception here would close the pipe that all others come through."""
        what, *words = line.split() or [b""]
        try:
            numbers = [int(word) for word in words]
        except ValueError:
            numbers = [-1, -1, -1]
        match what, numbers:
            case b"ready", [] if not self.workers:
                for slot in range(self._blueprint.workers):
                    self._fork(slot, SOONEST)
            case b"forked", [slot, pid] if pid > 0:
                if slot in self.workers:
                    self.workers[slot].pid = pid
            case b"ended", [pid, status]:
                self._worker_ended(pid, status)
            case _:
                self.log.error("not a report of the process that starts workers: {line!r}", line=line[:200])

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
            with suppress(KeyError):  # its pipe is closed, and that it ended will be told in a moment
                self.transport.writeToChild(BOOT, words.encode() + b"\n")

    def _late(self) -> None:
        """The generation is not up in time: it is given up, and the one before stays."""
        self.give_up(f"new workers were not ready within {BIRTH:g} s")

    def give_up(self, reason: str) -> None:
        """Unless it is up already, end before it is."""
        if not self.up.called:
            # a zygote that has not said a word yet may be one that never will
            _kill(self.transport.pid if not self.workers else 0)
            self.end()
            self.up.errback(Refused(reason))

    def processEnded(self, reason: Failure) -> None:
        """The zygote is gone, and all workers that could have written to our pipes."""
        for lines in self._lines.values():
            lines.rest()

    def processExited(self, reason: Failure) -> None:
        """The zygote is gone; workers that are left are nobody's children, and known by their links only."""
        self._ended = True
        self.give_up(f"the process that starts workers ended: {reason.getErrorMessage()}")
        for worker in list(self.workers.values()):
            if worker.link is None:  # nobody would tell us that it ended
                _kill(worker.pid)
                self._forget(worker)
        if self.retiring and not self.workers:
            self._fleet.over(self)
        self._fleet.zygote_ended(self)

    # --- workers -----------------------------------------------------------------------------------------------------

    def greet(self, slot: int, pid: int, link: ControlLink) -> None:
        """A worker says hello.

        @raise Refused: nobody waits for it any more.
        """
        worker = self.workers.get(slot)
        if worker is None or worker.pid not in (0, pid):
            raise Refused("this worker was given up")
        worker.pid, worker.link = pid, link
        if worker.timer is not None and worker.timer.active():
            worker.timer.cancel()
        link.gone.addCallback(lambda _: self._unlinked(worker))
        if self.retiring:
            self._part(link)
        elif not self.up.called and all(one.link for one in self.workers.values()):
            self._stop_deadline()
            self.up.callback(None)

    def never_was(self) -> None:
        """There is no zygote, and will be none."""
        self._ended = True
        self._stop_deadline()

    def _stop_deadline(self) -> None:
        if self._deadline.active():
            self._deadline.cancel()

    def _silent(self, worker: _Worker) -> None:
        # one without a number was not even forked: then it is the zygote that hangs
        pid = worker.pid or self.transport.pid
        self.log.error("worker {pid} does not say hello, and is killed", pid=pid)
        _kill(pid)

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
            self.give_up("a new worker ended before it was ready; the log has more")
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
        if self.retiring:
            return
        self._leave("retire", {})
        if not self.up.called:  # a newer one was faster, and is what was wanted
            self.up.callback(None)

    def end(self, drain: float = 0.0) -> None:
        """End, at the latest when C{drain} seconds are over."""
        self._leave("stop", {"drain": drain})
        self._fleet.reactor.callLater(drain + GRACE, self._kill_all)

    def _leave(self, command: str, arguments: Row) -> None:
        self.retiring, self._parting = True, (command, arguments)
        self._stop_deadline()
        for worker in list(self.workers.values()):
            if worker.link is not None:
                self._part(worker.link)
            elif command == "stop":  # who retires may be asked when it says hello, who stops must not keep us
                _kill(worker.pid)
        if not self.workers:
            self._close_zygote()
            self._fleet.over(self)

    def _part(self, link: ControlLink) -> None:
        link.ask(*self._parting, _nothing).addErrback(lambda failure: failure.trap(Refused))

    def _kill_all(self) -> None:
        for worker in list(self.workers.values()):
            self.log.warn("worker {pid} does not end, and is killed", pid=worker.pid)
            _kill(worker.pid or self.transport.pid)
            if not worker.pid or self._ended:  # nobody would tell us that it ended
                self._forget(worker)
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
        self._parted: set[ControlLink] = set()
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
        descriptors: dict[int, Any] = {BOOT: "w", LOG: "r", ERRORS: "r", REPORTS: "r"}
        descriptors |= {TALLY: self.tally.fileno, OUTPUT: plan.output}
        descriptors |= {FIRST_SOCKET + number: one for number, one in enumerate(plan.sockets)}
        try:
            self.reactor.spawnProcess(
                generation, plan.command[0], plan.command, env=plan.environment, childFDs=descriptors
            )
        except OSError as error:
            generation.never_was()
            return fail(Refused(f"{plan.command[0]} cannot be started: {error.strerror or error}"))
        self.generations.append(generation)

        def up(_: None) -> None:
            self._blueprint, self._wait = blueprint, SOONEST
            for older in list(self.generations):
                if older.number < generation.number:
                    older.retire()

        return generation.up.addCallback(up)

    def commands(self, link: ControlLink) -> Mapping[str, Command]:
        """What a worker may ask for on a link that it has made."""

        async def hello(arguments: Row, emit: Emit) -> None:
            if arguments.get("token") != self._token:
                raise Refused("not a worker of this gateway")
            for generation in self.generations:
                if generation.number == arguments["generation"]:
                    generation.greet(int(arguments["slot"]), int(arguments["pid"]), link)
                    return
            raise Refused("this generation of workers was given up")

        async def farewell(arguments: Row, emit: Emit) -> None:
            self._parted.add(link)  # what it has counted is ours now, and must not be counted twice
            link.gone.addCallback(lambda _: self._parted.discard(link))
            self.past.update({name: count for name, count in arguments.items() if not name.endswith(".sessions")})

        return {"hello": hello, "farewell": farewell}

    def links(self) -> list[ControlLink]:
        """To all workers that can be asked."""
        workers = [worker for generation in self.generations for worker in generation.workers.values()]
        return [worker.link for worker in workers if worker.link is not None and worker.link not in self._parted]

    def stop(self, drain: float) -> Deferred[None]:
        """End all workers; fires when the last one is gone."""
        self.stopping = True
        self._over = Deferred()
        over = self._over
        for generation in list(self.generations):
            generation.give_up("the gateway stops")
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
        if self.stopping:
            return
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


def _kill(pid: int | None) -> None:
    """@param pid: none or 0 where it is not known."""
    if pid:  # not for 0: that is us, and everybody in our group
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def _how(status: int) -> str:
    """An exit status as C{os.waitstatus_to_exitcode} gives it, in words."""
    return f"signal {-status}" if status < 0 else f"status {status}"
