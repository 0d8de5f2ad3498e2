"""Two hundred connections of each costly kind at a time: gone soon after the deadline, and nobody else notices.

The same in memory, with more kinds and a clock, is L{tests.edge.test_slowloris}.
"""

from __future__ import annotations

import contextlib
import selectors
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from tests.integration.certificates import certificates
from tests.integration.clients import Imap, trusting
from tests.integration.gateway import ROOMY, Gateway, many_files
from tests.integration.ports import HOST
from tests.integration.test_reload import PASSWORD, SETTINGS, USER

EACH = 200
DEADLINE = 4.0
GRACE = 6.0
KINDS = ("silent", "no handshake", "half a handshake", "STARTTLS", "trickle", "unread")
_FLOOD = b"a CAPABILITY\r\n" * 100


class Crowd:
    """Two hundred connections of one kind, and when the gateway had ended them."""

    def __init__(self, kind: str, port: int) -> None:
        self.kind = kind
        self.sockets = [self._connect(port) for _ in range(EACH)]

    def _connect(self, port: int) -> socket.socket:
        raw = socket.socket()
        if self.kind == "unread":
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        raw.settimeout(10.0)
        raw.connect((HOST, port))
        if self.kind == "half a handshake":
            raw.sendall(b"\x16\x03\x01\x02\x00\x01")
        elif self.kind == "STARTTLS":
            raw.recv(1000)
            raw.sendall(b"s STARTTLS\r\n")
        raw.setblocking(False)
        return raw

    def go_on(self) -> None:
        """What this kind does every now and then."""
        words = {"trickle": b"a", "unread": _FLOOD}.get(self.kind)
        for one in self.sockets if words else ():
            with contextlib.suppress(OSError):
                one.send(words or b"")

    def ended(self) -> list[socket.socket]:
        """Those that the gateway has closed or reset; what it had said is thrown away once it is late enough."""
        selector = selectors.PollSelector()
        for one in self.sockets:
            selector.register(one, selectors.EVENT_READ)
        return [key.fileobj for key, _ in selector.select(0) if self._is_over(key.fileobj)]  # type: ignore[misc]

    @staticmethod
    def _is_over(one: Any) -> bool:
        try:
            while one.recv(65536):
                pass
        except BlockingIOError:
            return False
        except OSError:
            return True
        return True


class SlowlorisTests(SynchronousTestCase):
    """Twelve hundred connections that only cost."""

    timeout = 60.0
    if many_files() < 3 * EACH * len(KINDS):
        skip = f"the system allows us fewer than {3 * EACH * len(KINDS)} open files (ulimit -Hn)"

    def setUp(self) -> None:
        self.gateway = Gateway(SETTINGS.partition("[limits]")[0] + ROOMY + f'login_deadline = "{DEADLINE:g}s"\n')
        self.addCleanup(self.gateway.stop)
        (self.gateway.folder / "passwd").write_text(f"{USER}:{{PLAIN}}{PASSWORD}\n")
        self.gateway.start()
        self.context = trusting(certificates().ca)

    def login(self) -> float:
        """Seconds that a good login takes, from the connection on."""
        began = time.monotonic()
        client = Imap(self.gateway.ports.imaps, "implicit", self.context)
        client.login(USER, PASSWORD)
        took = time.monotonic() - began
        client.logout()
        return took

    def test_all(self) -> None:
        """All are gone by the deadline and six seconds; a good login takes less than a second all the time."""
        self.login()
        before = self.gateway.memory()
        crowds = []
        for kind in KINDS:
            tls = kind in ("no handshake", "half a handshake")
            crowds.append(Crowd(kind, self.gateway.ports.imaps if tls else self.gateway.ports.imap))
        for crowd in crowds:
            self.addCleanup(lambda crowd=crowd: [one.close() for one in crowd.sockets])
        made = time.monotonic()
        logins = []
        with ThreadPoolExecutor(1) as pool:
            while time.monotonic() < made + DEADLINE - 1.0:
                job = pool.submit(self.login)
                for crowd in crowds:
                    crowd.go_on()
                logins.append(job.result(10.0))
                time.sleep(0.1)
        memory = self.gateway.memory() - before
        time.sleep(max(0.0, made + DEADLINE + GRACE - time.monotonic()))
        left = {crowd.kind: EACH - len(crowd.ended()) for crowd in crowds}
        self.assertEqual(left, dict.fromkeys(KINDS, 0))
        logins.append(self.login())
        print(f"\n{EACH * len(KINDS)} slow clients: {memory >> 10} KiB; a good login took {max(logins):.2f} s at most")
        self.assertLess(max(logins), 1.0)
        self.assertLess(memory, EACH * len(KINDS) << 20)
        self.gateway.wait_for_sessions_to_end()
        self.gateway.check_log()
