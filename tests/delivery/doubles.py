"""Doubles for the delivery room: a small world of directory, routes, pools, backends in memory, and a store."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from twisted.cred.portal import Portal
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure
from zope.interface import implementer

from mailgw.cred import AnonymousChecker, DirectoryChecker, GatewayRealm
from mailgw.delivery.reception import SmtpFrontend, SmtpSession
from mailgw.delivery.routed import Desk, RoutedDelivery
from mailgw.edge.dialer import BackendConnection, Dialer
from mailgw.edge.limits import Turnstile
from mailgw.errors import BackendFailed, DirectoryDown, LoginRefused
from mailgw.interfaces import IAccountant, IDirectory, IMailStore, IPool, IPreparedMessage, IRouter
from mailgw.model import LOCAL, Backend, Envelope, Identity, Login, RefusalKind, Route
from mailgw.model import Failure as Kind
from mailgw.ops.tally import LocalTally
from mailgw.settings import Listener, Pool, Settings
from mailgw.wire.events import Reply


class Pipe(StringTransport):
    """A transport that tells its protocol when it is closed, and whoever listens what was written.

    @ivar full: writes pause the registered producer, as a socket does that takes no more.
    """

    def __init__(self, protocol: Any, clock: Clock, heard: Any = None) -> None:
        super().__init__()
        self.end, self.clock, self.heard = protocol, clock, heard
        self.gone = self.aborted = self.full = False

    def setTcpNoDelay(self, enabled: bool) -> None:
        """Nothing to do."""

    def setTcpKeepAlive(self, enabled: bool) -> None:
        """Nothing to do."""

    def startTLS(self, context: Any) -> None:
        """TLS is up at once."""
        self.clock.callLater(0, self.end.handshakeCompleted)

    def write(self, data: bytes) -> None:
        if self.gone:
            return
        super().write(data)
        if self.heard is not None:
            self.clock.callLater(0, self.heard, data)
        if self.full and self.producer is not None:
            self.producer.pauseProducing()

    def loseConnection(self) -> None:
        self._lose(ConnectionDone())

    def abortConnection(self) -> None:
        self.aborted = True
        self._lose(ConnectionLost())

    def _lose(self, reason: Exception) -> None:
        if not self.gone:
            self.gone = True
            self.clock.callLater(0, self.end.connectionLost, Failure(reason))


class FakeBackend:
    """An SMTP or LMTP server that accepts everything but what C{replies} says otherwise.

    @ivar replies: by command line or verb, the reply without line end; C{None}: silence; C{"CLOSE"}: hang up.
    @ivar once: the same, for one time.
    @ivar finals: the replies to the final dots, in order; C{250} when they are used up.
    """

    def __init__(self, clock: Clock, extensions: Sequence[str] = ("PIPELINING", "SIZE 1000000", "8BITMIME")) -> None:
        self.clock, self.extensions = clock, extensions
        self.replies: dict[str, str | None] = {}
        self.once: dict[str, str | None] = {}
        self.finals: list[str | None] = []
        self.commands: list[str] = []
        self.messages: list[bytes] = []
        self.connections: list[Pipe] = []
        self.lmtp = False
        self._buffer, self._in_data, self._accepted = b"", False, 0

    def connect(self, connection: BackendConnection) -> None:
        """A client came."""
        pipe = Pipe(connection, self.clock, self.heard)
        self.connections.append(pipe)
        self._buffer, self._in_data = b"", False
        connection.makeConnection(pipe)
        self.say("220 backend ESMTP")

    @property
    def pipe(self) -> Pipe:
        """The last connection."""
        return self.connections[-1]

    def say(self, line: str | None) -> None:
        """Reply."""
        if line == "CLOSE":
            self.pipe.loseConnection()
        elif line is not None and not self.pipe.gone:
            self.clock.callLater(0, self.pipe.end.dataReceived, line.replace("\n", "\r\n").encode() + b"\r\n")

    def heard(self, data: bytes) -> None:
        """The client said something."""
        self._buffer += data
        while True:
            if self._in_data:
                if not (self._buffer.startswith(b".\r\n") or b"\r\n.\r\n" in self._buffer):
                    return
                text, _, self._buffer = (b"\r\n" + self._buffer).partition(b"\r\n.\r\n")
                self.messages.append(text[2:] + b"\r\n")
                self._in_data = False
                for _ in range(self._accepted if self.lmtp else 1):
                    self.say(self.finals.pop(0) if self.finals else "250 2.0.0 stored")
            line, found, rest = self._buffer.partition(b"\r\n")
            if not found:
                return
            self._buffer = rest
            self._command(line.decode())

    def _command(self, line: str) -> None:
        self.commands.append(line)
        verb = line.split(" ")[0].split(":")[0].upper()
        reply = self.once.pop(verb, self.replies.get(line, self.replies.get(verb, "")))
        if reply == "":
            lines = ["backend", *self.extensions]
            hello = "\n".join(f"250{'-' * (at < len(lines)) or ' '}{text}" for at, text in enumerate(lines, 1))
            reply = {
                "EHLO": hello,
                "LHLO": hello,
                "DATA": "354 go",
                "AUTH": "235 ok",
                "QUIT": "221 bye",
                "XCLIENT": "220 hello",
                "STARTTLS": "220 go",
            }.get(verb, "250 2.1.0 fine")
        if verb == "MAIL":
            self._accepted = 0
        if reply is not None and reply[:1] == "2" and verb == "RCPT":
            self._accepted += 1
        self._in_data = reply is not None and reply.startswith("354")
        self.say(reply)


class FakeDialer(Dialer):
    """Knows backends by their host instead of a network."""

    def __init__(self, clock: Clock, limits: Any) -> None:
        super().__init__(clock, {}, limits)
        self.backends: dict[str, FakeBackend] = {}
        self.hanging = False

    async def connect(
        self, backend: Backend, dialogue: Any, wait: Callable[[Deferred[Any]], Deferred[Any]] = lambda awaited: awaited
    ) -> BackendConnection:
        if self.hanging:
            await wait(Deferred())
        if backend.host not in self.backends:
            raise BackendFailed(Kind.CONNECT, f"{backend}: refused")
        connection = BackendConnection(backend, dialogue, None)
        self.reactor.callLater(0, self.backends[backend.host].connect, connection)
        return connection


@implementer(IPool)
class FakePool:
    """Members are hosts; a route's backend is the only candidate."""

    def __init__(self, name: str, hosts: Sequence[str], **options: Any) -> None:
        self.name, self.hosts = name, hosts
        self.options = Pool.model_validate({"smtp": {"tls": "none"}} | options)
        self.log: list[tuple[str, str]] = []
        self.places = 0

    def candidates(self, username: str, protocol: str, route: Route) -> list[Backend]:
        smtp = self.options.smtp
        tls, speak = (smtp.tls, smtp.speak) if smtp is not None else ("none", "smtp")
        hosts = [route.backend] if route.backend else self.hosts
        return [Backend(self.name, host, host, 25, tls, speak) for host in hosts]

    def succeeded(self, backend: Backend, protocol: str) -> None:
        self.log.append(("succeeded", backend.name))

    def failed(
        self, backend: Backend, protocol: str, kind: Kind = Kind.CONNECT, username: str = "", client: str = ""
    ) -> None:
        self.log.append(("failed", backend.name))

    async def reserve(self, backend: Backend, username: str = "") -> None:
        self.places += 1

    def release(self, backend: Backend, username: str = "") -> None:
        self.places -= 1

    def opened(self, backend: Backend, protocol: str, username: str = "") -> None:
        self.log.append(("opened", backend.name))

    def closed(self, backend: Backend, protocol: str, username: str = "") -> None:
        self.log.append(("closed", backend.name))

    def capabilities(self, protocol: str) -> frozenset[str] | None:
        return None

    def rows(self) -> list[dict[str, Any]]:
        return []


@implementer(IDirectory)
class FakeDirectory:
    """Users by address; everybody's password is C{secret}."""

    name = "fake"

    def __init__(self) -> None:
        self.users: dict[str, Identity] = {}
        self.down = False
        self.waiting: Deferred[None] | None = None

    def add(self, name: str, *addresses: str) -> None:
        """Add a user."""
        identity = Identity(name, addresses=(name, *addresses))
        for address in identity.addresses:
            self.users[address] = identity

    async def authenticate(self, login: Login) -> Identity | None:
        if login.username in self.users and login.password != b"secret":
            raise LoginRefused(RefusalKind.CREDENTIALS)
        return await self.lookup(login.username)

    async def lookup(self, address: str, envelope: Envelope | None = None) -> Identity | None:
        if self.waiting is not None:
            await self.waiting
        if self.down:
            raise DirectoryDown("no LDAP")
        return self.users.get(address)

    def start(self) -> None:
        """Nothing to do."""

    async def stop(self) -> None:
        """Nothing to do."""


@implementer(IRouter)
class FakeRouter:
    """Routes by user name; local where nothing is said."""

    def __init__(self) -> None:
        self.routes: dict[str, Route] = {}

    async def route(self, identity: Identity, protocol: str, origin: Any = None) -> Route:
        assert protocol == "smtp"
        if identity.username == "lost@d":
            raise LoginRefused(RefusalKind.UNAVAILABLE, "no rule")
        return self.routes.get(identity.username, LOCAL)

    async def explain(self, identity: Identity, protocol: str, origin: Any = None) -> list[Any]:
        return []


@implementer(IPreparedMessage)
class FakeInbox:
    """A message in memory, in two steps like the store's."""

    def __init__(self, store: FakeStore, name: str) -> None:
        self.store, self.name, self.text, self.prepared = store, name, b"", False

    def dataReceived(self, chunk: bytes) -> None:
        self.text += chunk

    def lineReceived(self, line: bytes) -> None:
        raise AssertionError

    async def prepare(self) -> Reply | None:
        self.prepared = True
        return Reply(452, "4.3.1", "full") if self.name in self.store.full else None

    async def commit(self) -> Reply:
        assert all(inbox.prepared for inbox in self.store.open)
        self.store.open.remove(self)
        self.store.mail.append((self.name, self.text))
        return Reply(250, "2.0.0", "saved")

    def eomReceived(self) -> Deferred[Reply]:
        return Deferred.fromCoroutine(self.commit())

    def connectionLost(self) -> None:
        self.store.open.remove(self)


@implementer(IMailStore)
class FakeStore:
    """Mail by user name."""

    def __init__(self) -> None:
        self.mail: list[tuple[str, bytes]] = []
        self.open: list[FakeInbox] = []
        self.full: set[str] = set()

    def account(self, identity: Identity) -> Any:
        if ".." in identity.username:
            raise LoginRefused(RefusalKind.UNAVAILABLE, "no path")

    def mailbox(self, identity: Identity) -> Any:
        raise NotImplementedError

    def inbox(self, identity: Identity, sender: str) -> FakeInbox:
        self.open.append(FakeInbox(self, identity.username))
        return self.open[-1]


@implementer(IAccountant)
class FakeAccountant:
    """Counts nothing."""

    async def enter(self, key: Any) -> None:
        return None

    def leave(self, key: Any) -> None:
        """Nothing to do."""


class World:
    """Everything around a session. Users: C{ann@d} and C{bob@d} local, C{zoe@d} on be1, C{yves@d} on be2."""

    def __init__(self, **settings: Any) -> None:
        self.clock = Clock()
        self.settings = Settings.model_validate(
            {"gateway": {"hostname": "gw.example"}, "domains": {"accept": ["d"]}, **settings}
        )
        self.directory, self.router, self.store = FakeDirectory(), FakeRouter(), FakeStore()
        for name in ("ann@d", "bob@d", "zoe@d", "zack@d", "yves@d", "lost@d"):
            self.directory.add(name)
        self.directory.add("kim", "kim.smith@d")
        self.dialer = FakeDialer(self.clock, self.settings.limits)
        for host in ("be1", "be2"):
            self.dialer.backends[host] = FakeBackend(self.clock)
        self.pools = {"main": FakePool("main", ["be1"])}
        self.router.routes = {
            name: Route("main", host)
            for name, host in (("zoe@d", "be1"), ("zack@d", "be1"), ("yves@d", "be2"), ("kim", "be1"))
        }
        desk = Desk(self.settings, self.directory, self.router, self.pools, self.dialer, self.store)
        realm = GatewayRealm(
            self._nowhere, lambda identity, session: RoutedDelivery(identity, session, desk), FakeAccountant()
        )
        self.reactor = self.clock
        self.portal = Portal(realm, [DirectoryChecker(self.directory), AnonymousChecker()])
        self.turnstile = Turnstile(self.settings.limits, self.clock, LocalTally(self.clock.seconds))
        self.counters: Counter[str] = Counter()
        self.sessions: set[Any] = set()

    async def _nowhere(self, identity: Any, session: Any) -> Any:
        raise NotImplementedError

    def server_tls(self, listener: Any) -> Any:
        """Something."""
        return object()

    @property
    def be1(self) -> FakeBackend:
        """The first backend."""
        return self.dialer.backends["be1"]

    def client(self, frontend: SmtpFrontend, protocol: str, tls: str = "none") -> Client:
        """Connect."""
        listener = Listener(protocol=protocol, endpoint="tcp:25", tls=tls)
        return Client(self, frontend.make_factory(self, listener).buildProtocol(None))


class Client:
    """A client on a session's other end."""

    def __init__(self, world: World, session: SmtpSession) -> None:
        self.world, self.session = world, session
        self.pipe = Pipe(session, world.clock)
        session.makeConnection(self.pipe)

    def read(self, seconds: float = 0) -> bytes:
        """Let things happen, and time pass; return what came."""
        for step in (0, seconds):
            self.world.clock.advance(step)
            for _ in range(60):
                self.world.clock.advance(0)
        data = self.pipe.value()
        self.pipe.clear()
        return data

    def say(self, data: bytes, seconds: float = 0) -> bytes:
        """Say something; return what came back."""
        self.session.dataReceived(data)
        return self.read(seconds)

    def codes(self, data: bytes, seconds: float = 0) -> list[int]:
        """Say something; return the replies' codes."""
        return [int(line[:3]) for line in self.say(data, seconds).split(b"\r\n")[:-1] if line[3:4] == b" "]
