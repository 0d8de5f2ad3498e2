"""The passwd directory: users in a file of C{user:{SCHEME}hash:attributes} lines, Dovecot's passwd files included.

It reads the file again when it changes, and keeps what it had when the new one cannot be read. It writes nothing:
L{PasswdFile}, for C{mailgw user}, does.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable
from threading import BoundedSemaphore

from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from zope.interface import implementer

from mailgw.crew import Crew
from mailgw.directory import schemes
from mailgw.directory.cache import CachedDirectory
from mailgw.directory.names import refuse_malformed
from mailgw.directory.passwdfile import FaultyFile, Line, PasswdFile, read_lines
from mailgw.errors import DirectoryDown, LoginRefused
from mailgw.interfaces import IDirectory, IHouse
from mailgw.model import Envelope, Identity, Login, RefusalKind
from mailgw.settings import Duration, FilePath, Table

__all__ = ["FaultyFile", "PasswdDirectory", "PasswdFile", "PasswdOptions"]

THREADS = 4
QUEUE = 100
"""Passwords that may wait for a thread."""
PATIENCE = 10.0
"""Seconds for one password."""
MEMORY_HARD = 2
"""Verifications at a time that take tens of megabytes each."""
LOOK = 1.0
"""Seconds between two looks at the file."""


class PasswdOptions(Table):
    """C{[[directory]]} of kind "passwd"."""

    file: FilePath
    """Lines of user:{SCHEME}hash:attributes, or Dovecot's passwd-file format."""
    cache: Duration = 10.0
    """How long a good login is remembered."""


class Users:
    """The users of one version of the file, found by name or address.

    @ivar decoy: a stored password whose scheme is the commonest, for those who do not exist.
    @ivar notes: what is odd in the file, for the log.
    """

    def __init__(self, lines: Iterable[Line], domains: Iterable[str]) -> None:
        self._domains = tuple(domain.lower() for domain in domains)
        self._lines: dict[str, Line] = {}
        self._addresses: dict[str, Line] = {}
        self.notes: list[str] = []
        for line in lines:
            self._add(line)
        for line in self._lines.values():
            for address in self.addresses(line):
                self._addresses.setdefault(address, line)
        kinds = Counter(schemes.scheme(line.stored) for line in self._lines.values())
        ordered = sorted(self._lines.values(), key=lambda line: -kinds[schemes.scheme(line.stored)])
        self.decoy = ordered[0].stored if ordered else ""

    def _add(self, line: Line) -> None:
        if line.name in self._lines:
            self.notes.append(f"{line.name} is there twice; the first one counts")
            return
        if not schemes.known(line.stored):
            self.notes.append(f"{line.name} has a password of the unknown scheme {schemes.scheme(line.stored)}")
        if "allow_nets" in line.extra:
            self.notes.append(f"{line.name} has allow_nets, which is not enforced here")
        self._lines[line.name] = line

    def find(self, name: str) -> Line | None:
        """By the line's name first, then by any of the addresses."""
        name = name.lower()
        return self._lines.get(name) or self._addresses.get(name)

    def addresses(self, line: Line) -> tuple[str, ...]:
        """What a user receives at: the name, or the name at each of our domains, and what C{mail=} adds."""
        own = (line.name,) if "@" in line.name else tuple(f"{line.name}@{domain}" for domain in self._domains)
        more = (address.lower() for value in line.extra.get("mail", ()) for address in value.split(","))
        return tuple(dict.fromkeys((*own, *(address for address in more if "@" in address))))


@implementer(IDirectory)
class PasswdDirectory:
    """A directory out of a passwd file."""

    Options = PasswdOptions
    log = Logger()

    def __init__(self, name: str, path: str, domains: Iterable[str], crew: Crew, clock: IReactorTime) -> None:
        """Make a directory.

        @param domains: the gateway's hostname and the domains it accepts mail for: names without a domain are theirs.
        """
        self.name = name
        self._path = path
        self._domains = tuple(dict.fromkeys(domains))
        self._crew = crew
        self._clock = clock
        self._users: Users | None = None
        self._seen: tuple[int, int, int] | None = None
        self._looked = float("-inf")
        self._trouble = ""
        self._memory = BoundedSemaphore(MEMORY_HARD)

    @classmethod
    def from_options(cls, name: str, options: PasswdOptions, house: IHouse) -> IDirectory:
        """Make a directory as the settings want it, under its cache."""
        reactor, settings = house.reactor, house.settings
        crew = Crew(name, reactor, reactor, THREADS, QUEUE, PATIENCE)
        domains = (settings.gateway.hostname, *settings.domains.accept)
        return CachedDirectory(cls(name, options.file, domains, crew, reactor), reactor, options.cache)

    async def authenticate(self, login: Login) -> Identity | None:
        refuse_malformed(login)
        users = self._current()
        line = users.find(login.username)
        try:
            right = await self._crew.run(self._verify, line.stored if line else users.decoy, login.password)
        except schemes.UnusableHash as error:
            if line is None:
                return None
            self.log.error("{directory}: {user}: {reason}", directory=self.name, user=line.name, reason=str(error))
            raise DirectoryDown(f"{self.name}: {line.name}: {error}") from None
        if line is None:
            return None
        if not right:
            raise LoginRefused(RefusalKind.CREDENTIALS, "wrong password")
        if "nologin" in line.extra:
            raise LoginRefused(RefusalKind.DISABLED, "nologin is set")
        return self._identity(users, line)

    async def lookup(self, address: str, envelope: Envelope | None = None) -> Identity | None:
        users = self._current()
        line = users.find(address)
        return self._identity(users, line) if line else None

    def question(self, user: str) -> str:
        """The file that is looked into."""
        return self._path

    def start(self) -> None:
        self._crew.start()
        self._look()

    async def stop(self) -> None:
        await self._crew.stop()

    def _identity(self, users: Users, line: Line) -> Identity:
        return Identity(line.name, self.name, addresses=users.addresses(line), attributes=dict(line.extra))

    def _verify(self, stored: str, password: bytes) -> bool:
        """In a thread."""
        if not schemes.memory_hard(stored):
            return schemes.verify(stored, password)
        with self._memory:
            return schemes.verify(stored, password)

    def _current(self) -> Users:
        if self._clock.seconds() - self._looked >= LOOK:
            self._look()
        if self._users is None:
            raise DirectoryDown(f"{self.name}: {self._path} cannot be read")
        return self._users

    def _look(self) -> None:
        self._looked = self._clock.seconds()
        try:
            status = os.stat(self._path)
            seen = (status.st_mtime_ns, status.st_size, status.st_ino)
            if seen == self._seen:
                return
            with open(self._path, "rb") as file:
                content = file.read()
        except OSError as error:
            self._seen = None
            self._keep(error.strerror or str(error))
            return
        self._seen = seen
        try:
            self._take(Users(read_lines(content), self._domains))
        except FaultyFile as error:
            self._keep(str(error))

    def _take(self, users: Users) -> None:
        self._users, self._trouble = users, ""
        self.log.info("{directory}: read {path}", directory=self.name, path=self._path)
        for note in users.notes:
            self.log.warn("{directory}: {path}: {note}", directory=self.name, path=self._path, note=note)

    def _keep(self, reason: str) -> None:
        """The file is no good: what it was is still in force. Told once, not every second."""
        if reason != self._trouble:
            self.log.error("{directory}: {path}: {reason}", directory=self.name, path=self._path, reason=reason)
        self._trouble = reason
