"""Tests of L{mailgw.config.check}, L{mailgw.config.checkfiles} and L{mailgw.config.checklive}."""

from __future__ import annotations

import os
import pwd
import socket
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from mailgw import registry
from mailgw.config import checklive
from mailgw.config.check import check, is_ours
from mailgw.config.checkfiles import may, obstacle_for
from mailgw.config.file import read
from mailgw.edge.selfsigned import write_pair
from mailgw.errors import DirectoryDown
from mailgw.model import Envelope, Identity
from mailgw.ops.probe import Finding, Target
from mailgw.settings import Strings, Table
from tests.config.text import GOOD, TABLE, short_folder, write

NOW = datetime.now(UTC).replace(microsecond=0)
# documentation addresses, RFC 5737 and RFC 3849: nobody's, and so not this machine's
PLACES = {"be1": ["203.0.113.77"], "be2": ["198.51.100.77", "2001:db8::77"], "me": ["127.0.0.1"], "me6": ["::1"]}


def resolve(host: str) -> Sequence[str]:
    if host not in PLACES:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
    return PLACES[host]


class Case(SynchronousTestCase):
    """Checks settings whose certificate and people are there."""

    def setUp(self) -> None:
        self.patch(registry, "TABLE", TABLE)
        self.folder = short_folder(self)
        self.certs = self.folder / "certs"
        self.pair("a", "mail.example.com")
        (self.folder / "people.txt").touch()

    def pair(self, stem: str, *names: str, days: int = 365, now: datetime = NOW) -> None:
        """Put a certificate under another name than it is for."""
        for made in write_pair(names, self.folder / f"new-{stem}-{days}", days, now):
            self.certs.mkdir(exist_ok=True)
            made.rename(self.certs / f"{stem}{made.suffix}")

    def check(self, text: str = GOOD) -> list[str]:
        """All remarks, without the file's name in front; warnings begin with a tilde."""
        path = write(self.folder, text)
        remarks = check(read(path), NOW, resolve)
        return [("" if grave else "~") + line.removeprefix(f"{path}:") for grave, line in remarks]

    def changed(self, old: str, new: str) -> list[str]:
        self.assertIn(old, GOOD)
        return self.check(GOOD.replace(old, new, 1))


class CertificateTests(Case):
    """Certificates and keys."""

    def test_good(self) -> None:
        """Good settings bring no remark."""
        self.assertEqual(self.check(), [])

    def test_missing(self) -> None:
        """Files that are not there, each with its key."""
        for one in self.certs.iterdir():
            one.unlink()
        hint = "no such file (mailgw cert makes a self-signed pair)"
        self.assertEqual(
            self.check(),
            [f"6: tls.certificate: {self.certs}/a.crt: {hint}", f"7: tls.key: {self.certs}/a.key: {hint}"],
        )

    def test_no_pem(self) -> None:
        """Files that hold something else, and folders."""
        (self.certs / "a.crt").write_text("nonsense")
        (self.certs / "a.key").unlink()
        (self.certs / "a.key").mkdir()
        first, second = self.check()
        self.assertIn("a.crt: holds no PEM that is understood here", first)
        self.assertIn("a.key: cannot be read: Is a directory", second)

    def test_other_key(self) -> None:
        """A key that belongs to another certificate."""
        self.pair("b", "mail.example.com")
        (self.certs / "b.key").rename(self.certs / "a.key")
        words = f"{self.certs}/a.key is not the key of {self.certs}/a.crt"
        self.assertEqual(self.check(), [f"7: tls.key: {words}"])

    def test_chain_order(self) -> None:
        """A chain that begins with somebody else's certificate."""
        self.pair("b", "ca.example.com")
        ours, other = (self.certs / "a.crt").read_text(), (self.certs / "b.crt").read_text()
        (self.certs / "a.crt").write_text(other + ours)
        self.assertIn("the server's own certificate must come first in the chain", self.check()[1])
        (self.certs / "a.crt").write_text(ours + other)
        self.assertEqual(self.check(), [])

    def test_encrypted_key(self) -> None:
        """A key with a passphrase cannot be used."""
        key = load_pem_private_key((self.certs / "a.key").read_bytes(), None)
        text = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"x"))
        (self.certs / "a.key").write_bytes(text)
        self.assertIn("a.key: is encrypted;", self.check()[0])

    def test_expiry(self) -> None:
        """Expired is a fault, soon to expire a warning, not yet valid a fault."""
        for days, now, words in (
            (10, NOW - timedelta(days=20), "6: tls.certificate: "),
            (10, NOW, "~6: tls.certificate: WARNING: "),
            (10, NOW + timedelta(days=2), "6: tls.certificate: "),
            (31, NOW, ""),
        ):
            self.pair("a", "mail.example.com", days=days, now=now)
            found = self.check()
            self.assertEqual(len(found), bool(words))
            self.assertTrue("".join(found).startswith(words))
        self.pair("a", "mail.example.com", days=9)
        self.assertIn(f"a.crt expires in 9 days, on {NOW + timedelta(days=9):%Y-%m-%d}", self.check()[0])

    def test_other_host(self) -> None:
        """A certificate that is not for this host is a warning; a wildcard for its domain is for it."""
        self.pair("a", "other.example.com")
        self.assertIn("~6: tls.certificate: WARNING: ", self.check()[0])
        self.assertIn("a.crt is not for mail.example.com (gateway.hostname)", self.check()[0])
        self.pair("a", "*.example.com")
        self.assertEqual(self.check(), [])

    def test_identities(self) -> None:
        """Every identity for SNI is looked at."""
        more = '[[tls.name]]\nnames = "x"\ncertificate = "certs/a.crt"\nkey = "certs/a.key"\n'
        more += '[[tls.name]]\nnames = "y"\ncertificate = "certs/a.crt"\nkey = "certs/no.key"\n'
        self.assertEqual([one.split(": ")[:2] for one in self.check(GOOD + more)], [["27", "tls.name.2.key"]])

    def test_open_key(self) -> None:
        """A key that everybody can read is a warning."""
        (self.certs / "a.key").chmod(0o644)
        self.assertEqual(
            self.check(),
            [f"~7: tls.key: WARNING: everybody can read {self.certs}/a.key; chmod o= {self.certs}/a.key"],
        )


class FileTests(Case):
    """CA files, maps and passwd files."""

    def test_ca(self) -> None:
        """A pool's CA file is read."""
        self.assertEqual(self.changed("[pool.main]", '[pool.main]\nca = "certs/a.crt"'), [])
        self.assertIn("18: pool.main.ca: ", self.changed("[pool.main]", '[pool.main]\nca = "nowhere"')[0])
        self.assertIn("holds no PEM", self.changed("[pool.main]", '[pool.main]\nca = "people.txt"')[0])

    def test_missing_file(self) -> None:
        """A directory's file."""
        (self.folder / "people.txt").unlink()
        words = f"{self.folder}/people.txt: cannot be read: No such file or directory"
        self.assertEqual(self.check(), [f"13: directory.1.file: {words}"])

    def test_real_plugs(self) -> None:
        """A map and a passwd file are read by their own readers; a passwd file may yet have to be made."""
        self.patch(registry, "TABLE", {**TABLE, "directory": REAL["directory"], "route": REAL["route"]})
        text = GOOD.replace('"people"', '"passwd"').replace('"anywhere"', '"table"\nfile = "map"')
        (self.folder / "map").write_text("alice: be1\nnonsense\n")
        (self.folder / "people.txt").unlink()
        passwd, table = self.check(text)
        self.assertEqual(
            passwd,
            f"~13: directory.1.file: WARNING: {self.folder}/people.txt does not exist yet; "
            "mailgw user add NAME makes it",
        )
        self.assertTrue(table.startswith(f"16: route.1.file: {self.folder}/map:2: "), table)
        (self.folder / "map").write_text("alice: be1\n")
        (self.folder / "people.txt").write_text("alice\n")
        self.assertIn("13: directory.1.file: ", self.check(text)[0])
        (self.folder / "people.txt").write_text("alice:{PLAIN}x\n")
        self.assertEqual(self.check(text), [])


class StateTests(Case):
    """The folder of the control socket."""

    def test_long_path(self) -> None:
        """A path that no socket can have."""
        name = "x" * (107 - len("/srv//control"))
        self.assertEqual(self.changed('"var"', f'"/srv/{name}"'), [])
        (found,) = self.changed('"var"', f'"/srv/{name}x"')
        self.assertIn("gateway.state: the path of the control socket has 108 octets, and the system takes 107", found)


class UserTests(Case):
    """C{gateway.user}."""

    def test_unknown(self) -> None:
        """A user who is not there."""
        found = self.changed("[gateway]", '[gateway]\nuser = "no-such-user"')
        self.assertEqual(
            found,
            ["3: gateway.user: there is no user 'no-such-user' on this machine (adduser --system no-such-user)"],
        )

    def test_unreadable(self) -> None:
        """A key that the user cannot read is a fault; so is a secret."""
        (self.folder / "secret").write_text("x")
        (self.folder / "secret").chmod(0o600)
        other = next(entry.pw_name for entry in pwd.getpwall() if entry.pw_uid not in (0, os.getuid()))
        text = GOOD.replace("[gateway]", f'[gateway]\nuser = "{other}"')
        text = text.replace('"people.txt"', '"people.txt"\npassword = {file = "secret"}')
        found = {one.split(": ")[1] for one in self.check(text) if f" {other} (gateway.user) cannot read " in one}
        self.assertLessEqual({"tls.key", "directory.1.password"}, found)

    def test_modes(self) -> None:
        """Owner, group and others each have their own bits."""
        file = self.folder / "file"
        file.touch()
        owner, group = os.stat(file).st_uid, os.stat(file).st_gid
        if owner == 0:  # root may read everything
            owner = 4711
            os.chown(file, owner, group)
        for mode, uid, groups, readable in (
            (0o400, owner, (), True),
            (0o040, owner, (group,), False),
            (0o040, owner + 1, (group,), True),
            (0o044, owner + 1, (group + 1,), True),
            (0o004, owner + 1, (group,), False),
            (0o440, owner + 1, (group + 1,), False),
            (0o000, 0, (), True),
        ):
            file.chmod(mode)
            self.assertEqual(may(str(file), uid, frozenset(groups), 0o4), readable, oct(mode))

    def test_closed_folder(self) -> None:
        """A closed folder on the way is named."""
        closed = self.folder / "closed"
        closed.mkdir(mode=0o700)
        (closed / "file").touch()
        (closed / "file").chmod(0o644)
        found = obstacle_for(os.getuid() + 4711, frozenset(), str(closed / "file"))
        self.assertTrue(found.startswith("the folder "), found)


class LoopTests(Case):
    """Pools that lead back to ourselves."""

    def loop(self, member: str, endpoint: str, port: int = 143) -> list[str]:
        text = GOOD.replace('members = ["be1"', f'members = ["{member}"').replace('"tcp:143"', endpoint)
        return self.check(text.replace("[pool.main.imap]\n", f"[pool.main.imap]\nport = {port}\n"))

    def test_wildcard(self) -> None:
        """A name that leads to this machine, at the port of a listener on every address."""
        found = self.loop("me", '"tcp:143"')
        self.assertEqual(found, ["18: pool.main.members.1: me:143 (imap) is our own listener 1 (*:143): a loop"])
        self.assertEqual(len(self.loop("me", '"tcp6:143"')), 1)

    def test_address(self) -> None:
        """A listener on one address is met at that address only."""
        self.assertEqual(len(self.loop("me", '"tcp:143:127.0.0.1"')), 1)
        self.assertEqual(self.loop("me", '"tcp:143:10.11.12.13"'), [])
        self.assertEqual(len(self.loop("me6", r"'tcp:143:interface=\:\:1'")), 1)

    def test_other_port(self) -> None:
        """Another port is another service; a member's own port counts."""
        self.assertEqual(self.loop("me", '"tcp:143"', 10143), [])
        text = GOOD.replace('{host = "be2", weight = 2}', '{host = "me", imap = 1143}')
        self.assertEqual(len(self.check(text.replace('"tcp:143"', '"tcp:1143"'))), 1)

    def test_elsewhere(self) -> None:
        """The same port on another machine is how it should be; a UNIX socket is no address."""
        self.assertEqual(self.loop("be1", '"tcp:143"'), [])
        self.assertEqual(self.loop("me", '"unix:/run/x"'), [])

    def test_unknown_host(self) -> None:
        """A member that cannot be resolved is a warning."""
        self.assertEqual(
            self.loop("be9", '"tcp:143"'),
            ["~18: pool.main.members.1: WARNING: be9 cannot be resolved: Name or service not known"],
        )

    def test_is_ours(self) -> None:
        """Loopback is ours, documentation addresses are nobody's."""
        self.assertEqual([is_ours(one) for one in ("127.0.0.1", "203.0.113.77", "2001:db8::77")], [True, False, False])


class RiskTests(Case):
    """What is allowed and told loudly."""

    def test_unverified_pool(self) -> None:
        """verify = false."""
        found = self.changed("[pool.main]", "[pool.main]\nverify = false")
        self.assertEqual(len(found), 1)
        self.assertTrue(found[0].startswith("~18: pool.main.verify: WARNING: verify = false: "))
        self.assertIn("NOT CHECKED", found[0])

    def test_pinned_pool(self) -> None:
        """verify = false is no risk where the key is pinned."""
        pin = "sha256/" + "A" * 43 + "="
        self.assertEqual(self.changed("[pool.main]", f'[pool.main]\nverify = false\npin = "{pin}"'), [])

    def test_trusting_listener(self) -> None:
        """Who believes everybody's addresses."""
        for key in ("trusted", "proxy_from"):
            [found] = self.changed('protocol = "imap"', f'protocol = "imap"\n{key} = ["::1", "0.0.0.0/0"]')
            self.assertIn(f"{key}: WARNING: {key} names every network", found)

    def test_balance_without_shared(self) -> None:
        """A balance that sends users now here, now there, in a pool where each mailbox is on one member only."""
        for balance in ("least", "random"):
            [found] = self.changed("[pool.main]", f'[pool.main]\nbalance = "{balance}"')
            self.assertIn("~18: pool.main.balance: WARNING: ", found)
            self.assertEqual(self.changed("[pool.main]", f'[pool.main]\nshared = true\nbalance = "{balance}"'), [])

    def test_clear_backend(self) -> None:
        """Passwords that leave the machine in clear."""
        found = self.changed("[pool.main.imap]", '[pool.main.imap]\ntls = "none"')
        self.assertEqual(
            found, ['~20: pool.main.imap.tls: WARNING: tls = "none": passwords cross the network to be1 in clear']
        )
        text = GOOD.replace('["be1", {host = "be2", weight = 2}]', '["127.0.0.2"]')
        PLACES["127.0.0.2"] = ["127.0.0.2"]
        self.addCleanup(PLACES.pop, "127.0.0.2")
        text = text.replace('"tcp:143"', '"tcp:144"').replace("[pool.main.imap]", '[pool.main.imap]\ntls = "none"')
        self.assertEqual(self.check(text), [])

    def test_open_listener(self) -> None:
        """Passwords that clients may send in clear; on loopback that is nobody's business."""
        for tls in ("none", "optional"):
            found = self.changed('"tcp:143"', f'"tcp:143"\ntls = "{tls}"')
            words = f'WARNING: tls = "{tls}": clients may send their passwords in clear'
            self.assertEqual(found, [f"~11: listener.1.tls: {words}"])
            self.assertEqual(self.changed('"tcp:143"', f'"tcp:143:127.0.0.1"\ntls = "{tls}"'), [])

    def test_clear_ldap(self) -> None:
        """ldap:// to another machine without StartTLS."""
        self.patch(registry, "TABLE", {**TABLE, "directory": {"people": "tests.config.test_check:Asked"}})
        for uri, count in (
            ("ldap://x.example", 1),
            ("ldaps://x", 0),
            ("ldap://127.0.0.1:389/", 0),
            ("ldap://[::1]", 0),
        ):
            found = self.changed('file = "people.txt"', f'uri = "{uri}"')
            self.assertEqual(len(found), count, uri)
        found = self.changed('file = "people.txt"', 'uri = "ldap://x.example"\nstarttls = true')
        self.assertEqual(found, [])

    def test_clear_http(self) -> None:
        """http:// to another machine, in directories and rules; what may be a secret in a query is not shown."""
        self.patch(registry, "TABLE", {**TABLE, "directory": {"http": "mailgw.directory.http:HttpDirectory"}})
        directory = 'kind = "people"\nfile = "people.txt"'
        for uri, count in (
            ("http://x.example/a", 1),
            ("https://x/", 0),
            ("http://127.0.0.1:90/", 0),
            ("http://[::1]", 0),
        ):
            found = self.changed(directory, f'kind = "http"\nuri = "{uri}?key=s3cret"')
            self.assertEqual(len([one for one in found if "clear; use https" in one]), count, found)
            self.assertNotIn("s3cret", "".join(found))

    def test_unverified_database(self) -> None:
        """verify = false on a database is a risk; the file of one is read as any other."""
        self.patch(registry, "TABLE", {**TABLE, "route": {"sql": "mailgw.routing.sql:SqlRule"}})
        query = 'query = "SELECT b FROM u WHERE n = {user}"'
        rule = f'"sql"\n{query}\nverify = false\ndatabase = "postgresql://u@db.example/mail"'
        (warning,) = self.check(GOOD.replace('"anywhere"', rule))
        self.assertTrue(warning.startswith("~17: route.1.verify: WARNING: verify = false: the database's"), warning)
        rule = f'"sql"\n{query}\ndatabase = "sqlite:users.db"'
        words = f"{self.folder}/users.db: cannot be read: No such file or directory"
        self.assertEqual(self.check(GOOD.replace('"anywhere"', rule)), [f"17: route.1.database: {words}"])

    def test_nobody_served(self) -> None:
        """A listener whose protocol no pool speaks, unless there is a local store."""
        more = '[[listener]]\nprotocol = "pop3"\nendpoint = "tcp:110"\n'
        found = self.check(GOOD + more)
        self.assertEqual([one.split(": ")[:2] for one in found], [["21", "listener.2.protocol"]])
        self.assertEqual(self.check(GOOD + more + '[[route]]\nkind = "local"\n'), [])


class LiveTests(SynchronousTestCase):
    """L{mailgw.config.checklive}."""

    def setUp(self) -> None:
        self.patch(registry, "TABLE", {**TABLE, "directory": {"people": "tests.config.test_check:Asked"}})
        self.clock = Clock()
        Asked.stopped = 0

    def ask(self, *uris: str) -> Any:
        text = GOOD.replace('file = "people.txt"', f'uri = "{uris[0]}"')
        text += "".join(f'[[directory]]\nkind = "people"\nuri = "{uri}"\n' for uri in uris[1:])
        settings = read(write(self.mktemp(), text)).settings
        return Deferred.fromCoroutine(checklive.ask_directories(settings, self.clock))

    def test_directories(self) -> None:
        """A directory that answers, one that is down, one that cannot be built; each is stopped again."""
        said = self.successResultOf(self.ask("good", "down", "broken"))
        self.assertEqual(
            said, [("people-1", ""), ("people-2", "nobody answers"), ("people-3", "there is no such CA file")]
        )
        self.assertEqual(Asked.stopped, 2)

    def test_silence(self) -> None:
        """A directory that never answers does not keep the command."""
        asked = self.ask("silent")
        self.assertNoResult(asked)
        self.clock.advance(checklive.PATIENCE)
        self.assertEqual(self.successResultOf(asked), [("people-1", "no answer within 10 s")])
        self.assertEqual(Asked.stopped, 1)

    def test_backends(self) -> None:
        """Every service of every member is visited, with its own port, TLS and trust; LMTP is spoken where it is."""
        text = GOOD.replace("weight = 2", "imap = 1143") + '[pool.main.smtp]\nport = 24\ntls = "none"\nspeak = "lmtp"\n'
        settings = read(write(self.mktemp(), text)).settings
        self.assertEqual(
            [target for _, target in checklive.backend_targets(settings)],
            [
                Target("imap", "be1", 143, "starttls"),
                Target("lmtp", "be1", 24, "none"),
                Target("imap", "be2", 1143, "starttls"),
                Target("lmtp", "be2", 24, "none"),
            ],
        )

    def test_verdicts(self) -> None:
        """That a backend would also take passwords in clear is not our trouble; everything else is."""
        contexts = []

        def probe(target: Target, context: Any, now: datetime) -> Finding:
            contexts.append(context.check_hostname)
            fault = "takes passwords without TLS" if target.host == "be1" else "no answer in time"
            return Finding(target.service, str(target), target.tls, fault=fault)

        self.patch(checklive, "probe", probe)
        settings = read(write(self.mktemp(), GOOD)).settings
        found = checklive.visit_backends(settings, NOW)
        self.assertEqual([one.fault for one in found], ["", "no answer in time"])
        unverified = read(write(self.mktemp(), GOOD.replace("[pool.main]", "[pool.main]\nverify = false"))).settings
        checklive.visit_backends(unverified, NOW)
        self.assertEqual(contexts, [True, True, False, False])

    def test_rows(self) -> None:
        """One line each."""
        rows = checklive.rows([("ldap-1", ""), ("ldap-2", "down")], [Finding("imap", "be1:143", "starttls", "TLSv1.3")])
        self.assertEqual([row[0] for row in rows], ["directory", "directory", "imap"])
        self.assertEqual([row[-1] for row in rows], ["ok", "FAILED: down", "ok"])


class Asked:
    """A directory that does as its URI says."""

    stopped = 0

    class Options(Table):
        """Options."""

        uri: Strings = ("good",)
        file: str | None = None
        starttls: bool = False

    def __init__(self, uri: str) -> None:
        self.uri = uri

    @classmethod
    def from_options(cls, name: str, options: Any, house: Any) -> Asked:
        if options.uri[0] == "broken":
            raise OSError("there is no such CA file")
        return cls(options.uri[0])

    def start(self) -> None:
        """Begin."""

    async def stop(self) -> None:
        Asked.stopped += 1

    async def lookup(self, address: str, envelope: Envelope | None = None) -> Identity | None:
        if self.uri == "down":
            raise DirectoryDown("nobody answers")
        if self.uri == "silent":
            await Deferred()
        return None


REAL = {
    "directory": {"passwd": "mailgw.directory.passwd:PasswdDirectory"},
    "route": {"table": "mailgw.routing.table:TableRule", "local": "mailgw.routing.router:LocalRule"},
}
