"""Tests of L{mailgw.settings} and of how L{mailgw.config.file} reads them."""

from __future__ import annotations

import os
from ipaddress import ip_network
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from twisted.trial.unittest import SynchronousTestCase

from mailgw import registry
from mailgw.config.file import load, read
from mailgw.config.source import dotted
from mailgw.errors import SettingsError
from mailgw.settings import Limits, Listener, Pool, Settings, Tls
from tests.config.text import GOOD, TABLE, write

SECRET = "hunter2-hunter2"


class Case(SynchronousTestCase):
    """Loads settings with plugs of no room."""

    def setUp(self) -> None:
        self.patch(registry, "TABLE", TABLE)
        self.folder = os.path.abspath(self.mktemp())

    def load(self, text: str = GOOD, *overrides: str) -> Settings:
        return load(write(self.folder, text), overrides)

    def faults(self, text: str, *overrides: str) -> list[str]:
        """Every fault, without the file's name in front."""
        path = write(self.folder, text)
        error = self.assertRaises(SettingsError, load, path, overrides)
        self.assertEqual(str(error), "\n".join(error.faults))
        return [fault.removeprefix(f"{path}:") for fault in error.faults]

    def changed(self, old: str, new: str, *overrides: str) -> list[str]:
        """The faults of the good settings after one change."""
        self.assertIn(old, GOOD)
        return self.faults(GOOD.replace(old, new, 1), *overrides)


class LoadTests(Case):
    """L{load} with good settings."""

    def test_values(self) -> None:
        """What the file says is there, what it does not has its default."""
        settings = self.load()
        self.assertEqual(settings.gateway.hostname, "mail.example.com")
        self.assertEqual(settings.gateway.drain, 60.0)
        self.assertEqual([one.protocol for one in settings.listener], ["imap"])
        self.assertEqual([member.host for member in settings.pool["main"].members], ["be1", "be2"])
        assert settings.pool["main"].imap is not None
        self.assertEqual(settings.pool["main"].imap.port, 143)
        self.assertIsNone(settings.pool["main"].pop3)
        self.assertEqual(settings.limits, Limits())

    def test_plugs(self) -> None:
        """Plugs have their own options, and a name out of kind and number, counted for each kind."""
        more = '[[route]]\nkind = "hash"\npool = "main"\n[[route]]\nkind = "anywhere"\n'
        settings = self.load(GOOD + more)
        self.assertEqual([plug.name for plug in settings.route], ["anywhere-1", "hash-1", "anywhere-2"])
        self.assertEqual(settings.route[1].options.pool, "main")  # type: ignore[attr-defined]
        self.assertEqual(settings.directory[0].name, "people-1")

    def test_plug_of_the_site(self) -> None:
        """A dotted kind needs no line in the table."""
        settings = self.load(GOOD.replace('"anywhere"', '"tests.config.text:Anywhere"'))
        self.assertEqual(settings.route[0].name, "Anywhere-1")

    def test_relative_paths(self) -> None:
        """Relative paths start at the settings file's folder, in tables and in plugs' options."""
        text = GOOD.replace('"people.txt"', '"../people.txt"\nmore = ["a", "/b"]\nmaybe = "c"')
        settings = self.load(text)
        assert settings.tls is not None
        self.assertEqual(settings.tls.certificate, (f"{self.folder}/certs/a.crt",))
        self.assertEqual(settings.gateway.state, f"{self.folder}/var")
        options: Any = settings.directory[0].options
        self.assertEqual(options.file, os.path.join(os.path.dirname(self.folder), "people.txt"))
        self.assertEqual(options.more, (f"{self.folder}/a", "/b"))
        self.assertEqual(options.maybe, f"{self.folder}/c")

    def test_nested_paths(self) -> None:
        """Paths are found in tables within tables, too."""
        settings = self.load(GOOD + '[[tls.name]]\nnames = "*.example.org"\ncertificate = "x.crt"\nkey = "x.key"\n')
        assert settings.tls is not None
        self.assertEqual(settings.tls.name[0].key, (f"{self.folder}/x.key",))
        self.assertEqual(settings.tls.name[0].names, ("*.example.org",))

    def test_relative_to_the_file(self) -> None:
        """The working directory does not matter."""
        path = os.path.relpath(write(self.folder))
        self.assertEqual(load(path).gateway.state, f"{self.folder}/var")

    def test_attributes_for_rules(self) -> None:
        """A directory is told which attributes the routes will read."""
        more = '[[route]]\nkind = "attribute"\nname = "mailServer"\n[[route]]\nkind = "anywhere"\nexpect = ["a", "b"]\n'
        options: Any = self.load(GOOD + more).directory[0].options
        self.assertEqual(options.attributes, ("mailHost", "mailServer", "a", "b"))

    def test_windows_line_ends(self) -> None:
        """CRLF is as good as LF, and lines are counted the same."""
        path = write(self.folder, "")
        Path(path).write_bytes(GOOD.replace("hostname", "hostnme").replace("\n", "\r\n").encode())
        error = self.assertRaises(SettingsError, load, path)
        self.assertTrue(error.faults[0].startswith(f"{path}:3: gateway.hostnme: "))

    def test_frozen(self) -> None:
        """Settings do not change."""
        self.assertRaises(ValidationError, setattr, self.load().gateway, "hostname", "x")


class SecretTests(Case):
    """Secrets come from four places and go nowhere."""

    def secret(self, value: str) -> bytes:
        options: Any = self.load(GOOD.replace('"people.txt"', f'"people.txt"\npassword = {value}')).directory[0].options
        password: bytes = options.password.get_secret_value()
        return password

    def test_string(self) -> None:
        """A string as it stands."""
        self.assertEqual(self.secret('"pässword"'), "pässword".encode())

    def test_file(self) -> None:
        """A file, relative to the settings, without its last line end, any octets."""
        Path(self.folder).mkdir()
        Path(self.folder, "secret").write_bytes(b"\xff x \r\n")
        self.assertEqual(self.secret('{file = "secret"}'), b"\xff x ")
        path = write(self.folder, GOOD.replace('"people.txt"', '"people.txt"\npassword = {file = "secret"}'))
        where, file = read(path).secret_files[0]
        self.assertEqual((dotted(where), file), ("directory.1.password", f"{self.folder}/secret"))

    def test_environment(self) -> None:
        """An environment variable."""
        self.patch(os, "environ", os.environ)
        os.environb[b"MAILGW_TEST_SECRET"] = b"\xfe"
        self.addCleanup(os.environb.pop, b"MAILGW_TEST_SECRET")
        self.assertEqual(self.secret('{env = "MAILGW_TEST_SECRET"}'), b"\xfe")

    def test_credential(self) -> None:
        """A credential of systemd."""
        Path(self.folder).mkdir()
        Path(self.folder, "ldap").write_text("x\n")
        os.environ["CREDENTIALS_DIRECTORY"] = self.folder
        self.addCleanup(os.environ.pop, "CREDENTIALS_DIRECTORY")
        self.assertEqual(self.secret('{credential = "ldap"}'), b"x")

    def test_missing(self) -> None:
        """Each missing source is told by its name."""
        os.environ.pop("CREDENTIALS_DIRECTORY", None)
        for value, words in (
            ('{file = "nowhere"}', f"cannot read {self.folder}/nowhere: No such file or directory"),
            ('{env = "MAILGW_NO_SUCH"}', "environment variable MAILGW_NO_SUCH is not set"),
            ('{credential = "x"}', "CREDENTIALS_DIRECTORY is not set (systemd: LoadCredential=)"),
        ):
            faults = self.changed('"people.txt"', f'"people.txt"\npassword = {value}')
            self.assertEqual(faults, [f"14: directory.1.password: {words}"])

    def test_never_shown(self) -> None:
        """No secret is in any text about good settings."""
        text = GOOD.replace('"people.txt"', f'"people.txt"\npassword = "{SECRET}"\nother = "{SECRET}"')
        settings = self.load(text)
        loaded = read(write(self.folder, text))
        for value in (settings, settings.directory[0], settings.directory[0].options, loaded):
            self.assertNotIn(SECRET, repr(value) + str(value))

    def test_never_in_faults(self) -> None:
        """No secret is in any fault: of a wrong type, in a wrong place, in a wrong table, or beside a fault."""
        for value in (
            f'password = ["{SECRET}"]',
            f'password = {{fiel = "{SECRET}"}}',
            f'password = {{file = ["{SECRET}"]}}',
            f'password = {{file = "a", env = "{SECRET}"}}',
            f'pasword = "{SECRET}"',
            f'timeout = "{SECRET}"',
            f'attributes = {{x = "{SECRET}"}}',
            f'password = "{SECRET}"\nnonsense = 1',
            f'password = "{SECRET}',
            f"password = {SECRET}",
        ):
            faults = "\n".join(self.changed('"people.txt"', f'"people.txt"\n{value}'))
            self.assertNotIn(SECRET, faults)
            self.assertRegex(faults, "^1[45]: ")
        for table in ("gateway", "limits", "tls", "listener", "route"):
            faults = "\n".join(self.faults(f'{table} = "{SECRET}"'))
            self.assertNotIn(SECRET, faults)
        for key in ("balance", "login", "verify", "members", "health", "imap", "ca"):
            other = '["' + SECRET + '"]' if key == "ca" else f'"{SECRET}"'
            if key != "members":
                self.assertNotIn(SECRET, "\n".join(self.changed("[pool.main]\n", f"[pool.main]\n{key} = {other}\n")))

    def test_never_in_overrides(self) -> None:
        """A secret on the command line is not repeated, however wrong its key is."""
        for override in (
            f"directory.1.pasword={SECRET}",
            f"gateway.x.y={SECRET}",
            f"={SECRET}",
            f"directory.7.x={SECRET}",
        ):
            self.assertNotIn(SECRET, "\n".join(self.faults(GOOD, override)))

    def test_traceback(self) -> None:
        """The error does not carry pydantic's, which would show what it was given."""
        path = write(self.folder, GOOD.replace('"people.txt"', f'"people.txt"\npassword = ["{SECRET}"]'))
        error = self.assertRaises(SettingsError, load, path)
        self.assertNotIn(SECRET, repr(error) + repr(error.__cause__) + repr(error.__context__))


class FaultTests(Case):
    """Each fault is told with its line, its key and the cure."""

    def assert_fault(self, old: str, new: str, fault: str) -> None:
        self.assertEqual(self.changed(old, new), [fault])

    def test_unknown_key(self) -> None:
        """A typo finds what was meant; something else is shown what there is."""
        self.assert_fault("hostname", "hostnme", "3: gateway.hostnme: unknown setting; did you mean 'hostname'?")
        self.assert_fault(
            "[pool.main.imap]",
            "[pool.main.imap]\nxyz = 1",
            "20: pool.main.imap.xyz: unknown setting (known here: port, tls)",
        )

    def test_unknown_key_deep(self) -> None:
        """The keys of a member, of an element of an array and of a plug are known, too."""
        self.assert_fault(
            "weight = 2", "wieght = 2", "18: pool.main.members.2.wieght: unknown setting; did you mean 'weight'?"
        )
        self.assert_fault(
            "endpoint", "endpont = 1\nendpoint", "10: listener.1.endpont: unknown setting; did you mean 'endpoint'?"
        )
        self.assert_fault("file", "fiel = 1\nfile", "13: directory.1.fiel: unknown setting; did you mean 'file'?")

    def test_unknown_table(self) -> None:
        """A table that is none."""
        self.assert_fault("[pool.main]", "[limit]\n[pool.main]", "17: limit: unknown table; did you mean 'limits'?")

    def test_not_built(self) -> None:
        """What a later version will have is not called a typo."""
        for table in ("admin", "log"):
            words = f"17: {table}: [{table}] is not built in this version; leave it out"
            self.assert_fault("[pool.main]", f"[{table}]\n[pool.main]", words)
        self.assert_fault(
            '"people"', '"sql"', "12: directory.1.kind: directory of kind 'sql' is not built in this version"
        )
        self.assert_fault('"imap"', '"lmtp"', "9: listener.1.protocol: 'lmtp' is not built in this version")

    def test_wrong_types(self) -> None:
        """What was wanted and what was given, never the value."""
        for old, new, fault in (
            ('"mail.example.com"', "7", "3: gateway.hostname: must be a string in quotes, not a whole number"),
            ('"certs/a.key"', "true", "7: tls.key: must be a list in [brackets], not true or false"),
            ("weight = 2", 'weight = "x"', "18: pool.main.members.2.weight: must be a whole number, not a string"),
            ("weight = 2", "weight = 2.5", "18: pool.main.members.2.weight: must be a whole number, not a number"),
            ("{host", "7, {host", "18: pool.main.members.2: must be a table, not a whole number"),
            (
                '"tcp:143"',
                '"tcp:143"\ntls = 1',
                '11: listener.1.tls: must be one of "starttls", "optional", "implicit" or "none", not a whole number',
            ),
            (
                "[pool.main]\n",
                '[pool.main]\nshared = "yes"\n',
                "18: pool.main.shared: must be true or false, not a string",
            ),
        ):
            self.assertIn(fault, self.changed(old, new))

    def test_union(self) -> None:
        """One fault, not one for each alternative."""
        self.assert_fault(
            "[gateway]\n",
            '[gateway]\nworkers = "atuo"\n',
            "3: gateway.workers: must be a whole number or \"auto\"; did you mean 'auto'?",
        )

    def test_ranges(self) -> None:
        """The limit is told."""
        for old, new, fault in (
            ("weight = 2", "weight = 0", "18: pool.main.members.2.weight: must be at least 1"),
            ("weight = 2", "imap = 65536", "18: pool.main.members.2.imap: must be at most 65535"),
            ("[pool.main]\n", "[limits]\nline = 80\n[pool.main]\n", "18: limits.line: must be at least 512"),
        ):
            self.assert_fault(old, new, fault)

    def test_choices(self) -> None:
        """The choices are told, and which one was probably meant."""
        self.assert_fault(
            "[pool.main]\n",
            '[pool.main]\nbalance = "rnadom"\n',
            '18: pool.main.balance: must be one of "hash", "least" or "random"; did you mean \'random\'?',
        )

    def test_missing_key(self) -> None:
        """A missing key is where its table is."""
        self.assert_fault('endpoint = "tcp:143"\n', "", "8: listener.1.endpoint: is missing")
        self.assert_fault('file = "people.txt"\n', "", "11: directory.1.file: is missing")

    def test_wrong_brackets(self) -> None:
        """Single brackets where there may be several, and pools without a name."""
        self.assert_fault(
            "[[listener]]",
            "[listener]",
            "8: listener: must be written [[listener]], in double brackets: there may be several",
        )
        faults = self.faults(GOOD.partition("[pool.main]")[0] + "[[pool]]\n")
        self.assertIn("17: pool: must be written [pool.NAME], one table for each pool", faults)

    def test_kinds(self) -> None:
        """A kind that is missing, mistyped, of a wrong type, or a plug that cannot be used."""
        for kind, fault in (
            ('kind = "poeple"', "12: directory.1.kind: no such kind of directory; did you mean 'people'?"),
            ("kind = 7", "12: directory.1.kind: must be a string in quotes"),
            ("", "11: directory.1.kind: is missing (known here: bare, people)"),
            (
                'kind = "bare"',
                "12: directory.1.kind: bare declares no Options; see the documentation on plugs of your own",
            ),
            (
                'kind = "no.such:Thing"',
                "12: directory.1.kind: directory 'no.such:Thing' cannot be loaded: No module named 'no'",
            ),
        ):
            self.assert_fault('kind = "people"', kind, fault)

    def test_all_at_once(self) -> None:
        """Every fault is told, in the file's order, also several of one table and those between tables."""
        text = GOOD.replace("hostname", "hostnme").replace('"tcp:143"', '"tpc:143"\ntls = "startls"\nproxy_from = [7]')
        text = text.replace('pool = "main"', 'pool = "mian"\nnmae = ""').replace("weight = 2", "weight = 0, imap = 0")
        found = [fault.split(": ")[:2] for fault in self.faults(text)]
        self.assertEqual(
            found,
            [
                ["3", "gateway.hostnme"],
                ["10", "listener.1.endpoint"],
                ["11", "listener.1.tls"],
                ["12", "listener.1.proxy_from.1"],
                ["18", "route.1.pool"],
                ["19", "route.1.nmae"],
                ["21", "pool.main.members.2.weight"],
                ["21", "pool.main.members.2.imap"],
            ],
        )

    def test_second_element(self) -> None:
        """The line is the second listener's, not the first one's."""
        more = '[[listener]]\nprotocol = "imap"\nendpoint = "tcp:993"\ntls = "implict"\n'
        faults = self.faults(GOOD + more)
        self.assertEqual(
            faults,
            [
                '23: listener.2.tls: must be one of "starttls", "optional", "implicit" or "none"'
                "; did you mean 'implicit'?"
            ],
        )

    def test_syntax(self) -> None:
        """A text that is no TOML is told with its line, and nothing else."""
        faults = self.changed('hostname = "mail.example.com"', "hostname = mail.example.com")
        self.assertEqual(faults, ["3: not valid TOML: Invalid value (column 12)"])
        self.assertEqual(len(self.faults("[gateway]\nhostname = [")), 1)
        self.assertTrue(self.faults("[gateway]\nhostname = [")[0].startswith("2: not valid TOML: "))

    def test_not_utf8(self) -> None:
        """Other encodings are told with their line."""
        path = write(self.folder)
        Path(path).write_bytes(b'[gateway]\nhostname = "\xe4"\n')
        self.assertEqual(self.assertRaises(SettingsError, load, path).faults, (f"{path}:2: not UTF-8 text",))

    def test_no_file(self) -> None:
        """A file that is not there, or no file."""
        missing = self.assertRaises(SettingsError, load, "/nowhere/mailgw.toml")
        self.assertEqual(missing.faults, ("/nowhere/mailgw.toml: cannot be read: No such file or directory",))
        Path(self.folder).mkdir()
        self.assertIn("Is a directory", str(self.assertRaises(SettingsError, load, self.folder)))


class OverrideTests(Case):
    """C{--set}."""

    def test_values(self) -> None:
        """A value is TOML, else a string; tables come into being, elements are counted from 1."""
        settings = self.load(
            GOOD,
            "gateway.drain=5s",
            "limits.recipients = 7",
            'gateway.hostname="a.example"',
            "listener.1.tls=optional",
            "pool.main.imap={port = 144}",
        )
        self.assertEqual((settings.gateway.drain, settings.limits.recipients), (5.0, 7))
        self.assertEqual((settings.gateway.hostname, settings.listener[0].tls), ("a.example", "optional"))
        assert settings.pool["main"].imap is not None
        self.assertEqual(settings.pool["main"].imap.port, 144)

    def test_quoted_key(self) -> None:
        """A pool with a dot in its name is reached by quotes."""
        text = GOOD.replace("pool.main", 'pool."a.b"').replace('pool = "main"', 'pool = "a.b"')
        self.assertTrue(self.load(text, 'pool."a.b".shared=true').pool["a.b"].shared)

    def test_no_smuggling(self) -> None:
        """A value cannot bring more keys with it."""
        faults = self.faults(GOOD, "gateway.hostname='x'\ndrain = '1s'")
        self.assertEqual(faults, ['--set: gateway.hostname: must be a host name, such as "mail.example.com"'])

    def test_faults(self) -> None:
        """What is wrong on the command line is told as such, together with the file's faults."""
        faults = self.faults(GOOD.replace("hostname", "hostnme"), "gateway.drian=5s", "nonsense", "limits.line=1")
        self.assertEqual(faults[0], "--set: write table.key=value, such as gateway.drain=10s")
        self.assertEqual(faults[1], "--set: gateway.drian: unknown setting; did you mean 'drain'?")
        self.assertEqual(faults[2], "--set: limits.line: must be at least 512")
        self.assertTrue(faults[3].startswith("3: gateway.hostnme: "))

    def test_bad_places(self) -> None:
        """Elements that are not there, values that are no tables."""
        for override, words in (
            ("listener.2.tls=none", "listener has the elements 1 to 1, no '2'"),
            ("listener.x.tls=none", "listener has the elements 1 to 1, no 'x'"),
            ("listener.tls=none", "listener is a list; write the number of an element behind it"),
            ("gateway.hostname.x=1", "gateway.hostname is a value, not a table"),
            ("a b=1", "write table.key=value"),
        ):
            self.assertIn(words, "\n".join(self.faults(GOOD, override)))


class ValueTests(SynchronousTestCase):
    """The types of L{mailgw.settings}."""

    def test_durations(self) -> None:
        """Numbers with units become seconds."""
        for text, seconds in (("500ms", 0.5), ("5s", 5.0), ("2m", 120.0), ("1h", 3600.0), ("1.5s", 1.5), ("0s", 0.0)):
            self.assertEqual(Limits(idle=text).idle, seconds)
        for bad in ("5", "5 s", "-5s", "s", 5, True, None, "1h30m", "5S"):
            self.assertRaises(ValidationError, Limits, idle=bad)

    def test_sizes(self) -> None:
        """Sizes are powers of 1024."""
        for text, octets in (("64K", 65536), ("25M", 25 << 20), ("1G", 1 << 30), ("7", 7), (7, 7)):
            self.assertEqual(Limits(message_size=text).message_size, octets)
        for bad in ("64k", "64KB", "-1", -1, 1.5, True, "1.5M"):
            self.assertRaises(ValidationError, Limits, message_size=bad)

    def test_networks(self) -> None:
        """Networks and single addresses of both families; nothing with bits behind the mask."""
        networks = Listener(protocol="imap", endpoint="tcp:1", proxy_from=("10.0.0.0/8", "::1")).proxy_from
        self.assertEqual(networks, (ip_network("10.0.0.0/8"), ip_network("::1/128")))
        for bad in ("10.0.0.1/8", "x", 7, True):
            self.assertRaises(ValidationError, Listener, protocol="imap", endpoint="tcp:1", proxy_from=(bad,))

    def test_strings(self) -> None:
        """One string stands for a list of one."""
        self.assertEqual(Tls(certificate="a", key=["b", "c"]).key, ("b", "c"))
        self.assertEqual(Tls(certificate="a", key="b").certificate, ("a",))

    def test_strict(self) -> None:
        """Nothing is converted behind one's back."""
        self.assertRaises(ValidationError, Pool, shared="true")
        self.assertRaises(ValidationError, Limits, recipients="5")
        self.assertRaises(ValidationError, Limits, recipients=True)
