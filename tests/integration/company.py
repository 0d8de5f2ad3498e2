"""A small company for tests: its people in slapd, their mailboxes on two Dovecots, its mail leaving through Exim.

The gateway in front of it is none of it: each test starts one, with settings that L{Company.settings} writes.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass, field

from tests.integration.case import ServersTestCase
from tests.integration.certificates import certificates
from tests.integration.dovecot import DOVECOTS_OCTETS, EVERY_OCTET, MASTER, MASTER_PASSWORD, Dovecot
from tests.integration.exim import Exim
from tests.integration.gateway import ROOMY, Gateway
from tests.integration.ports import needs
from tests.integration.slapd import BASE, SERVICE, SERVICE_PASSWORD, Slapd

PLACE = f"ou=company,{BASE}"
GROUP = f"cn=mail,{PLACE}"
HOSTS = {"be1": "localhost", "be2": "127.0.0.1"}
"""The same machine by a name and by an address: certificates are checked for either."""
RELAY, RELAY_PASSWORD = "relay", "relaypw"


@dataclass(frozen=True)
class Person:
    """One entry of the directory.

    @ivar home: which Dovecot has the mailbox: C{"be1"} or C{"be2"}.
    @ivar member: in the group that may use mail.
    """

    uid: str
    home: str
    password: bytes = field(repr=False)
    member: bool = True

    @property
    def mail(self) -> str:
        """The address, which is the canonical name as well."""
        return f"{self.uid}@example.org"

    @property
    def dn(self) -> str:
        """Where the entry is."""
        return f"uid={self.uid},{PLACE}"

    def ldif(self) -> str:
        """The entry."""
        return (
            f"dn: {self.dn}\nobjectClass: inetOrgPerson\nobjectClass: inetLocalMailRecipient\n"
            f"uid: {self.uid}\ncn: {self.uid}\nsn: {self.uid}\nmail: {self.mail}\n"
            f"mailLocalAddress: {self.uid}.alias@example.org\nmailHost: {self.home}\n"
            f"userPassword:: {base64.b64encode(self.password).decode()}\n\n"
        )


ANNA = Person("anna", "be1", b"annapw")
BEN = Person("ben", "be2", b"benpw")
QUOTED = Person("quoted", "be1", b' "quo\\ted" {5} * %u end ')
ODD = Person("odd", "be2", DOVECOTS_OCTETS)
EVERY = Person("every", "be1", EVERY_OCTET)
OUTSIDER = Person("outsider", "be1", b"outsiderpw", member=False)
REJECT = Person("reject", "be1", b"rejectpw")
DEFER = Person("defer", "be1", b"deferpw")
PAT = Person("pat", "be2", b"patpw")
"""Not in slapd: in the other directory, see L{Company.with_another_directory}."""
PEOPLE = (ANNA, BEN, QUOTED, ODD, EVERY, OUTSIDER, REJECT, DEFER)


def _ldif() -> str:
    group = "".join(f"member: {person.dn}\n" for person in PEOPLE if person.member)
    return (
        f"dn: {PLACE}\nobjectClass: organizationalUnit\nou: company\n\n"
        + "".join(person.ldif() for person in PEOPLE)
        + f"dn: {GROUP}\nobjectClass: groupOfNames\ncn: mail\n{group}"
    )


class Company:
    """The servers, made and not started; C{slapd}, C{be1}, C{be2} and C{exim}."""

    def __init__(self) -> None:
        passwords = {person.mail: person.password for person in (*PEOPLE, PAT)}
        self.slapd = Slapd()
        self.be1, self.be2 = Dovecot(passwords), Dovecot(passwords)
        self.exim = Exim({RELAY: RELAY_PASSWORD, ANNA.mail: "annapw", BEN.mail: "benpw"})

    def home(self, person: Person) -> Dovecot:
        """The Dovecot that has the person's mailbox."""
        return self.be1 if person.home == "be1" else self.be2

    def not_home(self, person: Person) -> Dovecot:
        """The other one."""
        return self.be2 if person.home == "be1" else self.be1

    def directory(self, starttls: bool = False, more: str = "") -> str:
        """The directory's table.

        @param more: further keys.
        """
        uri = self.slapd.uri if starttls else self.slapd.ldaps_uri
        return f"""
[[directory]]
kind = "ldap"
uri = "{uri}"
starttls = {"true" if starttls else "false"}
ca = "{self.slapd.ca}"
bind_dn = "{SERVICE}"
bind_password = "{SERVICE_PASSWORD}"
base = "{PLACE}"
filter = "(&(objectClass=inetOrgPerson)(|(uid={{user}})(mail={{user}})))"
username = "mail"
addresses = ["mail", "mailLocalAddress"]
allow_groups = ["{GROUP}"]
{more}
"""

    def settings(self, *, login: str = "own", tls: str = "starttls", smtp: str = "", starttls: bool = False) -> str:
        """Settings for a gateway in front of all of this.

        @param login: how it logs in on the backends.
        @param tls: towards IMAP and POP3.
        @param smtp: the pool's smtp table, see L{to_exim} and L{by_lmtp}; Exim with the user's own login if empty.
        @param starttls: towards slapd, instead of ldaps.
        """
        return self.directory(starttls) + self.routes(login, tls, smtp or self.to_exim()) + ROOMY

    def with_another_directory(self, settings: str) -> str:
        """These settings with a passwd file in front of the directory; it has nobody but Pat."""
        path = self.exim.folder / "passwd"
        path.write_text(f"{PAT.mail}:{{PLAIN}}{PAT.password.decode()}:mailHost={PAT.home}\n")
        return f'[[directory]]\nkind = "passwd"\nfile = "{path}"\n' + settings

    def routes(self, login: str, tls: str, smtp: str) -> str:
        """The tables from route to domains."""
        lmtp = "lmtp" in smtp
        members = ",\n  ".join(self._member(name, tls, lmtp) for name in ("be1", "be2"))
        return f"""
[[route]]
kind = "attribute"
name = "mailHost"
pool = "main"
[pool.main]
members = [
  {members},
]
login = "{login}"
master_user = "{MASTER}"
master_password = "{MASTER_PASSWORD}"
ca = "{certificates().ca}"
[pool.main.imap]
tls = "{tls}"
[pool.main.pop3]
tls = "{tls}"
[pool.main.smtp]
{smtp}
[domains]
accept = ["example.org"]
"""

    def to_exim(self, tls: str = "starttls", service: bool = False) -> str:
        """The pool's smtp table: towards Exim."""
        port = self.exim.smtps if tls == "implicit" else self.exim.smtp
        account = f'service_user = "{RELAY}"\nservice_password = "{RELAY_PASSWORD}"\n' if service else ""
        return f'port = {port}\ntls = "{tls}"\n{account}'

    @staticmethod
    def by_lmtp() -> str:
        """The pool's smtp table: each member takes its mail by LMTP."""
        return 'speak = "lmtp"\ntls = "none"\n'

    def _member(self, name: str, tls: str, lmtp: bool) -> str:
        dovecot: Dovecot = getattr(self, name)
        imap, pop3 = (dovecot.imaps, dovecot.pop3s) if tls == "implicit" else (dovecot.imap, dovecot.pop3)
        smtp = f", smtp = {dovecot.lmtp}" if lmtp else ""
        return f'{{host = "{HOSTS[name]}", name = "{name}", imap = {imap}, pop3 = {pop3}{smtp}}}'


class CompanyTestCase(ServersTestCase):
    """Tests that share a company; each starts gateways as it needs them."""

    skip = needs("slapd", "dovecot", "exim4")
    company: Company

    @classmethod
    def start_servers(cls) -> None:
        company = cls.company = Company()
        for server in (company.slapd, company.be1, company.be2, company.exim):
            cls.run_server(server)
        company.slapd.add(_ldif())

    def gateway(self, settings: str) -> Gateway:
        """A running gateway, which is ended and looked over after the test."""
        gateway = Gateway(settings)
        self.addCleanup(gateway.stop)
        gateway.start()
        return gateway
