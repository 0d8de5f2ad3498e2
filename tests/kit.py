"""The whole gateway in memory: real bytes of a client come in, real bytes go to a backend, and no port is opened.

Everything is the real one but the network (L{tests.network}) and the directory, which knows two users. The client and
the backend are played by the test, with the words that L{Talk} has for each protocol. Whose transports there are says
the network, not the settings.
"""

from __future__ import annotations

import base64
import hashlib
import shutil
import ssl
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

from mailgw import gateway
from mailgw.config.file import load
from mailgw.edge.selfsigned import write_pair
from mailgw.errors import DirectoryDown, LoginRefused
from mailgw.model import Envelope, Identity, Login, RefusalKind
from mailgw.settings import Settings, Table
from tests.network import Far, NetworkTestCase

PASSWORD = b"opens5esame"
_USERS = {
    # digests: the only place where a password could stand are then the objects of a login
    "anna@example.com": hashlib.sha256(PASSWORD).digest(),
    "ben@example.com": hashlib.sha256(b"bens").digest(),
}
SETTINGS = """
[gateway]
hostname = "gw.example"
state = "state"
drain = "10s"
transport = "twisted"
[tls]
certificate = "localhost.crt"
key = "localhost.key"
[[listener]]
protocol = "imap"
endpoint = "tcp:143"
[[listener]]
protocol = "imap"
endpoint = "tcp:993"
tls = "implicit"
[[listener]]
protocol = "imap"
endpoint = "tcp:1143"
tls = "none"
[[listener]]
protocol = "pop3"
endpoint = "tcp:1110"
tls = "none"
[[listener]]
protocol = "managesieve"
endpoint = "tcp:4190"
tls = "none"
[[directory]]
kind = "tests.kit:People"
[[route]]
kind = "pool"
pool = "main"
[limits]
logins_per_address = 100000
%(limits)s
[pool.main]
health = "0s"
members = [%(members)s]
ca = "localhost.crt"
%(pool)s
[pool.main.imap]
tls = "%(tls)s"
[pool.main.pop3]
tls = "%(tls)s"
[pool.main.managesieve]
tls = "%(tls)s"
"""


class People:
    """A directory of two users, with or without their domain; who asks it for C{down}, or too late, has trouble."""

    class Options(Table):
        """Nothing to say."""

    started = stopped = 0

    def __init__(self, name: str) -> None:
        self.name = name

    @classmethod
    def from_options(cls, name: str, options: Any, house: Any) -> People:
        """As any plug is made."""
        return cls(name)

    async def authenticate(self, login: Login) -> Identity | None:
        identity = await self.lookup(login.username)
        if identity and hashlib.sha256(login.password).digest() != _USERS[identity.username]:
            raise LoginRefused(RefusalKind.CREDENTIALS, "wrong password")
        return identity

    async def lookup(self, address: str, envelope: Envelope | None = None) -> Identity | None:
        if address == "down" or self.stopped:
            raise DirectoryDown("it is down")
        username = address if "@" in address else f"{address}@example.com"
        return Identity(username, self.name) if username in _USERS else None

    def start(self) -> None:
        self.started += 1

    async def stop(self) -> None:
        self.stopped += 1


def _b64(*words: bytes) -> bytes:
    return base64.b64encode(b"\0".join(words))


@dataclass(frozen=True)
class Talk:
    """What is said in one protocol.

    @ivar login: the client's; C{rest}: what it may pipeline behind that; C{welcome}: what it is answered.
    @ivar greeting: the backend's; C{prelude}: what it is asked before the login, and its answers.
    @ivar presented: how the login reaches the backend; C{good}, C{bad}: its answers.
    """

    port: int
    login: bytes
    welcome: bytes
    refused: bytes
    unavailable: bytes
    rest: bytes
    greeting: bytes
    prelude: tuple[tuple[bytes, bytes], ...]
    presented: bytes
    good: bytes
    bad: bytes
    bye: bytes

    def login_as(self, name: bytes, password: bytes) -> bytes:
        """The client's login with another name and password, in clear or in base64."""
        login = self.login.replace(_b64(b"", b"anna", PASSWORD), _b64(b"", name, password))
        return login.replace(b"anna", name).replace(PASSWORD, password)


IMAP = Talk(
    port=1143,
    login=b'a LOGIN anna "%b"\r\n' % PASSWORD,
    welcome=b"a OK [CAPABILITY IMAP4rev1 IDLE] Logged in\r\n",
    refused=b"a NO [AUTHENTICATIONFAILED] ",
    unavailable=b"a NO [UNAVAILABLE] ",
    rest=b"b SELECT INBOX\r\nc NOOP\r\n",
    greeting=b"* OK [CAPABILITY IMAP4rev1 SASL-IR AUTH=PLAIN] ready\r\n",
    prelude=(),
    presented=b"L AUTHENTICATE PLAIN " + _b64(b"", b"anna@example.com", PASSWORD) + b"\r\n",
    good=b"L OK [CAPABILITY IMAP4rev1 IDLE] Logged in\r\n",
    bad=b"L NO [AUTHENTICATIONFAILED] no\r\n",
    bye=b"* BYE too busy\r\n",
)
POP3 = Talk(
    port=1110,
    login=b"USER anna\r\nPASS %b\r\n" % PASSWORD,
    welcome=b"+OK Logged in.\r\n",
    refused=b"-ERR [AUTH] ",
    unavailable=b"-ERR [SYS/TEMP] ",
    rest=b"STAT\r\nLIST\r\n",
    greeting=b"+OK ready\r\n",
    prelude=((b"CAPA\r\n", b"+OK\r\nSASL PLAIN\r\nUSER\r\n.\r\n"),),
    presented=b"AUTH PLAIN " + _b64(b"", b"anna@example.com", PASSWORD) + b"\r\n",
    good=b"+OK Logged in.\r\n",
    bad=b"-ERR [AUTH] no\r\n",
    bye=b"-ERR too busy\r\n",
)
MANAGESIEVE = Talk(
    port=4190,
    login=b'AUTHENTICATE "PLAIN" "%b"\r\n' % _b64(b"", b"anna", PASSWORD),
    welcome=b'OK "Logged in."\r\n',
    refused=b'NO "Wrong user name or password"',
    unavailable=b"NO (TRYLATER) ",
    rest=b"LISTSCRIPTS\r\nNOOP\r\n",
    greeting=b'"SASL" "PLAIN"\r\nOK "ready"\r\n',
    prelude=(),
    presented=b'AUTHENTICATE "PLAIN" "%b"\r\n' % _b64(b"", b"anna@example.com", PASSWORD),
    good=b'OK "Logged in."\r\n',
    bad=b'NO "no"\r\n',
    bye=b'BYE "too busy"\r\n',
)


class KitTestCase(NetworkTestCase):
    """Tests with a gateway of their own.

    @ivar gateway: running.
    @ivar as_client, as_backend: contexts for TLS on the other side.
    """

    members, tls, pool, limits = '"10.0.0.1"', "none", "", ""

    def setUp(self) -> None:
        super().setUp()
        self.folder = Path(mkdtemp(prefix="mailgw-kit-"))
        self.addCleanup(shutil.rmtree, self.folder)
        write_pair(["localhost", "10.0.0.1", "10.0.0.2"], self.folder, 30, datetime.now(UTC))
        self.as_client = ssl.create_default_context(cafile=str(self.folder / "localhost.crt"))
        self.as_backend = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.as_backend.load_cert_chain(self.folder / "localhost.crt", self.folder / "localhost.key")
        self.write()
        self.gateway = gateway.Gateway(self.load(), self.loop)
        self.run_gateway()

    def write(self, more: str = "", **changed: str) -> None:
        """Write the settings file; the class's words go in, unless other ones are given."""
        words = {"members": self.members, "tls": self.tls, "pool": self.pool, "limits": self.limits}
        (self.folder / "mailgw.toml").write_text(SETTINGS % (words | changed) + more)

    def load(self) -> Settings:
        """The settings, as twistd reads them."""
        return load(self.folder / "mailgw.toml")

    def run_gateway(self) -> None:
        """Start it, as twistd does; trial ends it."""
        self.gateway.privilegedStartService()
        self.gateway.startService()
        self.addCleanup(self.gateway.stopService)

    # --- the client --------------------------------------------------------------------------------------------------

    def visit(self, port: int) -> Far:
        """A client that has read its greeting."""
        client = self.loop.visit(port)
        client.read()
        return client

    # --- the backend -------------------------------------------------------------------------------------------------

    def backend(self, talk: Talk) -> Far:
        """Accept the gateway's connection and play the backend up to the login, which is not answered."""
        assert self.loop.dials, "nobody is dialled"
        backend = self.loop.dials[0].accept()
        backend.send(talk.greeting)
        for asked, answer in talk.prelude:
            self.assertEqual(backend.read(), asked)
            backend.send(answer)
        return backend

    def logged_in(self, talk: Talk) -> tuple[Far, Far]:
        """A client and a backend that are coupled; all that was said is read."""
        client = self.visit(talk.port)
        client.send(talk.login)
        backend = self.backend(talk)
        self.assertEqual(backend.read(), talk.presented)
        backend.send(talk.good)
        self.assertTrue(client.read().endswith(talk.welcome))
        return client, backend
