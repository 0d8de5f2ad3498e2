"""Debian's Perdition, and the gateway made of its files: the same users reach the same backends.

Both are asked one after the other, on the same port: the settings are used as C{mailgw import} writes them.
"""

from __future__ import annotations

import imaplib
import poplib
import ssl
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from tests.importing.test_nginx import TYPICAL
from tests.integration.case import ServersTestCase
from tests.integration.certificates import certificates
from tests.integration.dovecot import Dovecot
from tests.integration.gateway import Gateway
from tests.integration.perdition import Perdition, map_library
from tests.integration.ports import HOST, needs, program

PASSWORD = "correct horse"
USERS = ("anna", "ben", "carla", "anna@example.org", "ben@labs.example.org", "zoe")
NOBODY = "nobody"


class Imported(Gateway):
    """A gateway with the settings that an import wrote, as they are."""

    def __init__(self, perdition: Perdition, maps: Sequence[str], users: Sequence[str]) -> None:
        self._port = perdition.port
        self._perdition = perdition
        self._maps = maps
        super().__init__()
        accounts = "".join(f"{user}:{{PLAIN}}{PASSWORD}\n" for user in users)
        (self.folder / "users.passwd").write_text(accounts)

    def write(self, settings: str) -> None:
        maps = [str(self._perdition.folder / name) for name in self._maps]
        made = self.run("import", str(self._perdition.configuration), *maps, "-o", str(self.settings))
        assert made.returncode == 0, made.stderr
        checked = self.run("check")
        assert checked.returncode == 0, checked.stdout + checked.stderr + self.settings.read_bytes()

    def command(self) -> Sequence[str]:
        return [*super().command(), "--set", f"gateway.state={self.folder}/state"]

    def listening(self) -> Sequence[int]:
        return [self._port]


class RoundTripTests(ServersTestCase):
    """Two Dovecots that both have all users; each mailbox has a folder that tells which one it is."""

    skip = needs("dovecot", "perdition", "makegdbm")
    first: Dovecot
    second: Dovecot

    @classmethod
    def start_servers(cls) -> None:
        for name in ("first", "second"):
            server = Dovecot(dict.fromkeys(USERS, PASSWORD.encode()))
            for user in USERS:
                for part in ("cur", "new", "tmp"):
                    (server.mailbox(user) / f".{name}" / part).mkdir(parents=True)
            setattr(cls, name, cls.run_server(server))

    def places(self, port: int, secure: bool = False) -> dict[str, str]:
        """The backend of each user behind a port, C{NOBODY} where the login fails."""
        return {user: self.place(port, user, secure) for user in USERS}

    def place(self, port: int, user: str, secure: bool) -> str:
        client = imaplib.IMAP4(HOST, port, 20.0)
        try:
            if secure:
                client.starttls(ssl.create_default_context(cafile=str(certificates().ca)))
            client.login(user, PASSWORD)
            names = [line.split()[-1].decode() for line in client.list()[1] if isinstance(line, bytes)]
            client.logout()
        except imaplib.IMAP4.error:
            client.shutdown()
            return NOBODY
        (found,) = set(names) & {"first", "second"}
        return found

    def both(self, options: str, popmap: str = "", expressions: str = "", secure: bool = False) -> dict[str, str]:
        """Ask Perdition, then the gateway made of its files; they have to agree."""
        values = {"1": str(self.first.imap), "2": str(self.second.imap)}
        for name, value in values.items():
            options, popmap, expressions = (
                text.replace(f"@{name}@", f"{HOST}:{value}") for text in (options, popmap, expressions)
            )
        perdition = Perdition(f"protocol IMAP4\nmap_library_opt @D@/popmap.gdbm.db\n{options}", popmap, expressions)
        maps = [name for name, text in (("popmap", popmap), ("popmap.re", expressions)) if text]
        try:
            perdition.start()
            before = self.places(perdition.port, secure)
            perdition.end()
            gateway = Imported(perdition, maps, USERS)
            try:
                gateway.start()
                after = self.places(perdition.port, secure)
            finally:
                gateway.stop()
        finally:
            perdition.stop()
        self.assertEqual(after, before)
        return before

    def test_map(self) -> None:
        """A map of names; whoever is not in it goes nowhere."""
        popmap = "anna:@1@\nben:@2@\nanna@example.org:@2@\nben@labs.example.org:somebody@@1@\n"
        found = self.both("", popmap)
        wanted = {"anna": "first", "ben": "second", "anna@example.org": "second", "ben@labs.example.org": "first"}
        self.assertEqual(found, dict.fromkeys(USERS, NOBODY) | wanted)

    def test_map_and_default(self) -> None:
        """A map of names and a server for all others."""
        found = self.both("outgoing_server @2@\n", "anna:@1@\nben@labs.example.org:@1@\n")
        wanted = {"anna": "first", "ben@labs.example.org": "first"}
        self.assertEqual(found, dict.fromkeys(USERS, "second") | wanted)

    def test_expressions(self) -> None:
        """A map of regular expressions, the first that matches wins; then the server for all others."""
        options = map_library("posix_regex").replace("\n", "\nmap_library_opt @D@/popmap.re\noutgoing_server @1@\n")
        expressions = "# departments\n^[a-k][[:alpha:]]*$: @1@\n^.*@labs.example.org$: @2@\n^a.*@: @2@\n"
        found = self.both(options, expressions=expressions)
        wanted = {"anna@example.org": "second", "ben@labs.example.org": "second"}
        self.assertEqual(found, dict.fromkeys(USERS, "first") | wanted)

    def test_pure_proxy(self) -> None:
        """No map at all."""
        self.assertEqual(self.both('map_library ""\noutgoing_server @2@\n'), dict.fromkeys(USERS, "second"))

    def test_tls(self) -> None:
        """STARTTLS before the login, and STARTTLS to the backends, whose certificates are checked.

        Perdition does not know the addresses in a certificate.
        """
        options = "ssl_mode tls_all_force\nssl_ca_file @D@/ca.pem\nssl_no_cn_verify\noutgoing_server @1@\n"
        found = self.both(options, "ben:@2@\n", secure=True)
        self.assertEqual(found, dict.fromkeys(USERS, "first") | {"ben": "second"})


class PopTests(ServersTestCase):
    """The other protocol."""

    skip = needs("dovecot", "perdition", "makegdbm")
    dovecot: Dovecot

    @classmethod
    def start_servers(cls) -> None:
        cls.dovecot = cls.run_server(Dovecot(dict.fromkeys(USERS, PASSWORD.encode())))

    def test_pop3(self) -> None:
        """POP3, with the backends' port where Perdition has it: in outgoing_port."""
        options = f"protocol POP3\noutgoing_port {self.dovecot.pop3}\nmap_library_opt @D@/popmap.gdbm.db\n"
        perdition = Perdition(options, f"anna:{HOST}\nben:{HOST}:1\n")
        gateway = Imported(perdition, ["popmap"], USERS)
        try:
            for server in (perdition, gateway):
                server.start()
                self.assertEqual([self.enters(perdition.port, user) for user in ("anna", "ben")], [True, False])
                server.end()
        finally:
            gateway.stop()
            perdition.stop()

    def enters(self, port: int, user: str) -> bool:
        client = poplib.POP3(HOST, port, 20.0)
        try:
            client.user(user)
            client.pass_(PASSWORD)
            client.quit()
        except poplib.error_proto:
            client.close()
            return False
        return True


class NginxTests(SynchronousTestCase):
    """What the unit tests take for nginx's language."""

    skip = needs("nginx")

    def test_typical(self) -> None:
        """nginx finds nothing wrong with the file that the tests of the import begin with."""
        with tempfile.TemporaryDirectory(prefix="mailgw-nginx-") as name:
            folder = Path(name)
            for file, other in (("certificate", "crt"), ("key", "key")):
                content = getattr(certificates(), file).read_bytes()
                (folder / f"mail.example.com.{other}").write_bytes(content)
            (folder / "modules-enabled").symlink_to("/etc/nginx/modules-enabled")
            (folder / "modules").symlink_to("/usr/share/nginx/modules")
            (folder / "http.conf").write_text("access_log off;\n")
            (folder / "nginx.conf").write_text(f"pid {folder}/pid;\nerror_log {folder}/log;\n{TYPICAL}")
            command = [program("nginx") or "nginx", "-t", "-p", name, "-c", str(folder / "nginx.conf")]
            tried = subprocess.run(command, capture_output=True, timeout=20.0)
            self.assertEqual(tried.returncode, 0, tried.stderr)
