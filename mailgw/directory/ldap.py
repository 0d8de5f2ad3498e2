"""The LDAP directory: search for the user, then bind as the entry found.

It never binds a search connection as a user, never takes a user's name from what was typed, and never makes trouble
with a server a wrong password. How servers are talked to stands in C{ldaplink.py}, what they say in C{ldapentry.py}.
"""

from __future__ import annotations

import secrets
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from statistics import median
from typing import Annotated, NoReturn, ParamSpec, Protocol, TypeVar
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, SecretBytes, model_validator
from twisted.internet.defer import CancelledError
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater
from twisted.logger import Logger
from zope.interface import implementer

from mailgw.crew import Crew
from mailgw.directory import servers
from mailgw.directory.cache import CachedDirectory
from mailgw.directory.ldapentry import (
    REFUSED,
    SIZE_LIMIT_EXCEEDED,
    SUCCESS,
    Entry,
    EntryFault,
    Outcome,
    comparable_dn,
    fill,
    places,
    read_identity,
    why_refused,
)
from mailgw.directory.ldaplink import NO_ATTRIBUTES, Link, escape, filter_fault, tls_context
from mailgw.directory.names import refuse_malformed, split_name, well_formed
from mailgw.directory.servers import NoAnswer, Server, Servers
from mailgw.errors import DirectoryDown, LoginRefused, MailgwError, SettingsError
from mailgw.interfaces import IDirectory, IHouse
from mailgw.memory import SharedCalls
from mailgw.model import Envelope, Identity, Login, RefusalKind
from mailgw.settings import Duration, FilePath, Secret, Strings, Table

P = ParamSpec("P")
T = TypeVar("T")

QUEUE = 200
"""Questions that may wait for a thread."""
GRACE = 0.5
"""Seconds that a question may take beyond its timeout: a thread may hang in getaddrinfo(), which has none."""


def _filter(template: str, *, known: frozenset[str], needed: frozenset[str]) -> str:
    """Check a filter's template: only known names in braces, one of those needed, and RFC 4515 syntax."""
    if not template:
        return template
    if unknown := places(template) - known:
        raise ValueError(
            f"{{{min(unknown)}}} is not known here; there are {', '.join(f'{{{n}}}' for n in sorted(known))}"
        )
    if not places(template) & needed:
        raise ValueError(f"a filter without {' or '.join(f'{{{n}}}' for n in sorted(needed))} finds everybody")
    if fault := filter_fault(fill(template, escape, dict.fromkeys(known, "x"))):
        raise ValueError(f"not an LDAP filter: {fault}")
    return template


def _uris(uris: tuple[str, ...]) -> tuple[str, ...]:
    for uri in uris:
        parts = urlsplit(uri)
        if parts.scheme not in ("ldap", "ldaps") or not parts.hostname or parts.path.strip("/"):
            raise ValueError(f"{uri!r} is not ldap://HOST[:PORT] or ldaps://HOST[:PORT]")
        _ = parts.port  # raises ValueError for what is no port
    if not uris:
        raise ValueError("at least one URI is needed")
    return uris


_NAMES = frozenset({"user", "local", "domain"})
_LoginFilter = Annotated[str, AfterValidator(partial(_filter, known=_NAMES, needed=_NAMES - {"domain"}))]
_GroupFilter = Annotated[str, AfterValidator(partial(_filter, known=_NAMES | {"dn"}, needed=_NAMES | {"dn"}))]
_LookupFilter = Annotated[
    str, AfterValidator(partial(_filter, known=_NAMES | {"address"}, needed=frozenset({"address", "user", "local"})))
]


class LdapOptions(Table):
    """C{[[directory]]} of kind "ldap"."""

    uri: Annotated[Strings, AfterValidator(_uris)]
    """The servers, in order of preference: ldap://HOST or ldaps://HOST."""
    starttls: bool = False
    """StartTLS before anything else on ldap:// URIs."""
    ca: FilePath | None = None
    """PEM file of a private CA; the system's CAs when left out."""
    bind_dn: str = ""
    """The account that searches; without one the search is anonymous."""
    bind_password: Secret = SecretBytes(b"")
    base: str
    """The part of the tree where the users are; all below it is searched."""
    filter: _LoginFilter = "(|(uid={user})(mail={user}))"
    """Finds the entry of who logs in. {user}, {local} and {domain} are escaped; without a domain {local} is {user}."""
    username: str = "mail"
    """The attribute that is the canonical user name: routes, stores, logs and limits use it."""
    addresses: Strings = ("mail",)
    """The attributes that hold what this user may receive at and send as."""
    attributes: Strings = ("mailHost",)
    """More attributes to fetch, for routing rules."""
    allow_groups: Strings = ()
    """Only members of one of these groups may log in; by memberOf, or with group_base by searching the groups."""
    group_base: str = ""
    group_filter: _GroupFilter = "(member={dn})"
    """Finds the groups of {dn}; {user}, {local} and {domain} are of the canonical name here."""
    lookup_filter: _LookupFilter = ""
    """Finds the entry that receives at {address}; when left out, any of the attributes in addresses may have it."""
    timeout: Annotated[Duration, Field(gt=0)] = 5.0
    """For one question, however many servers are tried for it."""
    cache: Duration = 60.0
    """How long a good login is remembered."""
    connections: Annotated[int, Field(ge=1, le=100)] = 8
    """Threads, each using one connection at a time."""

    @model_validator(mode="after")
    def _bind_is_whole(self) -> LdapOptions:
        if bool(self.bind_dn) != bool(self.bind_password.get_secret_value()):
            raise ValueError("bind_dn and bind_password go together; leave both out for an anonymous search")
        return self


class Asked(servers.Link, Protocol):
    """What a directory needs of a connection; see L{Link}."""

    def bind(self, dn: str, password: bytes, until: float) -> Outcome:
        """Try a password on an entry."""

    def search(
        self, base: str, text: str, attributes: Sequence[str], limit: int, until: float
    ) -> tuple[Outcome, list[Entry]]:
        """Search the whole tree below a base."""


@implementer(IDirectory)
class LdapDirectory:
    """A directory of several LDAP servers that hold the same."""

    Options = LdapOptions
    log = Logger()

    def __init__(
        self, name: str, options: LdapOptions, crew: Crew, clock: IReactorTime, connect: Callable[[str, float], Asked]
    ) -> None:
        """Make a directory.

        @param connect: opens a L{Link} to one of the URIs, until a point in time on the clock.
        """
        self.name = name
        self._options = options
        self._crew = crew
        self._clock = clock
        self._connect = connect
        self._lookups: SharedCalls[Identity | None] = SharedCalls()
        self._allowed = frozenset(comparable_dn(group) for group in options.allow_groups)
        self._attributes = tuple(dict.fromkeys((options.username, *options.addresses, *options.attributes, "memberOf")))
        self._lookup_filter = options.lookup_filter or _any_of(options.addresses)
        self._wrong: deque[float] = deque(maxlen=15)
        self._servers: Servers[Asked] = Servers(
            [Server(uri, partial(self._open, uri), clock.seconds) for uri in options.uri],
            clock.seconds,
            partial(crew.tell, self._report),
        )

    @classmethod
    def from_options(cls, name: str, options: LdapOptions, house: IHouse) -> IDirectory:
        """Make a directory as the settings want it, under its cache.

        @raise SettingsError: the CA's file cannot be used.
        """
        reactor, tls = house.reactor, house.settings.tls
        crew = Crew(name, reactor, reactor, options.connections, QUEUE, options.timeout + GRACE)
        try:
            context = tls_context(options.ca, tls.minimum if tls is not None else "1.2")
        except OSError as error:
            raise SettingsError([f"directory {name}: ca: {options.ca}: {error.strerror or error}"]) from None

        def connect(uri: str, until: float) -> Link:
            return Link(uri, options.starttls, context, until, reactor.seconds)

        return CachedDirectory(cls(name, options, crew, reactor, connect), reactor, options.cache)

    async def authenticate(self, login: Login) -> Identity | None:
        refuse_malformed(login)
        try:
            identity, pause = await self._run(self._check, login)
        except EntryFault as fault:
            self._complain(fault)
            raise LoginRefused(RefusalKind.DISABLED, str(fault)) from None
        if pause > 0:
            await deferLater(self._clock, pause)
        return identity

    async def lookup(self, address: str, envelope: Envelope | None = None) -> Identity | None:
        if not well_formed(address):
            return None
        try:
            return await self._lookups.ask(address, lambda: self._run(self._find_recipient, address))
        except EntryFault as fault:
            self._complain(fault)
            raise DirectoryDown(f"{self.name}: {fault}") from None

    def question(self, user: str) -> str:
        """Where a look-up of this name searches for what, as an administrator would type it."""
        template, values = self._lookup(user)
        return f"{self._options.base} {fill(template, escape, values)}"

    def start(self) -> None:
        self._crew.start()

    async def stop(self) -> None:
        await self._crew.stop()
        self._servers.close()

    async def _run(self, job: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return await self._crew.run(job, *args, **kwargs)
        except (MailgwError, EntryFault, CancelledError):
            raise
        except NoAnswer as error:
            raise DirectoryDown(f"{self.name}: {error}") from None
        except Exception as error:  # what ldap3 and pyasn1 make of a strange answer has no common name
            self.log.failure("{directory}: unexpected trouble", directory=self.name)
            raise DirectoryDown(f"{self.name}: {type(error).__name__}") from error

    def _complain(self, fault: EntryFault) -> None:
        self.log.error("{directory}: {reason}", directory=self.name, reason=str(fault))

    def _report(self, server: str, reason: str) -> None:
        if reason:
            self.log.error("{directory}: {server} failed: {reason}", directory=self.name, server=server, reason=reason)
        else:
            self.log.info("{directory}: {server} is back", directory=self.name, server=server)

    # --- in the crew's threads from here on --------------------------------------------------------------------------

    def _check(self, login: Login) -> tuple[Identity | None, float]:
        """Check a password; return also for how many seconds the answer should be held back."""
        until = self._clock.seconds() + self._options.timeout
        entries = self._search(
            until, self._options.base, self._options.filter, _names(login.username), self._attributes
        )
        if len(entries) != 1:
            pause = self._pretend(until)
            if entries:
                reason = f"several entries match {login.username!r}"
                self._crew.tell(self._complain, EntryFault(reason))
                raise LoginRefused(RefusalKind.CREDENTIALS, reason)
            return None, pause
        began = self._clock.seconds()
        outcome = self._bind(until, entries[0].dn, login.password)
        if outcome.code in REFUSED:
            self._wrong.append(self._clock.seconds() - began)
            raise LoginRefused(RefusalKind.CREDENTIALS, f"{entries[0].dn}: {why_refused(outcome)}")
        if outcome.code != SUCCESS:
            _down(self.name, outcome)
        identity = self._identity(until, entries[0])
        if self._allowed and self._allowed.isdisjoint(map(comparable_dn, identity.groups)):
            raise LoginRefused(RefusalKind.CREDENTIALS, f"{entries[0].dn} is in none of the allowed groups")
        return identity, 0.0

    def _find_recipient(self, address: str) -> Identity | None:
        until = self._clock.seconds() + self._options.timeout
        template, values = self._lookup(address)
        entries = self._search(until, self._options.base, template, values, self._attributes)
        if len(entries) > 1:
            raise EntryFault(f"several entries match {address!r}")
        return self._identity(until, entries[0]) if entries else None

    def _lookup(self, address: str) -> tuple[str, dict[str, str]]:
        """A name without a domain is no address: it is looked for as at a login."""
        template = self._lookup_filter if "@" in address else self._options.filter
        return template, {**_names(address), "address": address}

    def _identity(self, until: float, entry: Entry) -> Identity:
        options = self._options
        fields = (options.username, options.addresses, options.attributes)
        identity = read_identity(entry, self.name, *fields, entry.values("memberOf"))
        if not options.group_base:
            return identity
        values = {**_names(identity.username), "dn": entry.dn}
        found = self._search(until, options.group_base, options.group_filter, values, NO_ATTRIBUTES, 0)
        return read_identity(entry, self.name, *fields, (*identity.groups, *(group.dn for group in found)))

    def _pretend(self, until: float) -> float:
        """Do for an unknown user what a wrong password costs, so that time does not tell the two apart."""
        began = self._clock.seconds()
        self._bind(until, f"cn={secrets.token_hex(8)},{self._options.base}", secrets.token_bytes(8).hex().encode())
        spent = self._clock.seconds() - began
        # A server hashes, and counts failures, only for an entry that exists: that difference we wait.
        return max(0.0, median(self._wrong) - spent) if self._wrong else 0.0

    def _search(
        self, until: float, base: str, template: str, values: dict[str, str], attributes: Sequence[str], limit: int = 2
    ) -> list[Entry]:
        text = fill(template, escape, values)

        def search(link: Asked, share: float) -> tuple[Outcome, list[Entry]]:
            return link.search(base, text, attributes, limit, share)

        outcome, entries = self._servers.ask("search", until, search)
        enough = outcome.code == SIZE_LIMIT_EXCEEDED and len(entries) == limit
        if outcome.code != SUCCESS and not enough:
            _down(self.name, outcome)
        return entries

    def _bind(self, until: float, dn: str, password: bytes) -> Outcome:
        return self._servers.ask("bind", until, lambda link, share: link.bind(dn, password, share))

    def _open(self, uri: str, kind: str, until: float) -> Asked:
        """Connect; what searches is bound as the service account, what checks passwords stays nobody."""
        link = self._connect(uri, until)
        dn, password = self._options.bind_dn, self._options.bind_password.get_secret_value()
        if kind != "search" or not dn:
            return link
        try:
            outcome = link.bind(dn, password, until)
        except BaseException:
            link.abandon()
            raise
        if outcome.code != SUCCESS:
            link.close()
            raise NoAnswer(f"the service account was refused: {why_refused(outcome)}")
        return link


def _names(user: str) -> dict[str, str]:
    local, domain = split_name(user)
    return {"user": user, "local": local, "domain": domain}


def _any_of(attributes: Sequence[str]) -> str:
    return "(|" + "".join(f"({name}={{address}})" for name in attributes) + ")"


def _down(name: str, outcome: Outcome) -> NoReturn:
    raise DirectoryDown(f"{name}: result code {outcome.code} {outcome.text!r}")
