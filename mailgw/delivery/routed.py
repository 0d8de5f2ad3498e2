"""RoutedDelivery: where mail goes, recipient by recipient; twisted.mail's delivery as cred's avatar for SMTP.

One transaction has one destination: one backend, or the local store. Recipients of a second one are told to come in a
transaction of their own. It carries no bytes of a message: L{mailgw.delivery.onward} and the store do.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from twisted.internet.defer import Deferred
from twisted.logger import Logger
from zope.interface import implementer

from mailgw.delivery.envelope import IDelivery, Origin, RecipientRefused, SenderRefused
from mailgw.delivery.onward import Connector, Onward
from mailgw.delivery.policy import ANOTHER_DESTINATION, NO_SUCH_USER, RELAY_DENIED, Policy
from mailgw.delivery.trace import received
from mailgw.edge.access import access_to, forward_of, mechanism_of
from mailgw.edge.dialer import Dialer
from mailgw.errors import BackendFailed, DirectoryDown, LoginRefused
from mailgw.interfaces import IChunkedMessage, IDirectory, IMailStore, IPool, IRouter, ISession
from mailgw.model import Access, Envelope, Forward, Identity, Route
from mailgw.settings import Settings
from mailgw.wire.replies import TROUBLE

LOCAL_COPIES = 100
"""Mailboxes that one transaction may go to: each is an open file until the end. RFC 5321 §4.5.3.1.8 asks for 100."""


class Desk:
    """What all deliveries of one set of settings share."""

    def __init__(
        self,
        settings: Settings,
        directory: IDirectory,
        router: IRouter,
        pools: Mapping[str, IPool],
        dialer: Dialer,
        store: IMailStore,
    ) -> None:
        self.directory, self.router, self.pools = directory, router, pools
        self.dialer, self.store = dialer, store
        self.hostname = settings.gateway.hostname
        self.policy = Policy(settings.domains.accept)


@implementer(IDelivery)
class RoutedDelivery:
    """One session's way of getting mail to where it belongs."""

    log = Logger()

    def __init__(self, identity: Identity | None, session: ISession, desk: Desk) -> None:
        """@param identity: who is logged in; C{None} for the world, on MX."""
        self.username = identity.username if identity is not None else ""
        self._known_as = self.username  # on backends
        self._identity, self._session, self._desk = identity, session, desk
        # The user's own password is needed for as long as mail may be sent with it, which is the session.
        self._login = session.login if identity is not None else None
        self._way_out: Route | None = None
        self._helo = ""
        self._connector = Connector(desk.dialer, self._forward, desk.hostname)
        self._origin = Origin("")
        self._destination: Onward | str = ""
        self._owners: set[str] = set()
        self._boxes: dict[str, IChunkedMessage] = {}

    def _forward(self) -> Forward:
        return forward_of(self._session, self._known_as, self._helo, self._session.client_tls())

    def _envelope(self) -> Envelope:
        return Envelope(self._session.origin(), self._helo, self._origin.text)

    def reset(self) -> None:
        destination, self._destination = self._destination, ""
        self._owners, self._boxes = set(), {}
        if isinstance(destination, Onward):
            destination.drop()

    def close(self) -> None:
        self.reset()
        self._connector.close()
        self._login = None

    # --- IMessageDelivery --------------------------------------------------------------------------------------------

    def receivedHeader(self, helo: tuple[bytes, bytes], origin: Origin, recipients: list[Any]) -> bytes:
        """Write the trace of this hop."""
        return received(
            self._session.peer,
            helo[0].decode("ascii"),
            self._desk.hostname,
            self._session.session_id,
            self._desk.dialer.reactor.seconds(),
            esmtp=origin.esmtp,
            secure=self._session.secure,
            authenticated=self._identity is not None,
            recipient=recipients[0].dest.text if len(recipients) == 1 else "",
        )

    def validateFrom(self, helo: tuple[bytes, bytes], origin: Origin) -> Origin:
        """Begin an envelope.

        @raise SenderRefused: this login may not send as that address.
        """
        refusal = self._desk.policy.sender(self._identity, origin.text)
        if refusal is not None:
            raise SenderRefused(origin, refusal)
        self._helo, self._origin = helo[0].decode("ascii"), origin
        self.reset()
        return origin

    def validateTo(self, user: Any) -> Deferred[Callable[[], IChunkedMessage]]:
        """Find a recipient's destination, and ask it where it can be asked now.

        @return: fires with what gives the message for this recipient; recipients who share a backend share the
            message. Fails with L{RecipientRefused}.
        """
        return Deferred.fromCoroutine(self._place(user))

    async def _place(self, user: Any) -> Callable[[], IChunkedMessage]:
        address: str = user.dest.text
        try:
            owner, route = await self._route(user)
            return await self._go(user, address, owner, route)
        except (DirectoryDown, LoginRefused, BackendFailed) as error:
            self.log.warn(
                "{session} no way to {address!r}: {reason}",
                session=self._session.session_id,
                address=address,
                reason=str(error),
            )
            raise RecipientRefused(user.dest, TROUBLE) from None

    async def _route(self, user: Any) -> tuple[Identity, Route]:
        """Whose mailbox this is and where it lies; for what is not ours, the sender and the sender's route.

        @raise RecipientRefused: nobody's, or not for us to carry.
        """
        address: str = user.dest.text
        if self._desk.policy.is_ours(address):
            envelope = self._envelope()
            owner = await self._desk.directory.lookup(self._desk.policy.lookup_name(address), envelope)
            if owner is None:
                raise RecipientRefused(user.dest, NO_SUCH_USER)
            return owner, await self._desk.router.route(owner, "smtp", envelope.origin)
        if self._identity is None:
            raise RecipientRefused(user.dest, RELAY_DENIED)
        route = await self._desk.router.route(self._identity, "smtp", self._session.origin())
        if route.local or self._desk.pools[route.pool].options.smtp is None:
            raise RecipientRefused(user.dest, RELAY_DENIED)
        return self._identity, route

    async def _go(self, user: Any, address: str, owner: Identity, route: Route) -> Callable[[], IChunkedMessage]:
        if route.local:
            return self._local(user, owner)
        onward = self._onward(user, self._desk.pools[route.pool], owner, route, await self._sender(owner, route))
        if onward.candidates[0].speak == "lmtp" and self._desk.policy.is_ours(address):
            address = route.username or owner.username  # LMTP is the last hop: behind it nobody knows aliases
        reply = await onward.recipient(address)
        if not reply.good:
            raise RecipientRefused(user.dest, reply)
        return onward.message

    async def _sender(self, owner: Identity, route: Route) -> Route:
        """The sender's own route: it may say with which name and password the sender logs in on backends."""
        if self._identity is None or owner is self._identity:
            return route
        if self._way_out is None:
            try:
                self._way_out = await self._desk.router.route(self._identity, "smtp", self._session.origin())
            except LoginRefused:  # nowhere: then with the name and the password of the login
                self._way_out = Route("")
        return self._way_out

    # --- one destination ---------------------------------------------------------------------------------------------

    def _local(self, user: Any, owner: Identity) -> Callable[[], IChunkedMessage]:
        if isinstance(self._destination, Onward):
            if self._destination.accepted:
                raise RecipientRefused(user.dest, ANOTHER_DESTINATION)
            self.reset()
        if owner.username not in self._owners and len(self._owners) >= LOCAL_COPIES:
            raise RecipientRefused(user.dest, ANOTHER_DESTINATION)
        self._desk.store.account(owner)  # a name that makes no path is refused now, not when the text has come
        self._destination = "local"
        self._owners.add(owner.username)
        return partial(self._box, owner)

    def _box(self, owner: Identity) -> IChunkedMessage:
        """A user's copy: one, however many of the user's addresses were named."""
        if owner.username not in self._boxes:
            self._boxes[owner.username] = self._desk.store.inbox(owner, self._origin.text)
        return self._boxes[owner.username]

    def _onward(self, user: Any, pool: IPool, owner: Identity, route: Route, sender: Route) -> Onward:
        candidates = pool.candidates(owner.username, "smtp", route)
        chosen = self._destination
        if isinstance(chosen, Onward) and not chosen.accepted and not chosen.serves(candidates):
            self.reset()  # nobody there wanted this mail: it may go elsewhere
        if not self._destination:
            access, xclient = self._access(pool, candidates[0].speak, sender)
            self._destination = Onward(self._connector, pool, candidates, access, self._origin, xclient=xclient)
        if isinstance(self._destination, str) or not self._destination.serves(candidates):
            raise RecipientRefused(user.dest, ANOTHER_DESTINATION)
        return self._destination

    def _access(self, pool: IPool, speak: str, sender: Route) -> tuple[Access | None, bool]:
        """How to log in on the pool's SMTP, and whether by XCLIENT. MX never does, and LMTP knows no login.

        @raise BackendFailed: the pool wants a password that nobody has.
        """
        if self._identity is None:
            return None, False
        self._known_as = self.username if sender.username is None else sender.username
        smtp = pool.options.smtp
        if smtp is not None and smtp.service_user:
            password = smtp.service_password.get_secret_value()
            return Access(smtp.service_user, password, "", mechanism_of(pool.options)), False
        if speak == "lmtp":
            return None, False
        return access_to(pool.options, self.username, self._login, sender), pool.options.login == "xclient"
