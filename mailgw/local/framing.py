"""Framing: twisted.mail's IMAP4Server with another front end: what a command is, one at a time, and flow control.

Stock framing runs commands while others wait, believes any literal size, writes without regard to whether the client
reads, and shows exception texts. Here a command is complete before it is looked at, the next one begins when it is
answered, and a client that does not read is not read either. What the commands do is for subclasses.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Coroutine
from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.mail import imap4
from twisted.python.failure import Failure

from mailgw.local.disk import FULL
from mailgw.local.flow import ClientFlow
from mailgw.local.grammar import LITERAL, TAG, Bad, No, Scanner
from mailgw.local.maildir import FolderGone, MessageGone
from mailgw.local.names import BadName

MAX_LINE = 1 << 16
"""Octets of a command line: a long list of UIDs is nothing unusual."""
MAX_LITERAL = 1 << 13
"""Octets of a literal other than APPEND's message."""
MAX_COMMAND = 1 << 17
"""Octets of a command, literals included."""
MAX_UNASKED = 4096
"""Octets of a literal that may come without our go-ahead (LITERAL-, RFC 7888)."""
MAX_SWALLOWED = 1 << 16
"""Octets of such a literal, too big, that we take and throw away rather than close the connection."""
_ANNOUNCED = re.compile(rb"\{[^{}]*\}$")

Step = Callable[[bytes], None]


class FramedServer(ClientFlow, imap4.IMAP4Server):
    """An IMAP server whose client is logged in already. See the module's docstring.

    @ivar literal_size: octets of the literal that the running command has to read itself; C{literal_unasked}: it
        comes without our go-ahead.
    """

    log = Logger()
    state = "auth"
    autologout = b"* BYE Autologout; idle for too long\r\n"

    def __init__(self, session_id: str, clock: IReactorTime, idle: float) -> None:
        """@param idle: seconds without a word from the client, after which the connection is closed."""
        super().__init__()  # type: ignore[no-untyped-call]  # twisted.mail has no annotations
        self.start_flow(clock, idle, MAX_LINE)
        self._session = session_id
        self._segments: list[bytes] = []
        self._literal: int | None = None
        self._refused: Bad | None = None
        self._on_line: Step | None = None
        self._on_octets: Step | None = None
        self._octets_left = 0
        self.literal_size: int | None = None
        self.literal_unasked = False

    # --- for subclasses ----------------------------------------------------------------------------------------------

    def command(self, verb: bytes) -> Callable[[bytes, Scanner], Coroutine[Any, Any, bytes]] | None:
        """What does this command in the present state; its result is the text of the tagged OK."""
        raise NotImplementedError

    def takes_stream(self, verb: bytes, scanner: Scanner) -> bool:
        """Whether the literal that is announced now is for the command itself to read, piece by piece.

        @raise Bad: the arguments before it are no arguments of this command.
        """
        raise NotImplementedError

    def goodbye(self, text: bytes, tagged: bytes = b"") -> None:
        """Say BYE and close the connection."""
        self.close(b"* BYE " + text + b"\r\n" + tagged)

    # --- input -------------------------------------------------------------------------------------------------------

    def advance(self) -> bool:
        if self._on_octets is not None:
            return self._pass_octets(self._on_octets)
        if self._on_line is None and (self.running is not None or self.unread):
            return False
        if self._literal is not None:
            return self._take_literal(self._literal)
        line = self.buffer.next_line()
        if line is None:
            if self.buffer.fault:
                self.goodbye(b"Unintelligible: " + self.buffer.fault.encode("ascii"))
            return False
        if self._on_line is not None:
            self._on_line(line)
        else:
            self._take_line(line)
        return True

    def _pass_octets(self, sink: Step) -> bool:
        count = min(len(self.buffer), self._octets_left)
        data = self.buffer.take(count)
        if not data:
            return False
        self._octets_left -= count
        if not self._octets_left:
            self._on_octets = None
        sink(data)
        return True

    def _take_literal(self, size: int) -> bool:
        data = self.buffer.take(size)
        if data is None:
            return False
        self._literal = None
        self._segments.append(data)
        return True

    def _take_line(self, line: bytes) -> None:
        """A line of a command: its first, its last, or what stands between two literals."""
        try:
            if not self._segments and not TAG.fullmatch(line.partition(b" ")[0]):
                raise Bad("Invalid tag")
            announced = _ANNOUNCED.search(line)
            if announced is None:
                self._segments.append(line)
                self._finish()
            else:
                self._segments.append(line[: announced.start()])
                self._announce(announced[0])
        except Bad as error:
            self._bad(error)

    def _finish(self) -> None:
        tag, scanner, verb = _begin(self._segments)
        refused, self._refused, self._segments = self._refused, None, []
        if refused is not None:
            self.sendBadResponse(tag, str(refused).encode())  # type: ignore[no-untyped-call]
        else:
            self._run(tag, verb, scanner)

    def _bad(self, error: Bad) -> None:
        """A command that is not complete is over."""
        segments, self._segments, self._refused = self._segments, [], None
        tag = segments[0].partition(b" ")[0] if segments else None
        self.sendBadResponse(tag, str(error).encode())  # type: ignore[no-untyped-call]

    # --- literals ----------------------------------------------------------------------------------------------------

    def _announce(self, text: bytes) -> None:
        """The client announces a literal.

        @raise Bad: we do not want it, and the client waits for our word.
        """
        match = LITERAL.fullmatch(text)
        if match is None:
            if b"+" in text:  # we cannot tell where the next command begins
                self.goodbye(b"Malformed literal")
                return
            raise Bad("Malformed literal")
        size, unasked = int(match[1]), bool(match[2])
        if unasked and size > MAX_SWALLOWED:
            self.goodbye(b"[TOOBIG] Literal too big to come unasked")
            return
        try:
            tag, scanner, verb = _begin(self._segments)
            if unasked and size > MAX_UNASKED:
                raise Bad("Literal too big to come unasked")
            if self._refused is None and self.takes_stream(verb, scanner):
                tag, scanner, verb = _begin(self._segments)
                self._segments = []
                self._run(tag, verb, scanner, size, unasked)
                return
            if size > MAX_LITERAL or sum(map(len, self._segments)) + size > MAX_COMMAND:
                raise Bad("Literal too big")
        except Bad as error:
            if not unasked:
                raise
            self._refused = self._refused or error
        self._literal = size
        if not unasked:
            self.go_ahead()

    def go_ahead(self) -> None:
        """Ask for the literal that was announced."""
        self.sendContinuationRequest(b"OK")  # type: ignore[no-untyped-call]

    async def receive(self, size: int, sink: Step) -> None:
        """Pass the next octets to a sink, as they come."""
        if not size:
            return
        done: Deferred[None] = Deferred()

        def take(data: bytes) -> None:
            sink(data)
            if self._on_octets is None:
                done.callback(None)

        self._on_octets, self._octets_left = take, size
        self.pump()
        await done

    async def line(self) -> bytes:
        """The next line, for a command that has not read all of itself."""
        done: Deferred[bytes] = Deferred()

        def take(line: bytes) -> None:
            self._on_line = None
            done.callback(line)

        self._on_line = take
        self.pump()
        return await done

    def lines_to(self, sink: Step | None) -> None:
        """Pass whole lines to a sink while a command runs; C{None} ends that."""
        self._on_line = sink

    # --- running a command -------------------------------------------------------------------------------------------

    def _run(self, tag: bytes, verb: bytes, scanner: Scanner, size: int | None = None, unasked: bool = False) -> None:
        self.literal_size, self.literal_unasked = size, unasked
        running = Deferred.fromCoroutine(self._answer(tag, verb, scanner))
        self.running = running
        running.addErrback(self._broke, tag, verb)
        running.addBoth(self._done)

    def _done(self, result: object) -> None:
        self.running = self._on_line = self._on_octets = None
        self.pump()

    async def _answer(self, tag: bytes, verb: bytes, scanner: Scanner) -> None:
        """Run a command and say how it went: the one place where errors become responses."""
        try:
            command = self.command(verb)
            if command is None:
                raise Bad("Unknown command, or not in this state")
            text = await command(tag, scanner)
            if text:
                self.sendPositiveResponse(tag, text)  # type: ignore[no-untyped-call]
        except Bad as error:
            self.sendBadResponse(tag, str(error).encode())  # type: ignore[no-untyped-call]
        except No as error:
            self._no(tag, str(error))
        except BadName as error:
            self._no(tag, f"[CANNOT] {error}")
        except imap4.NoSuchMailbox:
            self._no(tag, "[NONEXISTENT] No such mailbox")
        except imap4.MailboxCollision:
            self._no(tag, "[ALREADYEXISTS] Mailbox exists already")
        except MessageGone:
            self._no(tag, "[EXPUNGEISSUED] Some of the messages are gone")
        except FolderGone:
            self.goodbye(b"Mailbox was deleted or replaced")
        except OSError as error:
            self.log.error(
                "{session} {verb} failed: {error}", session=self._session, verb=verb.decode("ascii"), error=error
            )
            full = error.errno in FULL
            self._no(tag, "[OVERQUOTA] No room" if full else "[UNAVAILABLE] Temporary trouble, try again later")

    def _no(self, tag: bytes, text: str) -> None:
        self.sendNegativeResponse(tag, text.encode("ascii", "replace"))  # type: ignore[no-untyped-call]

    def _broke(self, failure: Failure, tag: bytes, verb: bytes) -> None:
        """A command is broken: our fault, told without details."""
        if failure.check(CancelledError) and self.closing:
            return
        self.log.failure("{session} {verb} broke", failure, session=self._session, verb=verb.decode("latin-1"))
        if not self.closing:
            self._no(tag, "[SERVERBUG] Internal error")


def _begin(segments: list[bytes]) -> tuple[bytes, Scanner, bytes]:
    """Read a command's tag and verb.

    @return: the tag; a scanner that is behind the verb; the verb in capitals, C{UID} included.
    @raise Bad: there is no verb.
    """
    tag, space, _ = segments[0].partition(b" ")
    scanner = Scanner(segments, len(tag) + len(space))
    verb = scanner.atom().upper()
    if verb == b"UID":
        scanner.space()
        verb += b" " + scanner.atom().upper()
    return tag, scanner, verb
