"""How we come to a backend: a chosen mechanism, an address of ours, and TLS with a name, a pin and a certificate."""

from __future__ import annotations

import base64
from hashlib import sha256

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from tests.integration.case import ServersTestCase
from tests.integration.certificates import certificates
from tests.integration.clients import Imap, Pop3, Smtp, trusting
from tests.integration.dovecot import Dovecot, version
from tests.integration.exim import Exim
from tests.integration.fronted import WideGateway, settings
from tests.integration.ports import needs


class StrictDovecot(Dovecot):
    """A Dovecot that lets in who shows a certificate of our authority, and nobody else."""

    def _configuration(self) -> str:
        ca, new = self.folder / "ca.pem", version() >= (2, 4)
        text = super()._configuration() + "auth_ssl_require_client_cert = yes\n"
        if new:
            return (
                text + f"ssl_server_ca_file = {ca}\nssl_server_request_client_cert = yes\nssl_server_require_crl = no\n"
            )
        return text + f"ssl_ca = <{ca}\nssl_verify_client_cert = yes\nssl_require_crl = no\n"


def pin() -> str:
    """Of the key that every server of ours has."""
    key = x509.load_pem_x509_certificate(certificates().certificate.read_bytes()).public_key()
    told = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return "sha256/" + base64.b64encode(sha256(told).digest()).decode()


class BackendLoginTests(ServersTestCase):
    """A strict Dovecot and an Exim behind."""

    skip = needs("dovecot", "exim4")
    dovecot: StrictDovecot
    exim: Exim

    @classmethod
    def start_servers(cls) -> None:
        cls.dovecot = cls.run_server(StrictDovecot({"anna": b"annapw"}))
        cls.exim = cls.run_server(Exim({}))

    def gateway(self, pool: str, certificate: bool = True) -> WideGateway:
        """A gateway with those keys in its pool."""
        made = certificates()
        own = f'certificate = "{made.certificate}"\nkey = "{made.key}"\n' if certificate else ""
        services = (
            f"[pool.main.imap]\nport = {self.dovecot.imap}\n[pool.main.pop3]\nport = {self.dovecot.pop3}\n"
            f"[pool.main.smtp]\nport = {self.exim.smtp}\n"
        )
        gateway = WideGateway(settings(self.dovecot, own + pool + services))
        self.addCleanup(gateway.stop)
        gateway.start()
        return gateway

    def imap(self, gateway: WideGateway, source: str) -> str:
        """Log in; what was said."""
        client = Imap(gateway.ports.imaps, "implicit", trusting(certificates().ca), source)
        try:
            return client.login("anna", "annapw")[0]
        except client.error as error:
            return str(error)
        finally:
            client.logout()

    def test_certificate(self) -> None:
        """With a certificate of ours we are let in, without one we are not."""
        self.assertEqual(self.imap(self.gateway(""), "127.0.4.1"), "OK")
        gateway = self.gateway("", certificate=False)
        self.assertRegex(self.imap(gateway, "127.0.4.2"), "UNAVAILABLE|AUTHENTICATIONFAILED")

    def test_mechanism(self) -> None:
        """Dovecot's log tells how we have logged in."""
        gateway = self.gateway('mechanism = "login"\n')
        self.assertEqual(self.imap(gateway, "127.0.4.3"), "OK")
        self.dovecot.wait_for_log("method=LOGIN, rip=127.0.4.3, ")
        client = Pop3(gateway.ports.pop3s, "implicit", trusting(certificates().ca), "127.0.4.4")
        client.login("anna", b"annapw")
        self.dovecot.wait_for_log("method=LOGIN, rip=127.0.4.4, ")
        client.quit()
        gateway.stop()
        self.assertEqual(self.imap(self.gateway('mechanism = "command"\n'), "127.0.4.5"), "OK")
        self.dovecot.wait_for_log("rip=127.0.4.5, ")

    def test_pin(self) -> None:
        """The right key is taken, alone or with its authority; a wrong one is not, and the log says so."""
        for pool in (f'pin = "{pin()}"\n', f'pin = ["{pin()}"]\nverify = false\n', 'tls_name = "127.0.0.1"\n'):
            gateway = self.gateway(pool)
            self.assertEqual(self.imap(gateway, "127.0.4.6"), "OK", pool)
            gateway.stop()
        wrong = "sha256/" + "A" * 43 + "="
        for pool, words in (
            (f'pin = "{wrong}"\n', "none of those that are pinned"),
            ('tls_name = "x.example"\n', "name"),
        ):
            gateway = self.gateway(pool)
            self.assertIn("UNAVAILABLE", self.imap(gateway, "127.0.4.7"))
            gateway.wait_for_log(words)
            gateway.stop()

    def test_source(self) -> None:
        """Exim sees the addresses of ours, in turn."""
        gateway = self.gateway('source = ["127.0.0.5", "127.0.0.6"]\nhealth = "0s"\n')
        for number in range(2):
            client = Smtp(gateway.ports.mx, "starttls", trusting(certificates().ca))
            client.sendmail("a@example.net", ["anna@example.org"], f"Subject: source {number}\r\n\r\nx\r\n".encode())
            client.quit()
        seen = [
            self.exim.wait_for_mail("anna@example.org", f"Subject: source {number}".encode()) for number in range(2)
        ]
        self.assertEqual([b"[127.0.0.5]" in seen[0], b"[127.0.0.6]" in seen[1]], [True, True], seen)
