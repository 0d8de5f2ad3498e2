"""The runs themselves: round after round, server after server, in an order that is another one each round.

It judges nothing: what comes out is in L{bench.figures.Series}, by measure and contestant.
"""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from bench.figures import Sample, Series
from bench.gateway import Mailgw
from bench.measures import DIRECT, Contestant, Measure
from bench.processes import HOST, ServerFailed
from bench.servers import Dovecot, Nginx, Perdition, Server
from bench.surroundings import USERS, Surroundings

KINDS: Mapping[str, type[Server]] = {"nginx": Nginx, "dovecot": Dovecot, "perdition": Perdition, "mailgw": Mailgw}
PATIENCE = 120.0
"""Seconds that one run may take."""
Runs = dict[str, dict[str, Series]]
"""By the key of the measure and the name of the contestant."""


def rotated(contestants: Sequence[Contestant], number: int) -> list[Contestant]:
    """@return: the contestants in the order of this round: each is first once."""
    start = number % len(contestants)
    return [*contestants[start:], *contestants[:start]]


class Rounds:
    """All runs of some measures."""

    def __init__(
        self, around: Surroundings, measures: Sequence[Measure], tell: Callable[[str], None], deadline: float | None
    ) -> None:
        """
        @param tell: shows how far we are.
        @param deadline: in terms of C{time.monotonic}; no run is begun after it.
        """
        self._around, self._tell, self._deadline = around, tell, deadline
        self._measures = [measure for measure in measures if not measure.of]
        self._servers: dict[str, Server] = {}
        self._broken: dict[str, ServerFailed] = {}
        self.runs: Runs = {
            measure.key: {contestant.name: Series() for contestant in measure.contestants} for measure in self._measures
        }
        self.completed = 0
        self.out_of_time = self.stopped = False

    def adopt(self, server: Server) -> Server:
        """Start a server that stands for all of its name."""
        server.start()
        self._servers[server.name] = server
        return server

    def go(self, rounds: int) -> None:
        """Run that many rounds, or fewer where time is up before."""
        for number in range(rounds):
            for measure in self._measures:
                if not (measure.once and number):
                    self._measure(measure, number)
            if self.out_of_time:
                return
            self.completed = number + 1

    def _measure(self, measure: Measure, number: int) -> None:
        for contestant in rotated(measure.contestants, number):
            if self._deadline is not None and time.monotonic() > self._deadline:
                self.out_of_time = True
            series = self.runs[measure.key][contestant.name]
            sample = None if self.out_of_time else self._sample(measure, contestant, series)
            series.samples.append(sample)
            if sample is not None:
                value = sample.get(measure.metric)
                told = "done" if value is None else f"{value * measure.scale:.4g} {measure.unit}"
                self._tell(f"round {number + 1}: {measure.title}: {contestant.name}: {told}")
        add_latency(self.runs[measure.key])
        check_handshakes(self.runs[measure.key])

    def _sample(self, measure: Measure, contestant: Contestant, series: Series) -> Sample | None:
        if contestant.constant is not None:
            return {measure.metric: contestant.constant}
        try:
            return self._run(measure, contestant, series)
        except ServerFailed as failure:
            series.note(str(failure))
            series.failed = series.failed or not str(failure).startswith("not ")
            self._tell(f"{measure.title}: {contestant.name}: {failure}")
            return None

    def _run(self, measure: Measure, contestant: Contestant, series: Series) -> Sample:
        options = dict(measure.load)
        share = max(1, round(measure.number[0] * contestant.share))
        options["n"] = str(share)
        if contestant.server == DIRECT:
            options["tls"] = "none"
            sample = self._load(options, getattr(self._around, options.get("protocol", "imap")), [], series)
            return {name: value for name, value in sample.items() if not name.startswith("cpu_")}
        server = self._server(contestant.server, measure.fresh)
        port, cost = server.ports[contestant.port], server.cost_arguments()
        with self._holding(contestant.idle, port, cost):
            sample = self._load(options, port, cost, series)
        if not server.started:
            raise ServerFailed(f"{server.name} ended by itself: {server.processes[0].last_words()}")
        return sample

    def _server(self, name: str, fresh: bool) -> Server:
        """@return: a server, started where that has not been tried before."""
        if name in self._broken:
            raise self._broken[name]
        server = self._servers.get(name)
        if server is None:
            server = self._servers[name] = KINDS[name.partition("-")[0]](name, self._around)
        if fresh or not server.started:
            try:
                server.start()
            except ServerFailed as failure:
                self._broken[name] = failure
                server.stop()
                raise
        return server

    def _command(self, options: Mapping[str, str], port: int, cost: Sequence[str]) -> list[str]:
        arguments = [f"-{name}={value}" for name, value in options.items()]
        return [self._around.load, f"-addr={HOST}:{port}", f"-users={USERS}", *cost, *arguments]

    def _load(self, options: Mapping[str, str], port: int, cost: Sequence[str], series: Series) -> Sample:
        command = self._command(options, port, cost)
        try:
            done = subprocess.run(  # noqa: S603  # our own program
                command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=PATIENCE, check=False
            )
        except subprocess.TimeoutExpired:
            raise ServerFailed(f"did not end within {PATIENCE:g} s") from None
        sample = _read(done.stdout, done.stderr)
        if sample["failed"]:
            series.failed = True
            series.note(f"{sample['failed']} failures, the first: {sample.get('error')}")
            if sample["failed"] * 100 > sample["n"]:
                raise ServerFailed(f"{sample['failed']} of {sample['n']} failed: {sample.get('error')}")
        return sample

    @contextmanager
    def _holding(self, sessions: int, port: int, cost: Sequence[str]) -> Iterator[None]:
        """Hold some idle sessions meanwhile, all of which must answer at the end."""
        if not sessions:
            yield
            return
        options = {"mode": "idle", "n": str(sessions), "c": "16", "settle": "500ms", "until-eof": "true"}
        with ExitStack() as stack:
            process = stack.enter_context(
                subprocess.Popen(  # noqa: S603
                    self._command(options, port, cost), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
                )
            )
            stack.callback(process.kill)
            assert process.stdout is not None
            first = process.stdout.readline()
            if first != "ready\n":
                raise ServerFailed(f"{sessions} idle sessions could not be opened: {first[-300:]}")
            yield
            sample = _read(process.communicate(timeout=PATIENCE)[0], "")
            if sample["alive"] != sessions:
                raise ServerFailed(
                    f"only {sample['alive']} of {sessions} idle sessions answered: {sample.get('error')}"
                )


def _read(line: str, errors: str) -> dict[str, Any]:
    try:
        sample: dict[str, Any] = json.loads(line)
    except ValueError:
        raise ServerFailed(f"the load generator said {(errors or line)[-300:]!r}") from None
    return sample


def add_latency(runs: Mapping[str, Series]) -> None:
    """Where the load went to the backend directly too, add what each server's p50 is above that."""
    direct = runs.get(DIRECT)
    beside = direct.samples[-1] if direct is not None else None
    if beside is None:
        return
    for series in runs.values():
        sample = series.samples[-1]
        if sample is not None and series is not direct:
            series.samples[-1] = {**sample, "added_p50_ms": sample["p50_ms"] - beside["p50_ms"]}


def check_handshakes(runs: Mapping[str, Series]) -> None:
    """All must have used the same version, cipher and certificate, else they are not comparable."""
    reference = ""
    for series in runs.values():
        sample = series.samples[-1]
        seen = sample.get("handshake", "") if sample is not None else ""
        if seen and reference and seen != reference:
            series.failed = True
            series.note(f"not the same TLS: {seen} instead of {reference}")
        reference = reference or seen
