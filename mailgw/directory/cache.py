"""A short memory of good passwords over one directory.

It remembers successes only, never a refusal or trouble, and never answers for a password that the directory has not
seen: a different one always asks. Look-ups pass through. It holds no password: keys are hashes under a random key.
"""

from __future__ import annotations

import secrets
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import blake2b

from twisted.internet.interfaces import IReactorTime
from zope.interface import implementer

from mailgw.directory.sharing import SharedCalls
from mailgw.interfaces import IDirectory
from mailgw.model import Envelope, Identity, Login

MAX_ENTRIES = 10_000


@dataclass(frozen=True, slots=True)
class _Entry:
    """A login that was good.

    @ivar typed: the user name as the client sent it.
    @ivar secret: tells one password of a user from another, nothing else.
    """

    identity: Identity
    typed: str
    secret: bytes
    expires: float


def _alike(login: Login) -> str:
    return ""


@implementer(IDirectory)
class CachedDirectory:
    """A directory that asks another one."""

    def __init__(
        self,
        directory: IDirectory,
        clock: IReactorTime,
        seconds: float,
        size: int = MAX_ENTRIES,
        vary: Callable[[Login], str] = _alike,
    ) -> None:
        """Put a cache over a directory.

        @param seconds: how long a good login is remembered; 0 turns the cache off.
        @param size: entries; the one not used for longest goes first.
        @param vary: what else than name and password the directory's answer depends on, such as the protocol.
        """
        self.name: str = directory.name
        self._directory = directory
        self._clock = clock
        self._seconds = seconds
        self._size = size
        self._vary = vary
        self._entries: OrderedDict[bytes, _Entry] = OrderedDict()
        self._keys: dict[str, set[bytes]] = {}
        self._calls: SharedCalls[Identity | None] = SharedCalls()
        self._key = secrets.token_bytes(32)
        self._flushes = 0

    async def authenticate(self, login: Login) -> Identity | None:
        if self._seconds <= 0:
            return await self._directory.authenticate(login)
        key = self._digest(login.username, login.password, login.mechanism, login.authzid, self._vary(login))
        entry = self._entries.get(key)
        if entry is not None and entry.expires > self._clock.seconds():
            self._entries.move_to_end(key)
            return entry.identity
        return await self._calls.ask(key, lambda: self._ask(key, login))

    async def lookup(self, address: str, envelope: Envelope | None = None) -> Identity | None:
        return await self._directory.lookup(address, envelope)

    def start(self) -> None:
        self._directory.start()

    async def stop(self) -> None:
        self.flush()
        await self._directory.stop()

    def flush(self, user: str | None = None) -> int:
        """Forget a user, by canonical name or as typed, or everybody; return how many entries that were.

        What is being asked at this moment is not remembered either: its answer may be older than the change.
        """
        self._flushes += 1
        wanted = user.lower() if user is not None else None
        gone = [
            key
            for key, entry in self._entries.items()
            if wanted is None or wanted in (entry.identity.username.lower(), entry.typed.lower())
        ]
        for key in gone:
            self._forget(key)
        return len(gone)

    async def _ask(self, key: bytes, login: Login) -> Identity | None:
        flushes = self._flushes
        identity = await self._directory.authenticate(login)
        if identity is not None and flushes == self._flushes:
            self._remember(key, login, identity)
        return identity

    def _remember(self, key: bytes, login: Login, identity: Identity) -> None:
        secret = self._digest(identity.username, login.password)
        # A new password that is good ends the old one's stay: whoever changed it wants the old one to be dead.
        for other in list(self._keys.get(identity.username, ())):
            if other == key or self._entries[other].secret != secret:
                self._forget(other)
        while len(self._entries) >= self._size:
            self._forget(next(iter(self._entries)))
        self._entries[key] = _Entry(identity, login.username, secret, self._clock.seconds() + self._seconds)
        self._keys.setdefault(identity.username, set()).add(key)

    def _forget(self, key: bytes) -> None:
        name = self._entries.pop(key).identity.username
        self._keys[name].remove(key)
        if not self._keys[name]:
            del self._keys[name]

    def _digest(self, *fields: str | bytes) -> bytes:
        """A keyed hash of the fields, each with its length: no two lists of fields look the same."""
        digest = blake2b(key=self._key, digest_size=32)
        for field in (self.name, *fields):
            octets = field if isinstance(field, bytes) else field.encode("utf-8", "surrogatepass")
            digest.update(b"%d:%b" % (len(octets), octets))
        return digest.digest()
