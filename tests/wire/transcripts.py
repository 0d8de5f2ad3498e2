"""The transcript kit: a conversation written down once, played with its octets cut in every way that a network cuts.

A script is a list. C{"C: text"} and C{"S: text"} are lines of client and server, C{"C~ text"} and C{"S~ text"} octets
without CRLF, both in Latin-1; events are what our side yields besides bytes; L{Admit}, L{Refuse} and L{Secured} are
what the session does then. It knows nothing of SMTP's answers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from mailgw.model import Failure, Refusal, RefusalKind
from mailgw.wire.events import Close, Refused, Send, StartTLS

Script = list[Any]
Cut = Callable[[bytes], list[bytes]]


def _part(one: str, other: str) -> bool:
    """One reason is the whole, the other what a script says of it."""
    return one in other or other in one


@dataclass(frozen=True)
class Admit:
    """The session admits the login; C{rest} is what must have been pipelined behind it."""

    text: bytes = b""
    rest: bytes = b""


@dataclass(frozen=True)
class Refuse:
    """The session refuses the login."""

    kind: RefusalKind = RefusalKind.CREDENTIALS


@dataclass(frozen=True)
class Secured:
    """Our side yielded StartTLS; now TLS is up."""


@dataclass(frozen=True)
class Closed:
    """Our side closes, its last words before this; C{reason} is a part of what it tells the log."""

    reason: str = ""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Closed) and _part(self.reason, other.reason)

    def __hash__(self) -> int:
        return 0


@dataclass(frozen=True)
class Failed:
    """Our side gives a backend up; C{reason} is a part of what it tells the log."""

    kind: Failure
    reason: str = ""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Failed) and self.kind is other.kind and _part(self.reason, other.reason)

    def __hash__(self) -> int:
        return hash(self.kind)


def whole(data: bytes) -> list[bytes]:
    """One segment."""
    return [data] if data else []


def octets(data: bytes) -> list[bytes]:
    """One octet a segment."""
    return [bytes([octet]) for octet in data]


def lines(data: bytes) -> list[bytes]:
    """Cut behind every CRLF."""
    return [piece for piece in data.replace(b"\r\n", b"\r\n\0CUT").split(b"\0CUT") if piece]


def between(data: bytes) -> list[bytes]:
    """Cut inside every CRLF, where LineBuffer is most easily wrong."""
    return [piece for piece in data.replace(b"\r\n", b"\r\0CUT\n").split(b"\0CUT") if piece]


def at(data: bytes, places: list[int]) -> list[bytes]:
    """Cut at the given places, each taken modulo the length."""
    bounds = [0, *sorted(place % (len(data) + 1) for place in places), len(data)]
    return [data[start:end] for start, end in pairwise(bounds) if start < end]


CUTS: tuple[Cut, ...] = (whole, octets, lines, between)


def outgoing(entry: object, us: str) -> bytes | None:
    """The octets of a script's line if C{us} says it, else C{None}."""
    if not isinstance(entry, str) or entry[0] != us:
        return None
    return entry[3:].encode("latin-1") + (b"\r\n" if entry[1] == ":" else b"")


class Played:
    """What our side did: runs of bytes, and events between them."""

    def __init__(self, dialogue: Any, greet: bool = False) -> None:
        self.dialogue = dialogue
        self.log: list[Any] = []
        if greet:
            self.take(dialogue.greet())

    def write(self, data: bytes) -> None:
        """Our side sent this."""
        if data and self.log and isinstance(self.log[-1], bytes):
            self.log[-1] += data
        elif data:
            self.log.append(data)

    def take(self, events: list[Any]) -> None:
        """Our side yielded these."""
        for event in events:
            match event:
                case Send(data):
                    self.write(data)
                case StartTLS(data):
                    self.write(data)
                    self.log.append(StartTLS())
                case Close(data, reason):
                    self.write(data)
                    self.log.append(Closed(reason))
                case Refused(kind, text):
                    self.log.append(Failed(kind, text))
                case _:
                    self.log.append(event)

    def feed(self, data: bytes, cut: Cut) -> None:
        """The other side sent this."""
        for piece in cut(data):
            self.take(self.dialogue.feed(piece))

    def act(self, action: Any) -> bool:
        """Do what the session does, if this is such a thing."""
        match action:
            case Admit(text):
                reply, rest = self.dialogue.admit(text)
                self.log.append(("rest", rest))
                self.write(reply)
            case Refuse(kind):
                self.take(self.dialogue.refuse(Refusal(kind, "for the log only")))
            case Secured():
                self.take(self.dialogue.secured())
            case _:
                return False
        return True


def expected(script: Script, us: str) -> list[Any]:
    """What our side must do: the log of L{Played}, as the script has it."""
    want = Played(None)
    for entry in script:
        said = outgoing(entry, us)
        if said is not None:
            want.write(said)
        elif isinstance(entry, Admit):
            want.log.append(("rest", entry.rest))
        elif not isinstance(entry, str | Refuse | Secured):
            want.log.append(entry)
    return want.log


def play(played: Played, script: Script, us: str, cut: Cut) -> list[Any]:
    """Play a script with one cut; what the other side says goes out in one piece up to the next action."""
    them = "C" if us == "S" else "S"
    pending = b""
    for entry in script:
        said = outgoing(entry, them)
        if said is not None:
            pending += said
        elif not isinstance(entry, str):
            if isinstance(entry, Admit | Refuse | Secured):
                played.feed(pending, cut)
                pending = b""
            played.act(entry)
    played.feed(pending, cut)
    return played.log


def turns(played: Played, script: Script, us: str) -> Iterator[tuple[list[Any], list[Any]]]:
    """Play a script line by line and yield what our side did and had to do, before each thing that comes next."""
    them = "C" if us == "S" else "S"
    for number, entry in enumerate(script):
        said = outgoing(entry, them)
        if said is None and not isinstance(entry, Admit | Refuse | Secured):
            continue
        yield list(played.log), expected(script[:number], us)
        if said is not None:
            played.feed(said, whole)
        else:
            played.act(entry)
    yield list(played.log), expected(script, us)


class TranscriptCase(SynchronousTestCase):
    """A test case that plays scripts with the dialogues that C{make} makes.

    @cvar greeting: our greeting, where scripts are to begin with it; without it the dialogue is not asked to greet.
    """

    us = "S"
    greeting = ""

    def make(self, **changes: Any) -> Any:
        """A new dialogue; the changes are its terms, or its access."""
        raise NotImplementedError

    def converse(self, *script: Any, **changes: Any) -> None:
        """Assert that a conversation goes as written down, however the network cuts it."""
        said, greet = ([self.greeting] if self.greeting else []) + list(script), bool(self.greeting)
        want = expected(said, self.us)
        for cut in CUTS:
            done = play(Played(self.make(**changes), greet), said, self.us, cut)
            self.assertEqual(done, want, f"cut: {cut.__name__}")
        for done, due in turns(Played(self.make(**changes), greet), said, self.us):
            self.assertEqual(done, due, "line by line")
