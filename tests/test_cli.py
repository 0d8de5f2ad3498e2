"""Tests of L{mailgw.cli}."""

from __future__ import annotations

import io
import json
import os
import stat
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from mailgw import cli
from mailgw.ops import probe
from mailgw.ops.probe import Finding

TEXT = """
[gateway]
hostname = "mail.example.com"
[tls]
certificate = "certs/mail.example.com.crt"
key = "certs/mail.example.com.key"
[[listener]]
protocol = "imap"
endpoint = "tcp:143"
[[directory]]
kind = "passwd"
file = "passwd"
[[route]]
kind = "local"
"""


class Case(SynchronousTestCase):
    """Runs the command in a folder of its own, with settings there."""

    def setUp(self) -> None:
        self.folder = Path(self.mktemp()).resolve()
        self.folder.mkdir()
        self.config = self.folder / "mailgw.toml"
        self.config.write_text(TEXT)
        before = os.environ.pop("MAILGW_CONFIG", None)
        self.addCleanup(lambda: before is not None and os.environ.update(MAILGW_CONFIG=before))
        self.patch(cli, "DEFAULT_CONFIG", str(self.folder / "nowhere.toml"))
        self.out, self.err = "", ""

    def run_bare(self, *arguments: str, typed: bytes = b"") -> int:
        """Run without C{--config}; C{out} and C{err} have what was printed."""
        out, err = io.StringIO(), io.StringIO()
        stdin = self.patch(sys, "stdin", io.TextIOWrapper(io.BytesIO(typed)))
        try:
            with redirect_stdout(out), redirect_stderr(err):
                return cli.main(list(arguments))
        finally:
            stdin.restore()
            self.out, self.err = out.getvalue(), err.getvalue()

    def run_command(self, *arguments: str, typed: bytes = b"") -> int:
        return self.run_bare(*arguments, "--config", str(self.config), typed=typed)


class UsageTests(Case):
    """What is not understood is exit status 2."""

    def test_status(self) -> None:
        """No verb, an unknown verb, an unknown option, half a verb."""
        for arguments in ((), ("nonsense",), ("check", "--nonsense"), ("user",), ("user", "add"), ("route",)):
            self.assertEqual(self.run_bare(*arguments), 2, arguments)
            self.assertIn("usage: mailgw", self.err)

    def test_help(self) -> None:
        """Help is good, and names every verb."""
        self.assertEqual(self.run_bare("--help"), 0)
        for verb in ("check", "dump", "cert", "probe", "user"):
            self.assertIn(f"    {verb} ", self.out)

    def test_no_settings(self) -> None:
        """Without settings one line says so."""
        for arguments in (("check",), ("dump",), ("user", "list"), ("probe",)):
            self.assertEqual(self.run_bare(*arguments), 2)
            words = f"no settings file {self.folder}/nowhere.toml; name one with --config or $MAILGW_CONFIG"
            self.assertEqual(self.err, f"mailgw: {words}\n")

    def test_config_places(self) -> None:
        """The option before or behind the verb, the environment, the default; in that order."""
        other = self.folder / "other.toml"
        other.write_text(TEXT.replace("mail.example.com", "other.example.com"))
        for arguments in (("--config", str(other), "dump"), ("dump", "--config", str(other))):
            os.environ["MAILGW_CONFIG"] = str(self.config)
            self.addCleanup(os.environ.pop, "MAILGW_CONFIG", None)
            self.assertEqual(self.run_bare(*arguments), 0)
            self.assertIn('hostname = "other.example.com"', self.out)
        self.assertEqual(self.run_bare("dump"), 0)
        self.assertIn('hostname = "mail.example.com"', self.out)
        del os.environ["MAILGW_CONFIG"]
        self.patch(cli, "DEFAULT_CONFIG", str(other))
        self.assertEqual(self.run_bare("dump"), 0)
        self.assertIn('hostname = "other.example.com"', self.out)


class CheckTests(Case):
    """C{mailgw check} and C{mailgw dump}."""

    def test_faults(self) -> None:
        """Every fault a line, then their number."""
        self.config.write_text(TEXT.replace("hostname", "hostnme").replace('"local"', '"loacl"'))
        self.assertEqual(self.run_command("check"), 1)
        lines = self.out.splitlines()
        self.assertEqual(lines[0], f"{self.config}:3: gateway.hostnme: unknown setting; did you mean 'hostname'?")
        self.assertEqual(lines[1], f"{self.config}:14: route.1.kind: no such kind of route; did you mean 'local'?")
        self.assertEqual(lines[2:], [f"{self.config}: 2 faults"])

    def test_files(self) -> None:
        """Faults in files and warnings are counted apart."""
        self.assertEqual(self.run_command("check"), 1)
        self.assertTrue(self.out.endswith(": 2 faults, 1 warning\n"))

    def test_good(self) -> None:
        """Warnings leave the exit status good."""
        self.run_command("cert", "--dir", str(self.folder / "certs"))
        self.assertEqual(self.run_command("check"), 0)
        self.assertIn("WARNING: ", self.out)
        self.assertTrue(self.out.endswith(f"{self.config}: good, 1 warning\n"))

    def test_json(self) -> None:
        """The same for programs."""
        self.assertEqual(self.run_command("check", "--json"), 1)
        self.assertEqual([one["fault"] for one in json.loads(self.out)["remarks"]], [True, True, False])

    def test_live(self) -> None:
        """Directories and backends have a line each; one that fails is exit status 1."""
        self.run_command("cert", "--dir", str(self.folder / "certs"))
        rows = [("directory", "passwd-1", "", "ok")]
        self.patch(cli, "_live", lambda loaded: rows)
        self.assertEqual(self.run_command("check", "--live"), 0)
        self.assertIn("directory  passwd-1    ok\n", self.out)
        rows.append(("imap", "be1:143", "", "FAILED: no answer in time"))
        self.assertEqual(self.run_command("check", "--live"), 1)
        self.assertTrue(self.out.endswith("the settings are good, 1 warning; 1 service cannot be used\n"))

    def test_dump(self) -> None:
        """The settings, and their faults where they have some."""
        self.assertEqual(self.run_command("dump"), 0)
        self.assertTrue(self.out.startswith('[gateway]\nhostname = "mail.example.com"\nworkers = 0\n'))
        self.config.write_text("[gateway]\nx = 1\n")
        self.assertEqual(self.run_command("dump"), 1)
        self.assertIn(f"{self.config}:2: gateway.x: unknown setting", self.err)


class CertTests(Case):
    """C{mailgw cert}."""

    def test_default(self) -> None:
        """Without a name it is the gateway's own."""
        self.assertEqual(self.run_command("cert", "--dir", str(self.folder / "c")), 0)
        key = self.folder / "c" / "mail.example.com.key"
        self.assertEqual(self.out.splitlines(), [str(key), str(key.with_suffix(".crt"))])
        self.assertEqual(stat.S_IMODE(key.stat().st_mode), 0o600)

    def test_without_settings(self) -> None:
        """No settings are needed."""
        self.assertEqual(self.run_bare("cert", "--dir", str(self.folder)), 0)
        self.assertTrue((self.folder / "localhost.key").exists())

    def test_faulty_settings(self) -> None:
        """Settings with faults still say what the host is called: they may wait for this very certificate."""
        self.config.write_text(TEXT + "\n[nonsense]\n")
        self.assertEqual(self.run_command("cert", "--dir", str(self.folder)), 0)
        self.assertTrue((self.folder / "mail.example.com.key").exists())

    def test_never_overwrites(self) -> None:
        """The second time is exit status 1, and says which file is in the way."""
        arguments = ("cert", "--name", "a", "--name", "b", "--dir", str(self.folder), "--days", "3")
        self.assertEqual(self.run_bare(*arguments), 0)
        before = (self.folder / "a.key").read_bytes()
        self.assertEqual(self.run_bare(*arguments), 1)
        self.assertIn(f"{self.folder}/a.key exists already", self.err)
        self.assertEqual((self.folder / "a.key").read_bytes(), before)

    def test_usage(self) -> None:
        """Names and numbers that cannot be."""
        for arguments in (("--name", "a/b"), ("--days", "0"), ("--rsa", "512")):
            self.assertEqual(self.run_bare("cert", "--dir", str(self.folder), *arguments), 2)

    def test_unwritable(self) -> None:
        """A folder that is a file."""
        self.assertEqual(self.run_bare("cert", "--dir", str(self.config)), 1)
        self.assertIn(str(self.config), self.err)


class UserTests(Case):
    """C{mailgw user}."""

    def names(self) -> list[str]:
        self.assertEqual(self.run_command("user", "list", "--json"), 0)
        names: list[str] = json.loads(self.out)
        return names

    def test_story(self) -> None:
        """A user is added, listed, gets another password and is removed."""
        self.assertEqual(self.names(), [])
        add = ("user", "add", "alice@example.com", "--password-stdin")
        self.assertEqual(self.run_command(*add, typed=b"one two\n"), 0)
        self.assertEqual(self.out, f"alice@example.com added to {self.folder}/passwd\n")
        self.assertEqual(self.names(), ["alice@example.com"])
        first = (self.folder / "passwd").read_text()
        self.assertNotIn("one two", first)
        self.assertEqual(self.run_command("user", "passwd", "alice@example.com", "--password-stdin", typed=b"x"), 0)
        self.assertNotEqual((self.folder / "passwd").read_text(), first)
        self.assertEqual(self.run_command("user", "list"), 0)
        self.assertEqual(self.out, "alice@example.com\n")
        self.assertEqual(self.run_command("user", "del", "alice@example.com"), 0)
        self.assertEqual(self.names(), [])
        self.assertEqual(self.run_command("user", "list"), 0)
        self.assertEqual(self.out, "")

    def test_refused(self) -> None:
        """Twice the same user, nobody, an empty password: exit status 1 and one line."""
        self.run_command("user", "add", "alice", "--password-stdin", typed=b"x\n")
        for arguments, words in (
            (("add", "alice", "--password-stdin"), "alice is there already"),
            (("passwd", "bob", "--password-stdin"), "no user bob in"),
            (("del", "bob"), "no user bob in"),
        ):
            self.assertEqual(self.run_command("user", *arguments, typed=b"x\n"), 1)
            self.assertIn(f"mailgw: {words}", self.err)
            self.assertEqual(self.err.count("\n"), 1)
        self.assertEqual(self.run_command("user", "add", "carol", "--password-stdin", typed=b"\n"), 1)

    def typed(self, *answers: str) -> None:
        waiting = list(answers)
        self.patch(cli, "getpass", lambda prompt: waiting.pop(0))

    def test_asked_twice(self) -> None:
        """The password is asked twice, and both must be the same."""
        self.typed("one", "two")
        self.assertEqual(self.run_command("user", "add", "alice"), 1)
        self.assertEqual(self.err, "mailgw: the two passwords differ; nothing is changed\n")
        self.typed("one", "one")
        self.assertEqual(self.run_command("user", "add", "alice"), 0)
        self.assertEqual(self.names(), ["alice"])

    def test_nobody_types(self) -> None:
        """Without a terminal the way out is told."""

        def ended(prompt: str) -> str:
            raise EOFError

        self.patch(cli, "getpass", ended)
        self.assertEqual(self.run_command("user", "add", "alice"), 1)
        self.assertIn("--password-stdin", self.err)

    def test_no_passwd_directory(self) -> None:
        """Users that are kept elsewhere."""
        ldap = 'kind = "ldap"\nuri = "ldaps://x"\nbase = "dc=x"\n'
        self.config.write_text(TEXT.replace('kind = "passwd"\nfile = "passwd"\n', ldap))
        self.assertEqual(self.run_command("user", "list"), 1)
        self.assertIn('no [[directory]] of kind "passwd"', self.err)


class ProbeTests(Case):
    """C{mailgw probe}."""

    def setUp(self) -> None:
        super().setUp()
        self.visited: list[Any] = []
        self.fault = ""

        def visit(target: Any, context: Any, now: Any, seconds: float) -> Finding:
            self.visited.append((str(target), context.cert_store_stats()["x509"] > 0, seconds))
            return Finding(target.service, str(target), target.tls, fault=self.fault)

        self.patch(probe, "probe", visit)
        self.patch(probe, "trust", _trust_only)

    def test_own(self) -> None:
        """Every listener of the settings, believing our own certificate."""
        self.run_command("cert", "--dir", str(self.folder / "certs"))
        self.assertEqual(self.run_command("probe"), 0)
        self.assertEqual(self.visited, [("127.0.0.1:143", True, 5.0)])
        self.assertIn("127.0.0.1:143", self.out)

    def test_places(self) -> None:
        """Hosts and ports instead; ours are believed on this machine only, and no settings are needed."""
        self.run_command("cert", "--dir", str(self.folder / "certs"))
        self.assertEqual(self.run_command("probe", "localhost:993", "[2001:db8::1]:993", "--timeout", "2"), 0)
        self.assertEqual(self.visited, [("localhost:993", True, 2.0), ("[2001:db8::1]:993", False, 2.0)])
        self.assertEqual(self.run_bare("probe", "localhost:993"), 0)

    def test_failure(self) -> None:
        """One failure is exit status 1."""
        self.fault = "does not offer STARTTLS"
        self.assertEqual(self.run_command("probe"), 1)
        self.assertEqual(self.run_command("probe", "--json"), 1)
        self.assertEqual(json.loads(self.out)[0]["fault"], self.fault)

    def test_usage(self) -> None:
        """What is no place, no number, no CA file."""
        self.assertEqual(self.run_command("probe", "http://x/"), 2)
        self.assertEqual(self.run_command("probe", "x:143", "--timeout", "0"), 2)
        self.assertEqual(self.run_command("probe", "x:143", "--ca", "/nowhere.pem"), 1)
        self.assertIn("/nowhere.pem", self.err)


def _trust_only(certificates: Any = (), ca: str | None = None, _trust: Any = probe.trust) -> Any:
    """Without the system's CAs, so that a test sees what was added."""
    return _trust(certificates, ca, system=False)
