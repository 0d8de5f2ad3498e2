"""The gateway itself for tests: real twistd in a process of its own, with settings that the test writes.

It runs the code of this checkout, whatever is installed. C{MAILGW_TEST_TRANSPORT} in the environment is the
C{gateway.transport} of every gateway under test; without it they have the default.
"""

from __future__ import annotations

import os
import re
import resource
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.integration.certificates import certificates
from tests.integration.daemon import Daemon
from tests.integration.ports import free_port, wait_for

CHECKOUT = Path(__file__).resolve().parents[2]
TWISTD = "from twisted.scripts.twistd import run; run()"
TRANSPORT = "MAILGW_TEST_TRANSPORT"
_COMMAND = "import sys; from mailgw.cli import main; sys.exit(main())"
_SESSION = re.compile(r"\b[a-z2-7]{16}\b")
SERVICES = ("mx", "submission", "submissions", "imap", "imaps", "pop3", "pop3s")


class Ports:
    """One free port for each service, as attributes: C{mx submission submissions imap imaps pop3 pop3s}."""

    mx: int
    submission: int
    submissions: int
    imap: int
    imaps: int
    pop3: int
    pop3s: int

    def __init__(self) -> None:
        for name in SERVICES:
            setattr(self, name, free_port())

    def all(self) -> list[int]:
        """All seven."""
        return [getattr(self, name) for name in SERVICES]

    def settings(self) -> str:
        """The listeners as they stand in mailgw.toml: STARTTLS, and implicit TLS on those with an s."""
        return "".join(self._listener(name) for name in SERVICES)

    def _listener(self, name: str) -> str:
        implicit = name.endswith("s")
        protocol, tls = (name[:-1], "implicit") if implicit else (name, "starttls")
        endpoint = f"tcp:{getattr(self, name)}:interface=127.0.0.1"
        return f'[[listener]]\nprotocol = "{protocol}"\nendpoint = "{endpoint}"\ntls = "{tls}"\n'


class Gateway(Daemon):
    """A gateway with its settings.

    @ivar ports: where it listens.
    @ivar settings: the path of its settings file.
    @ivar workers: C{gateway.workers}.
    """

    name = "gateway"

    def __init__(self, settings: str = "", ports: Ports | None = None, folder: str = "") -> None:
        """
        @param settings: tables to add to the listeners, C{[gateway]} and C{[tls]}, which are written here.
        @param folder: a subfolder for the settings, whose paths begin there.
        """
        super().__init__()
        self.ports = ports or Ports()
        self.workers = 0
        self._looked_over = 0
        self.settings = self.folder / folder / "mailgw.toml"
        self.settings.parent.mkdir(exist_ok=True)
        certificates().copy_to(self.folder)
        self.write(settings)

    def write(self, settings: str) -> None:
        """Write the settings file."""
        self.settings.write_text(_OWN + self.ports.settings() + settings)

    def command(self) -> Sequence[str]:
        transport = os.environ.get(TRANSPORT)
        chosen = ["--set", f"gateway.transport={transport}"] if transport else []
        if self.workers:
            chosen += ["--set", f"gateway.workers={self.workers}"]
        return [sys.executable, "-c", TWISTD, "-n", "--pidfile=", "mailgw", *chosen, "--config", str(self.settings)]

    def listening(self) -> Sequence[int]:
        return self.ports.all()

    def environment(self) -> dict[str, str]:
        return os.environ | {"PYTHONPATH": str(CHECKOUT), "PYTHONUNBUFFERED": "1", "PYTHONWARNINGS": "ignore"}

    def identity(self) -> dict[str, Any]:
        # ours: another user could perhaps not read the checkout or the Python that the tests run with
        return {}

    def start(self) -> None:
        super().start()
        many_files(self.pid)

    def run(self, *arguments: str, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
        """Run the C{mailgw} command on these settings."""
        return subprocess.run(
            [sys.executable, "-c", _COMMAND, *arguments],
            cwd=self.folder,
            env=self.environment() | {"MAILGW_CONFIG": str(self.settings)},
            input=stdin,
            capture_output=True,
            timeout=60.0,
        )

    def stop(self) -> None:
        """End it, and see that it ended well.

        @raise AssertionError: its exit status is bad, or a traceback is in its log.
        """
        running = self.process is not None
        try:
            status = self.end()
            if running:
                self.check_log()
                # twistd ends itself with the signal that it got, once everything is done
                assert status in (0, -signal.SIGTERM), f"the gateway ended with status {status}\n{self.log()[-5000:]}"
        finally:
            super().stop()

    def reload(self) -> None:
        """SIGHUP."""
        os.kill(self.pid, signal.SIGHUP)

    def check_log(self) -> None:
        """See that nothing unforeseen happened since the last time.

        @raise AssertionError: a traceback is in its log.
        """
        whole = self.log()
        log, self._looked_over = whole[self._looked_over :], len(whole)
        found = re.search(r"Traceback \(most recent call last\)|Unhandled|never awaited", log)
        assert not found, f"in the gateway's log:\n{log[max(0, found.start() - 500) : found.start() + 3000]}"

    def session_ids(self) -> set[str]:
        """All words in the log that look like session ids."""
        return set(_SESSION.findall(self.log()))

    def memory(self) -> int:
        """Bytes resident now."""
        return self._status("VmRSS")

    def peak_memory(self) -> int:
        """The most bytes resident since the start or L{forget_peak}."""
        return self._status("VmHWM")

    def forget_peak(self) -> None:
        """Let L{peak_memory} begin anew."""
        Path(f"/proc/{self.pid}/clear_refs").write_text("5")

    def _status(self, field: str) -> int:
        match = re.search(rf"^{field}:\s+(\d+) kB$", Path(f"/proc/{self.pid}/status").read_text(), re.MULTILINE)
        assert match is not None, field
        return int(match[1]) * 1024

    def wait_for_sessions_to_end(self) -> None:
        """Wait until no client's connection is open any more."""
        ports = {f"{port:04X}" for port in self.ports.all()}

        def open_now() -> list[str]:
            lines = [line.split() for line in Path(f"/proc/{self.pid}/net/tcp").read_text().splitlines()[1:]]
            return [line[1] for line in lines if line[3] == "01" and line[1].partition(":")[2] in ports]

        wait_for("all sessions ended", lambda: not open_now())


def many_files(pid: int = 0) -> int:
    """Let a process (0: ours) open as many files as the system allows it.

    @return: how many.
    """
    hard = resource.prlimit(pid, resource.RLIMIT_NOFILE)[1]
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (hard, hard))
    return hard


_OWN = """
[gateway]
hostname = "gateway.example"
state = "state"
drain = "1s"

[tls]
certificate = "server.pem"
key = "server.key"

"""

ROOMY = """
[limits]
connections_per_address = 5000
connections_per_user = 5000
logins_per_address = 100000
failure_delay = "50ms"
"""
"""Limits that do not get in the way of a test that knocks often; add keys behind it."""
