"""The router: asks the rules in their order, and the first that answers wins.

Has no default: where a rule fails, or none answers, the user is told of temporary trouble, because every other answer
could show somebody an empty mailbox.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Self

from twisted.internet.defer import CancelledError, Deferred, DeferredList
from twisted.logger import Logger
from zope.interface import implementer

from mailgw.errors import LoginRefused, MailgwError
from mailgw.interfaces import IHouse, ILookingRule, IRouter, IRoutingRule
from mailgw.model import LOCAL, Identity, Origin, RefusalKind, Route, Step
from mailgw.names import Form
from mailgw.settings import Table


@implementer(IRouter)
class Router:
    """All C{[[route]]} tables, in the order of the settings."""

    log = Logger()

    def __init__(self, rules: Sequence[IRoutingRule], form: Form | None = None) -> None:
        """
        @param form: what backends are told, made of the canonical name or of the one that a rule gave.
        """
        self._rules = tuple(rules)
        self._form = form if form is not None and form.changes else None

    async def route(self, identity: Identity, protocol: str, origin: Origin | None = None) -> Route:
        for rule in self._rules:
            try:
                route = await self._ask(rule, identity, protocol, origin)
            except LoginRefused as error:
                self.log.warn(
                    "{protocol} route of {user!r}: {rule}: {reason}",
                    protocol=protocol,
                    user=identity.username,
                    rule=rule.name,
                    reason=error.refusal.reason,
                )
                raise
            if route is not None:
                return route
        self.log.warn("{protocol} route of {user!r}: no rule answered", protocol=protocol, user=identity.username)
        raise LoginRefused(RefusalKind.UNAVAILABLE, "no rule answered")

    async def explain(self, identity: Identity, protocol: str, origin: Origin | None = None) -> list[Step]:
        steps: list[Step] = []
        for rule in self._rules:
            try:
                route = await self._ask(rule, identity, protocol, origin)
            except LoginRefused as error:
                return [*steps, Step(rule.name, f"refused: {error.refusal.reason}")]
            if route is not None:
                return [*steps, Step(rule.name, describe(route))]
            steps.append(Step(rule.name, "not its business"))
        return [*steps, Step("router", "refused: no rule answered")]

    def flush(self, user: str | None = None) -> int:
        """Forget what rules remember of a user, or everything; return how many answers that were."""
        return sum(rule.flush(user) for rule in self._looking())

    async def stop(self) -> None:
        """Release what rules hold; the first error is raised once every one has been told."""
        stopping = [Deferred.fromCoroutine(rule.stop()) for rule in self._looking()]
        await DeferredList(stopping)
        for stopped in stopping:
            await stopped

    def _looking(self) -> list[ILookingRule]:
        return [rule for rule in self._rules if ILookingRule.providedBy(rule)]

    async def _ask(self, rule: IRoutingRule, identity: Identity, protocol: str, origin: Origin | None) -> Route | None:
        """Ask one rule; whatever goes wrong in it is temporary trouble, and no later rule is asked.

        @raise LoginRefused: the rule refused or failed.
        """
        try:
            route = await rule.route(identity, protocol, origin)
        except (LoginRefused, CancelledError):  # a session that went away cancels its login: that is no fault of a rule
            raise
        except MailgwError as error:
            raise LoginRefused(RefusalKind.UNAVAILABLE, str(error)) from error
        except Exception as error:
            # A site's own rule may raise anything, and the user's session must not die of it.
            self.log.failure("{rule} failed on {user!r}", rule=rule.name, user=identity.username)
            raise LoginRefused(RefusalKind.UNAVAILABLE, f"the rule failed: {type(error).__name__}") from error
        if self._form is None or route is None or route.local:
            return route
        username = self._form(identity.username if route.username is None else route.username, origin)
        return replace(route, username=None if username == identity.username else username)


def describe(route: Route) -> str:
    """A route as C{mailgw route} prints it, such as C{pool main, backend be1}."""
    if route.local:
        return "local"
    backend = f", backend {route.backend}" if route.backend is not None else ""
    username = f", as {route.username!r}" if route.username is not None else ""
    return f"pool {route.pool}{backend}{', by hash' if route.hashed else ''}{username}"


@implementer(IRoutingRule)
class LocalRule:
    """C{kind = "local"}: everybody's mail is in the embedded store."""

    name = "local"

    class Options(Table):
        """C{[[route]]} of kind "local": no options; C{[local]} says where the store is."""

    @classmethod
    def from_options(cls, name: str, options: Options, house: IHouse) -> Self:
        """Build the rule."""
        return cls()

    async def route(self, identity: Identity, protocol: str, origin: Origin | None = None) -> Route | None:
        return LOCAL
