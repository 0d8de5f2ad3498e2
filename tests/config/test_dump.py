"""Tests of L{mailgw.config.dump} and L{mailgw.config.doc}."""

from __future__ import annotations

import os
import tomllib
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from mailgw import registry
from mailgw.config import doc
from mailgw.config.dump import dump, shown
from mailgw.config.file import load
from mailgw.settings import Settings
from tests.config.text import GOOD, TABLE, write

ROOT = Path(__file__).resolve().parent.parent.parent
FULL = (
    GOOD.replace('"people.txt"', '"people.txt"\npassword = "hunter2-hunter2"\ntimeout = "1500ms"')
    + r"""
[pool."a.b"]
members = ["10.0.0.1"]
ca = "ca.pem"
login = "master"
master_user = 'a"\b'
master_password = "hunter2-hunter2"
[pool."a.b".smtp]
speak = "lmtp"
[limits]
message_size = "10M"
idle = "90s"
idle_smtp = "0s"
[[tls.name]]
names = ["*.example.org"]
certificate = "x.crt"
key = "x.key"
[[listener]]
protocol = "pop3"
endpoint = 'tcp:995:interface=\:\:1'
tls = "implicit"
"""
)


class DumpTests(SynchronousTestCase):
    """L{dump}."""

    def setUp(self) -> None:
        self.patch(registry, "TABLE", TABLE)

    def load(self, text: str) -> Settings:
        return load(write(self.mktemp(), text))

    def test_comes_back(self) -> None:
        """What is written down loads as the same settings, wherever the file is; secrets come back masked."""
        before = self.load(FULL)
        text = dump(before)
        after = self.load(text)
        self.assertEqual(dump(after), text)
        self.assertEqual((after.tls, after.listener, after.limits), (before.tls, before.listener, before.limits))
        self.assertEqual(after.pool["main"], before.pool["main"])
        self.assertEqual(after.pool["a.b"].ca, before.pool["a.b"].ca)

    def test_no_secret(self) -> None:
        """Secrets are masked; those that are not set stay away."""
        text = dump(self.load(FULL))
        self.assertNotIn("hunter2", text)
        self.assertEqual(text.count('password = "***"'), 2)
        self.assertNotIn("***", dump(self.load(GOOD)))

    def test_order(self) -> None:
        """Tables come in the order of the documentation."""
        tables = [line for line in dump(self.load(FULL)).splitlines() if line.startswith("[")]
        self.assertEqual(
            tables,
            [
                *("[gateway]", "[tls]", "[[tls.name]]", "[[listener]]", "[[listener]]", "[names]", "[[directory]]"),
                *("[[route]]", "[pool.main]", "[pool.main.imap]", '[pool."a.b"]', '[pool."a.b".smtp]'),
                *("[limits]", "[domains]", "[local]"),
            ],
        )

    def test_units(self) -> None:
        """Durations and sizes are written with the unit that people would take."""
        limits = tomllib.loads(dump(self.load(FULL)))["limits"]
        found = [limits[key] for key in ("message_size", "before_login", "idle", "idle_smtp", "login_deadline", "line")]
        self.assertEqual(found, ["10M", "64K", "90s", "0s", "60s", 8192])
        directory = tomllib.loads(dump(self.load(FULL)))["directory"][0]
        self.assertEqual(directory["timeout"], "1500ms")

    def test_defaults(self) -> None:
        """What the file leaves out is there."""
        found = tomllib.loads(dump(self.load(GOOD)))
        self.assertEqual(found["gateway"]["drain"], "60s")
        self.assertEqual(found["pool"]["main"]["balance"], "hash")
        self.assertEqual(found["pool"]["main"]["imap"], {"port": 143, "tls": "starttls"})
        self.assertNotIn("pop3", found["pool"]["main"])

    def test_strings(self) -> None:
        """Any string comes back from TOML as it was."""
        for text in ("", "a", 'a"b', r"a\b", "a'\\", "ä\n\t", "\x00\x7f\x1f", "\U0001f600", "\u2028"):
            self.assertEqual(tomllib.loads(f"x = {shown(text)}")["x"], text)

    def test_long_lists(self) -> None:
        """A long list has a line for each element."""
        many = tuple(f"backend{number}.example.com" for number in range(20))
        self.assertEqual(tomllib.loads(f"x = {shown(many)}")["x"], list(many))
        self.assertEqual(shown(many).count("\n"), 21)


class ReferenceTests(SynchronousTestCase):
    """docs/settings.md."""

    def test_up_to_date(self) -> None:
        """The page is what the code says; C{python -m mailgw.config.doc > docs/settings.md} makes it so."""
        self.assertEqual((ROOT / "docs" / "settings.md").read_text(), doc.reference())

    def test_everything_is_there(self) -> None:
        """Every key of every table has its line."""
        text = doc.reference()
        for model in [model for _, model in (*doc._TABLES, *doc._POOL)]:
            for key in model.model_fields:
                self.assertTrue(f"| `{key}` |" in text or f".{key}]`" in text, (model, key))


class ShippedTests(SynchronousTestCase):
    """The settings files under etc/."""

    def test_they_load(self) -> None:
        """Every one is good, once its secrets are there."""
        for name in ("RELAY_PASSWORD", "CYRUS_PROXY_PASSWORD", "AD_PASSWORD", "NGINX_AUTH_KEY"):
            if name not in os.environ:
                os.environ[name] = "x"
                self.addCleanup(os.environ.pop, name)
        folder = Path(self.mktemp())
        folder.mkdir()
        (folder / "secret").write_text("x")
        files = sorted((ROOT / "etc").rglob("*.toml"))
        self.assertEqual(len(files), 8)
        for file in files:
            text = file.read_text().replace("/etc/mailgw/ldap.secret", "secret")
            text = text.replace("/etc/mailgw/master.secret", "secret").replace("/etc/mailgw/relay.secret", "secret")
            (folder / file.name).write_text(text)
            self.assertTrue(load(folder / file.name).listener, file.name)

    def test_embedded_default(self) -> None:
        """The embedded default listens where the documentation says, on both loopback addresses, nowhere else."""
        settings = load(ROOT / "etc" / "mailgw.toml")
        found = {(one.protocol, one.endpoint.replace("\\", ""), one.tls) for one in settings.listener}
        expected = set()
        for protocol, port, tls in (
            ("mx", 1025, "starttls"),
            ("submission", 1587, "starttls"),
            ("submission", 1465, "implicit"),
            ("imap", 1143, "starttls"),
            ("imap", 1993, "implicit"),
            ("pop3", 1110, "starttls"),
            ("pop3", 1995, "implicit"),
        ):
            expected |= {(protocol, f"tcp:{port}:interface={host}", tls) for host in ("127.0.0.1", "::1")}
        self.assertEqual(found, expected)
        self.assertEqual(settings.gateway.state, str(ROOT / "var"))
        self.assertEqual(settings.domains.accept, ("localhost",))
