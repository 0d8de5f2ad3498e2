"""ManageSieve through the gateway: STARTTLS, a login, and scripts on a real Dovecot."""

from __future__ import annotations

import os
import re
import subprocess
import time

from tests.integration.case import ServersTestCase
from tests.integration.certificates import certificates
from tests.integration.clients import trusting
from tests.integration.dovecot import MASTER, MASTER_PASSWORD
from tests.integration.gateway import ROOMY, Gateway
from tests.integration.ports import needs, program
from tests.integration.sieve import Sieve, SieveDovecot, SievePorts

ANNA, PASSWORD = "anna@example.org", b'an"na\\pw'
LONG = "long@example.org"
LONG_PASSWORD = b"l" * 1000
SCRIPT = b'require ["fileinto"];\r\nif header :contains "subject" "a" {\r\n  fileinto "A";\r\n}\r\n' + b"# x\r\n" * 5000


class SieveTestCase(ServersTestCase):
    """Tests that share a Dovecot with scripts, and a gateway in front of it."""

    skip = needs("dovecot", "/usr/lib/dovecot/managesieve")
    dovecot: SieveDovecot
    gateway: Gateway
    ports: SievePorts
    login, tls = "own", "starttls"

    @classmethod
    def start_servers(cls) -> None:
        cls.dovecot = cls.run_server(SieveDovecot({ANNA: PASSWORD, LONG: LONG_PASSWORD}))
        cls.ports = SievePorts()
        cls.gateway = Gateway(ROOMY, cls.ports)
        people = cls.gateway.folder / "passwd"
        people.write_text(f"{ANNA}:{{PLAIN}}{PASSWORD.decode()}\n{LONG}:{{PLAIN}}{LONG_PASSWORD.decode()}\n")
        cls.gateway.write(cls.settings() + ROOMY)
        cls.run_server(cls.gateway)

    @classmethod
    def settings(cls) -> str:
        """All but the listeners."""
        return f"""
[[directory]]
kind = "passwd"
file = "passwd"
[[route]]
kind = "pool"
pool = "main"
[pool.main]
members = [{{host = "localhost", managesieve = {cls.dovecot.sieve}}}]
ca = "{certificates().ca}"
login = "{cls.login}"
master_user = "{MASTER}"
master_password = "{MASTER_PASSWORD}"
[pool.main.managesieve]
tls = "{cls.tls}"
[domains]
accept = ["example.org"]
"""

    def client(self, port: int = 0, source: str = "127.0.0.1") -> Sieve:
        """A client inside TLS."""
        client = Sieve(port or self.ports.sieve, trusting(certificates().ca), source)
        self.addCleanup(client.__exit__)
        return client

    def use_scripts(self, client: Sieve) -> None:
        """Put a script, list it, read it, make it the active one, and take all that back."""
        self.assertTrue(client.put(b"one", SCRIPT).startswith(b"OK"))
        self.assertEqual(client.ask(b"LISTSCRIPTS")[:-1], [b'"one"'])
        self.assertEqual(client.ask(b'SETACTIVE "one"')[-1][:2], b"OK")
        self.assertEqual(client.ask(b"LISTSCRIPTS")[:-1], [b'"one" ACTIVE'])
        self.assertEqual(client.ask(b'GETSCRIPT "one"')[0], b"{%d}\r\n%b" % (len(SCRIPT), SCRIPT))
        self.assertTrue((self.dovecot.folder / "mail" / ANNA / "sieve" / "one.sieve").exists())
        self.assertEqual(client.ask(b'SETACTIVE ""')[-1][:2], b"OK")
        self.assertEqual(client.ask(b'DELETESCRIPT "one"')[-1][:2], b"OK")
        self.assertEqual(client.ask(b"LOGOUT")[-1][:2], b"OK")
        self.assertEqual(client.rest(), b"")


class OwnPasswordTests(SieveTestCase):
    """The user's own password, towards a backend with STARTTLS."""

    def test_scripts(self) -> None:
        """Scripts are put, listed, activated, read and deleted."""
        client = self.client()
        self.assertEqual(client.login(ANNA, PASSWORD), b'OK "Logged in."')
        self.use_scripts(client)

    def test_capabilities(self) -> None:
        """No mechanism before TLS; mechanisms unasked inside it; after the login the backend's own words."""
        bare = Sieve(self.ports.sieve)
        self.assertIn(b'"SASL" ""', bare.told)
        self.assertIn(b'"STARTTLS"', bare.told)
        client = self.client()
        self.assertIn(b'"SASL" "PLAIN LOGIN"', client.told)
        self.assertNotIn(b'"STARTTLS"', client.told)
        ours = next(line for line in client.told if line.startswith(b'"SIEVE"')).split(b'"')[3].split()
        client.login(ANNA, PASSWORD)
        theirs = next(line for line in client.ask(b"CAPABILITY") if line.startswith(b'"SIEVE"')).split(b'"')[3].split()
        self.assertEqual(set(ours) - set(theirs), set(), "promised before the login, and not kept")

    def test_pipelined(self) -> None:
        """A command right behind the login reaches the backend."""
        client = self.client()
        client.send(b'AUTHENTICATE "LOGIN" "YW5uYUBleGFtcGxlLm9yZw=="\r\n')
        self.assertEqual(client.line(), b'"UGFzc3dvcmQ6"')
        client.send(b'"YW4ibmFccHc="\r\nNOOP "behind"\r\n')
        self.assertEqual(client.response(), [b'OK "Logged in."'])
        self.assertIn(b"behind", client.response()[-1])

    def test_long_password(self) -> None:
        """P20: a password whose response is no quoted string any more arrives whole."""
        client = self.client()
        self.assertEqual(client.login(LONG, LONG_PASSWORD)[:2], b"OK")

    def test_wrong_password(self) -> None:
        """A wrong password is told as such, and the connection goes on."""
        client = self.client()
        self.assertEqual(client.login(ANNA, b"wrong"), b'NO "Wrong user name or password"')
        self.assertEqual(client.login("nobody@example.org", b"x"), b'NO "Wrong user name or password"')
        self.assertEqual(client.login(ANNA, PASSWORD)[:2], b"OK")

    def test_before_tls(self) -> None:
        """A login in clear is refused where TLS is required, and taken where it is not."""
        refused = b'NO (ENCRYPT-NEEDED) "Use STARTTLS before you log in"'
        self.assertEqual(Sieve(self.ports.sieve).login(ANNA, PASSWORD), refused)
        self.assertEqual(Sieve(self.ports.optional).login(ANNA, PASSWORD)[:2], b"OK")

    def test_injection(self) -> None:
        """What is glued to STARTTLS in clear ends the session, with no answer in TLS."""
        client = Sieve(self.ports.sieve)
        client.send(b'STARTTLS\r\nNOOP "injected"\r\n')
        self.assertEqual(client.rest(), b"")

    def test_backend_down(self) -> None:
        """A backend that is not there is temporary trouble, told at once, and over when it is back."""
        self.dovecot.end()
        try:
            client, begun = self.client(), time.monotonic()
            reply = client.login(ANNA, PASSWORD)
            self.assertEqual(reply, b'NO (TRYLATER) "Temporary trouble, try again later"')
            self.assertLess(time.monotonic() - begun, 5.0)
        finally:
            self.dovecot.start()
        self.assertEqual(client.login(ANNA, PASSWORD)[:2], b"OK")

    def test_the_log_of_the_backend(self) -> None:
        """Dovecot logs the client's own address and our session id."""
        client = self.client(source="127.0.0.41")
        self.assertEqual(client.login(ANNA, PASSWORD)[:2], b"OK")
        client.ask(b"LOGOUT")
        client.__exit__()
        self.dovecot.wait_for_log("rip=127.0.0.41")
        line = re.search(r"managesieve-login: .*rip=127\.0\.0\.41,.*session=<([^>]+)>", self.dovecot.log())
        self.assertIsNotNone(line, self.dovecot.log()[-2000:])
        assert line is not None
        self.gateway.wait_for_log(line[1])


class MasterTests(SieveTestCase):
    """Dovecot's master user, towards a backend without TLS."""

    login, tls = "master", "none"

    def test_scripts(self) -> None:
        """The scripts are the user's."""
        client = self.client()
        self.assertEqual(client.login(ANNA, PASSWORD)[:2], b"OK")
        self.use_scripts(client)


class AuthzidTests(SieveTestCase):
    """A master user with a SASL authorization identity."""

    login = "authzid"

    def test_scripts(self) -> None:
        """The scripts are the user's."""
        client = self.client()
        self.assertEqual(client.login(ANNA, PASSWORD)[:2], b"OK")
        self.use_scripts(client)


class SieveConnectTests(SieveTestCase):
    """A client that we did not write."""

    skip = needs("dovecot", "/usr/lib/dovecot/managesieve", "sieve-connect")

    def run_client(self, *arguments: str, password: bytes = PASSWORD) -> subprocess.CompletedProcess[bytes]:
        """Run sieve-connect inside verified TLS."""
        reader, writer = os.pipe()
        os.write(writer, password + b"\n")
        os.close(writer)
        command = [program("sieve-connect") or "", "--server", "localhost", "--port", str(self.ports.sieve), "--4"]
        command += ["--user", ANNA, "--passwordfd", str(reader), "--tlscafile", str(certificates().ca), "--nosrv"]
        try:
            return subprocess.run(
                [*command, *arguments], stdin=subprocess.DEVNULL, capture_output=True, timeout=60.0, pass_fds=[reader]
            )
        finally:
            os.close(reader)

    def test_upload_and_list(self) -> None:
        """It uploads a script, lists it and reads it."""
        local = self.gateway.folder / "mine.sieve"
        local.write_bytes(b"keep;\n")
        done = self.run_client("--upload", "--localsieve", str(local), "--remotesieve", "mine")
        self.assertEqual(done.returncode, 0, done.stderr)
        listed = self.run_client("--list")
        self.assertIn(b'"mine"', listed.stdout, listed.stderr)
        back = self.gateway.folder / "back.sieve"
        done = self.run_client("--download", "--localsieve", str(back), "--remotesieve", "mine")
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertEqual(back.read_bytes().split(), [b"keep;"])

    def test_wrong_password(self) -> None:
        """It says that a wrong password is one."""
        done = self.run_client("--list", password=b"wrong")
        self.assertNotEqual(done.returncode, 0)
        self.assertIn(b"Wrong user name or password", done.stdout + done.stderr)
