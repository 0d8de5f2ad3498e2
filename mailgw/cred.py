"""The portal's two ends: the checker that asks a directory, and the realm that says where a login leads.

It knows neither protocols nor backends: directories, destinations, deliveries and the accountant are arguments.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine, Generator
from dataclasses import replace
from typing import Any, TypeVar

from twisted.cred.checkers import ANONYMOUS, ICredentialsChecker
from twisted.cred.credentials import IAnonymous, IUsernamePassword
from twisted.cred.portal import IRealm
from twisted.internet.defer import Deferred, fail, succeed
from twisted.logger import Logger
from twisted.mail.smtp import IMessageDelivery
from twisted.python.failure import Failure
from zope.interface import Interface, implementer

from mailgw.errors import LoginRefused
from mailgw.interfaces import IAccountant, IDestination, IDirectory, ISession
from mailgw.model import Identity, Login, Refusal, RefusalKind, SessionKey
from mailgw.names import Form

Destinations = Callable[[Identity, ISession], Awaitable[IDestination]]
"""Finds where an identity's reader continues; raises L{LoginRefused} where no route is known."""
Deliveries = Callable[[Identity | None, ISession], IMessageDelivery]
"""Makes what takes an identity's mail; C{None} stands for the world, on MX."""
Avatar = tuple[type[Interface], Any, Callable[[], None]]
T = TypeVar("T")


@implementer(ICredentialsChecker)
class DirectoryChecker:
    """Checks user names and passwords against a directory, which may be a chain of them."""

    credentialInterfaces = (IUsernamePassword,)

    def __init__(self, directory: IDirectory, form: Form | None = None) -> None:
        """
        @param form: what is asked there, made of what was typed; that itself where left out.
        """
        self._directory = directory
        self._form = form if form is not None and form.changes else None

    # Cred's interface says bytes; an identity is what our realm needs, and cred passes it on untouched.
    def requestAvatarId(self, credentials: Login) -> Deferred[Identity]:  # type: ignore[override]
        """Check a login.

        @return: fires with the L{Identity}; fails with L{LoginRefused}, or L{mailgw.errors.DirectoryDown}, which is
            temporary trouble and never a wrong password.
        """
        return _begun(self._check(credentials))

    async def _check(self, login: Login) -> Identity:
        if login.authzid not in ("", login.username):
            raise LoginRefused(RefusalKind.AUTHZ, f"asked to act as {login.authzid!r}")
        if self._form is not None:
            login = replace(login, username=self._form(login.username, login.origin))
        identity = await self._directory.authenticate(login)
        if identity is None:
            raise LoginRefused(RefusalKind.CREDENTIALS, "unknown user")
        return identity


@implementer(ICredentialsChecker)
class AnonymousChecker:
    """Lets in who does not log in, as MX does; the realm gives such a one nothing but the delivery of mail."""

    credentialInterfaces = (IAnonymous,)

    def requestAvatarId(self, credentials: IAnonymous) -> Deferred[bytes | tuple[()]]:
        """Ask for nothing.

        @return: fires with cred's C{ANONYMOUS}.
        """
        return succeed(ANONYMOUS)


@implementer(IRealm)
class GatewayRealm:
    """Turns identities into avatars, and counts them.

    Avatars are an L{IDestination} for readers and an L{IMessageDelivery} for senders.
    """

    log = Logger()

    def __init__(
        self,
        destination: Destinations,
        delivery: Deliveries,
        accountant: IAccountant,
        held: Callable[[str], Deferred[None] | None] = lambda username: None,
    ) -> None:
        """
        @param held: until when a user has to wait, by canonical name; C{None} for not at all.
        """
        self._held = held
        self._destination = destination
        self._delivery = delivery
        self._accountant = accountant

    def requestAvatar(
        self, avatarId: Identity | bytes | tuple[()], mind: object, *interfaces: type[Interface]
    ) -> Deferred[Avatar]:
        """Make the avatar of an identity, or of anybody where the identity is cred's C{ANONYMOUS}.

        @param mind: the session.
        @return: fires with interface, avatar and logout; logout may be called more than once and counts once. Fails
            with L{LoginRefused}, with C{NotImplementedError} for interfaces that nothing here provides.
        """
        return _begun(self._avatar(avatarId, ISession(mind), interfaces))

    async def _avatar(
        self, identity: Identity | bytes | tuple[()], session: ISession, interfaces: tuple[type[Interface], ...]
    ) -> Avatar:
        if not isinstance(identity, Identity):
            return self._anonymous(identity, session, interfaces)
        if IDestination not in interfaces and IMessageDelivery not in interfaces:
            raise NotImplementedError(f"no avatar for {interfaces}")
        if (over := self._held(identity.username)) is not None:
            await over
        # no pause from here to the count: who is not held is counted, and a move waits for those
        leave = await self._enter(
            SessionKey(session.session_id, session.protocol, session.peer.host, identity.username)
        )
        try:
            if IDestination in interfaces:
                return IDestination, await self._destination(identity, session), leave
            return IMessageDelivery, self._delivery(identity, session), leave
        except BaseException:  # a cancelled login too must give its place back
            leave()
            raise

    def _anonymous(
        self, identity: bytes | tuple[()], session: ISession, interfaces: tuple[type[Interface], ...]
    ) -> Avatar:
        if identity != ANONYMOUS or IMessageDelivery not in interfaces:
            raise LoginRefused(RefusalKind.AUTHZ, "not without a login")
        return IMessageDelivery, self._delivery(None, session), lambda: None

    async def _enter(self, key: SessionKey) -> Callable[[], None]:
        """Have a session counted; return what ends that, once.

        @raise LoginRefused: it is one too many.
        """
        counting = _begun(self._accountant.enter(key))
        refusal = await (counting if counting.called else self._counted(counting, key))
        if refusal is not None:
            raise LoginRefused(refusal.kind, refusal.reason)
        return _once(lambda: self._accountant.leave(key))

    def _counted(self, counting: Deferred[Refusal | None], key: SessionKey) -> Deferred[Refusal | None]:
        waiting: Deferred[Refusal | None] = Deferred()

        def entered(result: Refusal | Failure | None) -> None:
            # Counting may happen in another process. It goes on when the login is cancelled, and is undone then.
            if not waiting.called:
                waiting.callback(result)
            elif isinstance(result, Failure):
                self.log.failure("{session}: counting failed", result, session=key.session_id)
            elif result is None:
                self._accountant.leave(key)

        counting.addBoth(entered)
        return waiting


def _once(action: Callable[[], None]) -> Callable[[], None]:
    todo = [action]

    def act() -> None:
        if todo:
            todo.pop()()

    return act


def _begun(coroutine: Coroutine[Any, Any, T]) -> Deferred[T]:
    """As C{Deferred.fromCoroutine}, for what mostly has nothing to wait for: then it costs a tenth."""
    try:
        awaited = coroutine.send(None)
    except StopIteration as end:
        return succeed(end.value)
    except Exception:
        return fail()
    return Deferred.fromCoroutine(_rest(coroutine, awaited))


def _rest(coroutine: Coroutine[Any, Any, T], awaited: Any) -> Generator[Any, Any, T]:
    """What is left of a coroutine that waits already."""
    try:
        while True:
            try:
                result = yield awaited
            except BaseException as error:
                awaited = coroutine.throw(error)
            else:
                awaited = coroutine.send(result)
    except StopIteration as end:
        value: T = end.value
        return value
