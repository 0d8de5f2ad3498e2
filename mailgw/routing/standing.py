"""What is known of a pool's members: what the checks found out, and what those met who wanted to log in there.

Pure: the time is an argument, in seconds since the epoch; nobody is asked and nothing is told from here.
"""

from __future__ import annotations

import json
from collections import OrderedDict
from dataclasses import dataclass, field
from enum import IntEnum

SUSPECT_FOR = 5.0
"""Seconds that a member stays suspect after a first failure; doubles while it goes on failing."""
SUSPECT_AT_MOST = 30.0
DOWN_AFTER = 3
"""This many failures, each after the last one's time was over, and a member that nobody checks counts as down."""

WINDOW = 30.0
"""Seconds within which failures of several users are one trouble."""
WITNESSES = 2
"""So many users, at so many addresses, must have met a failure that may as well be their own fault."""
REMEMBERED = 100
"""Users and addresses that are remembered for one service."""

LEAST_SHARE = 0.05
"""Of its weight that a member has at once when it is back."""

Service = tuple[str, str]
"""A member's name and a protocol."""


class State(IntEnum):
    """What is known of a member; the smaller, the sooner it is tried."""

    UP = 0
    SUSPECT = 1
    DOWN = 2


@dataclass(frozen=True, slots=True)
class Health:
    """What the checks of one service have come to.

    @ivar since: when it became so, in seconds since the epoch.
    @ivar reason: why it is down; C{""} while it is up.
    @ivar recovered: when it was last down; 0 for never.
    @ivar capabilities: what it announced, one string each with its parameters, as the protocol writes it; C{None}
        where no check has got so far.
    """

    up: bool
    since: float
    reason: str = ""
    recovered: float = 0.0
    capabilities: frozenset[str] | None = None

    def to_word(self) -> str:
        """As it stands on the board."""
        able = None if self.capabilities is None else sorted(self.capabilities)
        return json.dumps([self.up, self.since, self.reason, self.recovered, able])

    @classmethod
    def from_word(cls, word: str) -> Health:
        """Read L{to_word}'s."""
        up, since, reason, recovered, able = json.loads(word)
        return cls(up, since, reason, recovered, None if able is None else frozenset(able))

    def share(self, now: float, slow_start: float) -> float:
        """Which part of its weight counts, after a recovery; above 0 and up to 1."""
        if not self.recovered or now >= self.recovered + slow_start:
            return 1.0
        return max(LEAST_SHARE, (now - self.recovered) / slow_start)


class Course:
    """The checks of one service, one after the other.

    @ivar health: what they have come to; C{None} before the first one that says anything.
    @ivar settled: the last check was no surprise.
    """

    def __init__(self, rise: int, fall: int, health: Health | None = None) -> None:
        """
        @param rise: so many good checks in a row make it up.
        @param fall: so many bad ones make it down.
        """
        self._rise, self._fall = rise, fall
        self.health = health
        self.settled = True
        self._surprises = 0

    def take(self, fault: str, capabilities: frozenset[str] | None, now: float) -> bool:
        """Count a check.

        @param fault: what was wrong, C{""} if it was good.
        @return: L{health} is another one now.
        """
        before = self.health
        was_up, good = before is None or before.up, not fault
        self.settled = good is was_up
        self._surprises = 0 if self.settled else self._surprises + 1
        if self._surprises >= (self._rise if good else self._fall):
            self.settled, self._surprises = True, 0
            back = now if good else 0.0 if before is None else before.recovered
            able = capabilities if good or before is None else before.capabilities
            self.health = Health(good, now, fault, back, able)
        elif before is None and good:
            self.health = Health(True, now, capabilities=capabilities)
        elif before is not None and before.up and good and capabilities != before.capabilities:
            self.health = Health(True, before.since, "", before.recovered, capabilities)
        return self.health is not before


@dataclass(slots=True)
class _Trouble:
    failures: int = 0
    until: float = 0.0
    witnesses: OrderedDict[tuple[str, str], float] = field(default_factory=OrderedDict)

    def testify(self, witness: tuple[str, str], now: float) -> bool:
        """Whether they are enough, with this one."""
        self.witnesses.pop(witness, None)
        self.witnesses[witness] = now
        while len(self.witnesses) > REMEMBERED or next(iter(self.witnesses.values())) <= now - WINDOW:
            self.witnesses.popitem(last=False)
        users, clients = ({one[part] for one in self.witnesses} for part in (0, 1))
        return len(users) >= WITNESSES and len(clients) >= WITNESSES


class TroubleTable:
    """Who failed lately.

    A failure only reorders, it excludes nobody: one client whom a backend dislikes cannot take the backend away from
    the others. Failures of the same moment count once, however many sessions met them.
    """

    def __init__(self) -> None:
        self._troubles: dict[Service, _Trouble] = {}

    def failed(self, member: str, protocol: str, now: float, witness: tuple[str, str] | None = None) -> None:
        """A member could not be reached, or did not answer as it should.

        @param witness: the user and the client's address, where it may have to do with them.
        """
        trouble = self._troubles.setdefault((member, protocol), _Trouble(until=now))
        if witness is not None and not trouble.testify(witness, now):
            return
        if now >= trouble.until:
            trouble.failures += 1
            trouble.until = now + min(SUSPECT_FOR * 2.0 ** (trouble.failures - 1), SUSPECT_AT_MOST)

    def succeeded(self, member: str, protocol: str) -> None:
        """A member answered: all is forgotten."""
        self._troubles.pop((member, protocol), None)

    def state(self, member: str, protocol: str, now: float) -> State:
        """Up once the time of the last failure is over: the next user tries it."""
        trouble = self._troubles.get((member, protocol))
        if trouble is None or now >= trouble.until:
            return State.UP
        return State.DOWN if trouble.failures >= DOWN_AFTER else State.SUSPECT
