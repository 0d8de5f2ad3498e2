"""Where mailgw's time goes: C{perf} samples one mailgw while one kind of load is on it, cProfile counts in another.

perf tells the shares of kernel, OpenSSL and Python as they are; cProfile, which slows down what it watches, tells the
functions. Nothing is compared here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from bench.gateway import Mailgw
from bench.measures import Contestant, Measure
from bench.menu import MEASURES
from bench.processes import Process, ServerFailed, program, run_once
from bench.rounds import Rounds
from bench.surroundings import Surroundings

LOADS = {"login": "login-ec", "plain": "login-plain", "bulk": "bulk-down", "upload": "bulk-up", "chat": "chat"}
"""The measure whose load is put on, by what C{--profile} names."""
MORE = 8
"""Times the load of a quick run."""
_LINES = 45


def load(name: str) -> Measure:
    """@return: a measure with mailgw alone, long enough for some thousands of samples."""
    (measure,) = [measure for measure in MEASURES if measure.key == LOADS[name]]
    (port,) = {contestant.port for contestant in measure.contestants if contestant.name == "mailgw"}
    return replace(measure, contestants=(Contestant("mailgw", "mailgw", port),), number=(measure.number[1] * MORE,) * 2)


class Counted(Mailgw):
    """mailgw under cProfile, by twistd's own options."""

    @property
    def counts(self) -> str:
        return str(self.folder / "counts")

    def commands(self) -> dict[str, tuple[list[str], list[int]]]:
        ((command, ports),) = super().commands().values()
        at = command.index("mailgw")
        options = ["--profile", self.counts, "--profiler", "cProfile", "--savestats"]
        return {self.name: ([*command[:at], *options, *command[at:]], ports)}


def sample(name: str, around: Surroundings, tell: Callable[[str], None]) -> str:
    """Put a load on and look.

    @return: perf's report by library, and cProfile's by function.
    @raise ServerFailed: perf is not installed, or something did not start.
    """
    return _sample_libraries(name, around, tell) + _count_functions(name, around, tell)


def _sample_libraries(name: str, around: Surroundings, tell: Callable[[str], None]) -> str:
    perf = program("perf")
    if perf is None:
        raise ServerFailed("perf is not installed; on Debian: apt-get install --no-install-recommends linux-perf")
    rounds = Rounds(around, [load(name)], tell, None)
    server = rounds.adopt(Mailgw("mailgw", around))
    rounds.go(1)  # once without perf, so that everything is loaded and warm
    data = str(around.folder / "perf.data")
    pids = ",".join(str(process.pid) for process in server.processes)
    recorder = Process("perf", around.folder, [perf, "record", "-q", "-F", "499", "-o", data, "-p", pids], None)
    recorder.as_nobody = False
    try:
        recorder.start([])
        rounds.go(1)
    finally:
        recorder.end()
    text = run_once(perf, "report", "--stdio", "-i", data, "--sort", "dso", folder=around.folder)
    server.stop()
    return "".join(f"{line}\n" for line in text.split("\n") if line.strip() and not line.startswith("#"))


def _count_functions(name: str, around: Surroundings, tell: Callable[[str], None]) -> str:
    rounds = Rounds(around, [load(name)], tell, None)
    server = Counted("mailgw", around)
    rounds.adopt(server)
    rounds.go(1)
    server.stop()  # only then the counts are written
    print_them = f"import pstats; s = pstats.Stats({server.counts!r}); s.sort_stats('tottime').print_stats({_LINES})"
    return run_once(around.python, "-c", print_them, folder=around.folder)
