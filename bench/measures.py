"""What a measure is: the same load on several servers, and what of it is shown.

The measures themselves are in L{bench.menu}; how they are run is said in L{bench.rounds}.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from bench.figures import Comparison

DIRECT = "direct"
"""The contestant that is the backend itself, without anything before it."""


@dataclass(frozen=True, slots=True)
class Contestant:
    """One server in one measure.

    @ivar server: which L{bench.servers.Server}; C{direct}: none, the load goes to the backend.
    @ivar port: the name of its port.
    @ivar goal: what its ratio or difference should not exceed (with C{more_is_better}: not fall short of).
    @ivar share: of the measure's number of sessions or operations, for a server that is slow.
    @ivar idle: sessions that are held meanwhile.
    @ivar constant: a value instead of a measurement.
    """

    name: str
    server: str = ""
    port: str = "imap-ec"
    goal: float | None = None
    share: float = 1.0
    idle: int = 0
    constant: float | None = None


@dataclass(frozen=True, slots=True)
class Measure:
    """The same load on several servers; the first is what the others are compared with.

    @ivar group: what C{--only} names.
    @ivar metric: the number of the load generator's output, to be multiplied with C{scale}.
    @ivar load: the load generator's options.
    @ivar number: C{-n}, in a whole run and in a quick one.
    @ivar of: the key of another measure, whose runs are shown in another way here.
    @ivar fresh: start each server anew before each run.
    @ivar once: in the first round only.
    @ivar slow: not part of a quick run.
    """

    key: str
    group: str
    title: str
    unit: str
    metric: str
    contestants: tuple[Contestant, ...]
    load: Mapping[str, str] = field(default_factory=dict)
    number: tuple[int, int] = (600, 200)
    scale: float = 1.0
    compare: Comparison = "ratio"
    more_is_better: bool = False
    of: str = ""
    fresh: bool = False
    once: bool = False
    slow: bool = False
