"""Tests of the splicer: a shared pipe that is empty between two calls, whatever the sockets do."""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import struct
import termios
from typing import Any

from twisted.internet.error import ConnectionLost
from twisted.trial.unittest import SynchronousTestCase

from mailgw.edge.splice import CAPACITY, NOTHING, Splicer


class SplicerTests(SynchronousTestCase):
    """From one socket to another."""

    def setUp(self) -> None:
        self.splicer = Splicer()
        self.addCleanup(self.splicer.discard)
        self.sender, self.source = self.connected()
        self.target, self.reader = self.connected()

    def connected(self) -> tuple[socket.socket, socket.socket]:
        """Two ends over loopback."""
        with socket.create_server(("127.0.0.1", 0)) as listening:
            one = socket.create_connection(listening.getsockname())
            other, _ = listening.accept()
        for skt in (one, other):
            skt.setblocking(False)
            self.addCleanup(skt.close)
        return one, other

    def move(self, most: int = CAPACITY) -> Any:
        return self.splicer.move(self.source.fileno(), self.target.fileno(), most)

    def assertEmpty(self) -> None:
        """Nothing is left in the pipe."""
        assert self.splicer._pipe is not None
        self.assertEqual(fcntl.ioctl(self.splicer._pipe._out, termios.FIONREAD, bytes(4)), struct.pack("i", 0))

    def fill(self, skt: socket.socket) -> int:
        """Write until nothing is taken."""
        sent = 0
        try:
            while True:
                sent += skt.send(bytes(65536))
        except BlockingIOError:
            return sent

    def test_moves(self) -> None:
        """What is there, and no more than asked for; the rest stays where it was."""
        self.sender.sendall(b"abcdef")
        self.assertEqual(self.move(4), (4, b""))
        self.assertEqual(self.reader.recv(100), b"abcd")
        self.assertEqual(self.move(), (2, b""))
        self.assertEqual(self.reader.recv(100), b"ef")
        self.assertEmpty()

    def test_nothing(self) -> None:
        """Nothing is not the end."""
        self.assertEqual(self.move(), (NOTHING, b""))
        self.sender.shutdown(socket.SHUT_WR)
        self.assertEqual(self.move(), (0, b""))

    def test_full_target(self) -> None:
        """What a full socket does not take comes back, and the pipe is empty."""
        self.fill(self.target)
        self.sender.sendall(b"no room")
        self.assertEqual(self.move(), (7, b"no room"))
        self.assertEmpty()

    def test_nearly_full_target(self) -> None:
        """What is taken and what comes back are all that came, in order; a pipe's fill at most."""
        self.fill(self.target)
        data = os.urandom(1 << 20)
        sent = 0
        for _ in range(50):
            try:
                sent += self.sender.send(data[sent:])
            except BlockingIOError:
                break
        was = len(self.read(300_000))
        count, left = self.move()
        self.assertTrue(0 < count <= CAPACITY)
        self.assertTrue(data[:count].endswith(left))
        self.assertEmpty()
        got = self.read(1 << 30)
        self.assertTrue((bytes(8) + got).endswith(data[: count - len(left)]), was)

    def read(self, most: int) -> bytes:
        got = b""
        try:
            while len(got) < most:
                got += self.reader.recv(65536)
        except BlockingIOError:
            pass
        return got

    def test_broken_target(self) -> None:
        """It takes nothing; that it is broken is seen by writing what came back."""
        self.target.shutdown(socket.SHUT_WR)
        self.sender.sendall(b"too late")
        self.assertEqual(self.move(), (8, b"too late"))
        self.assertEmpty()

    def test_broken_source(self) -> None:
        """It is lost."""
        self.sender.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sender.close()
        self.assertRaises(ConnectionLost, self.move)
        self.assertTrue(self.splicer.able)
        self.assertEmpty()

    def test_unable(self) -> None:
        """A system or socket that cannot be spliced is not asked again, and has lost nothing."""

        def refused(*_: Any, **__: Any) -> int:
            raise OSError(errno.EINVAL, "no")

        self.sender.sendall(b"here")
        self.patch(os, "splice", refused)
        self.assertIsNone(self.move())
        self.assertFalse(self.splicer.able)
        self.assertEqual(self.source.recv(10), b"here")

    def test_no_descriptors(self) -> None:
        """Without a pipe nothing moves; with the next descriptor it does."""

        def exhausted(flags: int) -> Any:
            raise OSError(errno.EMFILE, "no")

        self.sender.sendall(b"here")
        with_pipes = os.pipe2
        self.patch(os, "pipe2", exhausted)
        self.assertIsNone(self.move())
        self.patch(os, "pipe2", with_pipes)
        self.assertEqual(self.move(), (4, b""))

    def test_other_process(self) -> None:
        """A process that was forked has a pipe of its own."""
        self.sender.sendall(b"one")
        self.move()
        pipe = self.splicer._pipe
        self.patch(os, "getpid", lambda: -1)
        self.sender.sendall(b"two")
        self.assertEqual(self.move(), (3, b""))
        self.assertIsNot(self.splicer._pipe, pipe)

    def test_stuck(self) -> None:
        """A pipe that does not give everything back is not used again."""
        self.fill(self.target)
        self.sender.sendall(b"no room")
        read = os.read
        self.patch(os, "read", lambda descriptor, count: read(descriptor, count - 1))
        self.assertRaises(ConnectionLost, self.move)
        self.patch(os, "read", read)
        self.sender.sendall(b"yours")
        self.assertEqual(self.move(), (5, b"yours"))
        self.assertEmpty()

    def test_interrupted(self) -> None:
        """What an exception leaves in the pipe goes with it, and is nobody else's."""
        splices: list[int] = []
        real = os.splice

        def once(source: int, target: int, count: int, *, flags: int) -> int:
            splices.append(source)
            if len(splices) == 2:
                raise KeyboardInterrupt
            return real(source, target, count, flags=flags)

        self.patch(os, "splice", once)
        self.sender.sendall(b"mine")
        self.assertRaises(KeyboardInterrupt, self.move)
        self.sender.sendall(b"yours")
        self.assertEqual(self.move(), (5, b""))
        self.assertEqual(self.reader.recv(100), b"yours")
