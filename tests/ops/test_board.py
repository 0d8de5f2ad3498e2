"""Tests of L{mailgw.ops.board}."""

from __future__ import annotations

import json
from pathlib import Path

from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from mailgw.interfaces import IBoard
from mailgw.ops.board import ASIDE, FILE, Board, Copy, KeptBoard, MasterBoard
from mailgw.ops.control import ControlLink, Refused
from tests.ops.linked import Pipe


class BoardContract:
    """What every board has to do; C{make} makes one."""

    def make(self) -> Board:
        raise NotImplementedError

    def test_interface(self: SynchronousTestCase) -> None:
        """It is a board."""
        verifyObject(IBoard, self.make())  # type: ignore[attr-defined]

    def test_words(self: SynchronousTestCase) -> None:
        """A word is there until it is taken away, and each kind has its own."""
        board = self.make()  # type: ignore[attr-defined]
        self.successResultOf(board.post("health", "a", "down"))
        self.successResultOf(board.post("override", "a", "main/be1"))
        self.assertEqual((board.get("health", "a"), board.get("override", "a")), ("down", "main/be1"))
        self.successResultOf(board.post("health", "a", None))
        self.assertIsNone(board.get("health", "a"))
        self.assertEqual((board.words("health"), board.words("override")), ({}, {"a": "main/be1"}))
        self.successResultOf(board.post("health", "a", None))

    def test_watch(self: SynchronousTestCase) -> None:
        """Who watches a kind hears of its changes, of nothing that is no change, and nothing when that is over."""
        board, heard = self.make(), []  # type: ignore[attr-defined]
        over = board.watch("health", lambda name, value: heard.append((name, value)))
        for kind, value in (("health", "down"), ("health", "down"), ("backend", "down"), ("health", None)):
            self.successResultOf(board.post(kind, "a", value))
        self.assertEqual(heard, [("a", "down"), ("a", None)])
        over()
        over()
        self.successResultOf(board.post("health", "a", "up"))
        self.assertEqual(len(heard), 2)


class LocalTests(BoardContract, SynchronousTestCase):
    def make(self) -> Board:
        return Board()


class KeptTests(BoardContract, SynchronousTestCase):
    def setUp(self) -> None:
        self.folder = Path(self.mktemp())
        self.folder.mkdir()
        self.file = self.folder / FILE

    def make(self) -> Board:
        return KeptBoard(str(self.folder))

    def loaded(self) -> KeptBoard:
        """The board of the next start."""
        board = KeptBoard(str(self.folder))
        board.load()
        return board

    def test_outlives(self) -> None:
        """What administrators have ordered is there after a restart, everything else is not."""
        board = self.make()
        for kind, name, value in (("override", "a", "x"), ("backend", "b", "down"), ("health", "c", "down")):
            self.successResultOf(board.post(kind, name, value))
        again = self.loaded()
        self.assertEqual((again.get("override", "a"), again.get("backend", "b")), ("x", "down"))
        self.assertIsNone(again.get("health", "c"))
        self.successResultOf(again.post("backend", "b", None))
        self.assertEqual(json.loads(self.file.read_text()), {"override": {"a": "x"}, "backend": {}})
        self.assertEqual(self.file.stat().st_mode & 0o777, 0o600)
        self.assertEqual([path.name for path in self.folder.iterdir()], [FILE])

    def test_nothing_yet(self) -> None:
        """The first start has no file, and words that do not last make none."""
        self.successResultOf(self.loaded().post("health", "a", "down"))
        self.assertFalse(self.file.exists())

    def test_broken(self) -> None:
        """A file that makes no sense is moved aside, and the next order begins a new one."""
        for text in (b"", b"{", b"[]", b'{"health": {}}', b'{"override": []}', b'{"override": {"a": 1}}', b"\xff"):
            self.file.write_bytes(text)
            board = self.loaded()
            self.assertEqual((self.folder / (FILE + ASIDE)).read_bytes(), text)
            self.assertFalse(self.file.exists())
            self.successResultOf(board.post("override", "a", "x"))
            self.assertEqual(self.loaded().get("override", "a"), "x")

    def test_stuck(self) -> None:
        """One that cannot be moved aside either ends the start."""
        self.file.write_bytes(b"{")
        (self.folder / (FILE + ASIDE)).mkdir()
        self.assertRaises(Refused, self.loaded)

    def test_unreadable(self) -> None:
        """Without a file that is there users would go where they are not any more: no start."""
        self.file.mkdir()
        self.assertRaises(Refused, self.loaded)

    def test_unwritable(self) -> None:
        """What cannot be kept is not in force either, and what was kept is as it was."""
        board = self.make()
        self.successResultOf(board.post("override", "a", "x"))
        before = self.file.read_bytes()
        (self.folder / (FILE + ".new")).mkdir()
        self.failureResultOf(board.post("override", "a", "y"), Refused)
        self.assertEqual((board.get("override", "a"), self.file.read_bytes()), ("x", before))
        self.successResultOf(board.post("health", "a", "down"))


class SharedTests(BoardContract, SynchronousTestCase):
    """The contract as a worker has it, with a master and another worker behind it."""

    def setUp(self) -> None:
        self.folder = self.mktemp()
        Path(self.folder).mkdir()
        self.master = MasterBoard(self.folder, "token")
        self.pipes: list[Pipe] = []

    def copy(self, token: str = "token") -> tuple[Copy, Deferred[None]]:
        """Another worker's board, and when it has begun to follow."""
        copy = Copy(token)
        link = ControlLink()
        pipe = Pipe(link, ControlLink(copy.commands))
        link.commands = self.master.commands(link)
        self.pipes.append(pipe)
        return copy, copy.follow(pipe.far)

    def flush(self) -> None:
        """Carry everything that was said."""
        while sum(pipe.carry() for pipe in self.pipes):
            pass

    def make(self) -> Board:
        copy, begun = self.copy()
        self.flush()
        self.successResultOf(begun)
        post = copy.post

        def posted(kind: str, name: str, value: str | None) -> Deferred[None]:
            told = post(kind, name, value)
            self.flush()
            return told

        copy.post = posted  # type: ignore[method-assign]
        return copy

    def test_everybody(self) -> None:
        """A word that a worker posts is everybody's, and the post is done once all have it."""
        (one, _), (other, _) = self.copy(), self.copy()
        self.flush()
        told = one.post("health", "a", "down")
        self.pipes[0].carry()
        self.assertEqual(self.master.get("health", "a"), "down")
        self.pipes[0].carry()
        self.assertEqual((one.get("health", "a"), other.get("health", "a")), ("down", None))
        self.assertNoResult(told)
        self.flush()
        self.successResultOf(told)
        self.assertEqual(other.get("health", "a"), "down")

    def test_newcomer(self) -> None:
        """A new worker has the whole board before it begins, and every later word."""
        self.successResultOf(self.master.post("override", "a", "x"))
        self.successResultOf(self.master.post("hold", "b", "30"))
        copy, begun = self.copy()
        told = self.master.post("hold", "b", None)
        self.flush()
        self.successResultOf(begun)
        self.successResultOf(told)
        self.assertEqual((copy.get("override", "a"), copy.get("hold", "b")), ("x", None))

    def test_lost_worker(self) -> None:
        """A post does not wait for a worker that is gone."""
        self.copy()
        self.flush()
        told = self.master.post("health", "a", "down")
        self.assertNoResult(told)
        self.pipes[0].cut()
        self.successResultOf(told)
        self.successResultOf(self.master.post("health", "a", "up"))

    def test_lost_master(self) -> None:
        """Without a master a worker keeps the orders, forgets what was to be for a while, and talks to itself."""
        copy, _ = self.copy()
        for kind in ("override", "backend", "health", "hold"):
            self.master.post(kind, "a", "x")
        self.flush()
        heard: list[tuple[str, str | None]] = []
        copy.watch("hold", lambda name, value: heard.append((name, value)))
        told = copy.post("health", "b", "down")
        self.pipes[0].cut()
        self.successResultOf(told)
        self.assertEqual(
            [copy.get(kind, "a") for kind in ("override", "backend", "health", "hold")], ["x", "x", None, None]
        )
        self.assertEqual(heard, [("a", None)])
        self.successResultOf(copy.post("health", "b", "up"))
        self.assertEqual(copy.get("health", "b"), "up")

    def test_refused(self) -> None:
        """What the master cannot keep is refused, and nobody has it."""
        copy, _ = self.copy()
        self.flush()
        Path(self.folder, FILE + ".new").mkdir()
        told = copy.post("override", "a", "x")
        self.flush()
        self.failureResultOf(told, Refused)
        self.assertIsNone(copy.get("override", "a"))

    def test_stranger(self) -> None:
        """Who has no token gets no copy, and posts nothing."""
        copy, begun = self.copy("another")
        self.flush()
        self.failureResultOf(begun, Refused)
        told = copy.post("health", "a", "down")
        self.flush()
        self.failureResultOf(told, Refused)
        self.assertIsNone(self.master.get("health", "a"))
