"""Tests of L{mailgw.ops.control}: both ends of a link in memory, and the socket itself with a real reactor."""

from __future__ import annotations

import json
import os
import socket
import stat
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionLost
from twisted.internet.testing import StringTransport
from twisted.internet.threads import deferToThread
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase, TestCase

from mailgw.ops.control import LONGEST_PATH, ControlLink, ControlPort, Emit, Refused, Row, answers, ask, path_fault


class _Transport(StringTransport):
    """A transport that can be aborted."""

    aborted = False

    def abortConnection(self) -> None:
        self.aborted = True


async def echo(arguments: Row, emit: Emit) -> None:
    """Say each word that was given."""
    for word in arguments["words"]:
        emit({"word": word})


async def refuse(arguments: Row, emit: Emit) -> None:
    """Cannot be done."""
    raise Refused("not today")


async def broken(arguments: Row, emit: Emit) -> None:
    """Has a fault."""
    raise ZeroDivisionError


class LinkTests(SynchronousTestCase):
    """What goes over a link."""

    def setUp(self) -> None:
        """Two ends; what one writes is fed to the other by L{flow}."""
        self.pending: Deferred[None] = Deferred()
        commands = {"echo": echo, "refuse": refuse, "broken": broken, "wait": self.wait}
        self.near, self.far = ControlLink(), ControlLink(commands)
        for link in (self.near, self.far):
            link.makeConnection(_Transport())
        self.rows: list[Row] = []

    async def wait(self, arguments: Row, emit: Emit) -> None:
        """Until L{pending} fires, and then say so."""
        await self.pending
        emit({"waited": True})

    def flow(self) -> None:
        """Carry over what both ends have written until there is no more."""
        while said := [(link.transport, link.transport.value()) for link in (self.near, self.far)]:
            if not any(data for _, data in said):
                return
            for transport, _ in said:
                transport.clear()
            self.far.dataReceived(said[0][1])
            self.near.dataReceived(said[1][1])

    def ask(self, command: str, **arguments: Any) -> Deferred[None]:
        """Ask the far end, and carry everything over."""
        answer = self.near.ask(command, arguments, self.rows.append)
        self.flow()
        return answer

    def refused(self, answer: Deferred[None]) -> str:
        """The words of a refusal."""
        return str(self.failureResultOf(answer, Refused).value)

    def test_rows(self) -> None:
        """An answer is rows and an end; several questions go over one link."""
        self.successResultOf(self.ask("echo", words=["one", "zwölf", ""]))
        self.successResultOf(self.ask("echo", words=[]))
        self.assertEqual(self.rows, [{"word": "one"}, {"word": "zwölf"}, {"word": ""}])

    def test_both_ways(self) -> None:
        """Each end may ask the other, at the same time and with the same numbers."""
        self.near.commands = {"echo": echo}
        told: list[Row] = []
        first = self.near.ask("echo", {"words": ["near"]}, self.rows.append)
        second = self.far.ask("echo", {"words": ["far"]}, told.append)
        self.flow()
        self.successResultOf(first)
        self.successResultOf(second)
        self.assertEqual((self.rows, told), ([{"word": "near"}], [{"word": "far"}]))

    def test_refused(self) -> None:
        """What cannot be done is said in its words, what is not known by name, and a fault without its details."""
        self.assertEqual(self.refused(self.ask("refuse")), "not today")
        self.assertEqual(self.refused(self.ask("dance")), "dance: the running gateway knows no such command")
        self.assertEqual(self.refused(self.ask("broken")), "broken failed: ZeroDivisionError; the log has more")
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
        self.assertEqual(self.refused(self.ask("echo")), "echo failed: KeyError; the log has more")
        self.assertEqual(len(self.flushLoggedErrors(KeyError)), 1)

    def test_out_of_order(self) -> None:
        """A question that takes its time holds up no other."""
        slow = self.ask("wait")
        self.successResultOf(self.ask("echo", words=["quick"]))
        self.assertNoResult(slow)
        self.pending.callback(None)
        self.flow()
        self.successResultOf(slow)
        self.assertEqual(self.rows, [{"word": "quick"}, {"waited": True}])

    def test_octet_by_octet(self) -> None:
        """Lines may come in any pieces."""
        answer = self.near.ask("echo", {"words": ["one"]}, self.rows.append)
        for octet in self.near.transport.value():
            self.far.dataReceived(bytes([octet]))
        for octet in self.far.transport.value():
            self.near.dataReceived(bytes([octet]))
        self.successResultOf(answer)

    def test_hostile(self) -> None:
        """What is no message ends the link, and nothing else."""
        lines = [b"", b"x", b"\xff", b"5", b"[]", b"null", b"{}", b'"ask"', b'{"ask":1}', b'{"ask":1,"command":"echo"}']
        lines += [b'{"ask":1,"command":"echo","arguments":7}', b'{"answer":1,"row":{}}', b'{"answer":{},"error":null}']
        lines += [b'{"answer":Infinity,"error":null}', b'{"answer":NaN,"row":1}', b"[" * 200_000]
        for line in lines:
            link = ControlLink({"echo": echo})
            link.makeConnection(_Transport())
            link.dataReceived(line + b"\n")
            self.assertTrue(link.transport.aborted, line[:50])
            self.assertEqual(link.transport.value(), b"")

    def test_huge(self) -> None:
        """A line without an end is not kept for ever."""
        for _ in range(17):
            self.far.dataReceived(b"x" * 65536)
        self.assertTrue(self.far.transport.aborted)

    def test_lost(self) -> None:
        """Whoever waits for an answer hears that the link is lost, and who asks later that it is closed."""
        answer = self.ask("wait")
        self.near.connectionLost(Failure(ConnectionLost()))
        self.assertEqual(self.refused(answer), "the link was lost")
        self.successResultOf(self.near.gone)
        self.assertEqual(self.refused(self.near.ask("echo", {}, self.rows.append)), "the link is closed")

    def test_asker_goes_away(self) -> None:
        """What is done for somebody who has gone is given up, without a word in the log."""
        stopped: list[object] = []
        self.pending = Deferred(stopped.append)
        self.ask("wait")
        self.far.connectionLost(Failure(ConnectionLost()))
        self.assertEqual(stopped, [self.pending])
        self.assertEqual(self.far.transport.value(), b"")


class PathTests(SynchronousTestCase):
    """Which paths a socket may have."""

    def test_length(self) -> None:
        """The system's limit is in octets, not in characters."""
        self.assertIsNone(path_fault("/" + "x" * (LONGEST_PATH - 1)))
        self.assertIn("has 108 octets, and the system takes 107", str(path_fault("/" + "x" * LONGEST_PATH)))
        self.assertIn("has 121 octets", str(path_fault("/" + "ä" * 60)))

    def test_limit(self) -> None:
        """It is the system's limit indeed."""
        folder = mkdtemp()
        with socket.socket(socket.AF_UNIX) as one:
            path = os.path.join(folder, "x" * (LONGEST_PATH - len(folder) - 1))
            one.bind(path)
            os.unlink(path)
        with socket.socket(socket.AF_UNIX) as one:
            self.assertRaises(OSError, one.bind, path + "x")


class PortTests(TestCase):
    """The socket."""

    def setUp(self) -> None:
        """A folder for it."""
        self.folder = Path(mkdtemp())
        self.path = self.folder / "control"

    def started(self) -> ControlPort:
        """A port that listens until the end of the test."""
        port = ControlPort(reactor, str(self.folder), lambda _: {"echo": echo, "refuse": refuse})
        port.startService()
        self.addCleanup(port.stopService)
        return port

    async def asked(self, command: str, **arguments: Any) -> list[Row]:
        """What somebody without a reactor hears."""
        return await deferToThread(lambda: list(ask(str(self.folder), command, arguments)))

    async def test_ask(self) -> None:
        """Rows come over the socket, and so do refusals."""
        self.started()
        self.assertEqual(await self.asked("echo", words=["a", "b"]), [{"word": "a"}, {"word": "b"}])
        refused = await self.assertFailure(Deferred.fromCoroutine(self.asked("refuse")), Refused)
        self.assertEqual(str(refused), "not today")

    async def test_owner(self) -> None:
        """The socket is its owner's alone, the mask of the process is as before, and stopping removes it."""
        before = os.umask(0o022)
        self.addCleanup(os.umask, before)
        port = self.started()
        self.assertEqual(stat.S_IMODE(self.path.stat().st_mode), 0o600)
        self.assertEqual(os.umask(0o022), 0o022)
        await port.stopService()
        self.assertFalse(self.path.exists())

    async def test_stale(self) -> None:
        """A socket that a gateway left behind which was killed is replaced."""
        with socket.socket(socket.AF_UNIX) as dead:
            dead.bind(str(self.path))
            dead.listen()
        self.assertFalse(answers(str(self.path)))
        self.started()
        self.assertEqual(await self.asked("echo", words=["a"]), [{"word": "a"}])

    async def test_second(self) -> None:
        """A second gateway is refused, and the first one is as it was."""
        self.started()
        second = ControlPort(reactor, str(self.folder), lambda _: {})
        refused = self.assertRaises(Refused, second.startService)
        self.assertEqual(str(refused), f"another gateway runs with this gateway.state: {self.path} answers")
        self.assertIsNone(second.stopService())
        self.assertEqual(await self.asked("echo", words=["a"]), [{"word": "a"}])

    def test_busy(self) -> None:
        """A gateway that does not answer for the many who wait is one as well, and nobody waits for it."""
        with socket.socket(socket.AF_UNIX) as hung:
            hung.bind(str(self.path))
            hung.listen(0)
            waiting = [socket.socket(socket.AF_UNIX) for _ in range(3)]
            for one in waiting:
                self.addCleanup(one.close)
                one.setblocking(False)
                one.connect_ex(str(self.path))
            self.assertTrue(answers(str(self.path)))

    def test_unusable(self) -> None:
        """A path that is too long, and a folder that is not there, are told in words."""
        for folder, words in ((self.folder / ("x" * 120), "and the system takes 107"), (self.folder / "no", "No such")):
            port = ControlPort(reactor, str(folder), lambda _: {})
            self.assertIn(words, str(self.assertRaises(Refused, port.startService)))
            self.assertIsNone(port.stopService())


class AskTests(SynchronousTestCase):
    """The end without a reactor, and who answers badly."""

    def refused(self, folder: str) -> str:
        """The words of a refusal."""
        return str(self.assertRaises(Refused, list, ask(folder, "who", {})))

    def test_nobody(self) -> None:
        """There is no socket, nobody listens there, or there cannot be any."""
        folder = mkdtemp()
        self.assertEqual(
            self.refused(folder), f"no running gateway can be asked at {folder}/control: there is no such socket"
        )
        with socket.socket(socket.AF_UNIX) as dead:
            dead.bind(f"{folder}/control")
        self.assertIn("nobody listens there", self.refused(folder))
        self.assertIn("AF_UNIX path too long", self.refused("/" + "x" * 200))

    def test_closed(self) -> None:
        """The gateway hangs up before the end of its answer, or says what nobody understands."""
        for said in (b"", b'{"answer":1,"row":{"a":1}}\n', b'{"answer":1,', b"\xff\n", b"[1\n"):
            folder = mkdtemp()
            with socket.socket(socket.AF_UNIX) as port:
                port.bind(f"{folder}/control")
                port.listen()
                answer = ask(folder, "who", {})
                self.addCleanup(answer.close)
                one = _later(port, said)
                refused = self.assertRaises(Refused, list, answer)
                self.assertEqual(str(refused), "the gateway closed the link before it had answered")
                self.assertEqual(json.loads(one()), {"ask": 1, "command": "who", "arguments": {}})


def _later(port: socket.socket, said: bytes) -> Any:
    """Answer one question in a thread; what was asked is told when it is over."""
    from threading import Thread

    asked: list[bytes] = []

    def answer() -> None:
        with port.accept()[0] as link:
            asked.append(link.recv(1000))
            link.sendall(said)

    thread = Thread(target=answer)
    thread.start()

    def over() -> bytes:
        thread.join()
        return asked[0]

    return over
