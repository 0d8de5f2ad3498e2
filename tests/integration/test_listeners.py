"""Where a listener may listen, and each of its TLS modes, against the real gateway."""

from __future__ import annotations

import socket
import ssl
import sys
from collections.abc import Sequence

from tests.integration.case import ServersTestCase
from tests.integration.certificates import certificates
from tests.integration.clients import trusting
from tests.integration.gateway import TWISTD, Gateway
from tests.integration.ports import free_port, needs

MODES = ("starttls", "optional", "implicit", "none")
# The socket comes as descriptor 3, as from systemd; LISTEN_PID has to be the process that twistd runs in.
_ACTIVATED = f"""
import os, socket, sys
server = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
server.bind(("127.0.0.1", int(sys.argv.pop(1))))
server.listen()
if server.fileno() != 3:
    os.dup2(server.fileno(), 3)
os.set_inheritable(3, True)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS="1", LISTEN_FDNAMES="imap")
{TWISTD}
"""


class Everywhere(Gateway):
    """A gateway on every kind of endpoint, and on one port for each TLS mode of IMAP, POP3 and submission."""

    def __init__(self) -> None:
        self.activated, self.ipv6 = free_port(), free_port()
        self.modes = {(name, mode): free_port() for name in ("imap", "pop3", "submission") for mode in MODES}
        super().__init__()
        (self.folder / "passwd").write_text("anna@gateway.example:{PLAIN}secret\n")

    def write(self, settings: str) -> None:
        super().write(settings)
        endpoints = {
            "systemd:domain=INET:name=imap": "none",
            f"unix:{self.folder}/imap.sock": "none",
            f"tcp:{self.ipv6}:interface=\\:\\:1": "implicit",
        }
        listeners = [("imap", endpoint, tls) for endpoint, tls in endpoints.items()]
        listeners += [(name, f"tcp:{port}:interface=127.0.0.1", mode) for (name, mode), port in self.modes.items()]
        with self.settings.open("a") as file:
            for protocol, endpoint, tls in listeners:
                file.write(f"[[listener]]\nprotocol = '{protocol}'\nendpoint = '{endpoint}'\ntls = '{tls}'\n")
            file.write("[[directory]]\nkind = 'passwd'\nfile = 'passwd'\n[[route]]\nkind = 'local'\n")
            file.write("[local]\npath = 'mail/{domain}/{local}'\n[domains]\naccept = ['gateway.example']\n")

    def listening(self) -> Sequence[int]:
        return [*super().listening(), *self.modes.values()]

    def command(self) -> Sequence[str]:
        twistd = super().command()
        return [sys.executable, "-c", _ACTIVATED, str(self.activated), *twistd[3:]]


class ListenerTests(ServersTestCase):
    skip = needs("openssl")
    gateway: Everywhere
    context: ssl.SSLContext

    @classmethod
    def start_servers(cls) -> None:
        cls.gateway = cls.run_server(Everywhere())
        cls.context = trusting(certificates().ca)

    def tearDown(self) -> None:
        self.gateway.check_log()
        super().tearDown()

    def talk(self, connection: socket.socket, *lines: bytes) -> list[bytes]:
        """The greeting, and the last line of the answer to each line."""
        self.addCleanup(connection.close)
        connection.settimeout(10.0)
        file = connection.makefile("rwb")
        self.addCleanup(file.close)
        said = [file.readline()]
        for line in lines:
            file.write(line + b"\r\n")
            file.flush()
            said.append(file.readline())
            while said[-1][:2] == b"* " or said[-1][3:4] == b"-":
                said[-1] = file.readline()
        return said

    def tcp(self, port: int, host: str = "127.0.0.1", tls: bool = False) -> socket.socket:
        plain = socket.create_connection((host, port), 10.0)
        return self.context.wrap_socket(plain, server_hostname="localhost") if tls else plain

    def test_unix(self) -> None:
        """A UNIX socket."""
        connection = socket.socket(socket.AF_UNIX)
        connection.connect(str(self.gateway.folder / "imap.sock"))
        said = self.talk(connection, b"a LOGIN anna@gateway.example secret")
        self.assertTrue(said[0].startswith(b"* OK ") and said[1].startswith(b"a OK "), said)

    def test_systemd(self) -> None:
        """A socket that systemd has opened."""
        said = self.talk(self.tcp(self.gateway.activated), b"a LOGIN anna@gateway.example secret")
        self.assertTrue(said[0].startswith(b"* OK ") and said[1].startswith(b"a OK "), said)

    def test_ipv6(self) -> None:
        """IPv6, where the machine has it."""
        try:
            connection = self.tcp(self.gateway.ipv6, "::1", tls=True)
        except OSError:
            self.assertIn("this machine has no IPv6", self.gateway.log())
            return
        said = self.talk(connection, b"a LOGIN anna@gateway.example secret")
        self.assertTrue(said[1].startswith(b"a OK "), said)

    def test_login_in_clear(self) -> None:
        """A password in clear is taken on optional and none only."""
        commands = {
            "imap": (b"a LOGIN anna@gateway.example secret",),
            "pop3": (b"USER anna@gateway.example", b"PASS secret"),
            "submission": (b"EHLO x.example", b"AUTH PLAIN AGFubmFAZ2F0ZXdheS5leGFtcGxlAHNlY3JldA=="),
        }
        good = {"imap": b"a OK ", "pop3": b"+OK ", "submission": b"235 "}
        bad = {"imap": b"a NO [PRIVACYREQUIRED]", "pop3": b"-ERR [AUTH]", "submission": b"530 5.7.0"}
        for (name, mode), port in self.gateway.modes.items():
            said = self.talk(self.tcp(port, tls=mode == "implicit"), *commands[name])
            wanted = bad[name] if mode == "starttls" else good[name]
            self.assertTrue(said[-1].startswith(wanted), (name, mode, said))

    def test_starttls(self) -> None:
        """STARTTLS is taken on starttls and optional only."""
        commands = {"imap": (b"a STARTTLS",), "pop3": (b"STLS",), "submission": (b"EHLO x.example", b"STARTTLS")}
        good = {"imap": b"a OK ", "pop3": b"+OK ", "submission": b"220 "}
        bad = {"imap": b"a BAD ", "pop3": b"-ERR ", "submission": b"50"}
        for (name, mode), port in self.gateway.modes.items():
            said = self.talk(self.tcp(port, tls=mode == "implicit"), *commands[name])
            wanted = good[name] if mode in ("starttls", "optional") else bad[name]
            self.assertTrue(said[-1].startswith(wanted), (name, mode, said))
