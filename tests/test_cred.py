"""Tests of L{mailgw.cred}, through a real L{Portal}."""

from __future__ import annotations

from typing import Any, cast

from twisted.cred.checkers import ANONYMOUS, ICredentialsChecker
from twisted.cred.credentials import Anonymous
from twisted.cred.portal import IRealm, Portal
from twisted.internet.defer import CancelledError, Deferred
from twisted.mail.smtp import IMessageDelivery
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import Interface, implementer
from zope.interface.verify import verifyObject

from mailgw.cred import AnonymousChecker, DirectoryChecker, GatewayRealm
from mailgw.errors import DirectoryDown, LoginRefused
from mailgw.interfaces import IAccountant, IDestination, ISession
from mailgw.model import Identity, Login, Origin, Peer, Refusal, RefusalKind, SessionKey
from mailgw.names import Form
from tests.directory.contract import ALICE, FakeDirectory

KEY = SessionKey("s1", "imap", "192.0.2.1", "alice@example.org")


@implementer(ISession)
class FakeSession:
    """A session, as far as the realm looks at it."""

    protocol = "imap"
    session_id = "s1"
    peer = Peer("192.0.2.1", 4711)
    secure = True
    login = None


@implementer(IAccountant)
class FakeAccountant:
    """Writes down who comes and goes.

    @ivar answer: what C{enter} says; a Deferred is waited for.
    """

    def __init__(self) -> None:
        self.book: list[tuple[str, SessionKey]] = []
        self.answer: Refusal | Deferred[Refusal | None] | None = None

    async def enter(self, key: SessionKey) -> Refusal | None:
        self.book.append(("enter", key))
        return await self.answer if isinstance(self.answer, Deferred) else self.answer

    def leave(self, key: SessionKey) -> None:
        self.book.append(("leave", key))


class PortalTests(SynchronousTestCase):
    """L{DirectoryChecker}, L{AnonymousChecker} and L{GatewayRealm} behind one portal."""

    def setUp(self) -> None:
        self.directory = FakeDirectory(alice=b"alicepw")
        self.accountant = FakeAccountant()
        self.session = FakeSession()
        self.found: list[tuple[Identity | None, object]] = []
        self.destination: Any = object()
        self.realm = GatewayRealm(self.find, self.deliver, self.accountant)
        self.checker = DirectoryChecker(self.directory)
        self.portal = Portal(self.realm, [self.checker, AnonymousChecker()])

    async def find(self, identity: Identity, session: object) -> Any:
        self.found.append((identity, session))
        if isinstance(self.destination, Deferred):
            return await self.destination
        if isinstance(self.destination, Exception):
            raise self.destination
        return self.destination

    def deliver(self, identity: Identity | None, session: object) -> Any:
        self.found.append((identity, session))
        return "delivery"

    def login(self, login: Any = ALICE, interface: type[Interface] = IDestination) -> Deferred[Any]:
        return self.portal.login(login, self.session, interface)

    def refused(self, asked: Deferred[Any]) -> RefusalKind:
        return cast(LoginRefused, self.failureResultOf(asked, LoginRefused).value).refusal.kind

    def test_interfaces(self) -> None:
        """They are what cred expects."""
        verifyObject(ICredentialsChecker, self.checker)
        verifyObject(ICredentialsChecker, AnonymousChecker())
        verifyObject(IRealm, self.realm)

    def test_reader(self) -> None:
        """A right password leads to a destination, found for the identity and the session, and is counted."""
        interface, avatar, _ = self.successResultOf(self.login())
        self.assertIs(interface, IDestination)
        self.assertIs(avatar, self.destination)
        ((identity, session),) = self.found
        assert identity is not None
        self.assertEqual(identity.username, "alice@example.org")
        self.assertIs(session, self.session)
        self.assertEqual(self.accountant.book, [("enter", KEY)])

    def test_form(self) -> None:
        """The directory is asked for a form of what was typed; whom SASL wants to act as is compared with that."""
        origin = Origin("s1", "imap", Peer("192.0.2.1", 4711, "192.0.2.2"))
        form = Form(add=True, lower=True, domains={"192.0.2.2": "Example.org"})
        portal = Portal(self.realm, [DirectoryChecker(self.directory, form)])
        asked: list[Login] = []
        authenticate = self.directory.authenticate
        self.directory.authenticate = lambda login: asked.append(login) or authenticate(login)  # type: ignore[func-returns-value,method-assign]
        typed = Login("Alice", b"alicepw", "PLAIN", "Alice", origin)
        self.successResultOf(portal.login(typed, self.session, IDestination))
        self.assertEqual(
            [(login.username, login.password, login.origin) for login in asked],
            [("alice@example.org", b"alicepw", origin)],
        )
        same = DirectoryChecker(self.directory, Form())
        self.successResultOf(same.requestAvatarId(ALICE))
        self.assertIs(asked[1], ALICE)

    def test_sender(self) -> None:
        """Asked for a delivery, it makes one for the identity."""
        interface, avatar, _ = self.successResultOf(self.login(interface=IMessageDelivery))
        self.assertEqual((interface, avatar), (IMessageDelivery, "delivery"))
        self.assertEqual(self.found[0][0].username, "alice@example.org")  # type: ignore[union-attr]

    def test_logout_once(self) -> None:
        """However often logout is called, the session leaves once."""
        _, _, logout = self.successResultOf(self.login())
        logout(), logout()
        self.assertEqual(self.accountant.book, [("enter", KEY), ("leave", KEY)])

    def test_wrong_password(self) -> None:
        """A wrong password and an unknown user are the same to the client; nothing is counted, nothing looked for."""
        self.assertIs(self.refused(self.login(Login("alice", b"x"))), RefusalKind.CREDENTIALS)
        self.assertIs(self.refused(self.login(Login("nobody", b"x"))), RefusalKind.CREDENTIALS)
        self.assertEqual((self.accountant.book, self.found), ([], []))

    def test_directory_down(self) -> None:
        """A directory's trouble stays what it is."""
        self.directory.trouble = DirectoryDown("ldap")
        self.failureResultOf(self.login(), DirectoryDown)

    def test_authzid(self) -> None:
        """Who asks to act as another is refused before the directory is asked; as oneself is fine."""
        other = Login("alice", b"alicepw", authzid="admin")
        self.assertIs(self.refused(self.login(other)), RefusalKind.AUTHZ)
        self.assertEqual(self.directory.asked, [])
        self.successResultOf(self.login(Login("alice", b"alicepw", authzid="alice")))

    def test_limit(self) -> None:
        """One session too many is refused as the accountant says, and did not enter."""
        self.accountant.answer = Refusal(RefusalKind.LIMIT, "51 sessions")
        self.assertIs(self.refused(self.login()), RefusalKind.LIMIT)
        self.assertEqual((self.accountant.book, self.found), ([("enter", KEY)], []))

    def test_no_route(self) -> None:
        """When no destination is found the session leaves again."""
        self.destination = LoginRefused(RefusalKind.UNAVAILABLE, "no route")
        self.assertIs(self.refused(self.login()), RefusalKind.UNAVAILABLE)
        self.assertEqual(self.accountant.book, [("enter", KEY), ("leave", KEY)])

    def test_cancelled_while_checking(self) -> None:
        """A client that goes while the directory is asked is not counted."""
        self.directory.held = []
        asked = self.login()
        asked.cancel()
        self.failureResultOf(asked, CancelledError)
        self.assertEqual(self.accountant.book, [])

    def test_cancelled_while_routing(self) -> None:
        """A client that goes while its destination is looked for leaves."""
        self.destination = Deferred()
        asked = self.login()
        asked.cancel()
        self.failureResultOf(asked, CancelledError)
        self.assertEqual(self.accountant.book, [("enter", KEY), ("leave", KEY)])

    def test_cancelled_while_entering(self) -> None:
        """A client that goes while it is being counted, elsewhere perhaps, leaves as soon as that is done."""
        for answer, book in ((None, ["enter", "leave"]), (Refusal(RefusalKind.LIMIT), ["enter"])):
            self.accountant.book.clear()
            self.accountant.answer = counting = Deferred()
            asked = self.login()
            asked.cancel()
            self.failureResultOf(asked, CancelledError)
            counting.callback(answer)
            self.assertEqual([event for event, _ in self.accountant.book], book)

    def test_counting_fails_late(self) -> None:
        """When counting fails after the client has gone, the log has it."""
        self.accountant.answer = counting = Deferred()
        asked = self.login()
        asked.cancel()
        self.failureResultOf(asked, CancelledError)
        counting.errback(ValueError("lost"))
        self.assertEqual(len(self.flushLoggedErrors(ValueError)), 1)

    def test_counting_fails(self) -> None:
        """When counting fails the login does."""
        self.accountant.answer = counting = Deferred()
        asked = self.login()
        counting.errback(ValueError("lost"))
        self.failureResultOf(asked, ValueError)

    def test_world(self) -> None:
        """Nobody in particular gets a delivery of the world's, uncounted."""
        interface, avatar, logout = self.successResultOf(self.login(Anonymous(), IMessageDelivery))
        logout()
        self.assertEqual((interface, avatar), (IMessageDelivery, "delivery"))
        self.assertEqual(self.found, [(None, self.session)])
        self.assertEqual(self.accountant.book, [])

    def test_world_reads_nothing(self) -> None:
        """Nobody in particular has no mailbox."""
        self.assertIs(self.refused(self.login(Anonymous())), RefusalKind.AUTHZ)
        strange = self.realm.requestAvatar(b"alice@example.org", self.session, IMessageDelivery)
        self.assertIs(self.refused(strange), RefusalKind.AUTHZ)
        self.assertEqual(self.found, [])

    def test_unknown_interface(self) -> None:
        """What no avatar provides is refused in cred's own way, and counts for nothing."""

        class IOther(Interface):
            """Something else."""

        self.failureResultOf(self.login(interface=IOther), NotImplementedError)
        self.assertEqual(self.accountant.book, [])

    def test_anonymous_id(self) -> None:
        """The anonymous checker gives cred's own mark."""
        self.assertEqual(self.successResultOf(AnonymousChecker().requestAvatarId(Anonymous())), ANONYMOUS)


class HeldTests(SynchronousTestCase):
    """L{GatewayRealm} where a user is held."""

    def setUp(self) -> None:
        self.accountant, self.asked = FakeAccountant(), list[str]()
        self.hold: Deferred[None] = Deferred()
        realm = GatewayRealm(self.find, cast(Any, None), self.accountant, {"alice": self.hold}.get)
        self.enter = lambda name: realm.requestAvatar(Identity(name), FakeSession(), IDestination)

    async def find(self, identity: Identity, session: object) -> Any:
        self.asked.append(identity.username)

    def test_held(self) -> None:
        """Who is held is not counted and asks for no way until that is over; then both come in one go."""
        entered = self.enter("alice")
        self.assertNoResult(entered)
        self.successResultOf(self.enter("bob"))
        self.assertEqual((len(self.accountant.book), self.asked), (1, ["bob"]))
        self.hold.callback(None)
        self.successResultOf(entered)
        self.assertEqual((len(self.accountant.book), self.asked), (2, ["bob", "alice"]))

    def test_too_long(self) -> None:
        """A hold that fails is the login's failure, and nothing was counted."""
        entered = self.enter("alice")
        self.hold.errback(LoginRefused(RefusalKind.UNAVAILABLE, "too long"))
        self.failureResultOf(entered, LoginRefused)
        self.assertEqual(self.accountant.book, [])
