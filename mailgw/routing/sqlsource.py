"""What there is to say about each kind of database: its driver, how to connect, how to keep it from writing.

C{sqlite:PATH} is built in; C{postgresql://} needs psycopg, C{mysql://} PyMySQL. Connects to nothing itself.
"""

from __future__ import annotations

import os
import socket
import ssl
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from importlib.util import find_spec
from math import ceil
from typing import Any
from urllib.parse import SplitResult, parse_qsl, quote, unquote, urlsplit

from mailgw.routing.sqlquery import Style

SQLITE = "sqlite:"
_EXTRAS = {"psycopg": "postgresql", "pymysql": "mysql"}
_STEPS = 10_000
"""Virtual machine instructions of SQLite between two looks at the time."""


@dataclass(frozen=True, slots=True)
class Source:
    """How adbapi connects.

    @ivar module: the driver.
    @ivar style: how it writes parameters.
    @ivar arguments: for its C{connect}; likewise C{options}.
    @ivar greet: called with every new connection.
    @ivar ready: asked before a question on a connection that has been used, and after one that failed: whether it can
        be used, as far as its own end knows.
    @ivar cut: end a connection from another thread than the one that waits for its answer, where its driver waits
        without end.
    """

    module: str
    style: Style
    arguments: tuple[Any, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict, repr=False)
    greet: Callable[[Any], None] | None = None
    ready: Callable[[Any], bool] = field(default=lambda connection: True)
    cut: Callable[[Any], None] = field(default=lambda connection: None)


@dataclass(frozen=True, slots=True)
class Trust:
    """How a server proves who it is.

    @ivar ca: PEM file of a private CA; the system's CAs where it is left out.
    @ivar verify: certificate and name are checked.
    """

    ca: str | None = None
    verify: bool = True


def checked(database: str) -> str:
    """The same text, if it is one that L{source_of} understands.

    @raise ValueError: it is not; the message never quotes it.
    """
    if database.startswith(SQLITE):
        if database == SQLITE:
            raise ValueError('names no file; write "sqlite:PATH"')
        return database
    parts = _parts(database)
    if parts.scheme not in ("postgresql", "mysql"):
        raise ValueError('must be "sqlite:PATH", "postgresql://USER@HOST/NAME" or "mysql://USER@HOST/NAME"')
    if parts.password is not None:
        raise ValueError("must hold no password; write password = {file = …} beside it")
    if not parts.path.strip("/"):
        raise ValueError("names no database behind the host")
    if set(_query(parts)) - {"socket"}:
        raise ValueError("knows nothing behind the ? but socket=FOLDER (PostgreSQL) or socket=FILE (MySQL)")
    module = "psycopg" if parts.scheme == "postgresql" else "pymysql"
    if find_spec(module) is None:
        raise ValueError(f"needs {module}, which is not installed: pip install 'mailgw[{_EXTRAS[module]}]'")
    return database


def file_of(database: str) -> str | None:
    """The file of a SQLite database, C{None} for others."""
    return database.removeprefix(SQLITE) if database.startswith(SQLITE) else None


def source_of(database: str, password: bytes, timeout: float, trust: Trust) -> Source:
    """How to connect.

    @param database: as L{checked} has let it through.
    @param timeout: seconds for connecting, and for one query.
    @raise OSError: the CA's file cannot be read.
    """
    if (file := file_of(database)) is not None:
        return _sqlite(file, timeout)
    parts = _parts(database)
    return (_postgresql if parts.scheme == "postgresql" else _mysql)(parts, password.decode(), timeout, trust)


def _parts(database: str) -> SplitResult:
    try:
        parts = urlsplit(database)
        _ = parts.port  # asked for its complaint
    except ValueError:
        raise ValueError("is no URL; write USER@HOST[:PORT], and [brackets] around IPv6 addresses") from None
    return parts


def _query(parts: SplitResult) -> dict[str, str]:
    return dict(parse_qsl(parts.query, keep_blank_values=True))


def _at_home(parts: SplitResult) -> bool:
    """Nothing crosses a network."""
    host = parts.hostname or ""
    return bool("socket" in _query(parts) or host in ("", "localhost", "::1") or host.startswith("127."))


def _sqlite(file: str, timeout: float) -> Source:
    def status() -> tuple[int, int]:
        found = os.stat(file)
        return found.st_dev, found.st_ino

    opened: dict[int, tuple[int, int]] = {}
    ends: dict[int, float] = {}

    def greet(connection: Any) -> None:
        key = id(connection)
        opened[key], ends[key] = status(), time.monotonic() + timeout
        connection.set_progress_handler(lambda: time.monotonic() > ends[key], _STEPS)

    def ready(connection: Any) -> bool:
        """Whether the file is still the one that was opened: a new one may have been moved into its place."""
        ends[id(connection)] = time.monotonic() + timeout
        try:
            return opened.get(id(connection)) == status()
        except FileNotFoundError:
            return False

    options = {"uri": True, "timeout": timeout, "check_same_thread": False, "isolation_level": None}
    return Source("sqlite3", "named", (f"file:{quote(file)}?mode=ro",), options, greet, ready)


def _postgresql(parts: SplitResult, password: str, timeout: float, trust: Trust) -> Source:
    options: dict[str, Any] = {
        "dbname": unquote(parts.path.strip("/")),
        "connect_timeout": max(ceil(timeout), 2),  # libpq takes 1 for 2
        "tcp_user_timeout": ceil(timeout * 1000),
        "keepalives_idle": 10,
        "keepalives_interval": 5,
        "keepalives_count": 3,
        "autocommit": True,
        "prepare_threshold": None,  # behind a PgBouncer the next query may meet another server
        "application_name": "mailgw",
    }
    given = {"host": _query(parts).get("socket") or parts.hostname, "port": parts.port, "password": password}
    given["user"] = unquote(parts.username or "")
    options |= {key: value for key, value in given.items() if value}
    if not _at_home(parts):
        options["sslmode"] = "verify-full" if trust.verify else "require"
        if trust.verify:
            options["sslrootcert"] = trust.ca or "system"
    setup = f"SET default_transaction_read_only = on; SET statement_timeout = {ceil(timeout * 1000)}"

    def greet(connection: Any) -> None:
        connection.execute(setup)

    return Source("psycopg", "pyformat", (), options, greet, lambda connection: not connection.closed, _shut)


def _shut(connection: Any) -> None:
    """End the socket of a psycopg connection below its driver, which waits for a server that hangs."""
    if connection.closed:
        return
    with suppress(OSError), socket.socket(fileno=os.dup(connection.fileno())) as twin:
        twin.shutdown(socket.SHUT_RDWR)


def _mysql(parts: SplitResult, password: str, timeout: float, trust: Trust) -> Source:
    options: dict[str, Any] = {
        "database": unquote(parts.path.strip("/")),
        "connect_timeout": ceil(timeout),
        "read_timeout": ceil(timeout),
        "write_timeout": ceil(timeout),
        "autocommit": True,
        "charset": "utf8mb4",
        "init_command": "SET SESSION TRANSACTION READ ONLY",
    }
    given = {"host": parts.hostname, "port": parts.port, "password": password}
    given |= {"user": unquote(parts.username or ""), "unix_socket": _query(parts).get("socket")}
    options |= {key: value for key, value in given.items() if value}
    if not _at_home(parts):
        context = ssl.create_default_context(cafile=trust.ca)
        context.check_hostname = context.check_hostname and trust.verify
        context.verify_mode = ssl.CERT_REQUIRED if trust.verify else ssl.CERT_NONE
        options["ssl"] = context
    return Source("pymysql", "pyformat", (), options, None, lambda connection: connection.open)
