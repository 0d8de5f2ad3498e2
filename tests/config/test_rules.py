"""Tests of L{mailgw.config.rules}."""

from __future__ import annotations

import tomllib

from twisted.trial.unittest import SynchronousTestCase

from mailgw import registry
from mailgw.config.rules import faults_between
from mailgw.config.source import dotted
from mailgw.settings import Listener, Pool
from tests.config.text import GOOD, TABLE

MX = '[[listener]]\nprotocol = "mx"\nendpoint = "tcp:25"\n'


class FaultsBetweenTests(SynchronousTestCase):
    """L{faults_between}."""

    def setUp(self) -> None:
        self.patch(registry, "TABLE", TABLE)

    def faults(self, text: str) -> list[str]:
        return [f"{dotted(path)}: {words}" for path, words in faults_between(tomllib.loads(text))]

    def changed(self, old: str, new: str) -> list[str]:
        self.assertIn(old, GOOD)
        return self.faults(GOOD.replace(old, new, 1))

    def test_good(self) -> None:
        """Good settings have none."""
        self.assertEqual(self.faults(GOOD), [])

    def test_empty(self) -> None:
        """Listeners, a directory and a route there must be, and each is said once."""
        self.assertEqual([one.partition(":")[0] for one in self.faults("")], ["listener", "directory", "route"])

    def test_wrong_types(self) -> None:
        """Values of wrong types are the models' business, and no rule trips over one."""
        for value in ("1", '"x"', "[1]", "{a = 1}", "[{a = 1}]", "[[]]", "true", "[]"):
            for key in ("gateway", "tls", "listener", "directory", "route", "pool", "domains", "local", "limits"):
                self.faults(f"{key} = {value}")
                self.faults(f"pool = {{x = {{members = {value}, imap = {value}, smtp = {value}, login = {value}}}}}")
                self.faults(f"listener = [{{protocol = {value}, endpoint = {value}, tls = {value}}}]")
                self.faults(
                    f"tls = {{key = {value}, certificate = {value}, name = {value}}}\nroute = [{{pool = {value}}}]"
                )
                self.faults(f"gateway = {{hostname = {value}, workers = {value}}}\nlocal = {{path = {value}}}")
                self.faults(f"domains = {{accept = {value}}}\n{MX}")

    def test_hostname(self) -> None:
        """What could not stand in a greeting is refused."""
        for bad in ("", "a b", "a\\r\\nb", "-a", "a..b", "[::1]", "ä.example"):
            self.assertEqual(len(self.changed('"mail.example.com"', f'"{bad}"')), 1, bad)
        for good in ("localhost", "a-b.example", "127.0.0.1", "a_b.example"):
            self.assertEqual(self.changed('"mail.example.com"', f'"{good}"'), [], good)

    def test_probe_account(self) -> None:
        """The account of health checks is a name and a password, or nothing."""
        for text, key in (('probe_user = "p"', "probe_password"), ('probe_password = "p"', "probe_user")):
            found = self.faults(f"[pool.main]\n{text}\n[pool.main.imap]\n")
            missing = [fault for fault in found if fault.startswith(f"pool.main.{key}: is missing")]
            self.assertEqual(len(missing), 1, found)
        found = self.faults('[pool.main]\nprobe_user = "p"\nprobe_password = "p"\n[pool.main.imap]\n')
        self.assertEqual([fault for fault in found if "probe" in fault], [])

    def test_workers(self) -> None:
        """Several processes go with either transport."""
        self.assertEqual(self.changed("[gateway]\n", '[gateway]\ntransport = "twisted"\nworkers = 2\n'), [])

    def test_pool_login(self) -> None:
        """A certificate comes with its key; whom to act as is nothing that LOGIN could say."""
        for words, path in (
            ('certificate = "a.pem"', "pool.main.key"),
            ('key = "a.key"', "pool.main.certificate"),
            ('login = "authzid"\nmaster_user = "m"\nmaster_password = "p"\nmechanism = "login"', "pool.main.mechanism"),
        ):
            found = self.faults(f"{GOOD}\n[pool.other]\n{words}\n[pool.other.imap]\n".replace("other", "more"))
            [fault] = [one for one in found if one.startswith("pool.more.")]
            self.assertTrue(fault.startswith(path.replace("main", "more") + ": "), fault)

    def test_told_as_it_is(self) -> None:
        """Nobody can have told that there is no TLS, or another way to log in, or what would end a line."""
        for bad in (
            "STARTTLS",
            "AUTH=GSSAPI",
            "auth PLAIN",
            "SASL PLAIN",
            "LOGINDISABLED",
            "XCLIENT",
            "A]",
            "A\r\nB",
            "",
            '"',
        ):
            self.assertRaises(ValueError, Listener, protocol="imap", endpoint="tcp:1", capabilities=(bad,))
        self.assertEqual(Listener(protocol="imap", endpoint="tcp:1", capabilities=("SIZE 10", "X-Y")).trusted, ())
        for wrong in ({"source": ("localhost",)}, {"pin": ("sha1/x",)}):
            self.assertRaises(ValueError, Pool, **wrong)

    def test_managesieve_needs_a_pool(self) -> None:
        """Scripts are kept by backends alone: a listener for them needs a pool that has them."""
        listener = '[[listener]]\nprotocol = "managesieve"\nendpoint = "tcp:4190"\n'
        self.patch(registry, "TABLE", TABLE | {"protocol": {**TABLE["protocol"], "managesieve": "any:PLUG"}})
        [fault] = self.faults(GOOD + listener)
        self.assertTrue(fault.startswith("listener.2.protocol: no pool has it: add a [pool.NAME.managesieve]"), fault)
        self.assertEqual(self.faults(GOOD + "[pool.main.managesieve]\n" + listener), [])

    def test_no_login_for_readers(self) -> None:
        """A pool where nobody logs in has no use for IMAP, POP3 and ManageSieve."""
        for login in ("none", "xclient"):
            protocols = "imap = {}, managesieve = {}, smtp = {}"
            faults = self.faults(f'pool = {{main = {{login = "{login}", {protocols}}}}}')
            self.assertEqual(
                [one.partition(":")[0] for one in faults if one.startswith("pool")],
                ["pool.main.imap", "pool.main.managesieve"],
            )

    def test_keys_for_certificates(self) -> None:
        """There are as many keys as certificates, in every identity."""
        words = "1 key for 2 certificates; write one for each, in the same order"
        self.assertEqual(self.changed('"certs/a.crt"', '["a.crt", "b.crt"]'), [f"tls.key: {words}"])
        more = '[[tls.name]]\nnames = ["a"]\ncertificate = "a"\nkey = ["a", "b"]\n'
        self.assertIn("tls.name.1.key: 2 keys for 1 certificate;", self.faults(GOOD + more)[0])
        self.assertEqual(self.changed('"certs/a.crt"', "[]"), ["tls.certificate: names no file"])

    def test_sni_names(self) -> None:
        """A wildcard is the whole first label."""
        for name, count in (("*.example.org", 0), ("a.b", 0), ("a*.b", 1), ("*", 1), ("*.*.b", 1), ("", 1)):
            more = f'[[tls.name]]\nnames = ["{name}"]\ncertificate = "a"\nkey = "a"\n'
            self.assertEqual(len(self.faults(GOOD + more)), count, name)

    def test_tls_without_identity(self) -> None:
        """Each listener with TLS needs [tls]; one without does not."""
        text = GOOD.replace('[tls]\ncertificate = "certs/a.crt"\nkey = "certs/a.key"\n', "")
        self.assertIn('tls = "starttls" needs a [tls] table', self.faults(text)[0])
        self.assertEqual(self.faults(text.replace('"tcp:143"', '"tcp:143"\ntls = "none"')), [])

    def test_protocol(self) -> None:
        """Protocols are known, of a later version, or the site's own."""
        self.assertEqual(
            self.changed('"imap"', '"imp"'), ["listener.1.protocol: no such protocol; did you mean 'imap'?"]
        )
        self.assertIn("not built in this version", self.changed('"imap"', '"lmtp"')[0])
        self.assertEqual(self.changed('"imap"', '"site.plug:PROTOCOL"'), [])

    def test_same_port(self) -> None:
        """Two listeners cannot share a port; the second one is at fault."""
        more = '[[listener]]\nprotocol = "pop3"\nendpoint = "tcp:143:interface=127.0.0.1"\n'
        self.assertEqual(
            self.faults(GOOD + more), ["listener.2.endpoint: 127.0.0.1:143 is taken by listener 1 already"]
        )

    def test_mx_needs_domains(self) -> None:
        """An mx listener without domains would take nothing, and with a pattern everything."""
        self.assertIn("listener.2.protocol: mx needs to know", self.faults(GOOD + MX)[0])
        self.assertEqual(self.faults(GOOD + MX + '[domains]\naccept = ["example.com", "a.b"]'), [])
        for bad in ("*", "*.example.com", "", "@example.com"):
            faults = self.faults(GOOD + MX + f'[domains]\naccept = ["example.com", "{bad}"]')
            self.assertEqual([one.partition(":")[0] for one in faults], ["domains.accept.2"], bad)

    def test_pool_protocols(self) -> None:
        """A pool that serves no protocol is of no use."""
        words = "serves no protocol; add [pool.main.imap], .pop3, .managesieve or .smtp"
        self.assertEqual(self.changed("[pool.main.imap]\n", ""), [f"pool.main: {words}"])

    def test_master(self) -> None:
        """login = "master" and "authzid" need an account."""
        for login in ("master", "authzid"):
            faults = self.changed("[pool.main]", f'[pool.main]\nlogin = "{login}"')
            self.assertEqual(
                faults,
                [
                    f'pool.main.master_user: is missing; login = "{login}" needs it',
                    f'pool.main.master_password: is missing; login = "{login}" needs it',
                ],
            )
            account = 'master_user = "gw"\nmaster_password = {env = "X"}'
            self.assertEqual(self.changed("[pool.main]", f'[pool.main]\nlogin = "{login}"\n{account}'), [])

    def test_service_account(self) -> None:
        """A service account is a name and a password."""
        smtp = GOOD + "[pool.main.smtp]\n"
        self.assertEqual(
            self.faults(smtp + 'service_user = "x"'),
            ["pool.main.smtp.service_password: is missing; service_user needs it"],
        )
        self.assertIn("pool.main.smtp.service_user: is missing", self.faults(smtp + 'service_password = "x"')[0])

    def test_members(self) -> None:
        """Members are hosts of different names; ports are no part of them."""
        for bad in ("be1:143", "http://x", "", "a b"):
            self.assertIn("pool.main.members.1: must be a host name", self.changed('"be1"', f'"{bad}"')[0])
        for good in ("10.0.0.1", "fd00::1", "be1.example"):
            self.assertEqual(self.changed('"be1"', f'"{good}"'), [])
        words = "another member is called 'be1'; give one of them a name of its own"
        self.assertEqual(self.changed('host = "be2"', 'host = "be1"'), [f"pool.main.members.2: {words}"])
        self.assertEqual(self.changed('host = "be2"', 'host = "be1", name = "be3"'), [])

    def test_routes(self) -> None:
        """A route's pool exists, and has members where the rule chooses among them."""
        self.assertEqual(
            self.changed('pool = "main"', 'pool = "mian"'),
            ["route.1.pool: there is no [pool.mian]; did you mean 'main'?"],
        )
        text = GOOD.replace('"anywhere"', '"hash"').replace('members = ["be1", {host = "be2", weight = 2}]\n', "")
        self.assertIn("[pool.main] has no members", self.faults(text)[0])
        self.assertEqual(self.faults(text.replace('"hash"', '"attribute"')), [])

    def test_local_path(self) -> None:
        """The store's path holds the user and nothing unknown."""
        for path, words in (
            ("/m/{user}", "local.path: unknown '{user}'"),
            ("/m/{local", "local.path: unknown '{local'"),
            ("/m/{domain}", "local.path: must hold {local}"),
        ):
            self.assertIn(words, self.faults(GOOD + f'[local]\npath = "{path}"')[0])
        self.assertEqual(self.faults(GOOD + '[local]\npath = "/m/{local}"'), [])
