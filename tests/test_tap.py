"""Tests of C{twistd mailgw}: what its command line means, what is printed, exit statuses, and SIGHUP."""

from __future__ import annotations

import io
import os
import signal
import sys
from typing import Any

import twisted.internet
from twisted.application.service import IService, IServiceMaker
from twisted.plugin import getPlugins
from twisted.python import usage

from mailgw import tap
from mailgw.gateway import Gateway
from tests.kit import IMAP, KitTestCase


class TapCase(KitTestCase):
    """A settings file, and a twistd that is played."""

    def setUp(self) -> None:
        super().setUp()
        self.path = str(self.folder / "mailgw.toml")
        self.stderr = io.StringIO()
        self.patch(sys, "stderr", self.stderr)
        self.patch(twisted.internet, "reactor", self.loop)
        self.patch(tap, "DEFAULT_CONFIG", str(self.folder / "default.toml"))
        environment = {key: value for key, value in os.environ.items() if key != "MAILGW_CONFIG"}
        self.patch(os, "environ", environment)
        self.environment = environment
        self.signals: dict[int, Any] = {}
        self.patch(signal, "signal", self.signals.__setitem__)

    def run_gateway(self) -> None:
        """Not that one: what twistd makes is what is tested here."""

    def make(self, *arguments: str) -> Gateway:
        """What twistd does with a command line."""
        options = tap.Options()
        options.parseOptions(list(arguments))
        return tap.makeService(options)

    def status(self, *arguments: str) -> Any:
        """The exit status of a start that fails."""
        return self.assertRaises(SystemExit, self.make, *arguments).code

    def started(self, *arguments: str) -> Gateway:
        """Make it and start it, reactor included."""
        self.gateway = self.make(*arguments)
        self.gateway.privilegedStartService()
        self.gateway.startService()
        self.addCleanup(self.gateway.stopService)
        for call, positional, named in self.loop.whenRunningHooks:
            call(*positional, **named)
        return self.gateway


class CommandLineTests(TapCase):
    """Where the settings come from."""

    def test_plugin(self) -> None:
        """twistd finds us."""
        (maker,) = [maker for maker in getPlugins(IServiceMaker) if maker.tapname == "mailgw"]
        self.assertIs(maker.options, tap.Options)
        self.assertIs(maker.makeService, tap.makeService)

    def test_config(self) -> None:
        """--config goes before the environment, that before the default."""
        service = self.make("--config", self.path)
        self.assertTrue(IService.providedBy(service))
        self.assertEqual(service.house.settings.gateway.hostname, "gw.example")
        self.environment["MAILGW_CONFIG"] = "/nonexistent"
        self.make("-c", self.path)
        self.environment["MAILGW_CONFIG"] = self.path
        self.make()
        del self.environment["MAILGW_CONFIG"]
        os.rename(self.path, tap.DEFAULT_CONFIG)
        self.make()
        self.assertEqual(self.stderr.getvalue(), "")

    def test_no_file(self) -> None:
        """Without a file one line says so, and which; the status is 2."""
        for arguments, path in (((), tap.DEFAULT_CONFIG), (("--config", "/nonexistent.toml"), "/nonexistent.toml")):
            self.assertEqual(self.status(*arguments), 2)
            said = self.stderr.getvalue()
            self.assertIn(f"mailgw: no settings file {path}; ", said)
            self.assertEqual(said.count("\n"), 1)
            self.stderr.truncate(0)

    def test_faults(self) -> None:
        """Every fault is printed, one a line, with its place; the status is 1."""
        self.write('[nonsense]\nx = 1\n[[listener]]\nprotocol = "imapp"\nendpoint = "tcp:143000"\n')
        self.assertEqual(self.status("--config", self.path), 1)
        lines = self.stderr.getvalue().splitlines()
        self.assertGreaterEqual(len(lines), 3)
        for line in lines:
            self.assertRegex(line, rf"^{self.path}:\d+: ")
        for word in ("nonsense", "listener.6.protocol", "143000"):
            self.assertIn(word, self.stderr.getvalue())

    def test_unusable_file(self) -> None:
        """Likewise where a file that the settings name is not usable."""
        (self.folder / "localhost.key").write_text("no PEM")
        self.assertEqual(self.status("--config", self.path), 1)
        self.assertIn("localhost.key", self.stderr.getvalue())
        self.assertNotIn("Traceback", self.stderr.getvalue())

    def test_a_folder(self) -> None:
        """Likewise where the file is none."""
        self.assertEqual(self.status("--config", str(self.folder)), 1)
        self.assertIn(str(self.folder), self.stderr.getvalue())

    def test_set(self) -> None:
        """--set overrides, as often as it is given, and tells its own faults."""
        service = self.make("-c", self.path, "--set", "gateway.drain=3s", "--set", "limits.recipients=7")
        self.assertEqual(service.house.settings.gateway.drain, 3.0)
        self.assertEqual(service.house.settings.limits.recipients, 7)
        self.assertEqual(self.status("-c", self.path, "--set", "gateway.drain=soon"), 1)
        self.assertIn("--set: gateway.drain: ", self.stderr.getvalue())

    def test_unknown_option(self) -> None:
        """What twistd does not know is its own to tell."""
        self.assertRaises(usage.UsageError, self.make, "--nonsense")


class HangupTests(TapCase):
    """SIGHUP."""

    def hang_up(self) -> None:
        """The signal comes."""
        self.signals[signal.SIGHUP](signal.SIGHUP, None)
        self.loop.turn()

    def test_only_when_running(self) -> None:
        """The signal is ours once the reactor runs, not while things are built."""
        self.make("-c", self.path)
        self.assertEqual(self.signals, {})

    def test_reload(self) -> None:
        """The file is read again, in the reactor's own time, and what --set said still holds."""
        service = self.started("-c", self.path, "--set", "gateway.drain=3s")
        house = service.house
        self.write(members='"10.0.0.2"')
        self.signals[signal.SIGHUP](signal.SIGHUP, None)
        self.assertIs(service.house, house)
        self.loop.turn()
        self.assertIsNot(service.house, house)
        self.assertEqual(service.house.settings.gateway.drain, 3.0)
        self.visit(1143).send(IMAP.login)
        self.assertEqual(self.loop.dials[0].host, "10.0.0.2")

    def test_faults(self) -> None:
        """A bad file changes nothing, and the next signal takes the mended one."""
        service = self.started("-c", self.path)
        house = service.house
        self.write("[nonsense]\n")
        self.hang_up()
        self.assertIs(service.house, house)
        self.write()
        self.hang_up()
        self.assertIsNot(service.house, house)

    def test_relative_path(self) -> None:
        """A relative path means the folder where twistd was started, wherever it has gone since."""
        self.addCleanup(os.chdir, os.getcwd())
        os.chdir(self.folder)
        service = self.started("-c", "mailgw.toml")
        house = service.house
        os.chdir("/")
        self.hang_up()
        self.assertIsNot(service.house, house)
