"""Users who are moved and backends that are drained, under a stream of logins, as their Dovecots saw it."""

from __future__ import annotations

import contextlib
import imaplib
import json
import os
import poplib
import re
import signal
import threading
import time
from collections.abc import Callable
from typing import Any

from tests.integration.certificates import certificates
from tests.integration.clients import Imap, Pop3, trusting
from tests.integration.company import ANNA, BEN, CompanyTestCase, Person
from tests.integration.dovecot import Dovecot
from tests.integration.gateway import Gateway
from tests.integration.ports import wait_for
from tests.integration.test_workers import processes

LOGIN = r"(imap|pop3)-login: .*(?:Login|Logged in): user=<%s>"
"""Dovecot 2.3 and 2.4."""


WRITING = 0.3
"""Seconds that a Dovecot may take to write what has happened."""


def logins(dovecot: Dovecot, person: Person) -> int:
    """How often somebody logged in there so far, as it has written."""
    time.sleep(WRITING)
    return len(re.findall(LOGIN % re.escape(person.mail), dovecot.log()))


class Stream:
    """Logins of one user, by IMAP and by POP3, one after the other, until it is told to stop."""

    def __init__(self, person: Person, imap: Callable[[], Imap], pop3: Callable[[], Pop3]) -> None:
        self.good = self.temporary = self.cut = 0
        self.wrong: list[str] = []
        self._person, self._over = person, threading.Event()
        self._threads = [
            threading.Thread(target=self._run, args=(self._by_imap, imap)),
            threading.Thread(target=self._run, args=(self._by_imap, imap)),
            threading.Thread(target=self._run, args=(self._by_pop3, pop3)),
        ]
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """End it; returns when the last session is over."""
        self._over.set()
        for thread in self._threads:
            thread.join(60.0)

    def _run(self, log_in: Callable[[Any], None], connect: Callable[[], Any]) -> None:
        while not self._over.is_set():
            try:
                log_in(connect())
                self.good += 1
            except (imaplib.IMAP4.abort, OSError, EOFError):
                self.cut += 1
            except (imaplib.IMAP4.error, poplib.error_proto) as error:
                if "UNAVAILABLE" in str(error) or "SYS/TEMP" in str(error):
                    self.temporary += 1
                elif "administrator" in str(error) or str(error) == "-ERR EOF":  # poplib's words for an end
                    self.cut += 1
                else:
                    self.wrong.append(str(error))

    def _by_imap(self, client: Imap) -> None:
        with contextlib.closing(client.sock):
            client.login(self._person.mail, self._person.password.decode())
            client.noop()

    def _by_pop3(self, client: Pop3) -> None:
        with contextlib.closing(client.sock):
            client.login(self._person.mail, self._person.password)
            client.noop()


class SteeringTestCase(CompanyTestCase):
    """A company with a gateway in front of it."""

    workers = 0
    timeout = 180.0

    def setUp(self) -> None:
        super().setUp()
        self.context = trusting(certificates().ca)
        self.be1, self.be2 = self.company.be1, self.company.be2
        # a Dovecot that is slow because the machine is must not count as down
        self.gate = Gateway(self.company.settings().replace("[pool.main]", '[pool.main]\nhealth = "0s"'))
        self.gate.workers = self.workers
        self.addCleanup(self.gate.stop)
        self.start()

    def start(self) -> None:
        """Start the gateway, and wait until it can be asked."""
        self.gate.start()
        wait_for("somebody to ask", lambda: self.gate.run("stats").returncode == 0)
        wait_for("the workers", lambda: self.said("stats")["workers"] == self.workers)

    def said(self, *arguments: str, status: int = 0) -> Any:
        """What a command prints as JSON."""
        done = self.gate.run(*arguments, "--json")
        self.assertEqual((done.returncode, done.stderr), (status, b""))
        return json.loads(done.stdout)

    def imap(self, person: Person | None = None) -> Imap:
        """A connection, and a login if it is somebody's."""
        client = Imap(self.gate.ports.imaps, "implicit", self.context)
        self.addCleanup(client.sock.close)
        if person is not None:
            client.login(person.mail, person.password.decode())
        return client

    def pop3(self) -> Pop3:
        """A connection."""
        client = Pop3(self.gate.ports.pop3s, "implicit", self.context)
        self.addCleanup(client.sock.close)
        return client

    def backends(self, person: Person) -> set[str]:
        """Where somebody's sessions are, as C{who} says."""
        return {row["backend"] for row in self.said("who", person.mail)}

    def assert_ended(self, client: Imap) -> None:
        """See that a session is over."""
        self.assertRaises((imaplib.IMAP4.abort, OSError), client.noop)


class MoveTests(SteeringTestCase):
    """One process."""

    def test_under_load(self) -> None:
        """After the move has returned nobody logs in on the old backend; nobody else's session has noticed."""
        held, other = [self.imap(ANNA) for _ in range(6)], [self.imap(BEN) for _ in range(4)]
        stream = Stream(ANNA, self.imap, self.pop3)
        try:
            for target, old in (("be2", self.be1), ("main/be1", self.be2), ("BE2", self.be1)):
                before = stream.good
                wait_for("some logins", lambda before=before: stream.good > before + 6)
                row = self.said("move", "anna", target)
                counted = logins(old, ANNA)
                self.assertEqual((row["user"], row["backend"][:7]), (ANNA.mail, "main/be"))
                before = stream.good
                wait_for("more logins", lambda before=before: stream.good > before + 20)
                self.assertEqual(logins(old, ANNA), counted)
                held.append(self.imap(ANNA))
                self.assertEqual(self.backends(ANNA) - {"-"}, {row["backend"]})
        finally:
            stream.stop()
        self.assertEqual((stream.wrong, stream.temporary), ([], 0), self.gate.log()[-3000:])
        for client in held[:-1]:
            self.assert_ended(client)
        for client in (*other, held[-1]):
            self.assertEqual(client.noop()[0], "OK")
        self.assertEqual(self.said("who", BEN.mail)[0]["backend"], "main/be2")

    def test_restart(self) -> None:
        """A move outlives the gateway, until it is cleared."""
        self.said("move", ANNA.mail, "be2")
        self.gate.end()
        self.start()
        client = self.imap(ANNA)
        self.assertEqual(self.backends(ANNA), {"main/be2"})
        row = self.said("move", "anna", "--clear")
        self.assertEqual((row["backend"], row["ended"]), (None, 1))
        self.assert_ended(client)
        self.imap(ANNA)
        self.assertEqual(self.backends(ANNA), {"main/be1"})
        self.assertEqual(self.gate.run("move", "anna", "--clear").returncode, 1)

    def test_reload(self) -> None:
        """Sessions from before a reload are ended too, and a move is in force after the next one."""
        held = self.imap(ANNA)
        self.assertEqual(self.gate.run("reload").returncode, 0)
        self.assertEqual(self.said("move", ANNA.mail, "be2")["ended"], 1)
        self.assert_ended(held)
        self.assertEqual(self.gate.run("reload").returncode, 0)
        self.imap(ANNA)
        self.assertEqual(self.backends(ANNA), {"main/be2"})


class BackendTests(SteeringTestCase):
    """Backends in and out of service."""

    def states(self) -> dict[str, set[str]]:
        """The administrative state of each member."""
        states: dict[str, set[str]] = {}
        for row in self.said("backend"):
            states.setdefault(row["at"], set()).add(row["admin"])
        return states

    def test_drain_down_up(self) -> None:
        """Drained: sessions stay, and no new one comes. Down: they end. Both outlive the gateway."""
        anna, ben = self.imap(ANNA), self.imap(BEN)
        rows = {(row["at"], row["protocol"]): row for row in self.said("backend")}
        self.assertEqual(rows["main/be1", "imap"]["port"], self.be1.imap)
        self.assertEqual(rows["main/be1", "imap"]["sessions"], 1)
        rows = self.said("backend", "be1", "drain")
        self.assertEqual({(row["at"], row["admin"]) for row in rows}, {("main/be1", "drain")})
        with self.assertRaises(imaplib.IMAP4.error) as raised:
            self.imap(ANNA)
        self.assertIn("[UNAVAILABLE]", str(raised.exception))
        self.assertEqual(anna.noop()[0], "OK")
        self.said("backend", "main/be1", "down")
        self.assert_ended(anna)
        self.assertEqual(ben.noop()[0], "OK")
        self.assertEqual(self.states(), {"main/be1": {"down"}, "main/be2": {"up"}})
        self.gate.end()
        self.start()
        self.assertEqual(self.states(), {"main/be1": {"down"}, "main/be2": {"up"}})
        with self.assertRaises(imaplib.IMAP4.error):
            self.imap(ANNA)
        self.said("backend", "be1", "up")
        self.imap(ANNA)
        table = self.gate.run("backend").stdout.decode().splitlines()
        self.assertEqual(table[0].split()[:4], ["POOL", "MEMBER", "PROTOCOL", "ADDRESS"])
        self.assertEqual(len(table), 7)

    def test_drain_under_load(self) -> None:
        """After the drain has returned nobody logs in there."""
        stream = Stream(ANNA, self.imap, self.pop3)
        try:
            wait_for("some logins", lambda: stream.good > 10)
            self.said("backend", "be1", "drain")
            counted = logins(self.be1, ANNA)
            refused = stream.temporary
            wait_for("some refusals", lambda: stream.temporary > refused + 10)
            self.assertEqual(logins(self.be1, ANNA), counted)
        finally:
            stream.stop()
        self.assertEqual(stream.wrong, [])


class ExplainTests(SteeringTestCase):
    """What becomes of a question."""

    def test_route(self) -> None:
        """Who the user is, what each rule said, who was chosen; with and without a running gateway."""
        self.said("move", ANNA.mail, "be2")
        running = self.said("route", "anna")
        self.gate.end()
        for row in (running, self.said("route", "anna")):
            self.assertEqual((row["username"], row["override"], row["pool"]), (ANNA.mail, "main/be2", "main"))
            self.assertEqual(row["directories"][0]["directory"], "ldap-1")
            self.assertIn("(uid=anna)", row["directories"][0]["query"])
            self.assertIn(ANNA.dn, row["directories"][0]["answer"])
            self.assertEqual(row["rules"], [{"rule": "override", "answer": "pool main, backend be2"}])
            self.assertIn("main/be2", row["backend"])
        row = self.said("route", BEN.mail, "--protocol", "pop3")
        self.assertEqual([step["rule"] for step in row["rules"]], ["override", "attribute mailHost"])
        self.assertEqual(row["members"][0]["port"], self.be2.pop3)
        self.assertEqual(self.said("route", "nobody", status=1)["refused"], "no directory knows this user")
        text = self.gate.run("route", "ben").stdout.decode()
        self.assertIn("goes to main/be2 (", text)

    def test_refused(self) -> None:
        """Nobody who is not known is moved, and nobody to where nothing is."""
        for arguments, words in (
            (("move", "nobody", "be2"), b"no directory knows 'nobody'"),
            (("move", "anna", "be3"), b"be3 is no pool and no member"),
            (("move", "anna", "mian/be2"), b"there is no pool 'mian'"),
            (("backend", "be3", "drain"), b"there is no backend 'be3'; there are main/be1, main/be2"),
        ):
            done = self.gate.run(*arguments)
            self.assertEqual(done.returncode, 1)
            self.assertIn(words, done.stderr)


class FlushTests(SteeringTestCase):
    """Caches."""

    def test_flush(self) -> None:
        """Logins that were remembered are forgotten, everybody's or one user's."""
        for person in (ANNA, BEN):
            self.imap(person)
        self.assertGreaterEqual(self.said("flush", ANNA.mail)["logins"], 1)
        self.assertEqual(self.said("flush", ANNA.mail)["logins"], 0)
        self.assertGreaterEqual(self.said("flush")["logins"], 1)
        self.assertEqual(self.gate.run("flush").stdout, b"forgotten: 0 logins, 0 routes\n")


class WorkersMoveTests(MoveTests):
    """Two workers."""

    workers = 2

    def test_new_workers(self) -> None:
        """Workers that take the place of dead ones know of a move before they let anybody in."""
        self.said("move", ANNA.mail, "be2")
        old = {pid for pids in processes(self.gate.pid).values() for pid in pids}
        for pid in old:
            os.kill(pid, signal.SIGKILL)
        for _ in range(4):
            self.imap(ANNA)  # waits at the port until a worker is there
        self.assertEqual(self.backends(ANNA), {"main/be2"})


class WorkersBackendTests(BackendTests):
    """Two workers."""

    workers = 2


class WorkersFlushTests(FlushTests):
    """Two workers."""

    workers = 2
