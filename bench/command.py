"""The command C{bench/run}: its options, and what it prints and writes.

How it measures is said in L{bench.rounds}.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bench import plot, sampling
from bench.gateway import DIRECTORIES, Mailgw
from bench.machine import describe
from bench.menu import GROUPS, choose
from bench.processes import ServerFailed
from bench.rounds import Rounds
from bench.surroundings import CHECKOUT, Surroundings, find_python
from bench.table import Row, render, rows

PEERS = ("nginx", "dovecot", "perdition")
QUICK_SECONDS = 160.0
"""After which a quick run begins nothing new, so that it ends within three minutes."""
QUICK_ROUNDS = 3
STOPPED = 130


def _names(known: Sequence[str]) -> Any:
    def read(text: str) -> tuple[str, ...]:
        names = tuple(text.split(",")) if text else ()
        if unknown := set(names) - set(known):
            raise argparse.ArgumentTypeError(f"{min(unknown)!r} is not one of {', '.join(known)}")
        return names

    return read


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="bench/run", description="What mailgw costs beside nginx, Dovecot, Perdition."
    )
    parser.add_argument("--quick", action="store_true", help="small loads, within three minutes")
    parser.add_argument("--rounds", type=int, help=f"default 5, with --quick at most {QUICK_ROUNDS}")
    parser.add_argument("--only", type=_names(GROUPS), default=GROUPS, metavar="MODE,...", help=", ".join(GROUPS))
    parser.add_argument("--peers", type=_names(PEERS), default=PEERS, metavar="PEER,...", help=", ".join(PEERS))
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything that was measured")
    parser.add_argument("--plot", type=Path, metavar="FILE.svg", help="draw the ratios")
    parser.add_argument("--python", help="the interpreter for mailgw; default: that of .venv, else this one")
    parser.add_argument("--directory", choices=DIRECTORIES, default="http", help="who mailgw asks; default: as nginx")
    parser.add_argument(
        "--profile", choices=sampling.LOADS, help="look with perf where mailgw's time goes, and no more"
    )
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="change a setting of mailgw")
    options = parser.parse_args(arguments)
    options.rounds = options.rounds or (QUICK_ROUNDS if options.quick else 5)
    return options


def tell(text: str) -> None:
    """Show how far we are."""
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


def main(arguments: Sequence[str]) -> int:
    """Measure.

    @return: the exit status: 1 where something failed that is not the absence of a package, 130 after Ctrl-C.
    """
    began = time.monotonic()
    options = parse(arguments)
    Mailgw.overrides, Mailgw.default_directory = tuple(options.set), options.directory
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: sys.exit(1))
    around = Surroundings(find_python(options.python))
    measures = choose(options.only, options.peers, options.quick)
    rounds = Rounds(around, measures, tell, began + QUICK_SECONDS if options.quick else None)
    machine: dict[str, str] = {}
    try:
        machine |= describe(around.python, CHECKOUT)
        around.start()
        if options.profile:
            print(sampling.sample(options.profile, around, tell))
            return 0
        rounds.go(options.rounds)
    except KeyboardInterrupt:
        tell("bench/run: stopped; what there is:")
        rounds.stopped = True
    except ServerFailed as failure:
        tell(f"bench/run: {failure}")
        return 1
    finally:
        around.close()
    table = rows(measures, rounds.runs)
    machine |= {"date": f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC", "rounds": _told_rounds(options.rounds, rounds)}
    machine |= {"seconds": f"{time.monotonic() - began:.0f}", "arguments": " ".join(arguments)}
    print("".join(f"{name}: {value}\n" for name, value in machine.items() if value))
    print(render(table), end="")
    if options.json:
        options.json.write_text(json.dumps(as_json(machine, table), indent=1) + "\n")
    if options.plot:
        options.plot.write_text(
            plot.draw(table, f"{machine['date']}, {machine['processor']}; rounds: {machine['rounds']}")
        )
    if rounds.stopped:
        return STOPPED
    return 1 if any(series.failed for runs in rounds.runs.values() for series in runs.values()) else 0


def _told_rounds(wanted: int, rounds: Rounds) -> str:
    if rounds.completed == wanted:
        return f"{wanted}"
    return f"{rounds.completed} of {wanted}, then {'it was stopped' if rounds.stopped else 'time was up'}"


def as_json(machine: dict[str, str], table: Sequence[Row]) -> dict[str, Any]:
    """@return: everything, raw samples included."""
    return {"machine": machine, "rows": [_row(entry) for entry in table]}


def _row(entry: Row) -> dict[str, Any]:
    measure, contestant, series = entry.measure, entry.contestant, entry.series
    found: dict[str, Any] = {
        "measure": measure.key,
        "title": measure.title,
        "server": contestant.name,
        "unit": measure.unit,
        "values": series.values(measure.metric, measure.scale),
        "goal": contestant.goal,
        "goal reached": entry.met,
        "notes": series.notes,
        "failed": series.failed,
    }
    for name, spread in (("value", entry.value), (measure.compare, entry.beside)):
        if spread is not None:
            found[name] = {"median": spread.median, "min": spread.least, "max": spread.greatest, "n": spread.count}
    if not measure.of:
        found["samples"] = series.samples
    return found
