"""Attacks by number and by patience: many connections, none that comes to an end, and no descriptors left."""

from __future__ import annotations

import os
import resource
import socket
import time
from collections.abc import Sequence
from pathlib import Path

from tests.integration.attacks import HELLO, LOGIN_IMAP, Attacker, AttackTestCase, stranger
from tests.integration.daemon import Daemon
from tests.integration.embedded import ADDRESS, PASSWORD, USER, Embedded
from tests.integration.ports import HOST, wait_for

DEADLINE, LINGER = 3.0, 5.0
"""Seconds that a stranger has, and that our last words have."""
FILES = 256


class Hasty(Embedded):
    """A gateway that has little patience with strangers, and soon enough of guesses."""

    def command(self) -> Sequence[str]:
        limits = [f"login_deadline={DEADLINE:g}s", "logins_per_address=20"]
        return [*super().command(), *(word for limit in limits for word in ("--set", f"limits.{limit}"))]


class StrangersTests(AttackTestCase):
    """Those who do not log in."""

    @classmethod
    def make(cls) -> Embedded:
        return Hasty()

    def open_now(self) -> int:
        """Connections of clients that are there."""
        ports = {f"{port:04X}" for port in self.ports.all()}
        lines = [line.split() for line in Path(f"/proc/{self.gateway.pid}/net/tcp").read_text().splitlines()[1:]]
        return sum(line[3] == "01" and line[1].partition(":")[2] in ports for line in lines)

    def slow(self) -> list[Attacker]:
        """Strangers who say nothing, or half of something, or nothing behind the handshake."""
        in_tls = (self.ports.imaps, self.ports.pop3s, self.ports.submissions)
        wires = [Attacker(port, source=stranger()) for port in self.ports.all() for _ in range(2)]
        for wire in wires[::2]:
            wire.send(b"\x16\x03\x01" if wire.port in in_tls else b"a")
        for port, words in (
            (self.ports.imap, b"a STARTTLS\r\n"),
            (self.ports.pop3, b"STLS\r\n"),
            (self.ports.submission, HELLO + b"STARTTLS\r\n"),
            (self.ports.mx, HELLO + b"STARTTLS\r\n"),
        ):
            wires.append(Attacker(port, source=stranger()))
            wires[-1].send(words)
        return wires + [Attacker(port, self.context, source=stranger()) for port in in_tls]

    def floods(self) -> list[Attacker]:
        """Strangers who ask and ask and read nothing: each costs less than a MiB."""
        found: list[Attacker] = []
        for ports, context in (
            ((self.ports.imap, self.ports.pop3, self.ports.mx), None),
            ((self.ports.imaps, self.ports.pop3s, self.ports.submissions), self.context),
        ):
            for port, words in zip(ports, (b"a CAPABILITY\r\n", b"CAPA\r\n", b"EHLO x\r\n"), strict=True):
                wires = [Attacker(port, context, 0.1, stranger()) for _ in range(4)]
                self.gateway.forget_peak()
                before = self.gateway.memory()
                for _ in range(4):
                    for wire in wires:
                        wire.pour(words * 5000)
                self.assertLess(self.gateway.peak_memory() - before, len(wires) << 20, words)
                found += wires
        return found

    def test_patience(self) -> None:
        """Whoever is silent or slow, or floods us, is gone when the time is over, an octet now and then or not."""
        self.assert_serves()
        wires = self.floods() + self.slow()
        dripping = [Attacker(port, source=stranger()) for port in self.ports.all()]
        until = time.monotonic() + DEADLINE + LINGER + 1.0
        while self.open_now() and time.monotonic() < until:
            for wire in dripping:
                wire.pour(b"N")
            time.sleep(0.2)
        self.assertEqual(self.open_now(), 0)
        self.assert_serves()
        for wire in wires + dripping:
            wire.__exit__()

    def turned_away(self, port: int, source: str) -> bytes:
        """What is said to one who is one too many; nothing where that would take a handshake."""
        try:
            with Attacker(port, source=source) as wire:
                return wire.rest()
        except ConnectionResetError:  # before we even knew that we were connected
            return b""

    def test_per_address(self) -> None:
        """An address has a hundred connections, over all services together; others have theirs."""
        many, other = stranger(), stranger()
        clear = [self.ports.imap, self.ports.pop3, self.ports.submission, self.ports.mx]
        wires = [Attacker(clear[number % 4], source=many) for number in range(100)]
        for wire in wires:  # it is counted when it is greeted
            self.assertRegex(wire.line(), rb"ready$|ESMTP$")
        words = {
            **dict.fromkeys((self.ports.mx, self.ports.submission), b"421 4.7.0 localhost Too many connections\r\n"),
            self.ports.imap: b"* BYE Too many connections\r\n",
            self.ports.pop3: b"-ERR [IN-USE] Too many connections\r\n",
        }
        for port in self.ports.all():
            self.assertEqual(self.turned_away(port, many), words.get(port, b""))
            with Attacker(self.ports.imap, source=other) as wire:
                self.assertTrue(wire.line().startswith(b"* OK "))
        for wire in wires:
            wire.__exit__()
        wait_for("there is room again", lambda: Attacker(self.ports.imap, source=many).line().startswith(b"* OK "), 3.0)

    def test_logins(self) -> None:
        """An address has so many logins a minute, right or wrong."""
        many = stranger()
        logins = [self.told(self.ports.imaps, LOGIN_IMAP + b"z LOGOUT\r\n", source=many)[1] for _ in range(20)]
        self.assertEqual([line[:5] for line in logins], [b"a OK "] * 20)
        self.assertEqual(
            self.told(self.ports.imaps, LOGIN_IMAP + b"z LOGOUT\r\n", source=many)[1],
            b"a NO [LIMIT] Too many connections or attempts",
        )
        login = b"USER %b\r\nPASS %b\r\nQUIT\r\n" % (USER.encode(), PASSWORD.encode())
        said = self.told(self.ports.pop3s, login, source=many)
        self.assertEqual(said[2], b"-ERR [IN-USE] Too many connections or attempts")
        self.assertRegex(
            self.told(self.ports.submissions, HELLO, b"AUTH PLAIN AHgAeA==\r\n", source=many)[-1], rb"^421 4\.7\.0 "
        )
        self.assert_serves()


class Narrow(Embedded):
    """A gateway with few descriptors."""

    def start(self) -> None:
        Daemon.start(self)
        resource.prlimit(self.pid, resource.RLIMIT_NOFILE, (FILES, FILES))

    def cpu_time(self) -> float:
        """Seconds of processor used so far."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class DescriptorsTests(AttackTestCase):
    """More connections than descriptors."""

    gateway: Narrow

    @classmethod
    def make(cls) -> Embedded:
        return Narrow()

    def test_exhaustion(self) -> None:
        """The gateway goes on with what it has, does not spin, and is as before when they are gone."""
        before = len(os.listdir(f"/proc/{self.gateway.pid}/fd"))
        running = self.imap("implicit")
        running.login(USER, PASSWORD)
        running.select()
        addresses = [stranger() for _ in range(5)]
        wires = [
            socket.create_connection((HOST, self.ports.imap), 5.0, (addresses[number % 5], 0)) for number in range(400)
        ]
        greeted = 0
        for wire in wires:
            wire.settimeout(2.0)
            try:
                greeted += wire.recv(4) == b"* OK"
            except ConnectionError:
                continue
        self.assertGreater(greeted, 150)
        self.assertLess(greeted, FILES)
        began, used = time.monotonic(), self.gateway.cpu_time()
        time.sleep(1.0)
        self.assertLess((self.gateway.cpu_time() - used) / (time.monotonic() - began), 0.05)
        # what needs a file is temporary trouble, and no more
        self.assertIn(running.noop()[0], ("OK", "NO"))
        for wire in wires:
            wire.close()
        wait_for("descriptors are back", lambda: len(os.listdir(f"/proc/{self.gateway.pid}/fd")) < before + 10)
        began = time.monotonic()
        self.assert_serves()
        with self.submission() as smtp:
            smtp.login(USER, PASSWORD)
            smtp.sendmail(ADDRESS, [ADDRESS], b"Subject: afterwards\r\n\r\nx\r\n")
        self.assertLess(time.monotonic() - began, 2.0)
        self.assertEqual(running.noop()[0], "OK")
        running.logout()
