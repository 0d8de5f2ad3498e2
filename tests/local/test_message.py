"""Tests for L{mailgw.local.message}: a delivery is on the disk before it is acknowledged, or nowhere."""

from __future__ import annotations

import errno
import os
from contextlib import ExitStack
from typing import Any
from unittest.mock import patch

from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from mailgw.local.disk import replace_file
from mailgw.local.message import InboxMessage
from mailgw.local.serve import MaildirStore
from mailgw.wire.events import Reply
from tests.local.contract import ALICE, MAIL, InlineDisk, local_store


class Recorder:
    """Watches what is done to files while it is entered, and may make one kind of it fail.

    @ivar calls: what was done, and the name of the folder in which or to which.
    """

    def __init__(self, failing: str = "", code: int = 0) -> None:
        self.calls: list[tuple[str, str]] = []
        self._paths: dict[int, str] = {}
        self._failing, self._code = failing, code
        self._patches = ExitStack()

    def __enter__(self) -> Recorder:
        for name in ("open", "write", "fsync", "rename", "unlink"):
            self._patches.enter_context(patch.object(os, name, self._watch(name, getattr(os, name))))
        return self

    def __exit__(self, *failure: object) -> None:
        self._patches.close()

    def _watch(self, name: str, call: Any) -> Any:
        def watched(*arguments: Any, **named: Any) -> Any:
            path = arguments[1] if name == "rename" else self._paths.get(arguments[0], arguments[0])
            folder = os.path.isdir(path)
            kind = f"{name} folder" if folder else name
            self.calls.append((kind, os.path.basename(path if folder else os.path.dirname(path))))
            if kind == self._failing:
                raise OSError(self._code, "on purpose")
            result = call(*arguments, **named)
            if name == "open":
                self._paths[result] = arguments[0]
            return result

        return watched

    def order(self) -> list[str]:
        """What was done, without the making of folders."""
        return [f"{call} {where}" for call, where in self.calls if not call.startswith("open")]


class DeliveryTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.store: MaildirStore = local_store(self.mktemp())
        self.root = self.store.account(ALICE).root

    def message(self, text: bytes = MAIL) -> InboxMessage:
        """A message whose text has come."""
        message = self.store.inbox(ALICE, "s@x")
        for start in range(0, len(text), 1000):
            message.dataReceived(text[start : start + 1000])
        return message

    def files(self) -> dict[str, int]:
        """How many files are in each folder."""
        return {sub: len(os.listdir(os.path.join(self.root, sub))) for sub in ("tmp", "new", "cur")}

    def test_order(self) -> None:
        """Write, fsync of the file, rename, fsync of the folder; only then the good reply."""
        replies: list[Reply] = []
        self.store.account(ALICE).folder("INBOX").ensure()
        with Recorder() as recorder:
            done = self.message().eomReceived()
            done.addCallback(replies.append)
            done.addCallback(lambda _: recorder.calls.append(("reply", "250")))
        self.assertEqual(recorder.order(), ["write tmp", "fsync tmp", "rename new", "fsync folder new", "reply 250"])
        self.assertEqual([(reply.code, reply.enhanced) for reply in replies], [(250, "2.0.0")])
        self.assertEqual(self.files(), {"tmp": 0, "new": 1, "cur": 0})

    def test_reply_waits_for_the_disk(self) -> None:
        """Nothing is acknowledged while a thread is still busy with fsync."""
        disk = self.store.disk
        assert isinstance(disk, InlineDisk)
        disk.waiting = []
        done = self.message().eomReceived()
        self.assertNoResult(done)
        disk.step()
        self.assertNoResult(done)
        disk.step()
        self.assertEqual(self.successResultOf(done).code, 250)

    def test_disk_full(self) -> None:
        """No room, at whatever step: 452, no message, nothing left in tmp, and the next delivery works."""
        for failing in ("open", "write", "fsync", "rename", "fsync folder"):
            for code, expected in ((errno.ENOSPC, 452), (errno.EDQUOT, 452), (errno.EIO, 451)):
                self.store.account(ALICE).folder("INBOX").ensure()
                with Recorder(failing, code):
                    reply = self.successResultOf(self.message(MAIL * 3000).eomReceived())
                self.assertEqual(reply.code, expected, failing)
                self.assertEqual(self.files(), {"tmp": 0, "new": 0, "cur": 0}, failing)
        self.assertEqual(self.successResultOf(self.message().eomReceived()).code, 250)

    def test_two_steps(self) -> None:
        """Prepared messages of several mailboxes are seen only when they are committed."""
        message = self.message()
        self.assertIsNone(self.successResultOf(Deferred.fromCoroutine(message.prepare())))
        self.assertEqual(self.files(), {"tmp": 1, "new": 0, "cur": 0})
        self.assertEqual(self.successResultOf(Deferred.fromCoroutine(message.commit())).code, 250)
        self.assertEqual(self.files(), {"tmp": 0, "new": 1, "cur": 0})

    def test_prepared_twice(self) -> None:
        """Whoever has prepared a message may leave the rest to eomReceived."""
        message = self.message()
        self.successResultOf(Deferred.fromCoroutine(message.prepare()))
        self.assertEqual(self.successResultOf(message.eomReceived()).code, 250)

    def test_lost_while_preparing(self) -> None:
        """A sender that goes away while the disk works leaves nothing behind."""
        disk = self.store.disk
        assert isinstance(disk, InlineDisk)
        message = self.message()
        disk.waiting = []
        done = message.eomReceived()
        message.connectionLost()
        disk.step()
        self.assertEqual(self.successResultOf(done).code, 451)
        self.assertEqual(self.files(), {"tmp": 0, "new": 0, "cur": 0})

    def test_lost_when_prepared(self) -> None:
        """A prepared message that is dropped is gone."""
        message = self.message()
        self.successResultOf(Deferred.fromCoroutine(message.prepare()))
        message.connectionLost()
        self.assertEqual(self.files(), {"tmp": 0, "new": 0, "cur": 0})

    def test_name(self) -> None:
        """The name has the size in it, with and without CRs, and no two are equal."""
        for _ in range(3):
            self.successResultOf(self.message(b"a\r\nb\n\nc\r\n").eomReceived())
        names = os.listdir(os.path.join(self.root, "new"))
        self.assertEqual(len(names), 3)
        for name in names:
            size = os.path.getsize(os.path.join(self.root, "new", name))
            self.assertRegex(name, rf"^0\.M0P{os.getpid()}Q\d+R\w+\.host\.example,S={size},W={size + 2}$")

    def test_bare_lf_at_the_edge(self) -> None:
        """A CRLF that is cut in two is no lone LF."""
        message = self.store.inbox(ALICE, "")
        for piece in (b"a\r", b"\nb", b"\n", b"", b"\r\n"):
            message.dataReceived(piece)
        self.successResultOf(message.eomReceived())
        (name,) = os.listdir(os.path.join(self.root, "new"))
        size = os.path.getsize(os.path.join(self.root, "new", name))
        self.assertTrue(name.endswith(f",S={size},W={size + 1}"), name)

    def test_line_by_line(self) -> None:
        """Fed by line, as twisted.mail's interface has it, a message is the same."""
        message = self.store.inbox(ALICE, "")
        message.lineReceived(b"Subject: x")
        message.lineReceived(b"")
        self.successResultOf(message.eomReceived())
        self.assertTrue(self.store.mailbox(ALICE).getMessage(0).read().endswith(b"\r\nSubject: x\r\n\r\n"))

    def test_modes(self) -> None:
        """Nobody else may read a user's mail."""
        self.successResultOf(self.message().eomReceived())
        (name,) = os.listdir(os.path.join(self.root, "new"))
        self.assertEqual(os.stat(os.path.join(self.root, "new", name)).st_mode & 0o777, 0o600)
        for folder in (self.root, os.path.join(self.root, "new")):
            self.assertEqual(os.stat(folder).st_mode & 0o777, 0o700)


class ReplaceFileTests(SynchronousTestCase):
    def test_whole_or_not_at_all(self) -> None:
        """A small file is replaced by write, fsync, rename, fsync of the folder; on trouble it is as it was."""
        folder = self.mktemp()
        os.mkdir(folder)
        path = os.path.join(folder, "f")
        replace_file(path, b"old")
        with Recorder() as recorder:
            replace_file(path, b"new")
        inner = os.path.basename(folder)
        self.assertEqual(
            recorder.order(), [f"write {inner}", f"fsync {inner}", f"rename {inner}", f"fsync folder {inner}"]
        )
        with Recorder("fsync", errno.ENOSPC):
            self.assertRaises(OSError, replace_file, path, b"newer")
        with open(path, "rb") as file:
            self.assertEqual(file.read(), b"new")
        self.assertEqual(os.listdir(folder), ["f"])
