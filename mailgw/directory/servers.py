"""Several servers of one directory, asked in order: fail over to the next, and back as soon as the first answers.

It does not know what it asks them: questions and connections are arguments. Everything here runs in the threads of a
crew, so it shares nothing without a lock and waits only in the connections themselves.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from threading import Lock
from typing import Generic, Protocol, TypeVar

REST = 3.0
"""Seconds for which a server that failed is left alone."""
IDLE = 30.0
"""Seconds after which an idle connection is closed: firewalls forget such connections, silently."""
AGE = 600.0
"""Seconds after which a connection is replaced: balanced servers get new ones to share."""
KEPT = 8
"""Idle connections kept, a server and kind."""


class NoAnswer(Exception):
    """A server, or the connection to it, did not answer this question; another one may."""


class Link(Protocol):
    """A connection to a server."""

    def close(self) -> None:
        """Say goodbye and close; never raises."""

    def abandon(self) -> None:
        """Close without a word; never raises."""


L = TypeVar("L", bound=Link)
T = TypeVar("T")
Seconds = Callable[[], float]
Connect = Callable[[str, float], L]
"""Opens a connection for questions of a kind, until a point in time; raises L{NoAnswer}."""


class Server(Generic[L]):
    """One server, and the idle connections to it.

    @ivar failed: its last question got no answer.
    @ivar probing: it failed, and a question is finding out whether it is back.
    """

    def __init__(self, name: str, connect: Connect[L], seconds: Seconds) -> None:
        self.name = name
        self.failed = False
        self.probing = False
        self.rests_until = 0.0
        self._connect = connect
        self._seconds = seconds
        self._lock = Lock()
        self._idle: dict[str, list[tuple[L, float, float]]] = {}

    def ask(self, kind: str, until: float, question: Callable[[L, float], T]) -> T:
        """Put a question on an idle connection, or, where that is broken, on a new one.

        @raise NoAnswer: neither works.
        """
        taken = self._take(kind)
        if taken is not None:
            link, born = taken
            try:
                return self._put(kind, link, born, until, question)
            except NoAnswer:
                # The server may have closed it long ago. After a timeout nothing of the time is left, so that the
                # new connection below fails at once.
                pass
        link = self._connect(kind, until)
        return self._put(kind, link, self._seconds(), until, question)

    def close(self) -> None:
        """Close the idle connections."""
        with self._lock:
            idle, self._idle = self._idle, {}
        for kept in idle.values():
            for link, _, _ in kept:
                link.close()

    def _put(self, kind: str, link: L, born: float, until: float, question: Callable[[L, float], T]) -> T:
        try:
            answer = question(link, until)
        except BaseException:
            link.abandon()  # whatever it was: nobody knows what would come next on this connection
            raise
        with self._lock:
            kept = self._idle.setdefault(kind, [])
            if len(kept) < KEPT:
                kept.append((link, born, self._seconds()))
                return answer
        link.close()
        return answer

    def _take(self, kind: str) -> tuple[L, float] | None:
        """The connection used last, so that those that are not needed grow old."""
        now = self._seconds()
        with self._lock:
            kept = self._idle.get(kind, [])
            fresh = [item for item in kept if now - item[2] < IDLE and now - item[1] < AGE]
            stale = [item for item in kept if item not in fresh]
            self._idle[kind] = fresh
            taken = fresh.pop() if fresh else None
        for link, _, _ in stale:
            link.close()
        return taken[:2] if taken is not None else None


class Servers(Generic[L]):
    """The servers in the order of the settings."""

    def __init__(self, servers: Sequence[Server[L]], seconds: Seconds, report: Callable[[str, str], None]) -> None:
        """Take the servers.

        @param report: told, in the thread, when a server fails (its name and why) and when it is back (C{""}).
        """
        self._servers = tuple(servers)
        self._seconds = seconds
        self._report = report
        self._lock = Lock()

    def ask(self, kind: str, until: float, question: Callable[[L, float], T]) -> T:
        """Put a question to the first server that answers it, each getting its share of the time.

        @raise NoAnswer: none did.
        """
        reasons: list[str] = []
        awake = self._awake()
        for number, server in enumerate(awake):
            now = self._seconds()
            share = now + (until - now) / (len(awake) - number)
            server.probing = server.failed
            try:
                answer = server.ask(kind, share, question)
            except NoAnswer as error:
                reasons.append(f"{server.name}: {error}")
                self._failed(server, str(error))
            else:
                self._answered(server)
                return answer
            finally:
                server.probing = False
        raise NoAnswer("; ".join(reasons) or "every server failed a moment ago")

    def close(self) -> None:
        """Close all idle connections."""
        for server in self._servers:
            server.close()

    def _awake(self) -> list[Server[L]]:
        """Those that are not left alone, in order; one that somebody is probing already comes last.

        So a first server that hangs costs one login its share of the time now and then, not all of them.
        """
        now = self._seconds()
        with self._lock:
            return sorted((s for s in self._servers if s.rests_until <= now), key=lambda server: server.probing)

    def _failed(self, server: Server[L], reason: str) -> None:
        with self._lock:
            news = not server.failed
            server.failed = True
            server.rests_until = self._seconds() + REST
        server.close()
        if news:
            self._report(server.name, reason)

    def _answered(self, server: Server[L]) -> None:
        with self._lock:
            news = server.failed
            server.failed = False
            server.rests_until = 0.0
        if news:
            self._report(server.name, "")
