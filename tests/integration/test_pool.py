"""Pools of real servers: three Dovecots that are killed, hung, drained and restored under live sessions and a steady
stream of logins; and an Exim whose SMTP is checked.
"""

from __future__ import annotations

import contextlib
import imaplib
import threading
import time
from collections import Counter
from typing import Any

from mailgw.ops.control import Refused, ask
from mailgw.routing.rendezvous import ranked
from tests.integration.case import ServersTestCase
from tests.integration.certificates import certificates
from tests.integration.clients import Imap
from tests.integration.dovecot import Dovecot
from tests.integration.exim import Exim
from tests.integration.gateway import ROOMY, Gateway
from tests.integration.ports import HOST, free_port, needs, wait_for

NAMES = ("be1", "be2", "be3")
USERS = [f"user{number}@example.org" for number in range(20)]
PASSWORD = "pw"
HOME = {user: ranked(user, [(name, 1) for name in NAMES])[0] for user in USERS}
FORBIDDEN = "AUTHENTICATIONFAILED"


class Stream(threading.Thread):
    """A steady stream of logins, of all users in turn, until L{end}.

    @ivar outcomes: what became of them: the backend's name, or the beginning of the refusal.
    @ivar latest: of each user.
    """

    def __init__(self, port: int) -> None:
        super().__init__(daemon=True)
        self._port, self._over = port, threading.Event()
        self.outcomes: Counter[str] = Counter()
        self.latest: dict[str, str] = {}
        self.start()

    def run(self) -> None:
        while not self._over.is_set():
            for user in USERS:
                try:
                    outcome = self._login(user)
                except Exception as error:
                    outcome = repr(error)
                self.outcomes[outcome] += 1
                self.latest[user] = outcome
                if self._over.wait(0.01):
                    return

    def _login(self, user: str) -> str:
        client = Imap(self._port, "none", None)
        try:
            client.login(user, PASSWORD)
            return place(client)
        except imaplib.IMAP4.abort:
            raise
        except imaplib.IMAP4.error as error:
            return str(error)[2:].partition("]")[0].strip("[")
        finally:
            with contextlib.suppress(OSError, imaplib.IMAP4.error):
                client.shutdown()

    def end(self) -> None:
        """Stop, and wait until it has stopped."""
        self._over.set()
        self.join(30.0)

    def forget(self) -> None:
        """Count anew."""
        self.outcomes.clear()
        self.latest.clear()

    def at_home(self) -> bool:
        """Every user's latest login landed where it belongs."""
        return self.latest == HOME


def place(client: Imap) -> str:
    """Where a client is: each Dovecot has a folder with its own name in every mailbox."""
    names: list[Any] = client.list()[1]
    return next(name for name in NAMES if any(name.encode() in line for line in names))


def told(gateway: Gateway, **arguments: str) -> list[dict[str, Any]]:
    """What a gateway says of its backends; nothing while there is no worker to ask."""
    try:
        return list(ask(str(gateway.folder / "state"), "backend", arguments))
    except Refused:
        return []


class PoolTests(ServersTestCase):
    """Each test has a gateway of its own, whose pool is checked every 300 ms."""

    skip = needs("dovecot")
    timeout = 100.0
    dovecots: dict[str, Dovecot]

    @classmethod
    def start_servers(cls) -> None:
        cls.dovecots = {}
        for name in NAMES:
            dovecot = cls.dovecots[name] = Dovecot({user: PASSWORD.encode() for user in USERS})
            for user in USERS:
                for part in ("cur", "new", "tmp"):
                    (dovecot.mailbox(user) / f".{name}" / part).mkdir(parents=True)
                (dovecot.mailbox(user) / "subscriptions").touch()
            cls.run_server(dovecot)

    def begin(self, pool: str, workers: int = 0) -> None:
        """Start a gateway, wait until everybody is known to be well, and begin the stream."""
        self.port = free_port()
        members = ", ".join(
            f'{{host = "{HOST}", name = "{name}", imap = {one.imap}, pop3 = {one.pop3}}}'
            for name, one in self.dovecots.items()
        )
        self.gateway = Gateway(
            SETTINGS % {"port": self.port, "members": members, "pool": pool, "ca": certificates().ca}
        )
        self.gateway.workers = workers
        lines = "".join(f"{user}:{{PLAIN}}{PASSWORD}\n" for user in USERS)
        (self.gateway.folder / "passwd").write_text(lines)
        self.addCleanup(self.gateway.stop)
        self.gateway.start()
        self.clients: list[Imap] = []
        self.addCleanup(self.close_all)
        wait_for("every service up", lambda: self.health() == dict.fromkeys(NAMES, "up"))
        self.stream = Stream(self.port)
        self.addCleanup(self.stream.end)

    def close_all(self) -> None:
        for client in self.clients:
            with contextlib.suppress(OSError, imaplib.IMAP4.error):
                client.shutdown()

    def rows(self) -> list[dict[str, Any]]:
        """What C{mailgw backend} asks for."""
        return told(self.gateway)

    def health(self) -> dict[str, str]:
        """Of each member: the worst of its services."""
        states: dict[str, str] = {}
        for row in self.rows():
            states[row["name"]] = min(states.get(row["name"], "up"), row["health"])
        return states

    def log_in(self, count: int) -> None:
        """So many sessions that stay."""
        for number in range(count):
            client = Imap(self.port, "none", None)
            client.login(USERS[number % len(USERS)], PASSWORD)
            self.clients.append(client)
        self.places = [place(client) for client in self.clients]

    def lost(self, *but: str) -> list[str]:
        """Where sessions are that do not answer any more, those on some backends left aside."""
        gone = []
        for client, name in zip(self.clients, self.places, strict=True):
            if name not in but:
                try:
                    client.noop()
                except (OSError, imaplib.IMAP4.error):
                    gone.append(name)
        return gone

    def wait_for_logins(self, what: str, name: str, seconds: float = 20.0) -> None:
        """Wait until all users whose home is C{name} land elsewhere, or (a pool that is not shared) wait for it."""
        theirs = [user for user in USERS if HOME[user] == name]
        others = set(NAMES) - {name} if what == "elsewhere" else {what}

        def there() -> bool:
            latest = dict(self.stream.latest)
            return all(latest.get(user) in others for user in theirs)

        wait_for(f"users of {name}: {what}; they are {self.stream.latest}", there, seconds)

    def assertNobodyMoved(self, name: str) -> None:
        """Whose home is elsewhere has landed there."""
        moved = {user: where for user, where in self.stream.latest.items() if where != HOME[user] != name}
        self.assertEqual(moved, {})

    def assertNoWrongPassword(self) -> None:
        """All passwords are right, and nobody has heard otherwise."""
        self.assertGreater(sum(self.stream.outcomes.values()), 20)
        self.assertEqual([one for one in self.stream.outcomes if FORBIDDEN in one], [], self.stream.outcomes)
        self.assertLessEqual(set(self.stream.outcomes), {*NAMES, "UNAVAILABLE"})

    # --- the tests ---------------------------------------------------------------------------------------------------

    def test_shared(self) -> None:
        """Killed, hung, drained and restored: the users of that one are served by the others and come home."""
        self.begin("shared = true")
        self.log_in(60)
        wait_for("all at home", self.stream.at_home)
        self.assertNoWrongPassword()

        self.dovecots["be1"].end()
        self.wait_for_logins("elsewhere", "be1")
        wait_for("be1 known to be down", lambda: self.health()["be1"] == "down")
        self.assertEqual(self.lost("be1"), [])
        self.stream.forget()
        self.wait_for_logins("elsewhere", "be1")
        self.assertNobodyMoved("be1")
        self.assertEqual(set(self.stream.outcomes), {"be2", "be3"})
        self.dovecots["be1"].start()
        wait_for("all at home after the kill", self.stream.at_home)

        self.dovecots["be2"].pause()
        self.wait_for_logins("elsewhere", "be2")
        self.assertEqual(self.lost("be1", "be2"), [])
        self.assertNobodyMoved("be2")
        self.dovecots["be2"].resume()
        wait_for("all at home after the hang", self.stream.at_home)
        self.assertEqual(self.lost("be1"), [])

        self.stream.forget()
        self.assertEqual(self.gateway.run("backend", "be3", "drain").returncode, 0)
        self.wait_for_logins("elsewhere", "be3")
        self.assertEqual(self.lost("be1"), [])
        self.assertEqual(self.gateway.run("backend", "be3", "up").returncode, 0)
        wait_for("all at home after the drain", self.stream.at_home)
        self.stream.end()
        self.assertNoWrongPassword()
        self.assertNotIn("UNAVAILABLE", self.stream.outcomes)
        self.assertEqual(self.lost("be1"), [])

    def test_not_shared(self) -> None:
        """The users of the one that is away get temporary trouble and nothing else; all others notice nothing."""
        self.begin("shared = false")
        self.log_in(60)
        for name, away, back in (
            ("be1", self.dovecots["be1"].end, self.dovecots["be1"].start),
            ("be2", self.dovecots["be2"].pause, self.dovecots["be2"].resume),
        ):
            wait_for("all at home", self.stream.at_home)
            away()
            self.wait_for_logins("UNAVAILABLE", name)
            wait_for(f"{name} known to be down", lambda name=name: self.health()[name] == "down")
            self.assertNobodyMoved(name)
            self.assertEqual(self.lost("be1", name), [])
            begin = time.monotonic()
            self.stream.forget()
            self.wait_for_logins("UNAVAILABLE", name)
            self.assertLess(time.monotonic() - begin, 5.0, "nobody waits for the dead")
            back()
        self.assertEqual([row["admin"] for row in told(self.gateway, name="be3", state="drain")], ["drain", "drain"])
        self.wait_for_logins("UNAVAILABLE", "be3")
        told(self.gateway, name="be3", state="up")
        wait_for("all at home at last", self.stream.at_home)
        self.stream.end()
        self.assertNoWrongPassword()
        self.assertEqual(self.lost("be1"), [])

    def test_workers(self) -> None:
        """What one worker finds out the other one knows; with least connections users stay together across both."""
        self.begin('shared = true\nbalance = "least"\nslow_start = "0s"', workers=2)
        self.log_in(60)
        at = {user: {self.places[n] for n in range(60) if USERS[n % 20] == user} for user in USERS}
        self.assertEqual([len(places) for places in at.values()], [1] * 20)
        self.assertEqual({row["sessions"] for row in self.rows() if row["protocol"] == "pop3"}, {0})
        self.assertGreaterEqual(sum(row["sessions"] for row in self.rows()), 60)
        self.assertGreaterEqual(min(Counter(self.places).values()), 12)
        self.dovecots["be2"].end()
        wait_for("be2 known to be down", lambda: self.health()["be2"] == "down")
        self.stream.forget()
        wait_for("logins on the others", lambda: sum(self.stream.outcomes.values()) > 60)
        self.assertEqual(set(self.stream.outcomes), {"be1", "be3"})
        self.assertEqual(self.lost("be2"), [])
        self.dovecots["be2"].start()
        wait_for("some on be2 again", lambda: self.stream.outcomes["be2"] > 0)
        self.stream.end()
        self.assertNoWrongPassword()

    def test_polite(self) -> None:
        """The checks of a pool are no noise in a backend's log: they log out."""
        self.begin("shared = true")
        self.stream.end()
        before = {name: len(one.log()) for name, one in self.dovecots.items()}
        time.sleep(1.5)
        for name, dovecot in self.dovecots.items():
            lines = dovecot.log()[before[name] :].splitlines()
            logins = [line for line in lines if "imap-login: " in line or "pop3-login: " in line]
            self.assertGreater(len([line for line in logins if "Logged out" in line or "Aborted login" in line]), 3)
            self.assertEqual([line for line in logins if "Connection closed" in line or "Error" in line], [])


class SmtpHealthTests(ServersTestCase):
    """SMTP, with STARTTLS and a probe account."""

    skip = needs("exim4")
    timeout = 60.0
    exim: Exim

    @classmethod
    def start_servers(cls) -> None:
        cls.exim = cls.run_server(Exim({"probe": "probepw"}))

    def test_exim(self) -> None:
        """Exim is up, then away with a reason, then up again; it has nothing to complain of."""
        members = f'{{host = "{HOST}", name = "exim", smtp = {self.exim.smtp}}}'
        pool = '[pool.main.smtp]\n[domains]\naccept = ["example.org"]\n'
        values = {"port": free_port(), "members": members, "ca": certificates().ca}
        values["pool"] = 'probe_user = "probe"\nprobe_password = "probepw"'
        gateway = Gateway((SETTINGS % values).partition("[pool.main.imap]")[0] + pool + ROOMY)
        (gateway.folder / "passwd").write_text("")
        self.addCleanup(gateway.stop)
        gateway.start()

        def row() -> dict[str, Any]:
            (found,) = told(gateway)
            return found

        wait_for("Exim up", lambda: row()["health"] == "up")
        self.exim.end()
        wait_for("Exim down", lambda: row()["health"] == "down")
        self.assertIn("main/exim", row()["reason"])
        self.exim.start()
        wait_for("Exim up again", lambda: row()["health"] == "up")
        self.assertEqual((row()["reason"], row()["admin"]), ("", "up"))
        complaints = [line for line in self.exim.log().splitlines() if "lost" in line or "closed by" in line]
        self.assertEqual([line for line in complaints if "QUIT" not in line], [])


SETTINGS = """
[[listener]]
protocol = "imap"
endpoint = "tcp:%(port)d:interface=127.0.0.1"
tls = "none"
[[directory]]
kind = "passwd"
file = "passwd"
[[route]]
kind = "pool"
pool = "main"
[pool.main]
members = [%(members)s]
ca = "%(ca)s"
health = "300ms"
health_fall = 2
health_timeout = "1s"
%(pool)s
[pool.main.imap]
[pool.main.pop3]
[limits]
backend_login = "3s"
connections_per_address = 5000
connections_per_user = 5000
logins_per_address = 100000
[domains]
accept = ["example.org"]
"""
