"""The default domain of a name without one: by TLS server name, by address, by listener; on real connections."""

from __future__ import annotations

import socket
import ssl

from tests.integration.case import ServersTestCase
from tests.integration.gateway import ROOMY, Gateway, Ports
from tests.integration.ports import free_port

DOMAINS = ("sni", "wild", "address", "listener", "default")


class DefaultDomainTests(ServersTestCase):
    """Every C{anna} has another password, so that a login tells which of them it was."""

    gateway: Gateway
    other: int

    @classmethod
    def start_servers(cls) -> None:
        cls.other, ports = free_port(), Ports()
        settings = f"""
[[listener]]
protocol = "imap"
endpoint = "tcp:{cls.other}:interface=127.0.0.2"
tls = "implicit"
[domains]
accept = ["mx.example"]
[names]
add_domain = "directory"
default_domain = "default.example"
[names.domains]
"mail.sni.example" = "sni.example"
"*.wild.example" = "wild.example"
"127.0.0.2" = "address.example"
"tcp:{ports.pop3s}:interface=127.0.0.1" = "listener.example"
[[directory]]
kind = "passwd"
file = "users"
[[route]]
kind = "local"
[local]
path = "mail/{{domain}}/{{local}}"
"""
        cls.gateway = Gateway(settings + ROOMY, ports)
        (cls.gateway.folder / "users").write_text("".join(f"anna@{one}.example:{{PLAIN}}{one}\n" for one in DOMAINS))
        cls.run_server(cls.gateway)

    def connected(self, port: int, sni: str | None, host: str = "127.0.0.1", starttls: bool = False) -> ssl.SSLSocket:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        plain = socket.create_connection((host, port), 20.0)
        if starttls:
            plain.recv(1000)
            plain.sendall(b"a STARTTLS\r\n")
            plain.recv(1000)
        return context.wrap_socket(plain, server_hostname=sni)

    def who(self, port: int, sni: str | None, host: str = "127.0.0.1", starttls: bool = False) -> list[str]:
        """Whose password is right for C{anna} there."""
        return [one for one in DOMAINS if self.enters(self.connected(port, sni, host, starttls), one)]

    def enters(self, wire: ssl.SSLSocket, password: str) -> bool:
        with wire, wire.makefile("rb") as lines:
            if wire.getpeername()[1] == self.gateway.ports.pop3s:
                wire.sendall(f"USER anna\r\nPASS {password}\r\n".encode())
                return [lines.readline()[:3] for _ in range(3)][-1] == b"+OK"
            wire.sendall(f"b LOGIN anna {password}\r\n".encode())
            return next(line for line in lines if line.startswith(b"b "))[:4] == b"b OK"

    def test_server_name(self) -> None:
        """The name that the client asks for comes first, with implicit TLS and after STARTTLS, in whatever case."""
        ports = self.gateway.ports
        for sni, wanted in (("mail.sni.example", "sni"), ("MAIL.Sni.example", "sni"), ("x.wild.example", "wild")):
            self.assertEqual(self.who(ports.imaps, sni), [wanted], sni)
        self.assertEqual(self.who(ports.imap, "mail.sni.example", starttls=True), ["sni"])
        self.assertEqual(self.who(self.other, "mail.sni.example", "127.0.0.2"), ["sni"])

    def test_address(self) -> None:
        """Then the address that the client connected to."""
        for sni in (None, "unknown.example"):
            self.assertEqual(self.who(self.other, sni, "127.0.0.2"), ["address"], sni)

    def test_listener(self) -> None:
        """Then the listener."""
        self.assertEqual(self.who(self.gateway.ports.pop3s, None), ["listener"])

    def test_default(self) -> None:
        """Then the common default."""
        for sni in (None, "sni.example", "wild.example"):
            self.assertEqual(self.who(self.gateway.ports.imaps, sni), ["default"], sni)
