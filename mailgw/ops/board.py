"""The board: words that all processes of a gateway agree on, such as where a user was moved to.

What the words mean is the business of those who post and read them; L{Board} only keeps them, spreads them, and
remembers on disk those that outlive the gateway.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from contextlib import suppress

from twisted.internet.defer import Deferred, fail, gatherResults, succeed
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from mailgw.interfaces import IBoard
from mailgw.ops.control import Command, ControlLink, Emit, Lost, Refused, Row

LASTING = ("override", "backend")
"""Kinds that outlive the gateway: what an administrator has ordered, and nobody else will order again."""
FILE = "board.json"
"""The name of their file in C{gateway.state}."""
ASIDE = ".broken"
"""What is put behind the name of a file that makes no sense."""

Watcher = Callable[[str, str | None], None]
"""Gets a name and its new value, C{None} where there is none any more."""


@implementer(IBoard)
class Board:
    """The board of a process that has no siblings, in memory only."""

    log = Logger()

    def __init__(self) -> None:
        self._words: dict[str, dict[str, str]] = {}
        self._watchers: dict[str, dict[object, Watcher]] = {}

    def get(self, kind: str, name: str) -> str | None:
        words = self._words.get(kind)
        return words.get(name) if words else None

    def words(self, kind: str) -> Mapping[str, str]:
        return dict(self._words.get(kind, {}))

    def watch(self, kind: str, call: Watcher) -> Callable[[], None]:
        watchers, key = self._watchers.setdefault(kind, {}), object()
        watchers[key] = call
        return lambda: watchers.pop(key, None) and None

    def post(self, kind: str, name: str, value: str | None) -> Deferred[None]:
        self.put(kind, name, value)
        return succeed(None)

    def put(self, kind: str, name: str, value: str | None) -> None:
        """Change our copy, and tell those who watch; what is no change is told to nobody."""
        words = self._words.setdefault(kind, {})
        if words.get(name) == value:
            return
        if value is None:
            del words[name]
        else:
            words[name] = value
        for call in list(self._watchers.get(kind, {}).values()):
            call(name, value)


class KeptBoard(Board):
    """The board of those who have the say: the one process there is, or a master.

    L{LASTING} words are in a file of C{gateway.state} before anybody sees them.
    """

    def __init__(self, folder: str) -> None:
        """@param folder: C{gateway.state}; need not exist before L{post} or L{load}."""
        super().__init__()
        self._path = os.path.join(folder, FILE)

    def load(self) -> None:
        """Take up what the file has. One that makes no sense is moved aside, and the log says so.

        @raise Refused: it cannot be read; without it users would go where they are not any more.
        """
        try:
            with open(self._path, "rb") as file:
                text = file.read()
            for kind, words in _read(text).items():
                for name, value in words.items():
                    self.put(kind, name, value)
        except FileNotFoundError:
            return
        except OSError as error:
            raise Refused(f"{self._path}: {error.strerror or error}") from None
        except ValueError as error:
            self._move_aside(str(error))

    def _move_aside(self, reason: str) -> None:
        """@raise Refused: that is not possible."""
        aside = self._path + ASIDE
        try:
            os.replace(self._path, aside)
        except OSError as error:
            raise Refused(f"{self._path} makes no sense ({reason}); {aside}: {error.strerror or error}") from None
        self.log.critical(
            "{path} makes no sense ({reason}): it is {aside} now, and what was moved or drained is forgotten",
            path=self._path,
            reason=reason,
            aside=aside,
        )

    def post(self, kind: str, name: str, value: str | None) -> Deferred[None]:
        try:
            self._keep(kind, name, value)
        except OSError as error:
            return fail(Refused(f"{self._path}: {error.strerror or error}"))
        return self._spread(kind, name, value)

    def _spread(self, kind: str, name: str, value: str | None) -> Deferred[None]:
        self.put(kind, name, value)
        return succeed(None)

    def _keep(self, kind: str, name: str, value: str | None) -> None:
        if kind not in LASTING or self.get(kind, name) == value:
            return
        words = {lasting: dict(self.words(lasting)) for lasting in LASTING}
        if value is None:
            del words[kind][name]
        else:
            words[kind][name] = value
        _write(self._path, json.dumps(words, indent=2, sort_keys=True).encode() + b"\n")


class MasterBoard(KeptBoard):
    """The board of a master, of which every worker has a copy."""

    def __init__(self, folder: str, token: str) -> None:
        """@param token: what a worker shows to get a copy."""
        super().__init__(folder)
        self._token = token
        self._copies: list[ControlLink] = []

    def commands(self, link: ControlLink) -> Mapping[str, Command]:
        """What a worker may ask for on its link."""

        async def board(arguments: Row, emit: Emit) -> None:
            """The whole board, and from now on each change of it."""
            self._show(arguments)
            for kind, words in self._words.items():
                for name, value in words.items():
                    emit({"kind": kind, "name": name, "value": value})
            self._copies.append(link)
            link.gone.addCallback(lambda _: self._copies.remove(link))

        async def post(arguments: Row, emit: Emit) -> None:
            self._show(arguments)
            await self.post(arguments["kind"], arguments["name"], arguments["value"])

        return {"board": board, "post": post}

    def _show(self, arguments: Row) -> None:
        if arguments.get("token") != self._token:
            raise Refused("not a worker of this gateway")

    def _spread(self, kind: str, name: str, value: str | None) -> Deferred[None]:
        self.put(kind, name, value)
        word = {"kind": kind, "name": name, "value": value}
        # a worker that is gone needs no word any more
        told = [link.ask("put", word, _nothing).addErrback(lambda lost: lost.trap(Lost)) for link in self._copies]
        return gatherResults(told).addCallback(lambda _: None)


class Copy(Board):
    """The board of a worker.

    @ivar commands: what the master asks for on our link.
    """

    def __init__(self, token: str) -> None:
        """@param token: what makes us known to the master."""
        super().__init__()
        self._token = token
        self._link: ControlLink | None = None
        self.commands: Mapping[str, Command] = {"put": self._put}

    def follow(self, link: ControlLink) -> Deferred[None]:
        """Become a copy of the master's board.

        @return: fires once we are; fails with L{Refused} where the link ends before.
        """
        self._link = link
        link.gone.addCallback(lambda _: self._alone())
        return link.ask("board", {"token": self._token}, self._take)

    def post(self, kind: str, name: str, value: str | None) -> Deferred[None]:
        if self._link is None:
            return super().post(kind, name, value)
        word = {"token": self._token, "kind": kind, "name": name, "value": value}
        told = self._link.ask("post", word, _nothing)
        return told.addErrback(self._untold, kind, name, value)

    def _untold(self, failure: Failure, kind: str, name: str, value: str | None) -> None:
        failure.trap(Lost)
        self.put(kind, name, value)

    async def _put(self, arguments: Row, emit: Emit) -> None:
        self._take(arguments)

    def _take(self, word: Row) -> None:
        self.put(word["kind"], word["name"], word["value"])

    def _alone(self) -> None:
        """The master is gone: nobody will take back any more what was to be for a while."""
        self._link = None
        for kind in self._words.keys() - set(LASTING):
            for name in self.words(kind):
                self.put(kind, name, None)


def _read(text: bytes) -> dict[str, dict[str, str]]:
    """The words of a file.

    @raise ValueError: it is none of ours.
    """
    found = json.loads(text)
    if not isinstance(found, dict):
        raise ValueError("not an object")
    for kind, words in found.items():
        if kind not in LASTING or not isinstance(words, dict):
            raise ValueError(f"{kind!r} is not known here")
        if not all(isinstance(value, str) for value in words.values()):
            raise ValueError(f"a value of {kind!r} is no text")
    return found


def _write(path: str, text: bytes) -> None:
    """Replace a file, or leave it as it was; after a crash, too, it is one of the two.

    @raise OSError: it is as it was.
    """
    new = path + ".new"
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        with open(descriptor, "wb") as file:
            file.write(text)
            file.flush()
            os.fsync(descriptor)
        os.replace(new, path)
    except BaseException:
        with suppress(FileNotFoundError):
            os.unlink(new)
        raise
    folder = os.open(os.path.dirname(path) or ".", os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _nothing(_: Row) -> None:
    """Rows that nobody needs."""
