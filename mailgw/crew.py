"""A crew of threads for what blocks: LDAP, SQL and the hashing of passwords, each with a crew of its own.

It does not use the reactor's pool: names of backends are resolved there, and a directory that hangs must not stop
that. It does not queue without end either: past its bound it says at once that nobody can be asked.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from threading import Thread
from typing import Any, ParamSpec, TypeVar

from twisted.internet.defer import CancelledError, Deferred, TimeoutError
from twisted.internet.interfaces import IReactorFromThreads, IReactorTime
from twisted.python.threadpool import ThreadPool

from mailgw.errors import DirectoryDown

P = ParamSpec("P")
T = TypeVar("T")


class Crew:
    """A few threads behind a bounded queue.

    @ivar outstanding: jobs that wait or run, those included that nobody waits for any more.
    """

    def __init__(
        self,
        name: str,
        reactor: IReactorFromThreads,
        clock: IReactorTime,
        size: int,
        queue: int,
        patience: float,
    ) -> None:
        """Make a crew that has not started.

        @param name: the directory's or the rule's, for threads and errors.
        @param size: how many threads there are at most; they start when they are needed.
        @param queue: how many jobs may wait for a thread.
        @param patience: seconds after which whoever waits for a job is told that there is no answer.
        """
        self.name = name
        self.outstanding = 0
        self._reactor = reactor
        self._clock = clock
        self._size = size
        self._queue = queue
        self._patience = patience
        self._pool: ThreadPool | None = None

    def start(self) -> None:
        """Take jobs from now on."""
        pool = self._pool = ThreadPool(0, self._size, self.name)
        # A thread may hang in getaddrinfo() longer than anybody waits: it must not hold up the end of the process.
        pool.threadFactory = partial(Thread, daemon=True)  # type: ignore[assignment]  # called, never subclassed
        pool.start()

    async def stop(self) -> None:
        """Take no more jobs, and wait for the running ones, no longer than the crew's patience."""
        pool, self._pool = self._pool, None
        if pool is None:
            return
        stopped: Deferred[None] = Deferred()

        def join() -> None:
            pool.stop()
            self.tell(self._settle, stopped, True, None)

        Thread(target=join, name=f"{self.name}-stop", daemon=True).start()
        stopped.addTimeout(self._patience, self._clock)
        try:
            await stopped
        except TimeoutError:
            return

    async def run(self, job: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a job in a thread.

        @raise DirectoryDown: the crew is not working, the queue is full, or the patience is over.
        """
        if self._pool is None:
            raise DirectoryDown(f"{self.name} is not running")
        if self.outstanding >= self._size + self._queue:
            raise DirectoryDown(f"{self.name} is overloaded")
        answer: Deferred[T] = Deferred()
        answer.addTimeout(self._patience, self._clock)

        def work() -> T:
            if answer.called:  # nobody waits any more: a queue behind a hanging server empties quickly
                raise CancelledError
            return job(*args, **kwargs)

        self.outstanding += 1
        self._pool.callInThreadWithCallback(partial(self.tell, self._finished, answer), work)
        try:
            return await answer
        except TimeoutError:
            raise DirectoryDown(f"{self.name} did not answer within {self._patience:g} s") from None

    def tell(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> None:
        """From a thread: have a function called in the reactor's thread, where logging is safe."""
        self._reactor.callFromThread(function, *args, **kwargs)

    def _finished(self, answer: Deferred[T], good: bool, result: Any) -> None:
        self.outstanding -= 1
        self._settle(answer, good, result)

    @staticmethod
    def _settle(answer: Deferred[T], good: bool, result: Any) -> None:
        if answer.called:
            return
        if good:
            answer.callback(result)
        else:
            answer.errback(result)
