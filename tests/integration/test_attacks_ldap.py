"""Attacks on the directory through the wire: names that are filters, and passwords that are none (RFC 4513 §5.1.2)."""

from __future__ import annotations

import re
import ssl

from tests.integration.attacks import HELLO, WRONG, Attacker, assert_nothing_told, plain, stranger
from tests.integration.case import ServersTestCase
from tests.integration.certificates import certificates
from tests.integration.clients import trusting
from tests.integration.gateway import ROOMY, Gateway
from tests.integration.ports import needs
from tests.integration.slapd import PEOPLE, PEOPLE_BASE, SERVICE, SERVICE_PASSWORD, Slapd

ALICE = PEOPLE["alice"].encode()
WRONG_IMAP = b"a NO [AUTHENTICATIONFAILED] Wrong user name or password"
WRONG_POP3 = b"-ERR [AUTH] Wrong user name or password"
WRONG_SMTP = b"535 5.7.8 Authentication credentials invalid"


class LdapTests(ServersTestCase):
    """A gateway that asks slapd, and keeps mail itself."""

    skip = needs("slapd")
    slapd: Slapd
    gateway: Gateway
    context: ssl.SSLContext

    @classmethod
    def start_servers(cls) -> None:
        cls.slapd = cls.run_server(Slapd())
        gateway = Gateway()
        gateway.write(f"""
[[directory]]
kind = "ldap"
uri = "{cls.slapd.ldaps_uri}"
ca = "{cls.slapd.ca}"
bind_dn = "{SERVICE}"
bind_password = "{SERVICE_PASSWORD}"
base = "{PEOPLE_BASE}"
filter = "(&(objectClass=inetOrgPerson)(|(uid={{user}})(mail={{user}})))"
username = "mail"
[[route]]
kind = "local"
[local]
path = "mail/{{domain}}/{{local}}"
[domains]
accept = ["example.org"]
{ROOMY.replace("50ms", "1ms")}
""")
        cls.gateway = cls.run_server(gateway)
        cls.context = trusting(certificates().ca)

    def tearDown(self) -> None:
        self.gateway.check_log()
        assert_nothing_told(self.gateway, ALICE, WRONG, SERVICE_PASSWORD.encode())
        super().tearDown()

    def imap(self, commands: bytes) -> bytes:
        """The tagged reply to a login."""
        with Attacker(self.gateway.ports.imaps, self.context, source=stranger()) as wire:
            wire.line()
            wire.send(commands)
            return wire.tagged(b"a")[-1]

    def pop3(self, commands: bytes) -> bytes:
        """The reply to the last of some commands."""
        with Attacker(self.gateway.ports.pop3s, self.context, source=stranger()) as wire:
            wire.line()
            wire.send(commands)
            return [wire.line() for _ in range(commands.count(b"\r\n"))][-1]

    def smtp(self, command: bytes) -> bytes:
        """The reply to a login."""
        with Attacker(self.gateway.ports.submissions, self.context, source=stranger()) as wire:
            wire.reply()
            wire.send(HELLO + command)
            wire.reply()
            return wire.reply()

    def binds(self) -> int:
        """How often somebody's password has been tried."""
        return len(re.findall(r' BIND dn="uid=', self.slapd.log()))

    def test_alice(self) -> None:
        """The tests below would show nothing if nobody could log in."""
        before = self.binds()
        self.assertTrue(self.imap(b"a AUTHENTICATE PLAIN %b\r\n" % plain(b"alice", ALICE)).startswith(b"a OK "))
        self.assertGreater(self.binds(), before)

    def test_empty_passwords(self) -> None:
        """An empty password, which a directory takes from anybody as anonymous, is not even tried."""
        before = self.binds()
        for reply in (
            self.imap(b'a LOGIN alice ""\r\n'),
            self.imap(b"a LOGIN alice {0+}\r\n\r\n"),
            self.imap(b"a AUTHENTICATE PLAIN %b\r\n" % plain(b"alice", b"")),
            self.imap(b"a AUTHENTICATE LOGIN\r\nYWxpY2U=\r\n=\r\n"),
            self.imap(b"a AUTHENTICATE PLAIN %b\r\n" % plain(b"", b"")),
            self.pop3(b"USER alice\r\nPASS\r\n"),
            self.pop3(b"USER alice\r\nPASS \r\n"),
            self.pop3(b"AUTH PLAIN %b\r\n" % plain(b"alice", b"")),
            self.smtp(b"AUTH PLAIN %b\r\n" % plain(b"alice", b"")),
            self.smtp(b"AUTH PLAIN %b\r\n" % plain(b"alice", b"\0")),
        ):
            self.assertRegex(reply, rb"^(a BAD |a NO \[AUTHENTICATIONFAILED\] |-ERR |501 |535 )")
        self.assertEqual(self.binds(), before)

    def test_filters(self) -> None:
        """A name that is a filter, or a part of one, finds nobody, whosever password it comes with."""
        before = self.binds()
        for name in (
            *(
                "*",
                "a*",
                "alic*",
                "al*ce",
                "alice)(uid=*",
                "*)(objectClass=*",
                "alice)(|(uid=*",
                "(alice)",
                "alice)",
                "\\2a",
            ),
            *(
                "alice)(!(uid=x",
                "*)(|(mail=*",
                "alice\\",
                "\\61lice",
                "uid=alice",
                "alice)(userPassword=a*",
                "&",
                "|",
                "!",
                "))",
            ),
            *(
                f"uid=alice,{PEOPLE_BASE}",
                SERVICE,
                "alice,ou=people",
                "alice+cn=alice",
                "#616c696365",
                '"alice"',
                "alice;x",
                "<alice>",
            ),
        ):
            word = name.encode()
            self.assertEqual(self.imap(b"a AUTHENTICATE PLAIN %b\r\n" % plain(word, ALICE)), WRONG_IMAP, name)
            self.assertEqual(self.pop3(b"USER %b\r\nPASS %b\r\n" % (word, ALICE)), WRONG_POP3, name)
            self.assertEqual(self.smtp(b"AUTH PLAIN %b\r\n" % plain(word, ALICE)), WRONG_SMTP, name)
        self.assertEqual(self.binds(), before)

    def test_recipients(self) -> None:
        """Neither does a recipient who is a filter."""
        for local in (b"*", b'"*"', b'"alice)(uid=*"', b'"*)(mail=*"', b"a*", b'"\\\\2a"', b"alice*"):
            with Attacker(self.gateway.ports.mx, source=stranger()) as wire:
                wire.reply()
                wire.send(HELLO + b"MAIL FROM:<>\r\nRCPT TO:<%b@example.org>\r\n" % local)
                self.assertEqual([wire.reply()[:9] for _ in range(3)][-1], b"550 5.1.1", local)

    def test_other_spellings(self) -> None:
        """What the directory takes for the same name is the same user, with one mailbox and one name in the log."""
        for name in ("ALICE", "Alice@Example.ORG", "\uff41lice", "alice ", " alice", "a\u200blice"):
            reply = self.imap(b"a AUTHENTICATE PLAIN %b\r\n" % plain(name.encode(), ALICE))
            self.assertTrue(reply.startswith(b"a OK ") or reply == WRONG_IMAP, (name, reply))
        self.gateway.wait_for_sessions_to_end()
        self.assertEqual(set(re.findall(r" closed: user=(\S+) ", self.gateway.log())) - {"-"}, {"alice@example.org"})
        mail = self.gateway.folder / "mail"
        self.assertEqual([path.relative_to(mail).as_posix() for path in mail.glob("*/*")], ["example.org/alice"])
