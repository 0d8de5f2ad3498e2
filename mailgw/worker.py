"""A worker: the gateway in one of several processes, its link to the master, and its log.

The zygote (L{mailgw.zygote}) forks it; the ports that it accepts on were bound by the master (L{mailgw.master}).
"""

from __future__ import annotations

import json
import os
import pickle
import select
import socket
import sys
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from twisted.internet.defer import Deferred, succeed
from twisted.internet.defer import TimeoutError as DeferredTimeout
from twisted.internet.endpoints import UNIXClientEndpoint
from twisted.internet.error import ReactorNotRunning
from twisted.internet.interfaces import IListeningPort, IProtocolFactory
from twisted.internet.protocol import Factory
from twisted.logger import ILogObserver, formatEvent, globalLogBeginner, textFileLogObserver
from twisted.python.failure import Failure
from zope.interface import implementer

from mailgw.gateway import Gateway, Lasting
from mailgw.ops.board import Copy
from mailgw.ops.control import ControlLink, Emit, Refused, Row, control_path
from mailgw.ops.descriptors import FIRST_SOCKET, LOG, OUTPUT, TALLY
from mailgw.ops.tally import SharedMemory, SharedTally

if TYPE_CHECKING:
    from mailgw.edge.tls import Identities
    from mailgw.settings import Settings

FAREWELL = 2.0
"""Seconds that the master may take to hear of our counts when we end."""
LONGEST = select.PIPE_BUF - 256
"""Octets of text in one line of our log: what a pipe takes at once, two workers cannot mix up."""
_PIECE = (LONGEST - 256) // 12
"""Characters in each line of a text that needs several: JSON makes up to twelve octets of each."""


@dataclass(frozen=True)
class Boot:
    """What a master tells its zygote.

    @ivar endpoints: of the inherited sockets, in their order.
    @ivar regions: of the shared tally.
    @ivar token: what makes a worker known to the master.
    @ivar log_directly: what the workers log goes where the master's log goes, past the master.
    """

    generation: int
    settings: Settings
    endpoints: tuple[str, ...]
    regions: int
    secret: bytes = field(repr=False)
    token: str = field(repr=False)
    log_directly: bool = False

    def pack(self) -> bytes:
        """As it goes to the zygote."""
        return pickle.dumps(self)


def run_worker(boot: Boot, identities: Identities | None, slot: int, region: int) -> None:
    """Be a worker until the reactor stops."""
    del sys.modules["twisted.internet.reactor"]
    from twisted.internet import reactor as made

    reactor: Any = made
    globalLogBeginner.beginLoggingTo([direct_log() if boot.log_directly else MasterLog()])
    Worker(boot, identities, slot, region, reactor).start()
    reactor.run()


class Worker:
    """The gateway in a worker, and its link to the master."""

    def __init__(self, boot: Boot, identities: Identities | None, slot: int, region: int, reactor: Any) -> None:
        self._boot, self._slot, self._reactor = boot, slot, reactor
        settings = boot.settings
        tally = None
        if region >= 0:
            tally = SharedTally(SharedMemory(boot.regions, TALLY), region, boot.secret, reactor.seconds)
        self._board = Copy(boot.token)
        self._lasting = lasting = Lasting(settings, reactor, tally, boot.secret, self._board)
        lasting.is_first = slot == 0
        self._sockets = {endpoint: FIRST_SOCKET + number for number, endpoint in enumerate(boot.endpoints)}
        self.gateway = Gateway(settings, reactor, lasting, identities, self._listen)
        commands = {**self.gateway.here.commands, **self._board.commands}
        self._link = ControlLink({**commands, "retire": self._retire, "stop": self._stop})

    def start(self) -> None:
        """Begin to answer, and to listen to the master, once the reactor runs."""
        self._reactor.addSystemEventTrigger("before", "shutdown", self._finish)
        self._reactor.callWhenRunning(self._begin)

    def _finish(self) -> Deferred[None]:
        return Deferred.fromCoroutine(self._drained())

    async def _drained(self) -> None:
        """Drain, and leave what was counted to the master."""
        await self.gateway.stopService()
        told = self._link.ask("farewell", self.gateway.here.counts(), _nothing)
        with suppress(Refused, DeferredTimeout):
            await told.addTimeout(FAREWELL, self._reactor)

    def _begin(self) -> None:
        endpoint = UNIXClientEndpoint(self._reactor, control_path(self._boot.settings.gateway.state))
        factory = Factory.forProtocol(lambda: self._link)
        factory.noisy = False
        following = endpoint.connect(factory).addCallback(self._board.follow)
        following.addCallbacks(lambda _: self._greet(), self._start_alone).addErrback(self._broken)

    def _start_alone(self, reason: object) -> None:
        self._accept()
        self._alone(reason)

    def _accept(self) -> None:
        """Begin to answer; not before we know what is on the board, such as who was moved where."""
        self.gateway.privilegedStartService()
        self.gateway.startService()

    def _broken(self, failure: Failure) -> None:
        self.gateway.log.failure("worker {pid} cannot begin", failure, pid=os.getpid())
        self._reactor.stop()

    def _greet(self) -> None:
        # in one go with the hello: whoever reaches all copies of the board can also reach all who accept
        self._accept()
        boot, link = self._boot, self._link
        hello = {"token": boot.token, "generation": boot.generation, "slot": self._slot, "pid": os.getpid()}
        link.gone.addCallback(self._alone)
        link.ask("hello", hello, _nothing).addErrback(lambda failure: self._unwanted(link, failure))

    def _unwanted(self, link: ControlLink, failure: Failure) -> None:
        """The master has given us up: whoever we serve would be served with old settings, and nobody would end us."""
        failure.trap(Refused)
        if not link.gone.called:
            self.gateway.log.error("worker {pid} ends: {reason}", pid=os.getpid(), reason=failure.getErrorMessage())
            self._end()

    def _alone(self, reason: object) -> None:
        if self.gateway.running:
            self.gateway.log.error("worker {pid}: the master is gone; going on without it", pid=os.getpid())

    def _listen(self, endpoint: str, factory: IProtocolFactory) -> Deferred[IListeningPort]:
        """Accept on the socket that the master has bound."""
        number = self._sockets[endpoint]
        family = socket.socket(fileno=os.dup(number)).family
        port = self.gateway.reactor.adoptStreamPort(number, family, factory)
        return succeed(port if family != socket.AF_UNIX else _Kept(port))

    async def _retire(self, arguments: Row, emit: Emit) -> None:
        """Accept nobody any more, and end with the last session."""
        self._lasting.is_first = False
        Deferred.fromCoroutine(self.gateway.retire()).addCallback(lambda _: self._end())

    async def _stop(self, arguments: Row, emit: Emit) -> None:
        """End within C{drain} seconds."""
        self.gateway.drain = float(arguments["drain"])
        self._end()

    def _end(self) -> None:
        with suppress(ReactorNotRunning):  # it is ending already
            self._reactor.stop()


def _nothing(_: Row) -> None:
    """Rows that nobody needs."""


@implementer(IListeningPort)
class _Kept:
    """A port on a UNIX socket that belongs to the master: it is not unlinked when this worker stops to listen."""

    def __init__(self, port: Any) -> None:
        self._port = port

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "factory":
            self._port.factory = value
        else:
            super().__setattr__(name, value)

    def getHost(self) -> Any:
        return self._port.getHost()

    def startListening(self) -> None:
        """Done already."""

    def stopListening(self) -> None:
        self._port.stopReading()


# --- the log ---------------------------------------------------------------------------------------------------------


def direct_log() -> ILogObserver:
    """An observer that writes as C{twistd} does, to the output that we have of it."""
    observer: ILogObserver = textFileLogObserver(os.fdopen(OUTPUT, "w"))
    return observer


@implementer(ILogObserver)
class MasterLog:
    """An observer that writes lines of JSON to the master (level, namespace and text), which knows where its log goes;
    and where the master is gone, text to the output that we have of it.
    """

    def __init__(self) -> None:
        self._write = self._to_master

    def __call__(self, event: dict[str, Any]) -> None:
        text = formatEvent(event)
        if "log_failure" in event:
            text = f"{text}\n{event['log_failure'].getTraceback()}"
        self._write(event["log_level"].name, event.get("log_namespace", "-"), text)

    def _to_master(self, level: str, namespace: str, text: str) -> None:
        line = json.dumps([level, namespace, text]).encode()
        if len(line) > LONGEST:
            for start in range(0, len(text), _PIECE):
                self._to_master(level, namespace, text[start : start + _PIECE])
            return
        try:
            os.write(LOG, line + b"\n")
        except OSError:
            self._write = self._to_output
            self._write(level, namespace, text)

    def _to_output(self, level: str, namespace: str, text: str) -> None:
        with suppress(OSError):
            os.write(OUTPUT, f"[{namespace}#{level}] {text}\n".encode("utf-8", "backslashreplace"))
