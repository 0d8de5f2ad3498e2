"""Where mailgw's time goes: C{perf} samples one mailgw while one kind of load is on it.

With Python 3.12 or newer the functions of Python have names in it. It compares nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from bench.gateway import Mailgw
from bench.measures import MEASURES, Contestant, Measure
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


class Named(Mailgw):
    """mailgw that tells perf the names of its functions; other versions of Python ignore that."""

    def environment(self) -> Mapping[str, str]:
        return {**super().environment(), "PYTHONPERFSUPPORT": "1"}


def sample(name: str, around: Surroundings, tell: Callable[[str], None]) -> str:
    """Put a load on and look.

    @return: perf's report, by library and by function.
    @raise ServerFailed: perf is not installed, or something did not start.
    """
    perf = program("perf")
    if perf is None:
        raise ServerFailed("perf is not installed; on Debian: apt-get install --no-install-recommends linux-perf")
    rounds = Rounds(around, [load(name)], tell, None)
    server = rounds.adopt(Named("mailgw", around))
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
    return "\n".join(_report(perf, data, key) for key in ("dso", "dso,symbol"))


def _report(perf: str, data: str, key: str) -> str:
    text = run_once(perf, "report", "--stdio", "-i", data, "--sort", key, folder=Path(data).parent)
    lines = [line for line in text.split("\n") if line.strip() and not line.startswith("#")]
    return f"by {key}\n" + "\n".join(lines[:_LINES]) + "\n"
