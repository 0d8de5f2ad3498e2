"""mailgw as it is measured: as its users run it, with all its limits, deadlines, counts and logs.

The limits that one client address would meet are raised: a load generator has few addresses.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from bench.processes import HOST, Process
from bench.servers import Server
from bench.surroundings import BASE, CHECKOUT, PASSWORD, SERVICE, SERVICE_PASSWORD, names

_LDAP = f"""
[[directory]]
kind = "ldap"
uri = ["ldap://{HOST}:@LDAP@"]
bind_dn = "{SERVICE}"
bind_password = "{SERVICE_PASSWORD}"
base = "ou=people,{BASE}"
filter = "(mail={{user}})"
cache = "@CACHE@"
[[route]]
kind = "attribute"
name = "mailHost"
pool = "main"
"""
_HTTP = f"""
[[directory]]
kind = "http"
uri = ["http://{HOST}:@HTTP@/auth"]
cache = "0s"
[[route]]
kind = "http"
pool = "main"
"""
_PASSWD = """
[[directory]]
kind = "passwd"
file = "passwd"
[[route]]
kind = "hash"
pool = "main"
"""
DIRECTORIES = {
    "http": _HTTP,
    "ldap": _LDAP.replace("@CACHE@", "0s"),
    "cached": _LDAP.replace("@CACHE@", "10m"),
    "passwd": _PASSWD,
}
"""Who is asked at a login, by the second part of a server's name: the auth_http server, which nginx asks too; LDAP, at
every login or remembered; the passwd file of the embedded default."""

LISTENERS = {
    "imap-ec": ("imap", "implicit"),
    "imap-starttls": ("imap", "starttls"),
    "imap-plain": ("imap", "none"),
    "pop3-ec": ("pop3", "implicit"),
    "smtp-ec": ("submission", "implicit"),
}


class Mailgw(Server):
    """C{mailgw-DIRECTORY-WORKERS}, either of which may be empty: the default directory, no workers.

    @ivar overrides: settings to change, as C{twistd mailgw --set} takes them.
    """

    overrides: tuple[str, ...] = ()
    default_directory = "http"

    @property
    def directory(self) -> str:
        """The name of its directory's settings."""
        return [*self.name.split("-"), "", ""][1] or self.default_directory

    @property
    def workers(self) -> str:
        return [*self.name.split("-"), "", ""][2] or "0"

    def prepare(self) -> None:
        self.choose_ports(*LISTENERS)
        self.ports["imap-rsa"] = self.ports["imap-ec"]  # told apart by the name that the client asks for
        if self.directory in ("ldap", "cached"):
            self.around.start_slapd()
        lines = (f"{name}:{{PLAIN}}{PASSWORD}\n" for name in names())
        (self.folder / "passwd").write_text("".join(lines))
        (self.folder / "mailgw.toml").write_text(self._settings())

    def _settings(self) -> str:
        (certificate, key), (rsa_certificate, rsa_key) = self.certificate("ec"), self.certificate("rsa")
        around = self.around
        directory = DIRECTORIES[self.directory].replace("@LDAP@", str(around.ldap)).replace("@HTTP@", str(around.http))
        return f"""\
[gateway]
hostname = "localhost"
state = "state"
transport = "stream"
workers = {self.workers}
drain = "1s"
[tls]
certificate = "{certificate}"
key = "{key}"
[[tls.name]]
names = ["rsa.localhost"]
certificate = "{rsa_certificate}"
key = "{rsa_key}"
{"".join(self._listener(name) for name in LISTENERS)}{directory}
[pool.main]
members = [{{host = "{HOST}", imap = {around.imap}, pop3 = {around.pop3}, smtp = {around.smtp}}}]
[pool.main.imap]
tls = "none"
[pool.main.pop3]
tls = "none"
[pool.main.smtp]
tls = "none"
[limits]
connections_per_address = 1000000
connections_per_user = 1000000
logins_per_address = 100000000
"""

    def _listener(self, name: str) -> str:
        protocol, tls = LISTENERS[name]
        endpoint = f"tcp:{self.ports[name]}:backlog=4096:interface={HOST}"
        return f'[[listener]]\nprotocol = "{protocol}"\nendpoint = "{endpoint}"\ntls = "{tls}"\n'

    def environment(self) -> Mapping[str, str]:
        return {**super().environment(), "PYTHONPATH": str(CHECKOUT)}

    def adjust(self, process: Process) -> None:
        # another user could perhaps not read the checkout or its Python
        process.as_nobody = os.geteuid() != 0

    def commands(self) -> dict[str, tuple[list[str], list[int]]]:
        twistd = Path(self.around.python).parent / "twistd"
        command = [str(twistd), "-n", f"--pidfile={self.folder}/twistd.pid"]
        command += ["mailgw", "--config", str(self.folder / "mailgw.toml")]
        for override in self.overrides:
            command += ["--set", override]
        return {self.name: (command, list(set(self.ports.values())))}
