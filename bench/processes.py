"""Server processes: each in a temp folder, as an ordinary user, in a control group of its own; ended by their own PID.

What they serve is said in L{bench.servers} and L{bench.surroundings}.
"""

from __future__ import annotations

import contextlib
import ctypes
import grp
import os
import pwd
import random
import resource
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

HOST = "127.0.0.1"
NOBODY = 65534
MOST_FILES = min(resource.getrlimit(resource.RLIMIT_NOFILE)[1], 20000)
"""Descriptors that a server may have; more is not tried, also where the system allows it."""
_CGROUP = Path("/sys/fs/cgroup")
_PR_SET_PDEATHSIG = 1
_given: set[int] = set()


class ServerFailed(Exception):
    """A server did not start, with its last words, or a load did not end."""


def program(name: str) -> str | None:
    """@return: the path of a program, also where it is in an C{sbin} folder that C{PATH} leaves out."""
    folders = [os.environ.get("PATH", os.defpath), "/usr/local/sbin", "/usr/sbin", "/sbin"]
    return shutil.which(name, path=os.pathsep.join(folders))


def free_port() -> int:
    """@return: a TCP port of loopback below 32768, where no outgoing connection can take it before a server does."""
    while True:
        port = random.randint(12000, 19999)  # noqa: S311  # no secret
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind((HOST, port))
            if port not in _given:
                _given.add(port)
                return port


def user_and_group() -> tuple[str, str]:
    """@return: the names of those that ordinary servers run as."""
    uid, gid = (NOBODY, NOBODY) if os.geteuid() == 0 else (os.geteuid(), os.getegid())
    return pwd.getpwuid(uid).pw_name, grp.getgrgid(gid).gr_name


class Groups:
    """Control groups, which count CPU time exactly, that of ended processes too.

    @ivar folder: C{None} where none can be made.
    """

    def __init__(self) -> None:
        self.folder: Path | None = None
        places = (_CGROUP, _CGROUP / "unified") if (_CGROUP / "cgroup.controllers").exists() else ()
        for place in (*places, _CGROUP / "cpuacct"):
            folder = place / f"mailgwbench-{os.getpid()}"
            with contextlib.suppress(OSError):
                folder.mkdir()
                self.folder = folder
                return

    def make(self, name: str) -> Path | None:
        """@return: the folder of a group."""
        if self.folder is None:
            return None
        group = self.folder / name
        group.mkdir(exist_ok=True)
        return group

    def close(self) -> None:
        """Remove them; the last processes need a moment to be gone."""
        if self.folder is None:
            return
        groups = [path for path in self.folder.iterdir() if path.is_dir()]
        for folder in (*groups, self.folder):
            for _ in range(50):
                try:
                    folder.rmdir()
                    break
                except OSError:
                    time.sleep(0.05)


class Process:
    """One running server process with its children."""

    def __init__(self, name: str, folder: Path, command: Sequence[str], group: Path | None) -> None:
        """
        @param folder: where it lives; its output goes there.
        """
        self.name, self.folder, self.command, self.group = name, folder, command, group
        self.environment: Mapping[str, str] = os.environ
        self.as_nobody = True
        self.files = MOST_FILES
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """Of its first process."""
        assert self._process is not None
        return self._process.pid

    def start(self, ports: Sequence[int], seconds: float = 20.0) -> None:
        """Start it and wait until its ports answer.

        @raise ServerFailed: it ended, or they do not.
        """
        try:
            self._spawn()
        except (OSError, subprocess.SubprocessError) as error:
            raise ServerFailed(f"{self.name}: {error}") from None
        assert self._process is not None
        deadline = time.monotonic() + seconds
        while not all(answers(port) for port in ports):
            status = self._process.poll()
            if status is not None or time.monotonic() > deadline:
                said = f"{self.name} ended with status {status}" if status is not None else f"{self.name} is silent"
                self.end()
                raise ServerFailed(f"{said}: {self.last_words()}")
            time.sleep(0.02)

    def _spawn(self) -> None:
        with self._output.open("ab") as output:
            self._process = subprocess.Popen(  # noqa: S603  # commands of our own
                self.command,
                cwd=self.folder,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
                preexec_fn=self._enter,
            )

    def _enter(self) -> None:
        """In the child: into its group, to its user, and to an end with us."""
        if self.group is not None:
            (self.group / "cgroup.procs").write_text(str(os.getpid()))
        resource.setrlimit(resource.RLIMIT_NOFILE, (self.files, self.files))
        if self.as_nobody and os.geteuid() == 0:
            os.setgroups([])
            os.setgid(NOBODY)
            os.setuid(NOBODY)
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)

    def end(self) -> None:
        """SIGTERM to its first process, and after ten seconds SIGKILL to what is left of its process group."""
        if self._process is None:
            return
        process, self._process = self._process, None
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(10.0)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()

    def running(self) -> bool:
        """Whether its first process is alive."""
        return self._process is not None and self._process.poll() is None

    def last_words(self) -> str:
        """@return: the end of what it has written, on one line."""
        files = [self._output, *sorted(self.folder.glob("*.log"))]
        text = "\n".join(path.read_text(errors="replace") for path in files if path.exists())
        return " | ".join(text.split("\n")[-6:]).strip(" |")[-600:]

    @property
    def _output(self) -> Path:
        return self.folder / f"{self.name}.output"


def answers(port: int) -> bool:
    """Whether something accepts connections there."""
    try:
        socket.create_connection((HOST, port), 1.0).close()
    except OSError:
        return False
    return True


def own(folder: Path) -> None:
    """Give all that is in a folder to the user that servers run as."""
    if os.geteuid() == 0:
        for path in (folder, *folder.rglob("*")):
            os.chown(path, NOBODY, NOBODY, follow_symlinks=False)


def run_once(*command: str, folder: Path, seconds: float = 60.0, text: str = "") -> str:
    """@return: what a program printed.

    @raise ServerFailed: it is not there, it ended badly, or it did not end.
    """
    try:
        done = subprocess.run(  # noqa: S603
            command, cwd=folder, input=text, capture_output=True, text=True, timeout=seconds, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ServerFailed(f"{command[0]}: {error}") from None
    if done.returncode:
        raise ServerFailed(
            f"{Path(command[0]).name} ended with {done.returncode}: {(done.stderr or done.stdout)[-600:]}"
        )
    return done.stdout
