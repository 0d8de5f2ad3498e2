"""The control link: lines of JSON by which live commands reach a running gateway, and a master its workers.

Each end may ask the other. A question is C{{"ask": N, "command": …, "arguments": {…}}}; its answer is any number of
C{{"answer": N, "row": {…}}}, and one C{{"answer": N, "error": null or words}} behind them. What the commands do is not
known here.
"""

from __future__ import annotations

import itertools
import json
import os
import socket
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import suppress
from typing import Any

from twisted.application.service import Service
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.error import CannotListenError
from twisted.internet.protocol import Factory, connectionDone
from twisted.logger import Logger
from twisted.protocols.basic import LineOnlyReceiver
from twisted.python.failure import Failure

from mailgw.errors import MailgwError

SOCKET = "control"
"""The name of the socket in C{gateway.state}."""
LONGEST_PATH = 107
"""Octets that the system takes for the path of a UNIX socket."""
LONGEST_LINE = 1 << 20

Row = dict[str, Any]
Emit = Callable[[Row], None]
Command = Callable[[Row, Emit], Awaitable[None]]
"""Gets its arguments and what takes its rows; raises L{Refused} with words for whoever asked."""


class Refused(MailgwError):
    """The other end could not do what it was asked for; the words say why."""


class Lost(Refused):
    """The link ended before the answer."""


class ControlLink(LineOnlyReceiver):
    """One end of a link.

    @ivar commands: what the other end may ask for.
    """

    log = Logger()
    delimiter = b"\n"
    MAX_LENGTH = LONGEST_LINE

    def __init__(self, commands: Mapping[str, Command] | None = None) -> None:
        self.commands: Mapping[str, Command] = commands or {}
        self._numbers = itertools.count(1)
        self._asked: dict[int, tuple[Emit, Deferred[None]]] = {}
        self._answering: set[Deferred[None]] = set()
        self.gone: Deferred[None] = Deferred()

    def ask(self, command: str, arguments: Row, emit: Emit) -> Deferred[None]:
        """Ask the other end.

        @param emit: called with each row of the answer.
        @return: fires at the answer's end; fails with L{Refused}, with L{Lost} where the link ends first.
        """
        answer: Deferred[None] = Deferred()
        if self.gone.called:
            answer.errback(Lost("the link is closed"))
            return answer
        number = next(self._numbers)
        self._asked[number] = emit, answer
        self._say({"ask": number, "command": command, "arguments": arguments})
        return answer

    def _say(self, message: Row) -> None:
        if self.connected:
            self.sendLine(json.dumps(message, separators=(",", ":")).encode())

    def lineReceived(self, line: bytes) -> None:
        try:
            message = json.loads(line)
            if "ask" in message:
                number, command, arguments = message["ask"], str(message["command"]), dict(message["arguments"])
                self._begin(number, command, arguments)
            else:
                self._hear(int(message["answer"]), message)
        except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
            self.log.warn("control link: not a message: {line!r}", line=line[:200])
            self.transport.abortConnection()  # type: ignore[union-attr]  # every transport of ours has it

    def _begin(self, number: Any, command: str, arguments: Row) -> None:
        answering = Deferred.fromCoroutine(self._carry_out(number, command, arguments))
        if not answering.called:
            self._answering.add(answering)
            answering.addCallback(lambda _: self._answering.discard(answering))

    def _hear(self, number: int, message: Row) -> None:
        emit, answer = self._asked[number]
        if "row" in message:
            emit(message["row"])
            return
        del self._asked[number]
        if message["error"] is None:
            answer.callback(None)
        else:
            answer.errback(Refused(str(message["error"])))

    async def _carry_out(self, number: int, command: str, arguments: Row) -> None:
        error = None
        try:
            if command not in self.commands:
                raise Refused(f"{command}: the running gateway knows no such command")
            await self.commands[command](arguments, lambda row: self._say({"answer": number, "row": row}))
        except Refused as refused:
            error = str(refused)
        except CancelledError:
            return  # nobody is there any more to be answered
        except Exception as failure:
            self.log.failure("{command} failed", command=command)
            error = f"{command} failed: {type(failure).__name__}; the log has more"
        self._say({"answer": number, "error": error})

    def lineLengthExceeded(self, line: bytes) -> None:
        self.log.warn("control link: a line is longer than {most} octets", most=self.MAX_LENGTH)
        self.transport.abortConnection()  # type: ignore[union-attr]

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        asked, self._asked = self._asked, {}
        for _, answer in asked.values():
            answer.errback(Lost("the link was lost"))
        for answering in list(self._answering):  # who interrupts C{mailgw kick --rate} wants no more to be kicked
            answering.cancel()
        self.gone.callback(None)


class ControlPort(Service):
    """The socket on which a gateway can be asked."""

    log = Logger()

    def __init__(self, reactor: Any, folder: str, commands: Callable[[ControlLink], Mapping[str, Command]]) -> None:
        """
        @param folder: C{gateway.state}.
        @param commands: what a link that has just come may ask for.
        """
        self._reactor, self._path, self._commands = reactor, control_path(folder), commands
        self._port: Any = None

    def startService(self) -> None:
        """Listen.

        @raise Refused: another gateway has this folder, or the socket cannot be made.
        """
        super().startService()
        if fault := path_fault(self._path):
            raise Refused(f"gateway.state: {fault}")
        if answers(self._path):
            raise Refused(f"another gateway runs with this gateway.state: {self._path} answers")
        factory = Factory.forProtocol(self._link)
        factory.noisy = False
        mask = os.umask(0o177)  # nobody else may connect, not for a moment
        try:
            with suppress(FileNotFoundError):
                os.unlink(self._path)
            self._port = self._reactor.listenUNIX(self._path, factory, mode=0o600)
        except (OSError, CannotListenError) as error:
            reason: Any = getattr(error, "socketError", error)
            raise Refused(f"gateway.state: {self._path} cannot be made: {reason.strerror or reason}") from None
        finally:
            os.umask(mask)

    def _link(self) -> ControlLink:
        link = ControlLink()
        link.commands = self._commands(link)
        return link

    def stopService(self) -> Any:
        super().stopService()
        port, self._port = self._port, None
        return port.stopListening() if port is not None else None


def control_path(folder: str) -> str:
    """Where the control socket of a gateway is that has this folder as C{gateway.state}."""
    return os.path.join(folder, SOCKET)


def path_fault(path: str) -> str | None:
    """Why no UNIX socket can have this path, in words."""
    size = len(os.fsencode(path))
    if size > LONGEST_PATH:
        return f"the path of the control socket has {size} octets, and the system takes {LONGEST_PATH}: {path}"
    return None


def answers(path: str) -> bool:
    """Whether somebody listens there."""
    with socket.socket(socket.AF_UNIX) as attempt:
        attempt.setblocking(False)
        try:
            attempt.connect(path)
        except BlockingIOError:
            return True  # so many wait for its answer that nobody else may
        except OSError:
            return False
    return True


def ask(folder: str, command: str, arguments: Row) -> Iterator[Row]:
    """Ask a running gateway, without a reactor.

    @param folder: its C{gateway.state}.
    @return: the rows of the answer, as they come.
    @raise Refused: it does not run, or could not do that.
    """
    path = control_path(folder)
    with socket.socket(socket.AF_UNIX) as link:
        try:
            link.connect(path)
        except OSError as error:
            reason = {FileNotFoundError: "there is no such socket", ConnectionRefusedError: "nobody listens there"}
            words = reason.get(type(error), error.strerror or str(error))
            raise Refused(f"no running gateway can be asked at {path}: {words}") from None
        with suppress(ConnectionError), link.makefile("rb") as lines:
            link.sendall(json.dumps({"ask": 1, "command": command, "arguments": arguments}).encode() + b"\n")
            for line in lines:
                try:
                    message = json.loads(line)
                except ValueError:
                    break
                if "row" in message:
                    yield message["row"]
                elif message["error"] is None:
                    return
                else:
                    raise Refused(message["error"])
    raise Refused("the gateway closed the link before it had answered")
