"""A server process for tests: in the foreground, in a temp folder of its own, as an ordinary user.

What is in its configuration is said by its subclasses: L{tests.integration.dovecot}, L{tests.integration.exim} and
L{tests.integration.gateway}.
"""

from __future__ import annotations

import atexit
import contextlib
import grp
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.integration.ports import silent, wait_for

_NOBODY = 65534


def as_nobody() -> dict[str, Any]:
    """Arguments for L{subprocess.Popen}: servers refuse or dislike to run as root."""
    return {"user": _NOBODY, "group": _NOBODY, "extra_groups": []} if os.geteuid() == 0 else {}


def who() -> tuple[str, str]:
    """Names of the user and the group that L{as_nobody} makes of us."""
    identity = as_nobody() or {"user": os.geteuid(), "group": os.getegid()}
    return pwd.getpwuid(identity["user"]).pw_name, grp.getgrgid(identity["group"]).gr_name


class Daemon:
    """One server, its folder and its log.

    @ivar folder: where it lives; gone after L{stop}.
    @ivar process: the running process, C{None} when there is none.
    """

    name = "daemon"

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix=f"mailgw-{self.name}-"))
        atexit.register(shutil.rmtree, self.folder, ignore_errors=True)  # when it is never stopped
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """The process id of the server (of its master, where it has several processes)."""
        assert self.process is not None, f"{self.name} is not running"
        return self.process.pid

    def command(self) -> Sequence[str]:
        """What to run, in the foreground."""
        raise NotImplementedError

    def listening(self) -> Sequence[int]:
        """The ports that answer once it is up."""
        raise NotImplementedError

    def environment(self) -> Mapping[str, str] | None:
        """Its environment; C{None}: ours."""
        return None

    def identity(self) -> dict[str, Any]:
        """Who it runs as, as arguments for L{subprocess.Popen}."""
        return as_nobody()

    def start(self) -> None:
        """Start it and wait until its ports answer.

        @raise AssertionError: it ended, or its ports do not answer; with its log.
        """
        self.own()
        with self._output.open("ab") as output:
            self.process = subprocess.Popen(
                self.command(),
                cwd=self.folder,
                env=self.environment(),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
                **self.identity(),
            )
        try:
            wait_for(f"{self.name} up", self._is_up)
        except AssertionError as error:
            self.end()
            raise AssertionError(f"{error}\n{self.log()}") from None

    def own(self) -> None:
        """Give all that is in the folder to the user that the server runs as."""
        identity = self.identity()
        if not identity:
            return
        for path in (self.folder, *self.folder.rglob("*")):
            os.chown(path, identity["user"], identity["group"], follow_symlinks=False)

    def stop(self) -> None:
        """End it and remove its folder."""
        self.end()
        shutil.rmtree(self.folder, ignore_errors=True)

    def end(self) -> int | None:
        """End it, its folder stays: L{start} starts it again.

        SIGTERM to the server, and after ten seconds SIGKILL to what is left of its process group.

        @return: its exit status, C{None} if it was not running.
        """
        if self.process is None:
            return None
        process, self.process = self.process, None
        if process.poll() is None:
            self._signal_group(process.pid, signal.SIGCONT)
            process.terminate()
        try:
            return process.wait(10.0)
        except subprocess.TimeoutExpired:
            return None
        finally:
            self._signal_group(process.pid, signal.SIGKILL)
            process.wait()

    def pause(self) -> None:
        """Hang it: SIGSTOP to all its processes, connections stay and are accepted by the kernel only."""
        self._signal_group(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on after L{pause}."""
        self._signal_group(self.pid, signal.SIGCONT)

    def log(self) -> str:
        """All that it has logged."""
        logs = [self._output, *sorted(self.folder.glob("*.log")), *sorted(self.folder.glob("log/*log"))]
        return "".join(path.read_text(errors="replace") for path in logs if path.exists())

    def wait_for_log(self, text: str, seconds: float = 10.0) -> None:
        """Wait until the log has that text.

        @raise AssertionError: it has not within that time; with the log.
        """
        try:
            wait_for(f"{text!r} in the log of {self.name}", lambda: text in self.log(), seconds)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.log()}") from None

    @property
    def _output(self) -> Path:
        return self.folder / "output"

    def _is_up(self) -> bool:
        assert self.process is not None
        if (status := self.process.poll()) is not None:
            raise AssertionError(f"{self.name} ended with status {status}")
        return not silent(self.listening())

    @staticmethod
    def _signal_group(pid: int, number: int) -> None:
        # start_new_session made the server the leader of a group of its own: only its children are in it
        with contextlib.suppress(ProcessLookupError):
            os.killpg(pid, number)
