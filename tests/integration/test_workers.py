"""A gateway of several processes: what its clients notice of that, which is nothing, and what its administrator sees.

Mail is in local Maildirs, so that no other server is needed.
"""

from __future__ import annotations

import contextlib
import imaplib
import os
import signal
import socket
import ssl
import threading
import time
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from mailgw.edge.selfsigned import write_pair
from mailgw.ops.control import Refused, ask
from tests.integration import test_reload
from tests.integration.certificates import certificates
from tests.integration.clients import Imap, Pop3, Smtp, Wire, trusting
from tests.integration.gateway import Gateway
from tests.integration.ports import HOST, answers, wait_for

USER, PASSWORD = "anna@gateway.example", "horse"
ZYGOTE = "mailgw.zygote"


def processes(master: int) -> dict[int, list[int]]:
    """The zygotes of a master, and the workers of each."""
    parents: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                # the name in brackets may have anything in it
                state, parent = (entry / "stat").read_text().rpartition(")")[2].split()[:2]
                if state != "Z":
                    parents.setdefault(int(parent), []).append(int(entry.name))
    return {zygote: sorted(parents.get(zygote, [])) for zygote in sorted(parents.get(master, []))}


class WorkersTestCase(SynchronousTestCase):
    """A gateway with two workers for each test."""

    timeout = 120.0
    settings = test_reload.SETTINGS

    def setUp(self) -> None:
        self.gateway = Gateway(self.settings)
        self.gateway.workers = 2
        self.addCleanup(self.gateway.stop)
        (self.gateway.folder / "passwd").write_text(f"{USER}:{{PLAIN}}{PASSWORD}\n")
        self.gateway.start()
        self.context = trusting(certificates().ca)
        self.ports = self.gateway.ports
        wait_for("two workers", lambda: self.stats()["workers"] == 2)

    def ask(self, command: str, **arguments: Any) -> list[dict[str, Any]]:
        """What the gateway says; the C{mailgw} command would take a second for that."""
        return list(ask(str(self.gateway.folder / "state"), command, arguments))

    def stats(self) -> Counter[str]:
        """What it counts, or nothing while there is nobody to ask."""
        try:
            (row,) = self.ask("stats")
        except Refused:
            return Counter()
        return Counter(row)

    def who(self, what: str | None = None) -> list[dict[str, Any]]:
        """Who is there."""
        return self.ask("who", what=what)

    def workers(self) -> list[int]:
        """The process ids of all workers."""
        return [pid for workers in processes(self.gateway.pid).values() for pid in workers]

    def imap(self, source: str = HOST) -> Imap:
        """A session that is logged in."""
        client = Imap(self.ports.imaps, "implicit", self.context, source)
        self.addCleanup(self.hang_up, client)
        client.login(USER, PASSWORD)
        return client

    @staticmethod
    def hang_up(client: Imap) -> None:
        """Close what may be closed already."""
        with contextlib.suppress(OSError):
            client.shutdown()

    @contextlib.contextmanager
    def hanging(self, pid: int) -> Iterator[None]:
        """While one worker hangs, the other gets all connections; else the system decides who gets them."""
        os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(pid, signal.SIGCONT)

    def on_both_workers(self) -> list[tuple[Imap, int]]:
        """A session on each of the two workers, with the process id of its worker."""
        first, second = self.workers()
        with self.hanging(second):
            on_first = self.imap()
        with self.hanging(first):
            on_second = self.imap()
        self.assertEqual(sorted(row["pid"] for row in self.who(USER)), [first, second])
        return [(on_first, first), (on_second, second)]


class ServiceTests(WorkersTestCase):
    """What works with one process works with several."""

    def test_mail(self) -> None:
        """Mail that is submitted is read over IMAP and POP3, on whatever worker."""
        for _ in range(4):
            sender = Smtp(self.ports.submissions, "implicit", self.context)
            sender.login(USER, PASSWORD)
            sender.sendmail(USER, [USER], "Subject: hello\r\n\r\nhello\r\n")
            sender.quit()
        reader = Imap(self.ports.imap, "starttls", self.context)
        reader.login(USER, PASSWORD)
        self.assertEqual(reader.select()[1], [b"4"])
        reader.logout()
        pop = Pop3(self.ports.pop3, "starttls", self.context)
        pop.login(USER, PASSWORD.encode())
        self.assertIn(b"hello", pop.message(4))
        pop.quit()
        stats = self.stats()
        self.assertEqual(
            [stats[name] for name in ("submission.messages.accepted", "imap.logins", "pop3.logins")], [4, 1, 1]
        )

    def test_tickets(self) -> None:
        """A TLS session that one worker began is resumed by the other."""
        with Wire(self.ports.imaps, self.context) as wire:
            wire.line()
            (first,) = {row["pid"] for row in self.who()}
            session = wire._socket.session  # type: ignore[attr-defined]  # it is an SSLSocket
        with self.hanging(first):
            for _ in range(5):
                with socket.create_connection((HOST, self.ports.imaps), 20.0) as raw:
                    with self.context.wrap_socket(raw, server_hostname="localhost", session=session) as wrapped:
                        self.assertTrue(wrapped.recv(1000).startswith(b"* OK"))
                        self.assertTrue(wrapped.session_reused)

    def test_unix_socket(self) -> None:
        """A listener on a UNIX socket is answered by all, and still there after a reload."""
        path = self.gateway.folder / "imap.sock"
        self.gateway.settings.write_text(
            self.gateway.settings.read_text()
            + f'\n[[listener]]\nprotocol = "imap"\nendpoint = "unix:{path}"\ntls = "none"\n'
        )
        for _ in range(2):
            self.ask("reload")
            wait_for("the old workers gone", lambda: len(self.workers()) == 2)
            for _ in range(4):
                with socket.socket(socket.AF_UNIX) as client:
                    client.settimeout(20.0)
                    client.connect(str(path))
                    self.assertTrue(client.recv(1000).startswith(b"* OK"))


class CountTests(WorkersTestCase):
    """Limits are those of the gateway, not of each worker."""

    settings = test_reload.SETTINGS + "connections_per_user = 10\nconnections_per_address = 30\n"

    def attempt(self, source: str = HOST) -> bool:
        """Whether one more login succeeds; if so, it stays."""
        try:
            self.imap(source)
        except imaplib.IMAP4.error as error:
            self.assertIn("[LIMIT]", str(error))
            return False
        return True

    def test_user(self) -> None:
        """A user has so many sessions on all workers; those of a worker that was killed count no more."""
        first, second = self.workers()
        with self.hanging(second):
            self.assertEqual(sum(self.attempt() for _ in range(5)), 5)
        with self.hanging(first):
            self.assertEqual(sum(self.attempt() for _ in range(11)), 5)
        on = Counter(row["pid"] for row in self.who(USER))
        self.assertEqual(on, {first: 5, second: 5})
        pid, lost = on.popitem()
        os.kill(pid, signal.SIGKILL)
        wait_for("a new worker", lambda: len(self.workers()) == 2 and self.stats()["workers"] == 2)
        self.assertEqual(sum(self.attempt() for _ in range(lost + 5)), lost)

    def test_address(self) -> None:
        """An address has so many connections on all workers."""
        held = [socket.create_connection((HOST, self.ports.imap), 20.0) for _ in range(40)]
        greetings = [client.recv(1000)[:6] for client in held]
        self.assertEqual(Counter(greetings), {b"* OK [": 30, b"* BYE ": 10})
        self.assertTrue(self.attempt("127.0.0.2"))
        for client in held:
            client.close()
        wait_for("room", lambda: self.attempt())

    def test_user_over_a_reload(self) -> None:
        """Sessions on old workers count as well."""
        self.assertEqual(sum(self.attempt() for _ in range(6)), 6)
        self.ask("reload")
        self.assertEqual(sum(self.attempt() for _ in range(6)), 4)


class LifeTests(WorkersTestCase):
    """Workers that die, reloads, and the end."""

    settings = test_reload.SETTINGS + "logins_per_address = 100000\n"

    def test_dead_worker(self) -> None:
        """A worker that is killed costs its own sessions only, and has an heir within seconds."""
        sessions = self.on_both_workers()
        victim = sessions[0][1]
        os.kill(victim, signal.SIGKILL)
        for client, pid in sessions:
            if pid != victim:
                self.assertEqual(client.noop()[0], "OK")
        wait_for("a new worker", lambda: self.stats()["workers"] == 2, 10.0)
        self.assertNotIn(victim, self.workers())
        for client, pid in sessions:
            if pid != victim:
                self.assertEqual(client.noop()[0], "OK")
        self.assertRegex(self.gateway.log(), rf"worker {victim} ended \(signal 9\) after \d+ s; a new one comes in")

    def test_descriptors(self) -> None:
        """After reloads, and reloads that fail, no process has more descriptors than before, and there is no zombie."""

        def descriptors() -> list[int]:
            settled = [self.gateway.pid, *processes(self.gateway.pid), *self.workers()]
            return [len(os.listdir(f"/proc/{pid}/fd")) for pid in settled]

        def settled() -> bool:
            return len(processes(self.gateway.pid)) == 1 and len(self.workers()) == 2

        before, good = descriptors(), self.gateway.settings.read_text()
        for _ in range(3):
            self.ask("reload")
            self.gateway.settings.write_text(good + "\n[limit]\nx = 1\n")
            self.assertRaises(Refused, self.ask, "reload")
            self.gateway.settings.write_text(good)
            wait_for("the old workers gone", settled)
        wait_for(f"as many as before, {before}", lambda: descriptors() == before)

    def test_zygote_dies_young(self) -> None:
        """A zygote that is killed during a reload: that has failed, says so, and all is as it was."""
        before = processes(self.gateway.pid)
        os.kill(self.gateway.pid, signal.SIGHUP)
        wait_for("another zygote", lambda: len(processes(self.gateway.pid)) == 2)
        (young,) = processes(self.gateway.pid).keys() - before.keys()
        os.kill(young, signal.SIGKILL)
        wait_for("a word", lambda: "not reloaded: the process that starts workers ended" in self.gateway.log())
        self.assertEqual(processes(self.gateway.pid), before)
        self.imap().logout()
        self.ask("reload")

    def test_stop_during_reload(self) -> None:
        """SIGTERM during a reload ends everything, soon and well."""
        os.kill(self.gateway.pid, signal.SIGHUP)
        os.kill(self.gateway.pid, signal.SIGHUP)  # the second finds the first under way
        wait_for("another zygote", lambda: len(processes(self.gateway.pid)) == 2)
        children = [*processes(self.gateway.pid), *self.workers()]
        assert self.gateway.process is not None
        os.kill(self.gateway.pid, signal.SIGTERM)
        self.assertEqual(self.gateway.process.wait(20.0), -signal.SIGTERM)
        wait_for("the end of all", lambda: not any(Path(f"/proc/{pid}").exists() for pid in children))
        self.gateway.check_log()

    def test_dead_zygote(self) -> None:
        """Without the process that forks them, workers go on, and are replaced by a new generation."""
        sessions = self.on_both_workers()
        (zygote,) = processes(self.gateway.pid)
        old = set(self.workers())
        os.kill(zygote, signal.SIGKILL)
        wait_for("a new generation", lambda: set(self.workers()) - old and self.stats()["workers"] == 4, 15.0)
        for client, _ in sessions:
            self.assertEqual(client.noop()[0], "OK")
            client.logout()
        wait_for("the old workers gone", lambda: not any(Path(f"/proc/{pid}").exists() for pid in old))
        self.imap().logout()

    def test_reload_under_load(self) -> None:
        """Three reloads, with sessions held and a stream of logins: nobody notices anything."""
        held = [self.imap() for _ in range(10)]
        errors: list[str] = []
        logins = Counter[int]()
        over = threading.Event()

        def log_in(number: int) -> None:
            while not over.is_set():
                try:
                    client = Imap(self.ports.imaps, "implicit", self.context, f"127.0.0.{number + 2}")
                    client.login(USER, PASSWORD)
                    client.logout()
                    logins[number] += 1
                except Exception as error:
                    errors.append(repr(error))
                    return

        threads = [threading.Thread(target=log_in, args=(number,)) for number in range(3)]
        for thread in threads:
            thread.start()
        try:
            for round_ in range(3):
                self.assertEqual(self.ask("reload"), [])
                held.append(self.imap())
                for client in held:
                    self.assertEqual(client.noop()[0], "OK")
                self.assertGreaterEqual(self.stats()["generations"], 2, round_)
        finally:
            over.set()
            for thread in threads:
                thread.join(30.0)
        self.assertEqual(errors, [])
        self.assertEqual(len(logins), 3)
        self.assertEqual(len(self.who()), len(held))
        for client in held:
            client.logout()
        wait_for("the old workers gone", lambda: len(self.workers()) == 2 and len(processes(self.gateway.pid)) == 1)
        wait_for("all counted", lambda: self.stats()["imap.logins"] == len(held) + sum(logins.values()))

    def test_certificate(self) -> None:
        """A certificate that was renewed is shown without anybody's doing, and sessions live on."""
        session = self.imap()
        folder = self.gateway.folder / "new"
        folder.mkdir()
        write_pair(["localhost"], folder, 30, datetime.now(UTC))
        (folder / "localhost.key").rename(self.gateway.folder / "server.key")
        (self.gateway.folder / "server.pem").write_bytes((folder / "localhost.crt").read_bytes())
        new = trusting(folder / "localhost.crt")

        def shown() -> bool:
            try:
                with Wire(self.ports.imaps, new):
                    return True
            except ssl.SSLCertVerificationError:
                return False

        # until the old workers have heard that they are old, one of them may still answer
        wait_for("the new certificate", lambda: all(shown() for _ in range(8)), 40.0)
        self.assertEqual(session.noop()[0], "OK")

    def test_faults(self) -> None:
        """A bad file is refused with each of its faults, and the workers stay; a good one is taken."""
        good, before = self.gateway.settings.read_text(), self.workers()
        self.gateway.settings.write_text(good + "\n[limit]\nx = 1\n")
        refused = self.assertRaises(Refused, self.ask, "reload")
        self.assertIn("limit: unknown table", str(refused))
        self.gateway.settings.write_text(good)
        self.assertEqual(self.workers(), before)
        done = self.gateway.run("reload")
        self.assertEqual((done.returncode, done.stdout, done.stderr), (0, b"reloaded\n", b""))
        wait_for("new workers", lambda: not set(self.workers()) & set(before))

    def test_port_taken(self) -> None:
        """A new listener whose port is taken keeps everything as it was."""
        with socket.create_server((HOST, 0)) as taken:
            good = self.gateway.settings.read_text()
            port = taken.getsockname()[1]
            listener = f'\n[[listener]]\nprotocol = "imap"\nendpoint = "tcp:{port}:interface={HOST}"\n'
            self.gateway.settings.write_text(good + listener)
            before = self.workers()
            done = self.gateway.run("reload")
        self.assertEqual((done.returncode, done.stdout), (1, b""))
        self.assertIn(b"another program listens there already", done.stderr)
        self.assertEqual(self.workers(), before)
        self.imap().logout()

    def test_drain(self) -> None:
        """SIGTERM: who is not logged in is told goodbye, who is goes on until the time is over."""
        self.gateway.settings.write_text(self.gateway.settings.read_text().replace('drain = "1s"', 'drain = "3s"'))
        self.ask("reload")
        wait_for("the old workers gone", lambda: len(self.workers()) == 2)
        session, stranger = self.imap(), socket.create_connection((HOST, self.ports.imap), 20.0)
        self.assertTrue(stranger.recv(1000).startswith(b"* OK"))
        workers, started = self.workers(), time.monotonic()
        os.kill(self.gateway.pid, signal.SIGTERM)
        self.assertTrue(stranger.recv(1000).startswith(b"* BYE"))
        stranger.close()
        self.assertEqual(session.noop()[0], "OK")
        wait_for("the port closed", lambda: not answers(self.ports.imap), 2.0)
        wait_for("the end", lambda: not any(Path(f"/proc/{pid}").exists() for pid in workers), 8.0)
        self.assertGreater(time.monotonic() - started, 2.5)
        self.assertRaises((OSError, imaplib.IMAP4.abort), session.noop)
        master = self.gateway.process
        assert master is not None
        wait_for("the end of the master", lambda: master.poll() is not None)  # which a second SIGTERM would disturb

    def test_master_killed(self) -> None:
        """Without their master workers go on, new logins included, and say so."""
        session, workers = self.imap(), self.workers()
        assert self.gateway.process is not None
        self.gateway.process.kill()
        try:
            wait_for("a word", lambda: "the master is gone; going on without it" in self.gateway.log())
            self.assertEqual(session.noop()[0], "OK")
            self.imap().logout()
            session.logout()
        finally:
            for pid in workers:
                os.kill(pid, signal.SIGTERM)
        wait_for("the workers' end", lambda: not any(Path(f"/proc/{pid}").exists() for pid in workers))
        self.gateway.process.wait()
        self.gateway.process = None


class CommandTests(WorkersTestCase):
    """who, kick and stats."""

    def test_who(self) -> None:
        """Each session is a line, whatever its worker; it can be asked for by user."""
        self.on_both_workers()
        rows = self.who()
        self.assertEqual(
            {(row["user"], row["protocol"], row["client"], row["tls"], row["backend"]) for row in rows},
            {(USER, "imap", HOST, True, "local")},
        )
        self.assertEqual(len(self.who(USER.upper())), len(rows))
        self.assertEqual(self.who("nobody"), [])
        table = self.gateway.run("who").stdout.decode().splitlines()
        self.assertEqual(table[0].split(), ["ID", "USER", "PROTOCOL", "CLIENT", "TLS", "BACKEND", "AGE", "IN", "OUT"])
        self.assertEqual(len(table), len(rows) + 1)

    def test_kick(self) -> None:
        """One session is ended by its id, all of a user by the name; who is not there is said."""
        sessions = self.on_both_workers()
        victim = self.who()[0]["id"]
        done = self.gateway.run("kick", victim)
        self.assertEqual(done.stdout.decode(), f"kicked {victim}: {USER} imap from {HOST} on local\n1 session\n")
        wait_for("one less", lambda: len(self.who()) == len(sessions) - 1)
        started = time.monotonic()
        done = self.gateway.run("kick", USER, "--rate", "5/s")
        self.assertEqual(len(done.stdout.splitlines()), len(sessions))  # one for each, and one that counts them
        self.assertGreaterEqual(time.monotonic() - started, (len(sessions) - 1) / 5 - 0.1)
        wait_for("nobody", lambda: self.who() == [])
        for client, _ in sessions:
            self.assertRaises((OSError, imaplib.IMAP4.abort), client.noop)
        done = self.gateway.run("kick", USER)
        self.assertEqual((done.returncode, done.stderr.decode()), (1, f"mailgw: no live session is {USER}\n"))

    def test_nobody_to_ask(self) -> None:
        """Without a running gateway that is what is said."""
        self.gateway.end()
        done = self.gateway.run("who")
        self.assertEqual(done.returncode, 1)
        self.assertRegex(done.stderr.decode(), r"mailgw: no running gateway can be asked at \S+/control: ")

    def test_socket(self) -> None:
        """The control socket is its owner's alone."""
        path = self.gateway.folder / "state" / "control"
        self.assertEqual(path.stat().st_mode & 0o777, 0o600)

    def test_second_gateway(self) -> None:
        """Another gateway with the same state is refused, and the first one is as it was."""
        other = Gateway(self.settings)
        self.addCleanup(other.stop)
        state = str(self.gateway.folder / "state")
        other.settings.write_text(other.settings.read_text().replace('state = "state"', f'state = "{state}"'))
        other.workers = 1
        with contextlib.suppress(AssertionError):  # its ports may answer before it ends
            other.start()
        if other.process is not None:
            self.assertEqual(other.process.wait(20.0), 1)
            other.process = None
        self.assertIn("another gateway runs with this gateway.state", other.log())
        self.assertEqual(self.stats()["workers"], 2)
