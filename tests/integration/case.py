"""Test cases whose tests share running servers: started before the first test of a class, ended after its last.

Trial does not call C{setUpClass}, and to start servers for every test would take minutes.
"""

from __future__ import annotations

import atexit
from contextlib import ExitStack
from typing import Any, TypeVar
from unittest import TestLoader

from twisted.trial.unittest import SynchronousTestCase

from tests.integration.daemon import Daemon

D = TypeVar("D", bound=Daemon)


class _Running:
    """The servers of one class."""

    def __init__(self, owner: type[Any]) -> None:
        self.owner = owner
        self.waiting = set(TestLoader().getTestCaseNames(owner))
        self.servers = ExitStack()
        self.failure: BaseException | None = None


class ServersTestCase(SynchronousTestCase):
    """Tests that share servers, which L{start_servers} starts."""

    _running: _Running | None = None
    timeout = 300.0

    @classmethod
    def start_servers(cls) -> None:
        """Start them with L{run_server} and keep them as attributes of the class."""
        raise NotImplementedError

    @classmethod
    def run_server(cls, server: D) -> D:
        """Start a server that is stopped after the last test of the class."""
        running = ServersTestCase._running
        assert running is not None
        running.servers.callback(server.stop)
        server.start()
        return server

    @classmethod
    def at_end(cls, call: Any, *arguments: Any) -> None:
        """Call this after the last test of the class, before the servers that run now are stopped."""
        running = ServersTestCase._running
        assert running is not None
        running.servers.callback(call, *arguments)

    def setUp(self) -> None:
        running = ServersTestCase._running
        if running is None or running.owner is not type(self):
            stop_servers()
            ServersTestCase._running = running = _Running(type(self))
            try:
                self.start_servers()
            except BaseException as failure:
                running.failure = failure
                raise
        if running.failure is not None:
            raise AssertionError("the servers of this class did not start") from running.failure

    def tearDown(self) -> None:
        running = ServersTestCase._running
        assert running is not None
        running.waiting.discard(self._testMethodName)
        if not running.waiting:
            stop_servers()


def stop_servers() -> None:
    """Stop the servers of the class that has some running.

    @raise AssertionError: one of them did not end well.
    """
    running, ServersTestCase._running = ServersTestCase._running, None
    if running is not None:
        running.servers.close()


# when only some tests of a class are run, nobody knows which is the last
atexit.register(stop_servers)
