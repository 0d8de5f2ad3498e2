"""Tests of L{mailgw.ops.probe} and L{mailgw.ops.talk}, against scripted servers at the other end of a socket pair."""

from __future__ import annotations

import errno
import json
import socket
import ssl
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from mailgw.config.tour import targets_of
from mailgw.edge.selfsigned import write_pair
from mailgw.ops import probe
from mailgw.ops.probe import Finding, Target, aligned, table, targets_at, trust
from mailgw.ops.talk import printable
from mailgw.settings import Domains, Gateway, Listener, Settings

NOW = datetime.now(UTC).replace(microsecond=0)

IMAP = ["> * OK hello", "< p CAPABILITY", "> * CAPABILITY IMAP4rev1 STARTTLS LOGINDISABLED", "> p OK done"]
IMAP_UP = ["< p STARTTLS", "> p OK go", "TLS"]
IMAP_IN = ["< p CAPABILITY", "> * CAPABILITY IMAP4rev1 AUTH=PLAIN AUTH=LOGIN", "> p OK done", "< z LOGOUT"]
POP3 = ["> +OK hello", "< CAPA", "> +OK", "> STLS", "> UIDL", "> ."]
POP3_IN = ["< CAPA", "> +OK", "> USER", "> SASL PLAIN LOGIN", "> .", "< QUIT"]
SMTP = ["> 220-wait", "> 220 hello", "< EHLO [127.0.0.1]", "> 250-me", "> 250-SIZE 5", "> 250 STARTTLS"]
SMTP_IN = ["< EHLO [127.0.0.1]", "> 250-me", "> 250 AUTH PLAIN", "< QUIT"]
SIEVE = ['> "IMPLEMENTATION" "x"', '> "SASL" ""', '> "STARTTLS"', "> OK hello"]
SIEVE_IN = ['> "IMPLEMENTATION" "x"', '> "SASL" "PLAIN OAUTHBEARER"', "> OK again", "< LOGOUT"]


class Server(threading.Thread):
    """Follows a script: C{> says}, C{< expects}, C{TLS} shakes hands, C{wait} is silent until the client goes."""

    def __init__(self, script: list[str], context: ssl.SSLContext) -> None:
        super().__init__(daemon=True)
        self.client, self._end = socket.socketpair()
        self._end.settimeout(10)
        self._script, self._context = script, context
        self.wrong: str | None = None

    def run(self) -> None:
        try:
            for step in self._script:
                self._do(step)
        except (OSError, AssertionError) as error:
            self.wrong = f"{step}: {error!r}"
        finally:
            self._end.close()

    def _do(self, step: str) -> None:
        if step == "TLS":
            self._end = self._context.wrap_socket(self._end, server_side=True)
        elif step == "wait":
            assert not self._end.recv(1), "the client says something"
        elif step.startswith(">"):
            self._end.sendall(step[2:].encode("latin-1") + b"\r\n")
        else:
            line = b""
            while not line.endswith(b"\r\n"):
                octet = self._end.recv(1)
                assert octet, f"hung up after {line!r}"
                line += octet
            assert line == step[2:].encode() + b"\r\n", line


class ProbeTests(SynchronousTestCase):
    """L{probe.probe}."""

    def setUp(self) -> None:
        self.key, self.certificate = write_pair(["localhost"], Path(self.mktemp()), 90, NOW)
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.load_cert_chain(self.certificate, self.key)
        self.trusting = trust([str(self.certificate)], system=False)
        self.servers: list[Server] = []

    def probe(
        self,
        target: Target,
        *scripts: list[str],
        context: ssl.SSLContext | None = None,
        seconds: float = 5.0,
        served: bool = True,
    ) -> Finding:
        """Probe; the first connection meets the first script, and so on.

        @param served: every script must have been followed to its end.
        """
        waiting = list(scripts)

        def connect(target: Target, seconds: float) -> socket.socket:
            server = Server(waiting.pop(0), self.context)
            self.servers.append(server)
            server.start()
            return server.client

        self.patch(probe, "_connect", connect)
        finding = probe.probe(target, context or self.trusting, NOW, seconds)
        for server in self.servers:
            server.join(10)
            if served:
                self.assertIsNone(server.wrong)
        return finding

    def at(self, service: str, tls: str = "starttls", name: str = "localhost") -> Target:
        return Target(service, "127.0.0.1", 1, tls, name)

    def assert_good(self, finding: Finding, after: tuple[str, ...]) -> None:
        self.assertEqual((finding.fault, finding.skipped, finding.plaintext), ("", "", False))
        self.assertEqual((finding.version, finding.certificate, finding.issuer), ("TLSv1.3", "localhost", "itself"))
        self.assertEqual((finding.verified, finding.days, finding.after), (True, 90, after))
        self.assertTrue(finding.cipher)

    def test_imap(self) -> None:
        """IMAP with STARTTLS."""
        self.assert_good(self.probe(self.at("imap"), IMAP + IMAP_UP + IMAP_IN), ("LOGIN", "PLAIN"))

    def test_pop3(self) -> None:
        """POP3 with STLS."""
        self.assert_good(self.probe(self.at("pop3"), [*POP3, "< STLS", "> +OK", "TLS", *POP3_IN]), ("LOGIN", "PLAIN"))

    def test_smtp(self) -> None:
        """SMTP with STARTTLS, replies of several lines."""
        script = [*SMTP, "< STARTTLS", "> 220 go", "TLS", *SMTP_IN]
        for service in ("mx", "submission", "smtp"):
            self.assert_good(self.probe(self.at(service), script), ("PLAIN",))

    def test_lmtp(self) -> None:
        """LMTP says LHLO."""
        script = [step.replace("EHLO", "LHLO") for step in (*SMTP, "< STARTTLS", "> 220 go", "TLS", *SMTP_IN)]
        self.assert_good(self.probe(self.at("lmtp"), script), ("PLAIN",))

    def test_managesieve(self) -> None:
        """ManageSieve tells its capabilities unasked."""
        script = [*SIEVE, "< STARTTLS", "> OK go", "TLS", *SIEVE_IN]
        self.assert_good(self.probe(self.at("managesieve"), script), ("OAUTHBEARER", "PLAIN"))

    def test_implicit(self) -> None:
        """TLS from the first byte."""
        finding = self.probe(self.at("imap", "implicit"), ["TLS", IMAP[0], *IMAP_IN])
        self.assert_good(finding, ("LOGIN", "PLAIN"))

    def test_none(self) -> None:
        """A listener without TLS is looked at as it is."""
        finding = self.probe(self.at("pop3", "none"), ["> +OK", *POP3_IN])
        self.assertEqual((finding.fault, finding.plaintext, finding.before), ("", True, ("LOGIN", "PLAIN")))

    def test_no_starttls(self) -> None:
        """A listener that should offer STARTTLS and does not."""
        script = [*IMAP[:2], "> * CAPABILITY IMAP4rev1", "> p OK done", "< z LOGOUT"]
        self.assertEqual(self.probe(self.at("imap"), script).fault, "does not offer STARTTLS")

    def test_clear_login(self) -> None:
        """A listener that should take no password without TLS and does."""
        script = [*IMAP[:2], "> * CAPABILITY IMAP4rev1 STARTTLS", "> p OK done", *IMAP_UP, *IMAP_IN]
        finding = self.probe(self.at("imap"), script)
        self.assertEqual((finding.fault, finding.plaintext), ("takes passwords without TLS", True))
        self.assertEqual(self.probe(self.at("imap", "optional"), script).fault, "")

    def test_unknown_certificate(self) -> None:
        """A certificate that nobody vouches for is shown, and is a failure."""
        script = IMAP + IMAP_UP + IMAP_IN
        finding = self.probe(self.at("imap"), script, script, context=trust(system=False), served=False)
        self.assertIn("certificate not verified: self", finding.fault)
        self.assertEqual(
            (finding.verified, finding.certificate, finding.after), (False, "localhost", ("LOGIN", "PLAIN"))
        )

    def test_wrong_name(self) -> None:
        """A certificate for somebody else is a failure."""
        script = IMAP + IMAP_UP + IMAP_IN
        finding = self.probe(self.at("imap", name="mail.example.com"), script, script, served=False)
        self.assertIn("certificate not verified: Hostname mismatch", finding.fault)

    def test_injected(self) -> None:
        """What is sent in clear behind the go-ahead ends the visit."""
        script = [*IMAP, "< p STARTTLS", "> p OK go\r\n* CAPABILITY AUTH=EVIL"]
        self.assertIn("more in clear behind its go-ahead", self.probe(self.at("imap"), script, served=False).fault)

    def test_refused_go_ahead(self) -> None:
        """The server's own words, made printable."""
        script = [*IMAP, "< p STARTTLS", "> p NO \x1b[31mno TLS today"]
        fault = self.probe(self.at("imap"), script, served=False).fault
        self.assertEqual(fault, r"the server says 'p NO \\x1b[31mno TLS today'")

    def test_hangs_up(self) -> None:
        """A server that goes without a word."""
        self.assertEqual(self.probe(self.at("imap"), [], served=False).fault, "the server hangs up")

    def test_silence(self) -> None:
        """A server that says nothing costs no more than the time it is given."""
        finding = self.probe(self.at("imap"), ["wait"], seconds=0.05, served=False)
        self.assertEqual(finding.fault, "no answer in time")

    def test_endless(self) -> None:
        """A server that never stops is left."""
        finding = self.probe(self.at("imap"), ["> " + "x" * 200_000], served=False)
        self.assertEqual(finding.fault, "the server talks without end")

    def test_plain_server_on_tls_port(self) -> None:
        """A handshake that meets clear text is told as such."""
        finding = self.probe(self.at("imap", "implicit"), ["> * OK hello", "wait"], served=False)
        self.assertIn("TLS handshake fails", finding.fault)

    def test_recognised(self) -> None:
        """On a port of no fixed purpose the greeting tells the protocol."""
        target = Target("", "localhost", 4711, "")
        script = [*SMTP, "< STARTTLS", "> 220 go", "TLS", *SMTP_IN]
        finding = self.probe(target, SMTP[:1], script)
        self.assertEqual((finding.service, finding.tls, finding.fault), ("smtp", "starttls", ""))

    def test_recognised_inside(self) -> None:
        """Who is silent wants TLS and greets inside it."""
        target = Target("", "localhost", 4711, "")
        inside = ["TLS", IMAP[0], *IMAP_IN]
        finding = self.probe(target, ["wait"], ["TLS", IMAP[0]], inside, seconds=0.5, served=False)
        self.assertEqual((finding.service, finding.tls, finding.fault), ("imap", "implicit", ""))

    def test_not_mail(self) -> None:
        """Something else listens there."""
        finding = self.probe(Target("", "localhost", 22, ""), ["> SSH-2.0-x"])
        self.assertIn("speaks no mail protocol: 'SSH-2.0-x'", finding.fault)

    def test_unreachable(self) -> None:
        """Refused connections fail where something was expected, and are skipped on a tour of standard ports."""

        def refuse(number: int) -> Callable[[Target, float], socket.socket]:
            def connect(target: Target, seconds: float) -> socket.socket:
                raise OSError(number, "Connection refused")

            return connect

        self.patch(probe, "_connect", refuse(errno.ECONNREFUSED))
        self.assertEqual(probe.probe(self.at("imap"), self.trusting, NOW).fault, "Connection refused")
        tour = Target("imap", "127.0.0.1", 143, "starttls", expected=False)
        self.assertEqual(probe.probe(tour, self.trusting, NOW).skipped, "nothing listens there")
        self.patch(probe, "_connect", refuse(errno.EADDRNOTAVAIL))
        there = Target("imap", "::1", 143, "starttls")
        self.assertEqual(probe.probe(there, self.trusting, NOW).skipped, "this machine has no IPv6")

    def test_inherited_socket(self) -> None:
        """Where systemd opens the port, only systemd knows it."""
        finding = probe.probe(Target("imap", "systemd:INET:name=x", 0, "starttls"), self.trusting, NOW)
        self.assertIn("mailgw probe HOST:PORT", finding.skipped)


class TargetTests(SynchronousTestCase):
    """Where a probe goes."""

    def settings(self, *endpoints: str, **more: object) -> Settings:
        listeners = tuple(Listener(protocol="imap", endpoint=one, **more) for one in endpoints)  # type: ignore[arg-type]
        return Settings(gateway=Gateway(hostname="mail.example.com"), listener=listeners, domains=Domains())

    def test_own(self) -> None:
        """Wildcards are visited on loopback, sockets by path; certificates are for our host name."""
        targets = targets_of(self.settings("tcp:143", "tcp6:143", "tcp:143:10.0.0.1", "unix:/run/x", "systemd:INET:0"))
        self.assertEqual(
            [str(one) for one in targets], ["127.0.0.1:143", "[::1]:143", "10.0.0.1:143", "/run/x", "systemd:INET:0"]
        )
        self.assertEqual({one.name for one in targets}, {"mail.example.com"})
        self.assertEqual([one.expected for one in targets], [True, True, True, True, False])

    def test_proxied(self) -> None:
        """A listener that wants a PROXY header from us gets one."""
        near, far = ("127.0.0.0/8",), ("10.0.0.0/8",)
        self.assertTrue(targets_of(self.settings("tcp:143", proxy_from=near))[0].proxied)
        self.assertFalse(targets_of(self.settings("tcp:143", proxy_from=far))[0].proxied)

    def test_host(self) -> None:
        """A host alone is toured on the standard ports, none of which must be there."""
        targets = targets_at("mail.example.com")
        self.assertEqual([one.port for one in targets], [25, 465, 587, 143, 993, 110, 995, 4190])
        self.assertEqual({one.expected for one in targets}, {False})
        self.assertEqual(targets[4], Target("imap", "mail.example.com", 993, "implicit", expected=False))

    def test_port(self) -> None:
        """A port is one target; what it speaks is known for ours and the standard ones."""
        self.assertEqual(targets_at("h:993"), [Target("imap", "h", 993, "implicit")])
        self.assertEqual(targets_at("h:1110"), [Target("pop3", "h", 1110, "starttls")])
        self.assertEqual(targets_at("h:4711"), [Target("", "h", 4711, "")])
        self.assertEqual(targets_at("[::1]:25"), [Target("mx", "::1", 25, "starttls")])
        self.assertEqual({one.host for one in targets_at("fd00::1")}, {"fd00::1"})

    def test_nonsense(self) -> None:
        """What is no place."""
        for place in ("", "h:", "h:x", "h:0", "h:65536", "[::1", "http://h/", "a:b:c"):
            self.assertRaises(ValueError, targets_at, place)


class TableTests(SynchronousTestCase):
    """How findings are shown."""

    def test_aligned(self) -> None:
        """Columns begin under each other, and no line ends in blanks."""
        self.assertEqual(aligned([("a", "bb", "c"), ("aaa", "b", "")]), "a    bb  c\naaa  b")

    def test_rows(self) -> None:
        """A failure, a skipped service and a good one."""
        good = Finding("imap", "h:1", "implicit", "TLSv1.3", "X", "h", "CA", 9, True, (), ("PLAIN",))
        bad = Finding("pop3", "h:2", "starttls", fault="does not offer STLS", plaintext=True, before=("LOGIN",))
        lines = table([good, bad, Finding("mx", "h:3", "starttls", skipped="nothing listens there")]).splitlines()
        self.assertIn("TLSv1.3 X", lines[1])
        self.assertIn("h by CA, 9 days, verified", lines[1])
        self.assertRegex(lines[1], r"- > PLAIN +no +ok$")
        self.assertRegex(lines[2], r"LOGIN > - +OFFERED +FAILED: does not offer STLS$")
        self.assertTrue(lines[3].endswith("skipped: nothing listens there"))

    def test_json(self) -> None:
        """Findings survive JSON."""
        finding = Finding("imap", "h:1", "implicit", after=("PLAIN",))
        self.assertEqual(json.loads(json.dumps(finding.as_json()))["after"], ["PLAIN"])

    def test_printable(self) -> None:
        """No escape sequence reaches the terminal."""
        self.assertEqual(printable("a\x1b[1m\x7fä"), r"a\x1b[1m\x7fä")


class TrustTests(SynchronousTestCase):
    """L{trust}."""

    def test_bad_file(self) -> None:
        """A file that is not there, or holds none."""
        self.assertRaises(OSError, trust, (), "/nowhere.pem")
        self.assertRaises(OSError, trust, [__file__])

    def test_strict_about_names(self) -> None:
        """Chain and name are both checked, old versions are not spoken."""
        context = trust()
        self.assertTrue(context.check_hostname)
        self.assertEqual(context.verify_mode, ssl.CERT_REQUIRED)
        self.assertEqual(context.minimum_version, ssl.TLSVersion.TLSv1_2)
