"""A short memory of good passwords over one directory.

It remembers successes only, never a refusal or trouble, and never answers for a password that the directory has not
seen: a different one always asks. Look-ups pass through. It holds no password: keys are hashes under a random key.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import blake2b

from twisted.internet.interfaces import IReactorTime
from zope.interface import implementer

from mailgw.interfaces import IDirectory
from mailgw.memory import MAX_ENTRIES, Memory, SharedCalls
from mailgw.model import Envelope, Identity, Login


@dataclass(frozen=True, slots=True)
class _Entry:
    """A login that was good.

    @ivar secret: tells one password of a user from another, nothing else.
    """

    identity: Identity
    secret: bytes


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
        self._seconds = seconds
        self._vary = vary
        self._memory: Memory[_Entry] = Memory(clock, size)
        self._calls: SharedCalls[Identity | None] = SharedCalls()
        self._key = secrets.token_bytes(32)

    async def authenticate(self, login: Login) -> Identity | None:
        if self._seconds <= 0:
            return await self._directory.authenticate(login)
        key = self._digest(login.username, login.password, login.mechanism, login.authzid, self._vary(login))
        entry = self._memory.recall(key)
        if entry is not None:
            return entry.identity
        return await self._calls.ask(key, lambda: self._ask(key, login))

    async def lookup(self, address: str, envelope: Envelope | None = None) -> Identity | None:
        return await self._directory.lookup(address, envelope)

    def question(self, user: str) -> str:
        """As the directory behind this cache has it."""
        question = getattr(self._directory, "question", None)
        return str(question(user)) if question else ""

    def holds(self, user: str) -> int:
        """How many logins are remembered of a user, by canonical name."""
        return len(self._memory.about(user))

    def start(self) -> None:
        self._directory.start()

    async def stop(self) -> None:
        self.flush()
        await self._directory.stop()

    def flush(self, user: str | None = None) -> int:
        """Forget a user, by canonical name or as typed, or everybody; return how many entries that were.

        What is being asked at this moment is not remembered either: its answer may be older than the change.
        """
        return self._memory.flush(user)

    async def _ask(self, key: bytes, login: Login) -> Identity | None:
        flushes = self._memory.flushes
        identity = await self._directory.authenticate(login)
        if identity is not None and flushes == self._memory.flushes:
            self._remember(key, login, identity)
        return identity

    def _remember(self, key: bytes, login: Login, identity: Identity) -> None:
        secret = self._digest(identity.username, login.password)
        # A new password that is good ends the old one's stay: whoever changed it wants the old one to be dead.
        for other, entry in self._memory.about(identity.username):
            if entry.identity.username == identity.username and entry.secret != secret:
                self._memory.forget(other)
        self._memory.keep(key, _Entry(identity, secret), self._seconds, identity.username, login.username)

    def _digest(self, *fields: str | bytes) -> bytes:
        """A keyed hash of the fields, each with its length: no two lists of fields look the same."""
        digest = blake2b(key=self._key, digest_size=32)
        for field in (self.name, *fields):
            octets = field if isinstance(field, bytes) else field.encode("utf-8", "surrogatepass")
            digest.update(b"%d:%b" % (len(octets), octets))
        return digest.digest()
