"""Tests of L{mailgw.worker} and L{mailgw.zygote}: what they say to each other and to the log, without a process."""

from __future__ import annotations

import json
import os
import pickle
import select
import sys
from types import ModuleType
from typing import Any

from twisted.logger import LogLevel
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from mailgw import worker, zygote
from mailgw.settings import Settings
from mailgw.worker import Boot, MasterLog
from mailgw.zygote import _LaterReactor


class LogTests(SynchronousTestCase):
    """What goes to the master."""

    def setUp(self) -> None:
        """Pipes in place of the descriptors."""
        self.log, write = os.pipe()
        self.addCleanup(lambda: os.close(self.log))
        self.patch(worker, "LOG", write)
        self.last, write_last = os.pipe()
        self.addCleanup(os.close, self.last)
        self.addCleanup(os.close, write_last)
        self.patch(worker, "OUTPUT", write_last)
        self.write: int | None = write
        self.observer = MasterLog()

    def tearDown(self) -> None:
        if self.write is not None:
            os.close(self.write)

    def say(self, text: str, **more: Any) -> list[list[str]]:
        """Log a text; the lines that came of it, each no longer than a pipe takes at once."""
        event = {"log_format": "{text}", "text": text, "log_level": LogLevel.info, "log_namespace": "mailgw.x"}
        self.observer({**event, **more})
        lines = os.read(self.log, 65536).splitlines(keepends=True)
        self.assertLessEqual(max(len(line) for line in lines), select.PIPE_BUF)
        return [json.loads(line) for line in lines]

    def test_line(self) -> None:
        """An event is one line, whatever is in it."""
        self.assertEqual(self.say("a\n{b} ä \ud800"), [["info", "mailgw.x", "a\n{b} ä \ud800"]])

    def test_long(self) -> None:
        """A long text is several lines, whatever JSON makes of its characters."""
        for long in ("x" * 5000, "ä" * 3000, "\0" * 3000, "\\" * 3000, "\N{GRINNING FACE}" * 3000):
            lines = self.say(long)
            self.assertGreater(len(lines), 1)
            self.assertEqual("".join(text for _, _, text in lines), long)

    def test_failure(self) -> None:
        """A failure comes with its traceback."""
        ((level, _, text),) = self.say("sorry", log_failure=Failure(ZeroDivisionError()), log_level=LogLevel.critical)
        self.assertEqual(level, "critical")
        self.assertRegex(text, r"(?s)^sorry\n.*ZeroDivisionError")

    def test_master_gone(self) -> None:
        """Without a master it goes to what was our output, at once and from then on."""
        log, self.log = self.log, os.dup(self.last)
        os.close(log)
        event = {"log_format": "{text}", "log_level": LogLevel.warn, "log_namespace": "mailgw.x"}
        for text in ("one", "two \ud800"):
            self.observer({**event, "text": text})
        said = os.read(self.last, 65536).decode()
        self.assertRegex(said, r"(?s)mailgw\.x#warn\] one\n.*mailgw\.x#warn\] two \\ud800\n$")


class BootTests(SynchronousTestCase):
    """What a zygote is told."""

    def test_secrets(self) -> None:
        """They travel, and are shown to nobody."""
        boot = Boot(1, Settings.model_construct(), ("tcp:143",), 16, b"hush", "sesame")
        copy = pickle.loads(boot.pack())
        self.assertEqual((copy.secret, copy.token, copy.endpoints), (b"hush", "sesame", ("tcp:143",)))
        self.assertNotRegex(repr(boot), "hush|sesame")

    def test_read(self) -> None:
        """It is read by its length, in whatever pieces it comes; a master that is gone ends it."""
        data = Boot(1, Settings.model_construct(), (), 16, b"hush", "sesame").pack()
        pieces = [bytes([octet]) for octet in len(data).to_bytes(8, "big")] + [data[:5], data[5:]]
        self.patch(zygote.os, "read", lambda descriptor, size: pieces.pop(0) if pieces else b"")
        self.assertEqual(zygote._read_boot().token, "sesame")
        self.assertRaises(SystemExit, zygote._read_boot)


class LaterReactorTests(SynchronousTestCase):
    """The reactor before there is one."""

    def test_later(self) -> None:
        """Before the fork it has nothing; afterwards it is the real one."""
        later: Any = _LaterReactor("twisted.internet.reactor")
        self.patch(sys, "modules", {**sys.modules, "twisted.internet.reactor": later})
        self.assertRaises(AttributeError, getattr, later, "callLater")
        real: Any = ModuleType("real")
        real.callLater = 7
        sys.modules["twisted.internet.reactor"] = real
        self.assertEqual(later.callLater, 7)
