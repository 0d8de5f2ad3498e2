"""People of a company log in on their own Dovecot by every way in and every way on, and use their mail there."""

from __future__ import annotations

import base64
import imaplib
import poplib
import re

from tests.integration.certificates import certificates
from tests.integration.clients import Imap, Pop3, Wire, trusting
from tests.integration.company import ANNA, BEN, EVERY, ODD, OUTSIDER, QUOTED, CompanyTestCase, Person
from tests.integration.gateway import Gateway


class TourTests(CompanyTestCase):
    def tour(self, login: str, tls: str, starttls: bool) -> Gateway:
        """Both people use IMAP and POP3 on both kinds of port.

        @param starttls: towards slapd.
        """
        gateway = self.gateway(self.company.settings(login=login, tls=tls, starttls=starttls))
        for person in (ANNA, BEN):
            for mode in ("starttls", "implicit"):
                self.use_mail(gateway, person, mode)
        return gateway

    def use_mail(self, gateway: Gateway, person: Person, mode: str) -> None:
        """Append two messages, read them, delete one by POP3 and one by IMAP; nothing lands on the other Dovecot."""
        context, ports = trusting(certificates().ca), gateway.ports
        messages = [b"Subject: %d %s\r\n\r\n.\r\n..\r\n\xff\r\n" % (number, mode.encode()) for number in (1, 2)]
        imap = Imap(ports.imaps if mode == "implicit" else ports.imap, mode, context, "127.0.0.9")
        imap.login(person.uid, person.password.decode())
        for message in messages:
            imap.append_message(message)
        imap.select()
        self.assertEqual([imap.message(1), imap.message(2)], messages)
        self.assertEqual(self.company.home(person).inbox(person.mail), messages)
        self.assertEqual(self.company.not_home(person).inbox(person.mail), [])
        pop3 = Pop3(ports.pop3s if mode == "implicit" else ports.pop3, mode, context, "127.0.0.10")
        pop3.login(person.mail, person.password)
        self.assertEqual(pop3.message(1), messages[0])
        pop3.dele(1)
        pop3.quit()
        imap.noop()
        imap.store("1", "+FLAGS", r"(\Deleted)")
        imap.expunge()
        imap.logout()
        self.assertEqual(self.company.home(person).inbox(person.mail), [])

    def test_own_plain(self) -> None:
        """The user's own password, towards backends without TLS."""
        self.tour("own", "none", starttls=False)

    def test_own_starttls(self) -> None:
        """The user's own password, towards backends with STARTTLS."""
        self.tour("own", "starttls", starttls=True)

    def test_own_implicit(self) -> None:
        """The user's own password, towards backends with implicit TLS."""
        self.tour("own", "implicit", starttls=False)

    def test_master_plain(self) -> None:
        """Dovecot's master user, towards backends without TLS."""
        self.tour("master", "none", starttls=True)

    def test_master_starttls(self) -> None:
        """Dovecot's master user, towards backends with STARTTLS."""
        self.tour("master", "starttls", starttls=False)

    def test_master_implicit(self) -> None:
        """Dovecot's master user, towards backends with implicit TLS."""
        self.tour("master", "implicit", starttls=True)

    def test_authzid(self) -> None:
        """A master user with a SASL authorization identity."""
        self.tour("authzid", "starttls", starttls=False)


class BackendTests(CompanyTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.context = trusting(certificates().ca)

    def test_the_log_of_the_backend(self) -> None:
        """Dovecot logs the client's own address and our session id, by IMAP and by POP3."""
        gateway = self.gateway(self.company.settings())
        imap = Imap(gateway.ports.imap, "starttls", self.context, "127.0.0.31")
        imap.login("anna", "annapw")
        imap.logout()
        pop3 = Pop3(gateway.ports.pop3, "starttls", self.context, "127.0.0.32")
        pop3.login("anna", b"annapw")
        pop3.quit()
        for service, address in (("imap", "127.0.0.31"), ("pop3", "127.0.0.32")):
            self.company.be1.wait_for_log(f"rip={address}")
            log = self.company.be1.log()
            login = r"(?:Login|Logged in): user=<anna@example\.org>"  # Dovecot 2.3, 2.4
            line = re.search(rf"{service}-login: .*{login}.* rip={address},.*", log)
            self.assertIsNotNone(line, log[-3000:])
            assert line is not None
            session = re.search(r"session=<([^>]+)>", line[0])
            assert session is not None, line[0]
            gateway.wait_for_log(session[1])

    def test_capabilities(self) -> None:
        """The tagged OK of the login shows what the backend can do, but for what matters before a login only."""
        gateway = self.gateway(self.company.settings())
        told = []
        for port, user in ((gateway.ports.imaps, b"anna"), (self.company.be1.imaps, b"anna@example.org")):
            with Wire(port, self.context) as wire:
                wire.line()
                wire.send(b"a LOGIN %s annapw\r\n" % user)
                lines = wire.tagged(b"a")
                match = re.match(rb"a OK \[CAPABILITY ([^\]]+)\]", lines[-1])
                self.assertIsNotNone(match, lines)
                assert match is not None
                told.append(set(match[1].split()))
        self.assertEqual(told[0], told[1] - {b"SASL-IR", b"LOGIN-REFERRALS"})
        self.assertIn(b"IDLE", told[0])

    def test_group(self) -> None:
        """Who is not in the group that may use mail is refused."""
        gateway = self.gateway(self.company.settings(starttls=True))
        imap = Imap(gateway.ports.imap, "starttls", self.context)
        refused = self.assertRaises(imaplib.IMAP4.error, imap.login, OUTSIDER.uid, OUTSIDER.password.decode())
        self.assertIn("[AUTHENTICATIONFAILED]", str(refused))
        imap.logout()
        pop3 = Pop3(gateway.ports.pop3, "starttls", self.context)
        refused = self.assertRaises(poplib.error_proto, pop3.login, OUTSIDER.uid, OUTSIDER.password)
        self.assertTrue(refused.args[0].startswith(b"-ERR [AUTH]"), refused)
        pop3.quit()

    def test_the_backend_refuses(self) -> None:
        """A password that the directory takes and the backend does not is a wrong password to the client."""
        gateway = self.gateway(self.company.settings())
        passwd = self.company.be1.folder / "passwd"
        before = passwd.read_text()
        self.addCleanup(passwd.write_text, before)
        passwd.write_text(before.replace("anna@", "anna-has-left@"))
        imap = Imap(gateway.ports.imap, "starttls", self.context)
        refused = self.assertRaises(imaplib.IMAP4.error, imap.login, "anna", "annapw")
        self.assertIn("[AUTHENTICATIONFAILED]", str(refused))
        imap.logout()

    def test_untrusted_backend(self) -> None:
        """A backend whose certificate nobody vouches for is no place for a password."""
        settings = self.company.settings().replace(f'ca = "{certificates().ca}"\n[pool', "[pool")
        gateway = self.gateway(settings)
        imap = Imap(gateway.ports.imap, "starttls", self.context)
        refused = self.assertRaises(imaplib.IMAP4.error, imap.login, "anna", "annapw")
        self.assertIn("[UNAVAILABLE]", str(refused))
        imap.logout()
        pop3 = Pop3(gateway.ports.pop3, "starttls", self.context)
        refused = self.assertRaises(poplib.error_proto, pop3.login, "anna", b"annapw")
        self.assertTrue(refused.args[0].startswith(b"-ERR [SYS/TEMP]"), refused)
        pop3.quit()


class PasswordTests(CompanyTestCase):
    """Every octet of a password but CR, LF and NUL, by every way in.

    Dovecot itself refuses octets 1 and 9 from anybody, so the user with these goes on by master user.
    """

    def ways_in(self, gateway: Gateway, person: Person) -> None:
        """Log in by all of IMAP's and POP3's commands."""
        user, password = person.mail.encode(), person.password
        literals = b"a LOGIN {%d}\r\n", b"%s {%d}\r\n", b"%s\r\n"
        with self.wire(gateway.ports.imaps, b"* OK") as wire:
            for step in (literals[0] % len(user), literals[1] % (user, len(password))):
                wire.send(step)
                self.assertTrue(wire.line().startswith(b"+"))
            wire.send(literals[2] % password)
            self.assertRegex(wire.tagged(b"a")[-1], rb"^a OK")
        plain = base64.b64encode(b"\0%s\0%s" % (user, password))
        words = [base64.b64encode(user), base64.b64encode(password)]
        for port, greeting, command, good in (
            (gateway.ports.imaps, b"* OK", b"a AUTHENTICATE", b"a OK"),
            (gateway.ports.pop3s, b"+OK", b"AUTH", b"+OK"),
        ):
            for mechanism, answers in ((b"PLAIN", [plain]), (b"LOGIN", words)):
                with self.wire(port, greeting) as wire:
                    wire.send(command + b" " + mechanism + b"\r\n")
                    for answer in answers:
                        self.assertTrue(wire.line().startswith(b"+ "))
                        wire.send(answer + b"\r\n")
                    line = wire.line()
                    while line.startswith(b"* "):
                        line = wire.line()
                    self.assertTrue(line.startswith(good), (line, mechanism))
        with self.wire(gateway.ports.pop3s, b"+OK") as wire:
            wire.send(b"USER %s\r\n" % user)
            self.assertTrue(wire.line().startswith(b"+OK"))
            wire.send(b"PASS %s\r\n" % password)
            self.assertTrue(wire.line().startswith(b"+OK"))

    def wire(self, port: int, greeting: bytes) -> Wire:
        """A connection in TLS after its greeting."""
        wire = Wire(port, trusting(certificates().ca))
        line = wire.line()
        self.assertTrue(line.startswith(greeting), line)
        return wire

    def test_own(self) -> None:
        """To the backend as the user's own password, by STARTTLS and in the clear."""
        for tls in ("starttls", "none"):
            gateway = self.gateway(self.company.settings(tls=tls))
            for person in (QUOTED, ODD):
                self.ways_in(gateway, person)

    def test_master(self) -> None:
        """To the directory only."""
        gateway = self.gateway(self.company.settings(login="master"))
        for person in (QUOTED, EVERY):
            self.ways_in(gateway, person)

    def test_quoted_string(self) -> None:
        """An IMAP quoted string with escapes."""
        gateway = self.gateway(self.company.settings())
        escaped = QUOTED.password.replace(b"\\", b"\\\\").replace(b'"', b'\\"')
        with self.wire(gateway.ports.imaps, b"* OK") as wire:
            wire.send(b'a LOGIN "quoted" "%s"\r\n' % escaped)
            self.assertRegex(wire.tagged(b"a")[-1], rb"^a OK")
