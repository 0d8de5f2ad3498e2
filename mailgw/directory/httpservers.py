"""HTTP servers that hold the same, asked in order: failover, and a bound on what is under way.

The servers of C{servers.py} are asked in threads; these in the reactor. It knows nothing of what it asks them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from twisted.internet.defer import Deferred, TimeoutError

from mailgw.directory.httplink import Server, TooLate
from mailgw.directory.servers import REST, NoAnswer
from mailgw.wire.http import Answer


class HttpServers:
    """The servers in the order of the settings, and how many questions they are asked at a time."""

    def __init__(
        self,
        servers: Sequence[Server],
        clock: Any,
        timeout: float,
        most: int,
        queue: int,
        report: Callable[[str, str], None],
    ) -> None:
        """
        @param timeout: seconds for one question, however many servers are tried for it, and its wait for its turn.
        @param most: questions under way at a time.
        @param queue: questions that may wait for their turn.
        @param report: told when a server fails (its name and why) and when it is back (C{""}).
        """
        self._servers = tuple(servers)
        self._clock, self._timeout = clock, timeout
        self._free, self._queue = most, queue
        self._waiting: deque[Deferred[None]] = deque()
        self._report = report

    async def ask(self, fields: bytes) -> Answer:
        """Put a question to the first server that answers it, each getting its share of the time.

        @param fields: the request's headers behind Host, and the empty line.
        @raise NoAnswer: none did, or too many questions are waiting already.
        """
        until = self._clock.seconds() + self._timeout
        if self._free > 0:
            self._free -= 1
        else:
            await self._turn(until)
        try:
            return await self._ask(fields, until)
        finally:
            self._pass_on()

    def close(self) -> None:
        """Close all idle connections."""
        for server in self._servers:
            server.close()

    async def _turn(self, until: float) -> None:
        if len(self._waiting) >= self._queue:
            raise NoAnswer("too many questions are waiting")
        turn: Deferred[None] = Deferred(lambda _: self._waiting.remove(turn))
        self._waiting.append(turn)
        turn.addTimeout(max(0.0, until - self._clock.seconds()), self._clock)
        try:
            await turn
        except TimeoutError:
            raise NoAnswer("the questions before it took too long") from None

    def _pass_on(self) -> None:
        if self._waiting:
            # Not at once: two hundred questions that all fail at once would be two hundred calls inside each other.
            self._clock.callLater(0, self._next)
        else:
            self._free += 1

    def _next(self) -> None:
        if self._waiting:
            self._waiting.popleft().callback(None)
        else:
            self._free += 1

    async def _ask(self, fields: bytes, until: float) -> Answer:
        reasons: list[str] = []
        awake = self._awake()
        for number, server in enumerate(awake):
            server.probing = server.failed
            try:
                answer = await server.ask(fields, (until - self._clock.seconds()) / (len(awake) - number))
            except NoAnswer as error:
                reasons.append(f"{server.name}: {error}")
                self._failed(server, error)
            else:
                self._answered(server)
                return answer
            finally:
                server.probing = False
        raise NoAnswer("; ".join(reasons) or "every server failed a moment ago")

    def _awake(self) -> Sequence[Server]:
        """Those that are not left alone, in order; one that somebody is probing already comes last.

        Where there is none, those that were only slow are asked: else one question that takes long, as servers make
        those with wrong passwords take, would keep everybody out.
        """
        now = self._clock.seconds()
        able = [server for server in self._servers if server.rests_until <= now]
        if not able:
            return [server for server in self._servers if server.slow]
        return sorted(able, key=lambda server: server.probing) if len(able) > 1 else able

    def _failed(self, server: Server, error: NoAnswer) -> None:
        news, server.failed, server.slow = not server.failed, True, isinstance(error, TooLate)
        server.rests_until = self._clock.seconds() + REST
        if not server.slow:
            server.close()
        if news:
            self._report(server.name, str(error))

    def _answered(self, server: Server) -> None:
        if server.failed:
            server.failed, server.rests_until = False, 0.0
            self._report(server.name, "")
