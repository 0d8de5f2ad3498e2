"""Several directories asked in order, as if they were one.

It never goes past trouble: only "not known here" leads to the next directory.
"""

from __future__ import annotations

from collections.abc import Sequence

from twisted.internet.defer import Deferred, DeferredList
from zope.interface import implementer

from mailgw.interfaces import IDirectory
from mailgw.model import Envelope, Identity, Login


@implementer(IDirectory)
class Chain:
    """The directories of the settings, in their order."""

    name = "chain"

    def __init__(self, directories: Sequence[IDirectory]) -> None:
        self.directories = tuple(directories)

    async def authenticate(self, login: Login) -> Identity | None:
        for directory in self.directories:
            identity = await directory.authenticate(login)
            if identity is not None:
                return identity
        return None

    async def lookup(self, address: str, envelope: Envelope | None = None) -> Identity | None:
        for directory in self.directories:
            identity = await directory.lookup(address, envelope)
            if identity is not None:
                return identity
        return None

    def start(self) -> None:
        for directory in self.directories:
            directory.start()

    async def stop(self) -> None:
        """Stop all of them; the first error is raised once every one has been told."""
        stopping = [Deferred.fromCoroutine(directory.stop()) for directory in self.directories]
        await DeferredList(stopping)
        for stopped in stopping:
            await stopped

    def flush(self, user: str | None = None) -> int:
        """Forget what caches in the chain hold of a user, or everything; return how many entries that were."""
        return sum(directory.flush(user) for directory in self.directories if hasattr(directory, "flush"))
