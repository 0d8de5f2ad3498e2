"""Tests of the destination behind a relay: who is tried, what a failure means, and what the pool is told."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.testing import StringTransport
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer
from zope.interface.verify import verifyObject

from mailgw.edge.destination import ProxiedDestination
from mailgw.edge.dialer import BackendConnection
from mailgw.edge.relay import Sweeper
from mailgw.errors import BackendFailed, LoginRefused
from mailgw.interfaces import IDestination, IPool
from mailgw.model import Access, Arrival, Backend, Failure, Forward, Identity, Login, Peer, RefusalKind, Route
from mailgw.settings import Limits, Pool
from mailgw.wire.events import Ready
from mailgw.wire.protocol import LoginProtocol
from tests.edge.doubles import FakeHouse

ONE = Backend("main", "be1", "10.0.0.1", 143, "starttls")
OTHER = Backend("main", "be2", "10.0.0.2", 143, "none")


@implementer(IPool)
class FakePool:
    """Two candidates, and a list of what it is told."""

    name = "main"

    def __init__(self, **options: Any) -> None:
        self.options = Pool(**options)
        self.members = [ONE, OTHER]
        self.told: list[tuple[str, str]] = []
        self.asked: list[tuple[str, str, Route]] = []
        self.blamed: list[tuple[Failure, str, str]] = []
        self.full: set[str] = set()
        self.places: list[tuple[str, str]] = []

    def candidates(self, username: str, protocol: str, route: Route) -> list[Backend]:
        self.asked.append((username, protocol, route))
        return self.members

    def succeeded(self, backend: Backend, protocol: str) -> None:
        self.told.append(("succeeded", f"{backend.name} {protocol}"))

    def failed(
        self, backend: Backend, protocol: str, kind: Failure = Failure.CONNECT, username: str = "", client: str = ""
    ) -> None:
        self.told.append(("failed", f"{backend.name} {protocol}"))
        self.blamed.append((kind, username, client))

    async def reserve(self, backend: Backend, username: str = "") -> None:
        if backend.name in self.full:
            raise BackendFailed(Failure.FULL, f"{backend.name} is full")
        self.places.append((backend.name, username))

    def release(self, backend: Backend, username: str = "") -> None:
        self.places.remove((backend.name, username))

    def opened(self, backend: Backend, protocol: str, username: str = "") -> None:
        assert self.places == [(backend.name, username)], "released before it is opened"
        self.told.append(("opened", backend.name))

    def closed(self, backend: Backend, protocol: str, username: str = "") -> None:
        self.told.append(("closed", backend.name))

    def capabilities(self, protocol: str) -> frozenset[str] | None:
        return None

    def rows(self) -> list[dict[str, Any]]:
        return []


class FakeDialer:
    """Answers as the test says, by the backend's name; an exception is raised, a Deferred awaited."""

    limits = Limits()

    def __init__(self) -> None:
        self.answers: dict[str, Any] = {}
        self.dialled: list[str] = []
        self.dialogues: list[Any] = []

    def refuse_own(self, peer: Peer) -> None:
        """Nobody is ourselves."""

    async def login(self, backend: Backend, dialogue: Any) -> tuple[BackendConnection, Ready]:
        self.dialled.append(backend.name)
        self.dialogues.append(dialogue)
        answer = self.answers.get(backend.name)
        if isinstance(answer, Exception):
            raise answer
        if isinstance(answer, Deferred):
            await answer
        connection = BackendConnection(backend, dialogue, None)
        connection.transport = StringTransport()
        connection.rest()
        return connection, Ready(b"[CAPABILITY IMAP4rev1] Logged in", b"* 1 EXISTS\r\n")


class FakeSession:
    """What a destination wants to know of a session."""

    protocol, session_id, secure, ttl = "imap", "abcdefghijklmnop", True, 7
    peer = Peer("198.51.100.7", 40000)
    login: Login | None = Login("Anna", b"secret")

    def client_tls(self) -> tuple[str, str, str]:
        return "TLSv1.3", "AES", "mail.example"


class DestinationCase(SynchronousTestCase):
    """Opens destinations of one user."""

    route = Route("main")

    def setUp(self) -> None:
        self.pool = FakePool()
        self.dialer = FakeDialer()
        self.made: list[tuple[Access, Forward, bool]] = []
        self.sweeper = Sweeper(FakeHouse().reactor)

    def client(self, access: Access, forward: Forward, starttls: bool) -> Any:
        self.made.append((access, forward, starttls))
        return object()

    def destination(self) -> ProxiedDestination:
        server: Callable[..., Any] = NotImplemented
        protocol = LoginProtocol("imap", (143, 993), server, self.client)
        identity = Identity("anna@example.com")
        dialer: Any = self.dialer
        return ProxiedDestination(identity, self.pool, self.route, protocol, dialer, self.sweeper)

    def open(self) -> Deferred[Arrival]:
        session: Any = FakeSession()
        return Deferred.fromCoroutine(self.destination().open(session))

    def refuse(self, kind: Failure, *names: str) -> None:
        """Have backends fail."""
        for name in names or ("be1", "be2"):
            self.dialer.answers[name] = BackendFailed(kind, f"{name} fails")

    def failure(self) -> BackendFailed:
        """Open, and tell how that failed."""
        error = self.failureResultOf(self.open(), BackendFailed).value
        assert isinstance(error, BackendFailed)
        return error


class OpeningTests(DestinationCase):
    """All is well."""

    def test_interface(self) -> None:
        """It is a destination."""
        verifyObject(IDestination, self.destination())

    def test_arrival(self) -> None:
        """The backend's words are for the client; what it said behind them comes first out of the relay."""
        arrival = self.successResultOf(self.open())
        self.assertEqual(arrival.text, b"[CAPABILITY IMAP4rev1] Logged in")
        wire: Any = StringTransport()
        arrival.protocol.makeConnection(wire)
        self.assertEqual(wire.value(), b"* 1 EXISTS\r\n")

    def test_tls_is_told(self) -> None:
        """A pool that wants PROXY headers is told of the client's TLS too."""
        self.pool.options = Pool.model_validate({"proxy": "v2"})
        self.successResultOf(self.open())
        self.assertEqual(self.made[0][1].tls, ("TLSv1.3", "AES", "mail.example"))

    def test_what_the_backend_is_told(self) -> None:
        """The canonical name and the client's own password; who the client is; STARTTLS where the backend wants it."""
        self.successResultOf(self.open())
        access, forward, starttls = self.made[0]
        self.assertEqual(access, Access("anna@example.com", b"secret"))
        self.assertEqual(
            forward, Forward("abcdefghijklmnop", Peer("198.51.100.7", 40000), True, login="anna@example.com")
        )
        self.assertTrue(starttls)
        self.assertEqual(self.pool.asked, [("anna@example.com", "imap", Route("main"))])

    def test_pool_is_told(self) -> None:
        """A session that begins, and is over when both sides are closed."""
        arrival = self.successResultOf(self.open())
        self.assertEqual(self.pool.told, [("succeeded", "be1 imap"), ("opened", "be1")])
        half: Any = arrival.protocol
        half.makeConnection(StringTransport())
        half.connectionLost()
        self.assertNotIn(("closed", "be1"), self.pool.told)
        half.peer.connectionLost()
        half.peer.connectionLost()
        self.assertEqual(self.pool.told[2:], [("closed", "be1")])

    def test_master(self) -> None:
        """login = master, authzid: the gateway's account, for the user."""
        secret = {"master_user": "gw", "master_password": "master"}
        for login, access in (
            ("master", Access("anna@example.com*gw", b"master")),
            ("authzid", Access("gw", b"master", "anna@example.com")),
        ):
            self.pool = FakePool(login=login, **secret)
            self.successResultOf(self.open())
            self.assertEqual(self.made.pop()[0], access)

    def test_other_login(self) -> None:
        """A route may name another user, and where the user's own password goes, another password."""
        secret = {"master_user": "gw", "master_password": "master"}
        self.route = Route("main", username="Mbox17", password=b"other")
        for login, access in (
            ("own", Access("Mbox17", b"other")),
            ("master", Access("Mbox17*gw", b"master")),
            ("authzid", Access("gw", b"master", "Mbox17")),
        ):
            self.pool = FakePool(login=login, **secret)
            self.successResultOf(self.open())
            self.assertEqual(self.made.pop()[0], access)
        self.route, self.pool = Route("main", username="Mbox17"), FakePool()
        self.successResultOf(self.open())
        self.assertEqual(self.made.pop()[0], Access("Mbox17", b"secret"))
        self.assertEqual(self.made, [])


class NextMemberTests(DestinationCase):
    """When another backend is tried."""

    def test_not_connected(self) -> None:
        """Who could not be connected to is followed by the next candidate."""
        self.refuse(Failure.CONNECT, "be1")
        self.successResultOf(self.open())
        self.assertEqual(self.dialer.dialled, ["be1", "be2"])
        self.assertEqual(self.pool.told, [("failed", "be1 imap"), ("succeeded", "be2 imap"), ("opened", "be2")])
        self.assertFalse(self.made[1][2])  # each backend with its own TLS

    def test_new_dialogue(self) -> None:
        """Each backend gets a dialogue of its own."""
        self.refuse(Failure.CONNECT, "be1")
        self.successResultOf(self.open())
        self.assertIsNot(self.dialer.dialogues[0], self.dialer.dialogues[1])

    def test_only_when_not_connected(self) -> None:
        """Whoever answered, wrongly or too late, is not followed: the login may have happened."""
        for kind in set(Failure) - {Failure.CONNECT, Failure.FULL, Failure.REJECTED}:
            self.setUp()
            self.refuse(kind, "be1")
            self.assertIs(self.failure().kind, kind)
            self.assertEqual(self.dialer.dialled, ["be1"])
            self.assertEqual(self.pool.told, [("failed", "be1 imap")])
            self.assertEqual(self.pool.blamed, [(kind, "anna@example.com", "198.51.100.7")])
            self.assertEqual(self.pool.places, [])

    def test_full(self) -> None:
        """Who has no place for another login is followed by the next candidate, and is not dialled."""
        self.pool.full = {"be1"}
        self.successResultOf(self.open())
        self.assertEqual(self.dialer.dialled, ["be2"])
        self.assertEqual(self.pool.places, [])
        self.pool.full = {"be1", "be2"}
        self.assertIs(self.failure().kind, Failure.FULL)

    def test_one_candidate(self) -> None:
        """A pool that is not shared has one candidate: no other is tried."""
        self.pool.members = [ONE]
        self.refuse(Failure.CONNECT)
        self.assertIs(self.failure().kind, Failure.CONNECT)
        self.assertEqual(self.dialer.dialled, ["be1"])

    def test_none_connected(self) -> None:
        """After the last candidate its failure is the failure."""
        self.refuse(Failure.CONNECT)
        self.assertEqual(self.failure().reason, "be2 fails")
        self.assertEqual(self.dialer.dialled, ["be1", "be2"])
        self.assertEqual(self.pool.told, [("failed", "be1 imap"), ("failed", "be2 imap")])

    def test_no_candidate(self) -> None:
        """A pool without members is a backend that cannot be reached."""
        self.pool.members = []
        self.assertIs(self.failure().kind, Failure.CONNECT)

    def test_cancelled(self) -> None:
        """A client that goes away is no failure of the backend, and nobody else is dialled."""
        self.dialer.answers["be1"] = Deferred()
        opening = self.open()
        opening.cancel()
        self.failureResultOf(opening, CancelledError)
        self.assertEqual((self.pool.told, self.pool.places), ([], []))
        self.assertEqual(self.dialer.dialled, ["be1"])


class RefusedTests(DestinationCase):
    """The backend refuses the login."""

    def test_own_password(self) -> None:
        """The user's own password is wrong, for the client too; the backend did answer."""
        self.refuse(Failure.REJECTED)
        error = self.failureResultOf(self.open(), LoginRefused).value
        assert isinstance(error, LoginRefused)
        self.assertIs(error.refusal.kind, RefusalKind.CREDENTIALS)
        self.assertEqual(error.refusal.reason, "be1 fails")
        self.assertEqual(self.pool.told, [("succeeded", "be1 imap")])
        self.assertEqual(self.dialer.dialled, ["be1"])

    def test_master_password(self) -> None:
        """With the gateway's account it is our trouble, not the user's mistake."""
        for login in ("master", "authzid"):
            self.pool = FakePool(login=login, master_user="gw", master_password="master")
            self.refuse(Failure.REJECTED)
            self.assertIs(self.failure().kind, Failure.REJECTED)

    def test_password_of_the_route(self) -> None:
        """So it is with a password that the route named."""
        self.route = Route("main", password=b"stale")
        self.refuse(Failure.REJECTED)
        self.assertIs(self.failure().kind, Failure.REJECTED)

    def test_no_login(self) -> None:
        """A pool where nobody logs in cannot serve readers; nothing is dialled."""
        for login in ("none", "xclient"):
            self.pool = FakePool(login=login)
            self.assertIn(login, str(self.failure()))
        self.assertEqual(self.dialer.dialled, [])

    def test_no_password(self) -> None:
        """login = own without a login in progress."""
        session: Any = FakeSession()
        session.login = None
        self.failureResultOf(Deferred.fromCoroutine(self.destination().open(session)), BackendFailed)
        self.assertEqual(self.dialer.dialled, [])
