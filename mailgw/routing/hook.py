"""The rule that asks a function of the site's own where a user goes.

The function sees the identity, never a password that somebody typed. What it raises, and an answer that is none, is
temporary trouble; how it came to it is its own affair.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Annotated, Any, Self

from pydantic import AfterValidator, Field
from twisted.internet.defer import CancelledError, Deferred, TimeoutError
from twisted.logger import Logger
from zope.interface import implementer

from mailgw.crew import Crew
from mailgw.errors import DirectoryDown, LoginRefused
from mailgw.interfaces import IHouse, ILookingRule, IPool
from mailgw.model import LOCAL, Identity, Origin, RefusalKind, Route
from mailgw.routing.recall import Recall, Recalling
from mailgw.routing.target import PoolName, backend_user, known_pool, route_to
from mailgw.settings import Duration

QUEUE = 200
"""Questions that may wait for a thread."""

Call = Callable[[Identity, str], Any]


def _imported(call: str) -> str:
    function_of(call)
    return call


def function_of(call: str) -> Call:
    """Import what C{package.module:function} names.

    @raise ValueError: it cannot be imported, or cannot be called.
    """
    module, colon, name = call.partition(":")
    if not (module and colon and name):
        raise ValueError('must be "package.module:function"')
    try:
        found = getattr(import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"cannot be loaded: {error}") from error
    if not callable(found):
        raise ValueError("is nothing that can be called")
    function: Call = found
    return function


@implementer(ILookingRule)
class HookRule:
    """C{kind = "hook"}: a Python function says where a user goes."""

    log = Logger()

    class Options(Recalling):
        """C{[[route]]} of kind "hook"."""

        call: Annotated[str, AfterValidator(_imported)]
        """package.module:function, called with the identity and the protocol; a plain one runs in a thread."""
        pool: PoolName | None = None
        """Whose ports, TLS and login apply to a backend that names no pool; left out, every answer must name one."""
        timeout: Annotated[Duration, Field(gt=0)] = 5.0
        """For one question."""
        calls: Annotated[int, Field(ge=1, le=1000)] = 10
        """Questions that are under way at a time, in each worker; 200 more may wait for a thread."""

    def __init__(
        self, options: Options, function: Call, pool: str | None, pools: Mapping[str, IPool], reactor: Any
    ) -> None:
        self.name = f"hook {options.call}"
        self._function = function
        self._pool = pool
        self._pools = pools
        self._clock = reactor
        self._timeout = options.timeout
        self._calls = options.calls
        self._recall = Recall(options, reactor)
        self._waits = inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(
            getattr(function, "__call__", None)  # noqa: B004  # an object whose __call__ is async
        )
        self._under_way = 0
        self._crew = Crew(self.name, reactor, reactor, options.calls, QUEUE, options.timeout)
        self._started = False

    @classmethod
    def from_options(cls, name: str, options: Options, house: IHouse) -> Self:
        """Build the rule.

        @raise SettingsError: there is no such pool.
        """
        pool = None if options.pool is None else known_pool(name, options.pool, house.pools)
        return cls(options, function_of(options.call), pool, house.pools, house.reactor)

    async def route(self, identity: Identity, protocol: str, origin: Origin | None = None) -> Route | None:
        key = (identity.directory, identity.username, protocol)
        return await self._recall.ask(key, identity.username, lambda: self._asked(identity, protocol))

    def flush(self, user: str | None = None) -> int:
        return self._recall.flush(user)

    async def stop(self) -> None:
        self._started = True
        await self._crew.stop()

    async def _asked(self, identity: Identity, protocol: str) -> Route | None:
        try:
            answer = await (self._awaited if self._waits else self._in_a_thread)(identity, protocol)
        except (LoginRefused, CancelledError):
            raise
        except DirectoryDown as error:
            raise LoginRefused(RefusalKind.UNAVAILABLE, str(error)) from None
        except Exception as error:
            # Somebody else's function may raise anything; its traceback is for those who wrote it.
            self.log.failure("{rule} failed on {user!r}", rule=self.name, user=identity.username)
            raise LoginRefused(RefusalKind.UNAVAILABLE, f"{self.name}: {type(error).__name__}") from error
        return self._read(answer)

    async def _awaited(self, identity: Identity, protocol: str) -> Any:
        if self._under_way >= self._calls + QUEUE:
            raise DirectoryDown(f"{self.name} is overloaded")
        self._under_way += 1
        try:
            asked = Deferred.fromCoroutine(self._function(identity, protocol))
            return await asked.addTimeout(self._timeout, self._clock)
        except TimeoutError:
            raise DirectoryDown(f"{self.name} did not answer within {self._timeout:g} s") from None
        finally:
            self._under_way -= 1

    async def _in_a_thread(self, identity: Identity, protocol: str) -> Any:
        if not self._started:
            self._started = True
            self._crew.start()
        return await self._crew.run(self._function, identity, protocol)

    def _read(self, answer: Any) -> Route | None:
        """The route that an answer stands for.

        @raise LoginRefused: it stands for none.
        """
        match answer:
            case None:
                return None
            case "local":
                return LOCAL
            case str() if answer:
                return route_to(answer, self._pool, self._pools)
            case (str(pool), str() | None as backend) if pool in self._pools:
                return Route(pool, backend or None)
            case (str(pool), str() | None as backend, str(username)) if pool in self._pools:
                return Route(pool, backend or None, username=backend_user(username))
            case (str(pool), *_) if pool not in self._pools:
                raise LoginRefused(RefusalKind.UNAVAILABLE, f"{self.name}: there is no pool {pool!r}")
        if inspect.iscoroutine(answer):
            answer.close()
        raise LoginRefused(RefusalKind.UNAVAILABLE, f"{self.name} answered with a {type(answer).__name__}")
