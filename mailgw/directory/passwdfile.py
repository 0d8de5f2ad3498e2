"""Passwd files: their lines read, and the file edited for C{mailgw user}.

Who a user is, and whether a password is right, is C{passwd.py}'s work. An edit replaces the file as a whole: a reader
sees the old one or the new one.
"""

from __future__ import annotations

import fcntl
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

from mailgw.directory import schemes
from mailgw.directory.names import password_fault, well_formed


class FaultyFile(ValueError):
    """A passwd file that cannot be taken."""


@dataclass(frozen=True, slots=True)
class Line:
    """One user.

    @ivar extra: the extra fields, C{key=value}; a key alone has an empty value.
    """

    name: str
    stored: str = field(repr=False)
    extra: Mapping[str, tuple[str, ...]]

    @classmethod
    def read(cls, text: str) -> Line:
        """Read a line that is no comment.

        After the password come C{uid:gid:gecos:home:shell:extra fields}; where the first of these has a C{=}, which
        no uid has, the extra fields come at once.
        """
        name, colon, rest = text.partition(":")
        name = name.strip().lower()
        if not colon or not well_formed(name):
            raise ValueError("not a line of the form user:{SCHEME}hash")
        stored, _, rest = rest.partition(":")
        fields = rest.split(":", 5)
        words = rest if "=" in fields[0] else fields[5] if len(fields) == 6 else ""
        extra: dict[str, tuple[str, ...]] = {}
        for word in words.split():
            key, _, value = word.partition("=")
            extra[key] = (*extra.get(key, ()), value)
        return cls(name, stored.strip(), extra)


def matters(text: str) -> bool:
    """False for empty lines and comments."""
    return bool(text.strip()) and not text.lstrip().startswith("#")


def read_lines(content: bytes) -> Iterator[Line]:
    """Read a whole file.

    @raise FaultyFile: a line cannot be read; the text has its number and nothing of its content.
    """
    for number, octets in enumerate(content.split(b"\n"), 1):
        try:
            text = octets.decode("utf-8").rstrip("\r")
            if matters(text):
                yield Line.read(text)
        except ValueError as error:
            reason = "not UTF-8" if isinstance(error, UnicodeDecodeError) else str(error)
            raise FaultyFile(f"line {number}: {reason}") from None


class PasswdFile:
    """A passwd file that C{mailgw user} edits. Comments, order and extra fields stay as they are."""

    def __init__(self, path: str) -> None:
        self.path = os.path.realpath(path)

    def names(self) -> list[str]:
        """The users, in the file's order; none where there is no file.

        @raise FaultyFile: a line cannot be read.
        @raise OSError: the file cannot be read.
        """
        return [line.name for line in read_lines(self._read())]

    def add(self, name: str, password: bytes) -> None:
        """Add a user; the name is put in lower case.

        @raise ValueError: the user is there already, or the name or the password cannot be one.
        """
        name = name.lower()
        if not well_formed(name) or name.startswith("#") or ":" in name or any(map(str.isspace, name)):
            raise ValueError(f"{name!r} cannot be a user name")
        stored = self._hash(password)
        with self._locked():
            if name in self.names():
                raise ValueError(f"{name} is there already")
            content = self._read()
            gap = b"" if not content or content.endswith(b"\n") else b"\n"
            self._replace(content + gap + f"{name}:{stored}\n".encode())

    def set_password(self, name: str, password: bytes) -> None:
        """Give a user another password.

        @raise KeyError: there is no such user.
        @raise ValueError: the password cannot be one.
        """
        stored = self._hash(password)

        def change(text: str) -> str:
            fields = text.split(":", 2)
            return ":".join((fields[0], stored, *fields[2:]))

        self._edit(name, change)

    def delete(self, name: str) -> None:
        """Remove a user.

        @raise KeyError: there is no such user.
        """
        self._edit(name, lambda text: None)

    def _hash(self, password: bytes) -> str:
        if fault := password_fault(password):
            raise ValueError(fault)
        return schemes.make(password)

    def _edit(self, name: str, change: Callable[[str], str | None]) -> None:
        name = name.lower()
        with self._locked():
            if name not in self.names():
                raise KeyError(f"no user {name} in {self.path}")
            kept: list[str] = []
            for text in self._read().decode().split("\n"):
                hit = matters(text) and Line.read(text).name == name
                new = change(text.rstrip("\r")) if hit else text
                if new is not None:
                    kept.append(new)
            self._replace("\n".join(kept).encode())

    def _read(self) -> bytes:
        try:
            with open(self.path, "rb") as file:
                return file.read()
        except FileNotFoundError:
            return b""

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Keep others who edit out. The folder is locked, because the file itself is replaced."""
        folder = os.path.dirname(self.path)
        os.makedirs(folder, mode=0o700, exist_ok=True)
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def _replace(self, content: bytes) -> None:
        descriptor, temporary = tempfile.mkstemp(dir=os.path.dirname(self.path), prefix=".passwd-")
        try:
            with open(descriptor, "wb") as file:
                file.write(content)
                self._dress(file.fileno())
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, self.path)
        except BaseException:
            with suppress(FileNotFoundError):
                os.unlink(temporary)
            raise

    def _dress(self, descriptor: int) -> None:
        """Owner and mode of the old file; mkstemp's 0600 for a new one."""
        try:
            old = os.stat(self.path)
        except FileNotFoundError:
            return
        if (old.st_uid, old.st_gid) != (os.geteuid(), os.getegid()):
            os.fchown(descriptor, old.st_uid, old.st_gid)
        os.fchmod(descriptor, old.st_mode & 0o777)
