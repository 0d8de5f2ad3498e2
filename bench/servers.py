"""The servers that are measured: nginx, Dovecot as a proxy and Perdition; mailgw has a file of its own.

Each offers ports by name: C{imap-ec} and C{imap-rsa} (implicit TLS), C{imap-starttls}, C{imap-plain}, C{pop3-ec},
C{smtp-ec} and so on, as far as it can. All have the same certificates and, by OpenSSL's configuration, one cipher.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path

from bench.processes import HOST, Process, ServerFailed, free_port, own, program, run_once, user_and_group
from bench.surroundings import BASE, PASSWORD, Surroundings, names

PACKAGES = {
    "nginx": "nginx-light libnginx-mod-mail",
    "dovecot": "dovecot-imapd dovecot-pop3d",
    "perdition": "perdition perdition-ldap",
}
"""What Debian calls them."""

_MAIL_MODULE = "/usr/lib/nginx/modules/ngx_mail_module.so"

ONE_CIPHER = """\
openssl_conf = all
[all]
ssl_conf = sections
[sections]
system_default = tls
[tls]
Ciphersuites = TLS_AES_128_GCM_SHA256
"""
"""TLS 1.3 with the cipher that clients with AES instructions prefer; left to themselves, servers differ."""


class Server:
    """One server, which may be several processes, started anew as often as one likes.

    @ivar ports: by name, see above.
    @ivar processes: those that run.
    """

    def __init__(self, name: str, around: Surroundings) -> None:
        self.name, self.around = name, around
        self.folder = around.folder / name
        self.group = around.groups.make(name)
        self.ports: dict[str, int] = {}
        self.processes: list[Process] = []
        around.stack.callback(self.stop)

    @property
    def started(self) -> bool:
        """Whether all its processes run."""
        return bool(self.processes) and all(process.running() for process in self.processes)

    def start(self) -> None:
        """Write its settings and start it.

        @raise ServerFailed: it is not installed, or did not start.
        """
        self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir()
        self.prepare()
        own(self.folder)
        for name, (command, ports) in self.commands().items():
            process = Process(name, self.folder, command, self.group)
            process.environment = {**os.environ, **self.environment()}
            self.adjust(process)
            self.processes.append(process)
            process.start(ports)

    def stop(self) -> None:
        """End it."""
        for process in self.processes:
            process.end()
        self.processes = []

    def cost_arguments(self) -> list[str]:
        """@return: what tells the load generator whose cost to measure."""
        if self.group is not None:
            return ["-cg", str(self.group)]
        return ["-pids", ",".join(str(process.pid) for process in self.processes)]

    def installed(self) -> str:
        """@return: the path of its program.

        @raise ServerFailed: it is not installed.
        """
        path = program(self.program())
        if path is None:
            raise ServerFailed(f"not installed: {PACKAGES.get(self.program(), self.program())}")
        return path

    def program(self) -> str:
        """Its program's name."""
        return self.name.partition("-")[0]

    def environment(self) -> Mapping[str, str]:
        """What to add to ours."""
        settings = self.folder / "openssl.cnf"
        settings.write_text(ONE_CIPHER)
        return {"OPENSSL_CONF": str(settings)}

    def adjust(self, process: Process) -> None:
        """Change what is not as usual."""

    def prepare(self) -> None:
        """Write what it reads, and fill C{ports}."""
        raise NotImplementedError

    def commands(self) -> dict[str, tuple[list[str], list[int]]]:
        """@return: by name, what to run in the foreground, and the ports that answer once it is up."""
        raise NotImplementedError

    def certificate(self, kind: str) -> tuple[Path, Path]:
        """@return: certificate and key, of kind C{ec} or C{rsa}."""
        return self.around.folder / f"{kind}.crt", self.around.folder / f"{kind}.key"

    def choose_ports(self, *wanted: str) -> None:
        """Give each of these names a port."""
        self.ports = {name: free_port() for name in wanted}


class Nginx(Server):
    """Two workers, an auth_http question at every login. Ports ending in 64k have C{proxy_buffer 64k}."""

    def prepare(self) -> None:
        self.choose_ports(
            *("imap-ec", "imap-rsa", "imap-starttls", "imap-plain", "imap-ec-64k", "imap-plain-64k"),
            *("pop3-ec", "smtp-ec"),
        )
        (self.folder / "nginx.conf").write_text(f"""\
load_module {_MAIL_MODULE};
worker_processes 2;
worker_rlimit_nofile {self.files()};
pid {self.folder}/nginx.pid;
error_log {self.folder}/nginx.log warn;
daemon off;
events {{ worker_connections {self.files()}; }}
mail {{
  auth_http {HOST}:{self.around.http}/auth;
  server_name localhost;
  imap_capabilities IMAP4rev1 LITERAL+ SASL-IR;
  smtp_capabilities PIPELINING 8BITMIME ENHANCEDSTATUSCODES;
  smtp_auth plain login;
  proxy_smtp_auth on;
  xclient off;
  ssl_protocols TLSv1.2 TLSv1.3;
  ssl_session_cache shared:SSL:10m;
  timeout 1h;
  proxy_timeout 1h;
{"".join(self._server(name) for name in self.ports)}}}
""")

    @staticmethod
    def files() -> int:
        return Process("", Path(), [], None).files

    def installed(self) -> str:
        if not Path(_MAIL_MODULE).exists():
            raise ServerFailed(f"not installed: {PACKAGES['nginx']}")
        return super().installed()

    def _server(self, name: str) -> str:
        protocol, way, *buffer = name.split("-")
        certificate, key = self.certificate("rsa" if way == "rsa" else "ec")
        lines = [f"protocol {protocol};", f"listen {HOST}:{self.ports[name]}{self._ssl(way)} backlog=4096;"]
        if way != "plain":
            lines += [f"ssl_certificate {certificate};", f"ssl_certificate_key {key};"]
        if way == "starttls":
            lines.append("starttls on;")
        if buffer:
            lines.append(f"proxy_buffer {buffer[0]};")
        return f"  server {{ {' '.join(lines)} }}\n"

    @staticmethod
    def _ssl(way: str) -> str:
        return " ssl" if way in ("ec", "rsa") else ""

    def commands(self) -> dict[str, tuple[list[str], list[int]]]:
        settings, log = str(self.folder / "nginx.conf"), str(self.folder / "nginx.log")
        command = [self.installed(), "-p", str(self.folder), "-e", log, "-c", settings]
        return {"nginx": (command, list(self.ports.values()))}


class Dovecot(Server):
    """Dovecot 2.3 as a proxy, in its mode for many connections; two login processes of each protocol."""

    def prepare(self) -> None:
        self.choose_ports("imap-ec", "imap-starttls", "pop3-ec")
        self.ports["imap-rsa"] = self.ports["imap-ec"]  # told apart by the name that the client asks for
        self.ports["imap-plain"] = self.ports["imap-starttls"]
        for service in ("imap", "pop3"):
            port = getattr(self.around, service)
            lines = (f"{name}:{{PLAIN}}{PASSWORD}:::::: proxy=y host={HOST} port={port}\n" for name in names())
            (self.folder / f"passwd-{service}").write_text("".join(lines))
        version = run_once(self.installed(), "--version", folder=self.folder)
        if not version.startswith("2.3"):
            raise ServerFailed(f"not measured: Dovecot {version.split()[0]} reads other settings than 2.3")
        user, group = user_and_group()
        values = {"D": str(self.folder), "USER": user, "GROUP": group, "FILES": str(Nginx.files())}
        values |= {name.upper().replace("-", "_"): str(port) for name, port in self.ports.items()}
        for kind in ("ec", "rsa"):
            certificate, key = self.certificate(kind)
            values |= {f"{kind.upper()}_CRT": str(certificate), f"{kind.upper()}_KEY": str(key)}
        text = _DOVECOT
        for name, value in values.items():
            text = text.replace(f"@{name}@", value)
        (self.folder / "dovecot.conf").write_text(text)

    def commands(self) -> dict[str, tuple[list[str], list[int]]]:
        command = [self.installed(), "-F", "-c", str(self.folder / "dovecot.conf")]
        return {"dovecot": (command, list(set(self.ports.values())))}


_DOVECOT = f"""\
base_dir = @D@/run
state_dir = @D@/state
log_path = @D@/dovecot.log
instance_name = mailgwbench-@IMAP_EC@
protocols = imap pop3
listen = {HOST}
import_environment = OPENSSL_CONF
default_internal_user = @USER@
default_internal_group = @GROUP@
default_login_user = @USER@
ssl = yes
ssl_cert = <@EC_CRT@
ssl_key = <@EC_KEY@
ssl_min_protocol = TLSv1.2
local_name rsa.localhost {{
  ssl_cert = <@RSA_CRT@
  ssl_key = <@RSA_KEY@
}}
disable_plaintext_auth = no
auth_mechanisms = plain login
mail_max_userip_connections = 0
default_vsz_limit = 2G
passdb {{
  driver = passwd-file
  args = username_format=%u @D@/passwd-%s
}}
userdb {{
  driver = static
  args = uid=@USER@ gid=@GROUP@ home=/nonexistent
}}
service imap-login {{
  chroot =
  inet_listener imap {{
    port = @IMAP_STARTTLS@
  }}
  inet_listener imaps {{
    port = @IMAP_EC@
    ssl = yes
  }}
  service_count = 0
  process_min_avail = 2
  process_limit = 2
  client_limit = @FILES@
  vsz_limit = 4G
}}
service pop3-login {{
  chroot =
  inet_listener pop3 {{
    port = 0
  }}
  inet_listener pop3s {{
    port = @POP3_EC@
    ssl = yes
  }}
  service_count = 0
  process_min_avail = 2
  process_limit = 2
  client_limit = @FILES@
  vsz_limit = 4G
}}
service auth {{
  client_limit = @FILES@
}}
service anvil {{
  chroot =
  client_limit = @FILES@
}}
service stats {{
  chroot =
  client_limit = @FILES@
}}
"""


_PERDITIONS = {
    "imap-ec": ("IMAP4S", "ssl_listen"),
    "imap-starttls": ("IMAP4", "tls_listen"),
    "imap-plain": ("IMAP4", ""),
    "pop3-ec": ("POP3S", "ssl_listen"),
}
"""Protocol and TLS mode of each of its processes."""


class Perdition(Server):
    """A process for each listener, which forks for each connection; without a map, or with its LDAP map."""

    def adjust(self, process: Process) -> None:
        process.files = min(process.files, 1024)  # each of its children closes every descriptor there may be
        process.as_nobody = False  # as on port 143: each child gives up root's rights, which is part of its cost

    def prepare(self) -> None:
        if self._map():
            self.around.start_slapd()
        self.choose_ports(*(["imap-ec"] if self._map() else _PERDITIONS))

    def _map(self) -> bool:
        return self.name.endswith("-ldap")

    def commands(self) -> dict[str, tuple[list[str], list[int]]]:
        return {f"{self.name}-{name}": (self._command(name), [port]) for name, port in self.ports.items()}

    def _command(self, name: str) -> list[str]:
        protocol, tls = _PERDITIONS[name]
        user, group = user_and_group()
        certificate, key = self.certificate("ec")
        outgoing = self.around.pop3 if protocol.startswith("POP3") else self.around.imap
        command = [self.installed(), "--no_daemon", "--config_file", "/dev/null", "--pid_file", ""]
        command += ["-b", HOST, "-s", HOST, "-p", str(outgoing), "--server_resp_line", "-u", user, "-g", group]
        # to a file, as mailgw: without a /dev/log syslog(3) would write to the console, which costs more than the login
        command += ["-F", "-", "-L", "0", "-P", protocol, "-l", str(self.ports[name])]
        if tls:
            command += ["--ssl_mode", tls, "--ssl_cert_file", str(certificate), "--ssl_key_file", str(key)]
        return command + (self._map_options() if self._map() else ["--no_lookup"])

    def _map_options(self) -> list[str]:
        libraries = sorted(Path("/usr/lib").glob("*/libperditiondb_ldap.so.0"))
        if not libraries:
            raise ServerFailed("not installed: perdition-ldap")
        where = f"ldap://{HOST}:{self.around.ldap}/ou=people,{BASE}?uid,mailHost?one?(mail=%s)"
        return ["-M", str(libraries[0]), "-m", where]
