"""Free ports on loopback, and waiting for something to become true.

It starts nothing: that is L{tests.integration.daemon}'s work.
"""

from __future__ import annotations

import random
import socket
import time
from collections.abc import Callable, Iterable

from tests.programs import PACKAGES, find

HOST = "127.0.0.1"
_given: set[int] = set()


def program(name: str) -> str | None:
    """The path of a server's program; Debian keeps some where an ordinary user's PATH does not look."""
    return find(name)


def needs(*programs: str) -> str | None:
    """Why a test that uses these programs has to be skipped, with the Debian packages to install; C{None}: it can run.

    For trial's C{skip} attribute of a test class.
    """
    missing = [name for name in programs if program(name) is None]
    if not missing:
        return None
    packages = " ".join(package for name in missing for package in PACKAGES[name])
    return f"{', '.join(missing)} not installed; on Debian: apt-get install --no-install-recommends {packages}"


def free_port() -> int:
    """A TCP port of 127.0.0.1 that nobody uses.

    It lies below 32768, where Linux takes the ports of outgoing connections from: between this moment and the start
    of a daemon none of the many connections of a test can take it away.
    """
    while True:
        port = random.randint(20000, 32000)
        if port not in _given and _is_free(port):
            _given.add(port)
            return port


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True


def wait_for(what: str, true: Callable[[], object], seconds: float = 20.0) -> None:
    """Ask every 20 ms until it is true.

    @param what: said in the failure.
    @raise AssertionError: not true within that time.
    """
    deadline = time.monotonic() + seconds
    while not true():
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {seconds:g} s: {what}")
        time.sleep(0.02)


def answers(port: int) -> bool:
    """Whether something accepts connections there."""
    try:
        socket.create_connection((HOST, port), 1.0).close()
    except OSError:
        return False
    return True


def silent(ports: Iterable[int]) -> list[int]:
    """Those ports that do not answer yet."""
    return [port for port in ports if not answers(port)]
