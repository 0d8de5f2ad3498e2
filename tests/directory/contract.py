"""What every L{IDirectory} promises, as a mixin of tests; and doubles that tests of directories share.

A subclass gives L{DirectoryContract.make}; its directory knows alice, and knows nobody called nobody.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar
from unittest.mock import Mock

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from zope.interface import implementer
from zope.interface.verify import verifyObject

from mailgw.crew import Crew
from mailgw.errors import LoginRefused
from mailgw.interfaces import IDirectory
from mailgw.model import Envelope, Identity, Login, RefusalKind

P = ParamSpec("P")
T = TypeVar("T")

ALICE = Login("alice@example.org", b"alicepw")


class InlineCrew(Crew):
    """A crew whose jobs run at once, in the thread of the test."""

    def __init__(self) -> None:
        super().__init__("inline", Mock(), Clock(), 1, 1, 1.0)
        self.started = False

    def start(self) -> None:
        self.started = True

    async def stop(self) -> None:
        self.started = False

    async def run(self, job: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        assert self.started, "asked before start() or after stop()"
        return job(*args, **kwargs)

    def tell(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> None:
        function(*args, **kwargs)


@implementer(IDirectory)
class FakeDirectory:
    """A directory of some users; what it was asked stands in C{asked}.

    @ivar trouble: raised instead of an answer.
    @ivar held: while it is a list, questions wait for the Deferreds that they put there.
    """

    def __init__(self, name: str = "fake-1", **users: bytes) -> None:
        self.name = name
        self.users = users
        self.asked: list[str] = []
        self.trouble: Exception | None = None
        self.held: list[Deferred[None]] | None = None
        self.running = False

    async def authenticate(self, login: Login) -> Identity | None:
        await self._hear(login.username)
        user = login.username.partition("@")[0].lower()
        if user not in self.users:
            return None
        if self.users[user] != login.password:
            raise LoginRefused(RefusalKind.CREDENTIALS, "wrong password")
        return self._identity(user)

    async def lookup(self, address: str, envelope: Envelope | None = None) -> Identity | None:
        await self._hear(address)
        user = address.partition("@")[0].lower()
        return self._identity(user) if user in self.users else None

    def start(self) -> None:
        self.running = True

    async def stop(self) -> None:
        self.running = False
        if self.trouble is not None:
            raise self.trouble

    def _identity(self, user: str) -> Identity:
        return Identity(f"{user}@example.org", self.name, addresses=(f"{user}@example.org",))

    async def _hear(self, question: str) -> None:
        self.asked.append(question)
        if self.held is not None:
            waiting: Deferred[None] = Deferred()
            self.held.append(waiting)
            await waiting
        if self.trouble is not None:
            raise self.trouble


class DirectoryContract:
    """To be mixed into an asynchronous L{twisted.trial.unittest.TestCase}."""

    def make(self) -> IDirectory:
        """A directory that has not been started."""
        raise NotImplementedError

    def started(self) -> IDirectory:
        """A directory at work, which stops with the test."""
        directory = self.make()
        directory.start()
        self.addCleanup(lambda: Deferred.fromCoroutine(directory.stop()))  # type: ignore[attr-defined]
        return directory

    async def refusal(self, directory: IDirectory, login: Login) -> RefusalKind:
        """The kind with which a login is refused."""
        try:
            identity = await directory.authenticate(login)
        except LoginRefused as error:
            return error.refusal.kind
        raise AssertionError(f"let in as {identity!r}")

    def test_interface(self) -> None:
        """It provides IDirectory, with every method's signature, and has a name."""
        directory = self.make()
        verifyObject(IDirectory, directory)
        assert directory.name

    async def test_right_password(self) -> None:
        """The right password gives the identity, under its canonical name and with lower case addresses."""
        identity = await self.started().authenticate(ALICE)
        assert identity is not None
        assert identity.username == "alice@example.org"
        assert "alice@example.org" in identity.addresses
        assert identity.directory

    async def test_canonical_name(self) -> None:
        """However a name is typed, the canonical name is the directory's own."""
        identity = await self.started().authenticate(Login("ALICE@Example.ORG", b"alicepw"))
        assert identity is not None
        assert identity.username == "alice@example.org"

    async def test_wrong_password(self) -> None:
        """A wrong password is refused as such."""
        directory = self.started()
        for password in (b"wrong", b"alicepw ", b"Alicepw", b"\xff\xfe"):
            assert await self.refusal(directory, Login(ALICE.username, password)) is RefusalKind.CREDENTIALS

    async def test_unknown_user(self) -> None:
        """An unknown user is nobody's business here: the next directory may know it."""
        directory = self.started()
        assert await directory.authenticate(Login("nobody@example.org", b"alicepw")) is None
        assert await directory.lookup("nobody@example.org") is None

    async def test_lookup(self) -> None:
        """An address leads to its user without a password."""
        identity = await self.started().lookup("Alice@example.org")
        assert identity is not None
        assert identity.username == "alice@example.org"

    async def test_not_a_pattern(self) -> None:
        """What means something in a filter, a pattern or a path is only a character in a name."""
        directory = self.started()
        for name in ("*", "alice*", "*@example.org", "alice)(uid=*", "(alice", "alice\\", "../alice", "%s", "{user}"):
            assert await directory.authenticate(Login(name, b"alicepw")) is None, name
            assert await directory.lookup(name) is None, name

    async def test_stop_twice(self) -> None:
        """Stopping what has stopped does no harm."""
        directory = self.make()
        directory.start()
        await directory.stop()
        await directory.stop()


class CarefulDirectoryContract(DirectoryContract):
    """For directories that stand behind no other one: they look at what they are asked themselves."""

    async def test_malformed(self) -> None:
        """An empty name or password, control characters and oversize are refused before anybody is asked."""
        directory = self.started()
        for login in (
            Login("", b"alicepw"),
            Login("alice@example.org", b""),
            Login("alice@example.org", b"alicepw\0"),
            Login("alice@example.org", b"alicepw\r\n"),
            Login("alice@example.org", b"x" * 1025),
            Login("alice@example.org\0", b"alicepw"),
            Login("alice@example.org\r\nx", b"alicepw"),
            Login("\x1b[2J", b"alicepw"),
            Login("a" * 257, b"alicepw"),
        ):
            assert await self.refusal(directory, login) is RefusalKind.CREDENTIALS, login
        assert await directory.lookup("alice@example.org\0") is None
        assert await directory.lookup("") is None
