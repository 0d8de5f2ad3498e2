"""HAProxy for tests, which writes PROXY headers, and a Dovecot that reads them.

Neither checks anything: what they have written and read is the tests' business.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tests.integration.certificates import certificates
from tests.integration.daemon import Daemon
from tests.integration.dovecot import Dovecot
from tests.integration.exim import Exim
from tests.integration.ports import HOST, free_port, program


class HaproxyDovecot(Dovecot):
    """A Dovecot that wants a PROXY header on ports of its own.

    @ivar behind: that of IMAP with STARTTLS; C{behind_tls}: with implicit TLS; C{behind_pop3}: POP3 with STLS.
    """

    def __init__(self, users: Mapping[str, bytes]) -> None:
        self.behind, self.behind_tls, self.behind_pop3 = (free_port() for _ in range(3))
        super().__init__(users)

    def _configuration(self) -> str:
        text = super()._configuration() + "haproxy_trusted_networks = 127.0.0.0/8\n"
        for service, port, tls in (
            ("imap", self.behind, "no"),
            ("imap", self.behind_tls, "yes"),
            ("pop3", self.behind_pop3, "no"),
        ):
            listener = f"inet_listener p{port} {{\n port = {port}\n haproxy = yes\n ssl = {tls}\n}}"
            text += f"service {service}-login {{\n{listener}\n}}\n"
        return text


class ProxyExim(Exim):
    """An Exim that wants a PROXY header on the port with STARTTLS."""

    def _configuration(self) -> str:
        return f"hosts_proxy = ${{if eq{{$received_port}}{{{self.smtp}}}{{{HOST}}}}}\n" + super()._configuration()

    def listening(self) -> Sequence[int]:
        return (self.smtps,)


class Haproxy(Daemon):
    """A HAProxy that sends its headers to one port.

    @ivar one, two, secure: ports: version 1; version 2 with extensions; the same behind TLS with the client.
    """

    name = "haproxy"

    def __init__(self, behind: int) -> None:
        super().__init__()
        self.one, self.two, self.secure = (free_port() for _ in range(3))
        made = certificates()
        (self.folder / "both.pem").write_bytes(made.certificate.read_bytes() + made.key.read_bytes())
        extensions = "send-proxy-v2 proxy-v2-options ssl,unique-id,authority,crc32c"
        text = "defaults\n mode tcp\n timeout connect 5s\n timeout client 30s\n timeout server 30s\n"
        for port, bind, send in (
            (self.one, "", "send-proxy"),
            (self.two, "", extensions),
            (self.secure, f"ssl crt {self.folder}/both.pem", extensions),
        ):
            text += f"listen l{port}\n bind {HOST}:{port} {bind}\n unique-id-format id-%cp\n"
            text += f" server s {HOST}:{behind} {send}\n"
        (self.folder / "haproxy.cfg").write_text(text)

    def command(self) -> Sequence[str]:
        return [program("haproxy") or "haproxy", "-db", "-f", str(self.folder / "haproxy.cfg")]

    def listening(self) -> Sequence[int]:
        return self.one, self.two, self.secure
