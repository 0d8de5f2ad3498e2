"""Tests of L{mailgw.master} and L{mailgw.single}: ports, reloads and the end, without a process and without a port."""

from __future__ import annotations

import errno
import shutil
import sys
from datetime import UTC, datetime
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

from twisted.internet.defer import Deferred, succeed
from twisted.internet.error import CannotListenError
from twisted.trial.unittest import SynchronousTestCase

from mailgw import master
from mailgw.config.file import load
from mailgw.edge.selfsigned import write_pair
from mailgw.ops import control, workers
from mailgw.ops.workers import BIRTH
from mailgw.single import CERTIFICATE_POLL, Single
from tests.ops.fleet import FakeLink, FakeProcess, FakeReactor

SETTINGS = """
[gateway]
state = "state"
workers = 2
[tls]
certificate = "localhost.crt"
key = "localhost.key"
[[directory]]
kind = "tests.kit:People"
[[route]]
kind = "local"
"""


class FakePort:
    """A port that is bound."""

    def __init__(self, port: int) -> None:
        self.port, self.open = port, True

    def fileno(self) -> int:
        return self.port + 10_000

    def stopListening(self) -> Deferred[None]:
        self.open = False
        return succeed(None)


class Loop(FakeReactor):
    """Processes, ports and time that are played."""

    def __init__(self) -> None:
        super().__init__()
        self.ports: list[FakePort] = []
        self.taken: set[int] = set()
        self.unread: list[FakePort] = []

    def listenTCP(self, port: int, factory: Any, *options: Any, **more: Any) -> FakePort:
        if port in self.taken:
            raise CannotListenError("", port, OSError(errno.EADDRINUSE, "taken"))
        self.ports.append(FakePort(port))
        return self.ports[-1]

    def listenUNIX(self, path: str, factory: Any, **more: Any) -> FakePort:
        return FakePort(0)

    def removeReader(self, port: FakePort) -> None:
        self.unread.append(port)

    def open_ports(self) -> list[int]:
        """The numbers of those that are open."""
        return sorted(port.port for port in self.ports if port.open)


class MasterTests(SynchronousTestCase):
    """A master of two workers, with two listeners."""

    def setUp(self) -> None:
        self.folder = Path(mkdtemp())
        self.addCleanup(shutil.rmtree, self.folder)
        write_pair(["localhost"], self.folder, 30, datetime.now(UTC))
        self.loop = Loop()
        self.patch(workers, "_kill", lambda pid: None)
        self.write(143, 993)

    def write(self, *ports: int, more: str = "") -> None:
        """Write settings with these listeners."""
        listeners = "".join(f'[[listener]]\nprotocol = "imap"\nendpoint = "tcp:{port}"\n' for port in ports)
        (self.folder / "mailgw.toml").write_text(SETTINGS + listeners + more)

    def load(self) -> Any:
        """Read them."""
        return load(str(self.folder / "mailgw.toml"), ())

    def started(self) -> master.Master:
        """A master that runs, with its first workers."""
        self.master = master.Master(self.load(), self.loop, self.load)
        self.master.privilegedStartService()
        self.master.startService()
        self.birth(self.loop.processes[0])
        return self.master

    def birth(self, process: FakeProcess) -> None:
        """The workers of a generation come up."""
        process.report("ready")
        for slot in (0, 1):
            row = {"token": self.master._token, "generation": process.generation.number, "slot": slot}
            row["pid"] = process.pid + slot
            hello = self.master._commands(FakeLink())["hello"](row, lambda row: None)
            self.successResultOf(Deferred.fromCoroutine(hello))  # type: ignore[arg-type]

    def test_ports(self) -> None:
        """Ports are bound once, not read, and go to the zygote; so does the path that its Python needs."""
        self.started()
        self.assertEqual(self.loop.open_ports(), [143, 993])
        self.assertEqual(self.loop.unread, self.loop.ports)
        self.assertEqual(set(self.loop.processes[0].descriptors.values()) & {10143, 10993}, {10143, 10993})
        self.assertEqual(self.master._blueprint(2).command[0], sys.executable)

    def test_reload(self) -> None:
        """New ports are opened before the new workers come, old ones closed after."""
        self.started()
        told = self.master.renew()
        self.birth(self.loop.processes[1])
        self.assertEqual(self.successResultOf(told), [])
        self.write(993, 1143)
        told = self.master.renew()
        self.assertEqual(self.loop.open_ports(), [143, 993, 1143])
        self.assertNoResult(told)
        self.birth(self.loop.processes[2])
        self.assertEqual(self.successResultOf(told), [])
        self.assertEqual(self.loop.open_ports(), [993, 1143])

    def test_not_up(self) -> None:
        """Workers that do not come up: the ports, and what the next generation would get, are as before."""
        self.started()
        self.write(993, 1143)
        told = self.master.renew()
        self.loop.advance(BIRTH)
        self.assertEqual(self.successResultOf(told), [f"not reloaded: new workers were not ready within {BIRTH:g} s"])
        self.assertEqual(self.loop.open_ports(), [143, 993])
        self.assertEqual(sorted(self.master._blueprint(9).sockets), [10143, 10993])

    def test_taken(self) -> None:
        """A port that is taken keeps everything as it was, those opened before it included."""
        self.started()
        self.write(143, 1143, 1993)
        self.loop.taken.add(1993)
        (fault,) = self.successResultOf(self.master.renew())
        self.assertIn("imap on tcp:1993: another program listens there already", fault)
        self.assertEqual((self.loop.open_ports(), len(self.loop.processes)), ([143, 993], 1))
        self.loop.taken.clear()
        told = self.master.renew()
        self.birth(self.loop.processes[1])
        self.assertEqual(self.successResultOf(told), [])

    def test_faults(self) -> None:
        """Each fault of the file is told; one process cannot be made of several."""
        self.started()
        self.write(143, more="[limit]\n[limits]\nidle = 7\n")
        self.assertGreaterEqual(len(self.successResultOf(self.master.renew())), 2)
        self.write(143)
        path = self.folder / "mailgw.toml"
        path.write_text(path.read_text().replace("workers = 2", "workers = 0"))
        self.assertIn("gateway.workers: several processes become one", self.successResultOf(self.master.renew())[0])

    def test_state_stays(self) -> None:
        """Workers look for their master where it was at its start."""
        self.started()
        path = self.folder / "mailgw.toml"
        path.write_text(path.read_text().replace('state = "state"', 'state = "other"'))
        self.master.renew()
        self.assertIn(str(self.folder / "state").encode(), self.loop.processes[1].written)
        self.assertNotIn(str(self.folder / "other").encode(), self.loop.processes[1].written)

    def test_twice(self) -> None:
        """A reload during a reload is refused, and the first one goes on."""
        self.started()
        told = self.master.renew()
        self.assertEqual(self.successResultOf(self.master.renew()), ["not reloaded: another reload is under way"])
        self.birth(self.loop.processes[1])
        self.assertEqual(self.successResultOf(told), [])

    def test_stop(self) -> None:
        """A stop ends a reload that is under way, and no other begins."""
        self.started()
        told = self.master.renew()
        self.master.stopService()
        self.assertEqual(self.successResultOf(told), ["not reloaded: the gateway stops"])
        self.assertEqual(self.successResultOf(self.master.renew()), ["not reloaded: the gateway stops"])
        self.assertEqual(self.loop.open_ports(), [])

    def test_certificates(self) -> None:
        """New certificates make new workers, with the settings in force; where those fail, they are tried again."""
        self.started()
        self.write(143, more="[nonsense]\n")
        shutil.rmtree(self.folder / "new", ignore_errors=True)
        for made in write_pair(["localhost"], self.folder / "new", 30, datetime.now(UTC)):
            made.replace(self.folder / made.name)
        self.loop.advance(CERTIFICATE_POLL)
        self.assertEqual(len(self.loop.processes), 2)
        self.loop.advance(BIRTH)
        self.loop.advance(CERTIFICATE_POLL)
        self.assertEqual(len(self.loop.processes), 3)
        self.birth(self.loop.processes[2])
        self.loop.advance(CERTIFICATE_POLL)
        self.assertEqual(len(self.loop.processes), 3)

    def test_second(self) -> None:
        """Where another gateway answers, neither a master nor a single gateway starts."""
        self.patch(control, "answers", lambda path: True)
        two = master.Master(self.load(), self.loop, self.load)
        alone = load(str(self.folder / "mailgw.toml"), ("gateway.workers=0", "gateway.transport=twisted"))
        one = Single(alone, self.loop, self.load)
        for service in (two, one):
            service.privilegedStartService()
            self.assertIn("another gateway runs", str(self.assertRaises(SystemExit, service.startService)))
