"""A real slapd for tests: LDAP with StartTLS, and LDAPS, on loopback, with memberOf and a password policy.

It starts with a small company (see L{PEOPLE}); more entries come online with L{Slapd.add}.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from tests.integration.certificates import certificates
from tests.integration.daemon import Daemon, as_nobody
from tests.integration.ports import HOST, free_port, program

NAMELESS = "127.0.0.2"
"""It answers here too, on the same ports; its certificate does not name this address."""
BASE = "dc=example,dc=org"
PEOPLE_BASE = f"ou=people,{BASE}"
GROUPS_BASE = f"ou=groups,{BASE}"
SERVICE, SERVICE_PASSWORD = f"cn=mailgw,ou=services,{BASE}", "servicesecret"
ADMIN, ADMIN_PASSWORD = f"cn=admin,{BASE}", "adminsecret"
MAIL_GROUP = f"cn=mailusers,{GROUPS_BASE}"
POLICY = f"cn=default,ou=policies,{BASE}"

PEOPLE = {"alice": "alicepw", "bob": "bobpw", "carol": "carolpw"}
"""Passwords by uid. Each has C{mail: uid@example.org}; alice and bob are in L{MAIL_GROUP}."""


def person(uid: str, password: str, **attributes: str | Sequence[str]) -> str:
    """An entry in LDIF, of a class that may have C{mailHost} and C{mailLocalAddress}.

    @param attributes: replace or join the attributes that every person has; an empty string takes one away.
    """
    standard = {"uid": uid, "cn": uid, "sn": uid, "mail": f"{uid}@example.org", "userPassword": password}
    lines = [f"dn: uid={uid},{PEOPLE_BASE}", "objectClass: inetOrgPerson", "objectClass: inetLocalMailRecipient"]
    for name, given in {**standard, **attributes}.items():
        lines += [f"{name}: {value}" for value in ([given] if isinstance(given, str) else given) if value]
    return "\n".join(lines) + "\n\n"


_TREE = f"""\
dn: {BASE}
objectClass: dcObject
objectClass: organization
dc: example
o: Example

dn: ou=policies,{BASE}
objectClass: organizationalUnit
ou: policies

dn: {POLICY}
objectClass: pwdPolicy
objectClass: device
cn: default
pwdAttribute: userPassword
pwdLockout: TRUE
pwdMaxFailure: 5
pwdLockoutDuration: 300

dn: ou=services,{BASE}
objectClass: organizationalUnit
ou: services

dn: {SERVICE}
objectClass: simpleSecurityObject
objectClass: organizationalRole
cn: mailgw
userPassword: {SERVICE_PASSWORD}

dn: {PEOPLE_BASE}
objectClass: organizationalUnit
ou: people

dn: {GROUPS_BASE}
objectClass: organizationalUnit
ou: groups

"""
_GROUPS = f"""\
dn: {MAIL_GROUP}
objectClass: groupOfNames
cn: mailusers
member: uid=alice,{PEOPLE_BASE}
member: uid=bob,{PEOPLE_BASE}
"""


class Slapd(Daemon):
    """An OpenLDAP server with an empty policy history.

    @ivar port: LDAP; C{tls_port}: LDAPS.
    @ivar ca: PEM file of the authority that its certificate, for C{localhost} and 127.0.0.1, comes from.
    """

    name = "slapd"

    def __init__(self, anonymous: bool = False, tls: bool = True) -> None:
        """Write its configuration and its database.

        @param anonymous: everybody may search; otherwise only the service account may.
        @param tls: offer StartTLS and LDAPS.
        """
        super().__init__()
        self.port, self.tls_port = free_port(), free_port()
        self._certificates = certificates().copy_to(self.folder)
        self.ca = str(certificates().ca)
        self._anonymous, self._tls = anonymous, tls
        self._fresh = True
        (self.folder / "db").mkdir()
        (self.folder / "slapd.conf").write_text(self._configuration())
        people = "".join(person(uid, password) for uid, password in PEOPLE.items())
        (self.folder / "tree.ldif").write_text(_TREE + people)
        # Where AppArmor is on, its profile is bound to the program's path and forbids other folders.
        shutil.copy(program("slapd") or "slapd", self.folder / "slapd-here")

    @property
    def uri(self) -> str:
        """Of LDAP in clear, with StartTLS on offer."""
        return f"ldap://{HOST}:{self.port}"

    @property
    def ldaps_uri(self) -> str:
        """Of LDAP over TLS."""
        return f"ldaps://{HOST}:{self.tls_port}"

    def command(self) -> Sequence[str]:
        uris = [f"ldap://{host}:{self.port}/" for host in (HOST, NAMELESS)]
        uris += [f"ldaps://{host}:{self.tls_port}/" for host in (HOST, NAMELESS) if self._tls]
        return [
            str(self.folder / "slapd-here"),
            "-d",
            "256",
            "-f",
            str(self.folder / "slapd.conf"),
            "-h",
            " ".join(uris),
        ]

    def listening(self) -> Sequence[int]:
        return (self.port, self.tls_port) if self._tls else (self.port,)

    def start(self) -> None:
        """Start it; the first time, load the groups online: only then does memberOf appear."""
        if not self._fresh:
            super().start()
            return
        self._fresh = False
        self.own()
        self._run("slapadd", "-q", "-f", str(self.folder / "slapd.conf"), "-l", str(self.folder / "tree.ldif"))
        super().start()
        self.add(_GROUPS)

    def add(self, ldif: str) -> None:
        """Add entries.

        @raise AssertionError: slapd refused one; with its words.
        """
        self._as_admin("ldapadd", ldif)

    def modify(self, ldif: str) -> None:
        """Make the changes that some C{changetype} LDIF says.

        @raise AssertionError: slapd refused one; with its words.
        """
        self._as_admin("ldapmodify", ldif)

    def connections(self) -> int:
        """How many connections it has accepted so far, those that look whether it is up included."""
        return self.log().count(" ACCEPT from ")

    def _as_admin(self, name: str, ldif: str) -> None:
        self._run(name, "-x", "-H", self.uri, "-D", ADMIN, "-w", ADMIN_PASSWORD, text=ldif)

    def _run(self, name: str, *arguments: str, text: str = "") -> None:
        path = program(name)
        assert path is not None, f"{name} not installed"
        done = subprocess.run(
            [path, *arguments], input=text, capture_output=True, text=True, timeout=30, cwd=self.folder, **as_nobody()
        )
        assert done.returncode == 0, f"{name}: {done.stdout}{done.stderr}"

    def _configuration(self) -> str:
        schemas = "".join(
            f"include /etc/ldap/schema/{name}.schema\n" for name in ("core", "cosine", "nis", "inetorgperson", "misc")
        )
        modules = "".join(f"moduleload {name}\n" for name in ("back_mdb", "memberof", "ppolicy", "pw-sha2"))
        readers = (
            "by * read" if self._anonymous else f'by dn.exact="{SERVICE}" read by self read by anonymous auth by * none'
        )
        tls = (
            f"TLSCACertificateFile {self._certificates.ca}\nTLSCertificateFile {self._certificates.certificate}\n"
            f"TLSCertificateKeyFile {self._certificates.key}\nTLSVerifyClient never"
        )
        return f"""\
{schemas}
modulepath {self._modules()}
{modules}
pidfile {self.folder}/slapd.pid
argsfile {self.folder}/slapd.args
{tls if self._tls else ""}
database mdb
suffix "{BASE}"
rootdn "{ADMIN}"
rootpw {ADMIN_PASSWORD}
directory {self.folder}/db
maxsize 67108864
dbnosync
index objectClass eq
index uid,mail eq
access to attrs=userPassword by self write by anonymous auth by * none
access to * {readers}
overlay memberof
memberof-group-oc groupOfNames
memberof-refint true
overlay ppolicy
ppolicy_default "{POLICY}"
ppolicy_use_lockout
ppolicy_hash_cleartext
"""

    @staticmethod
    def _modules() -> Path:
        places = (Path("/usr/lib/ldap"), Path("/usr/lib/openldap"), Path("/usr/lib64/openldap"))
        return next((place for place in places if place.is_dir()), places[0])
