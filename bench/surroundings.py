"""What every measured server needs around it: load generator, certificates, backend, auth_http server and directory.

None of these is measured.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

from bench.processes import HOST, Groups, Process, ServerFailed, free_port, own, program, run_once

HERE = Path(__file__).resolve().parent
CHECKOUT = HERE.parent
USERS = 300
PASSWORD = "secret"
BASE = "dc=example,dc=com"
SERVICE, SERVICE_PASSWORD = f"cn=gateway,{BASE}", "service"
_MAILGW = "import sys; from mailgw.cli import main; sys.exit(main())"


def names() -> list[str]:
    """@return: the users, as the load generator counts them."""
    return [f"user{number:04d}@example.com" for number in range(1, USERS + 1)]


def find_python(wanted: str | None) -> str:
    """@return: the interpreter that has mailgw's requirements: the one asked for, the checkout's, or ours."""
    venv = Path(os.environ.get("MAILGW_VENV", CHECKOUT / ".venv")) / "bin" / "python"
    return wanted or (str(venv) if venv.exists() else sys.executable)


class Surroundings:
    """The temp folder and what runs in it; L{close} ends all of it.

    @ivar stack: what is to be undone at the end.
    @ivar imap: the backend's port; likewise C{pop3} and C{smtp}; C{http} is the auth_http server's, C{ldap} slapd's.
    """

    def __init__(self, python: str) -> None:
        self.python = python
        self.stack = ExitStack()
        self.folder = Path(tempfile.mkdtemp(prefix="mailgwbench-"))
        self.stack.callback(shutil.rmtree, self.folder, ignore_errors=True)
        self.folder.chmod(0o755)
        self.groups = Groups()
        self.stack.callback(self.groups.close)
        self.imap, self.pop3, self.smtp, self.http, self.ldap = (free_port() for _ in range(5))
        self._slapd: Process | None = None

    @property
    def load(self) -> str:
        """The load generator."""
        return str(self.folder / "bin" / "load")

    def close(self) -> None:
        """End and remove everything."""
        self.stack.close()

    def start(self) -> None:
        """Build, make certificates, start the backend and the auth_http server.

        @raise ServerFailed: something of this did not work.
        """
        self._build()
        self._certify()
        ports = {name: f"{HOST}:{getattr(self, name)}" for name in ("imap", "pop3", "smtp")}
        backend = [str(self.folder / "bin" / "backend"), *(f"-{name}={where}" for name, where in ports.items())]
        self.run("backend", backend, [self.imap, self.pop3, self.smtp])
        auth = [str(self.folder / "bin" / "authhttp"), f"-listen={HOST}:{self.http}", f"-host={HOST}"]
        auth += [f"-{name}={getattr(self, name)}" for name in ports]
        self.run("authhttp", auth, [self.http])

    def run(self, name: str, command: list[str], ports: list[int]) -> Process:
        """Start a process that lives as long as these surroundings."""
        process = Process(name, self.folder, command, None)
        self.stack.callback(process.end)
        process.start(ports)
        return process

    def _build(self) -> None:
        go = program("go")
        if go is None:
            raise ServerFailed("go is not installed; on Debian: apt-get install --no-install-recommends golang-go")
        cache = {} if os.environ.get("HOME") else {"GOCACHE": str(self.folder / "cache")}
        settings = {"CGO_ENABLED": "0", "GOFLAGS": "-buildvcs=false", "GOPROXY": "off", "GOTOOLCHAIN": "local", **cache}
        command = ["env", *(f"{name}={value}" for name, value in settings.items()), go, "build"]
        (self.folder / "bin").mkdir()
        run_once(*command, "-o", f"{self.folder}/bin/", "./...", folder=HERE, seconds=300.0)

    def _certify(self) -> None:
        """An ECDSA certificate for localhost, an RSA certificate for rsa.localhost, readable for every server."""
        for kind, more in (("ec", ("--name", "localhost")), ("rsa", ("--name", "rsa.localhost", "--rsa", "2048"))):
            run_once(
                *("env", f"PYTHONPATH={CHECKOUT}", self.python, "-c", _MAILGW),
                *("cert", "--dir", str(self.folder / kind), *more),
                folder=self.folder,
            )
            for suffix in ("crt", "key"):
                (made,) = (self.folder / kind).glob(f"*.{suffix}")
                copy = self.folder / f"{kind}.{suffix}"
                shutil.copy(made, copy)
                copy.chmod(0o644)

    def start_slapd(self) -> None:
        """Start slapd with the users, unless it runs.

        @raise ServerFailed: it is not installed, or did not start.
        """
        if self._slapd is not None:
            return
        slapd, slapadd = program("slapd"), program("slapadd")
        if slapd is None or slapadd is None:
            raise ServerFailed("not installed: slapd")
        folder = self.folder / "slapd"
        (folder / "db").mkdir(parents=True)
        # where AppArmor is on, its profile is bound to the program's path and forbids other folders
        here = shutil.copy(slapd, folder / "slapd-here")
        settings = folder / "slapd.conf"
        settings.write_text(self._slapd_settings(folder))
        (folder / "tree.ldif").write_text(_TREE + "".join(_person(name) for name in names()))
        run_once(slapadd, "-q", "-f", str(settings), "-l", str(folder / "tree.ldif"), folder=folder)
        own(folder)
        command = [str(here), "-d", "0", "-f", str(settings), "-h", f"ldap://{HOST}:{self.ldap}/"]
        self._slapd = self.run("slapd", command, [self.ldap])

    @staticmethod
    def _slapd_settings(folder: Path) -> str:
        schemas = "".join(
            f"include /etc/ldap/schema/{name}.schema\n" for name in ("core", "cosine", "nis", "inetorgperson", "misc")
        )
        return f"""\
{schemas}
modulepath /usr/lib/ldap
moduleload back_mdb
pidfile {folder}/slapd.pid
argsfile {folder}/slapd.args
threads 4
database mdb
suffix "{BASE}"
rootdn "cn=admin,{BASE}"
directory {folder}/db
maxsize 67108864
dbnosync
index objectClass,uid,mail eq
access to attrs=userPassword by anonymous auth by * none
access to * by * read
"""


_TREE = f"""\
dn: {BASE}
objectClass: dcObject
objectClass: organization
o: example
dc: example

dn: {SERVICE}
objectClass: organizationalRole
objectClass: simpleSecurityObject
cn: gateway
userPassword: {SERVICE_PASSWORD}

dn: ou=people,{BASE}
objectClass: organizationalUnit
ou: people

"""


def _person(name: str) -> str:
    uid = name.partition("@")[0]
    return (
        f"dn: uid={uid},ou=people,{BASE}\nobjectClass: inetOrgPerson\nobjectClass: inetLocalMailRecipient\n"
        f"uid: {uid}\ncn: {uid}\nsn: {uid}\nmail: {name}\nmailHost: {HOST}\nuserPassword: {PASSWORD}\n\n"
    )
