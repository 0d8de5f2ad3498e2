"""A real PostgreSQL for tests: on loopback and on a socket in its folder, with passwords, and TLS where that is wanted.

What is in its tables is the test's to say, with L{Postgresql.run_sql}.
"""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path

from tests.integration.certificates import certificates
from tests.integration.daemon import Daemon, as_nobody
from tests.integration.ports import HOST, free_port, program, wait_for

ADMIN, ADMIN_PASSWORD = "boss", "bosssecret"
USER, PASSWORD = "mailgw", "it's:a@secret"
DATABASE = "postgres"


class Postgresql(Daemon):
    """A server with one database, which the account that the gateway uses may read.

    @ivar port: of TCP on loopback; TLS is on offer.
    """

    name = "postgresql"

    def __init__(self) -> None:
        super().__init__()
        self.port = free_port()
        self._fresh = True
        self._certificates = certificates().copy_to(self.folder)
        self._certificates.key.chmod(0o600)  # it insists

    @property
    def uri(self) -> str:
        """For the settings."""
        return f"postgresql://{USER}@{HOST}:{self.port}/{DATABASE}"

    @property
    def socket_uri(self) -> str:
        """The same, by its UNIX socket."""
        return f"postgresql://{USER}@:{self.port}/{DATABASE}?socket={self.folder}"

    def command(self) -> Sequence[str]:
        options = {
            "listen_addresses": HOST,
            "port": str(self.port),
            "unix_socket_directories": str(self.folder),
            "fsync": "off",
            "shared_buffers": "1MB",
            "max_connections": "20",
            "ssl": "on",
            "ssl_cert_file": str(self._certificates.certificate),
            "ssl_key_file": str(self._certificates.key),
        }
        settings = [word for key, value in options.items() for word in ("-c", f"{key}={value}")]
        return [program("postgres") or "postgres", "-D", str(self.folder / "data"), *settings]

    def listening(self) -> Sequence[int]:
        return (self.port,)

    def start(self) -> None:
        """Start it; the first time, with a new database."""
        if not self._fresh:
            self._start()
            return
        self._fresh = False
        (self.folder / "password").write_text(ADMIN_PASSWORD)
        self.own()
        self._run("initdb", "-D", "data", "-U", ADMIN, "--pwfile=password", "-A", "scram-sha-256", "-E", "UTF8", "-N")
        self._start()
        quoted = PASSWORD.replace("'", "''")
        self.run_sql(f"CREATE ROLE {USER} LOGIN PASSWORD '{quoted}'")

    def _start(self) -> None:
        """Start it, and wait until it takes questions, too: its port answers before that."""
        super().start()
        ready = program("pg_isready") or "pg_isready"
        wait_for(
            "the database takes questions", lambda: not subprocess.call([ready, "-q", "-h", HOST, "-p", str(self.port)])
        )

    def pause(self) -> None:
        self._signal_all(signal.SIGSTOP)

    def resume(self) -> None:
        self._signal_all(signal.SIGCONT)

    def _signal_all(self, number: int) -> None:
        """Its processes leave the group that they were started in."""
        children = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()
        for pid in (self.pid, *map(int, children)):
            os.kill(pid, number)

    def end(self) -> int | None:
        if self.process is not None:
            self.resume()
            self.process.send_signal(signal.SIGINT)  # SIGTERM waits for the clients to leave
        return super().end()

    def run_sql(self, text: str) -> None:
        """Do what some SQL says, as the administrator.

        @raise AssertionError: it failed; with the server's words.
        """
        target = f"host={HOST} port={self.port} user={ADMIN} password={ADMIN_PASSWORD} dbname={DATABASE}"
        self._run("psql", "-q", "-v", "ON_ERROR_STOP=1", "-d", target, "-c", text)

    def _run(self, name: str, *arguments: str) -> None:
        path = program(name)
        assert path is not None, f"{name} not installed"
        done = subprocess.run(
            [path, *arguments], capture_output=True, text=True, timeout=60, cwd=self.folder, **as_nobody()
        )
        assert done.returncode == 0, f"{name}: status {done.returncode}: {done.stdout}{done.stderr}\n{self.log()}"
