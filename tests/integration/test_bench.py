"""C{bench/run} itself, as small as it gets: mailgw beside nginx, one round, and nothing is left of it afterwards."""

from __future__ import annotations

import glob
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from twisted.trial.unittest import SynchronousTestCase

from tests.integration.ports import needs
from tests.test_house import ROOT


class GoTests(SynchronousTestCase):
    """The load generator and the servers behind the measured ones."""

    skip = needs("go")

    def test_formatted_and_vetted(self) -> None:
        """gofmt would change nothing, and go vet finds nothing."""
        cache = {} if os.environ.get("HOME") else {"GOCACHE": str(Path(self.mktemp()).resolve())}
        environment = {
            **os.environ,
            **cache,
            "CGO_ENABLED": "0",
            "GOFLAGS": "-buildvcs=false",
            "GOPROXY": "off",
            "GOTOOLCHAIN": "local",
        }
        for command in (["gofmt", "-l", "."], ["go", "vet", "./..."]):
            done = subprocess.run(
                command, cwd=ROOT / "bench", env=environment, capture_output=True, text=True, timeout=170.0, check=False
            )
            self.assertEqual((done.returncode, done.stdout, done.stderr), (0, "", ""))


class BenchTests(SynchronousTestCase):
    """The smallest run."""

    skip = needs("go", "nginx")

    def test_smallest(self) -> None:
        """It measures both, writes JSON and a plot, ends with 0, and ends everything that it has started."""
        folder = self.open_folder()
        status, output = run_bench(folder, "--only", "plain,pop3", "--json", "found.json", "--plot", "found.svg")
        self.assertEqual(status, 0, output)
        self.assertRegex(output, r"login without TLS +\| nginx +\| [0-9.]+ ms CPU +\| 1 ")
        found = json.loads((folder / "found.json").read_text())
        self.assertEqual([row["server"] for row in found["rows"]], ["nginx", "mailgw"] * 2)
        for row in found["rows"]:
            self.assertSound(row)
        self.assertTrue(found["machine"]["nginx"])
        self.assertEqual(ElementTree.parse(folder / "found.svg").getroot().tag, "{http://www.w3.org/2000/svg}svg")
        self.assertEqual(remains(folder), [])

    def open_folder(self) -> Path:
        """@return: an empty folder that the servers can reach as another user, which trial's own are not."""
        folder = Path(tempfile.mkdtemp(prefix="mailgw-bench-test-"))
        self.addCleanup(shutil.rmtree, folder, ignore_errors=True)
        folder.chmod(0o755)
        return folder

    def assertSound(self, row: dict[str, Any]) -> None:
        """Nothing failed, and a session cost something between nothing and a tenth of a second."""
        (sample,) = row["samples"]
        self.assertEqual((sample["failed"], row["notes"], row["failed"]), (0, [], False))
        self.assertGreater(sample["cpu_ms_per_unit"], 0.0)
        self.assertLess(sample["cpu_ms_per_unit"], 100.0)
        self.assertLessEqual(sample["p50_ms"], sample["p99_ms"])

    def test_server_that_does_not_start(self) -> None:
        """It stands in the table, the others are measured all the same, and the exit status says that one failed."""
        folder = self.open_folder()
        status, output = run_bench(folder, "--only", "plain", "--set", "limits.connections_per_user=none")
        self.assertEqual(status, 1, output)
        self.assertRegex(output, r"\| nginx +\| [0-9.]+ ms CPU")
        self.assertRegex(output, r"\| mailgw +\| - .* see 1\)")
        self.assertRegex(output, r"1\) mailgw ended with status 1: .*limits\.connections_per_user")
        self.assertEqual(remains(folder), [])


def run_bench(folder: Path, *arguments: str) -> tuple[int, str]:
    """@return: the exit status, and all that it said."""
    command = [sys.executable, str(ROOT / "bench" / "run"), "--quick", "--rounds", "1", "--peers", "nginx"]
    # its own temporary folder, so that what it leaves can be found
    environment = {**os.environ, "TMPDIR": str(folder.resolve())}
    done = subprocess.run(
        [*command, "--python", sys.executable, *arguments],
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=170.0,
        check=False,
    )
    return done.returncode, done.stdout


def remains(folder: Path) -> list[str]:
    """@return: temporary folders of a run, and processes that were started in one."""
    inside = str(folder.resolve())
    left = [path.name for path in folder.glob("mailgwbench-*")]
    for file in glob.glob("/proc/[0-9]*/cmdline"):
        try:
            words = Path(file).read_bytes().split(b"\0")
        except OSError:
            continue
        if any(os.fsencode(inside) in word for word in words) and b"mailgwbench-" in b"".join(words):
            left.append(b" ".join(words).decode(errors="replace"))
    return left
