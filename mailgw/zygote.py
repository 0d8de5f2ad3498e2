"""The zygote: what a master starts as C{python -m mailgw.zygote}, and what forks the workers.

It loads all code, the settings and the certificates once, so that its workers share the memory and the keys of the TLS
tickets. It must not run a reactor, nor have one: each worker makes its own. How many workers there are, and when they
end, the master decides (L{mailgw.master}, L{mailgw.ops.workers}).
"""

from __future__ import annotations

import gc
import os
import pickle
import select
import signal
import sys
from contextlib import suppress
from types import ModuleType
from typing import TYPE_CHECKING, Any

from mailgw.ops.descriptors import BOOT, REPORTS

if TYPE_CHECKING:
    from mailgw.edge.tls import Identities
    from mailgw.worker import Boot


class _LaterReactor(ModuleType):
    """Stands for the reactor in modules that import it for later use, such as C{twisted.mail.smtp}.

    A reactor that exists before the fork would share its descriptors among all workers.
    """

    def __getattr__(self, name: str) -> Any:
        real = sys.modules["twisted.internet.reactor"]
        if real is self:
            raise AttributeError(f"there is no reactor before the fork, and no {name}")
        return getattr(real, name)


def main() -> None:
    """Be the zygote until the master closes its end."""
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # a terminal sends these to everybody; the master decides
    sys.modules["twisted.internet.reactor"] = _LaterReactor("twisted.internet.reactor")
    from mailgw.errors import MailgwError
    from mailgw.gateway import load_code, load_identities

    boot = _read_boot()
    try:
        load_code(boot.settings)
        identities = load_identities(boot.settings)
    except MailgwError as error:
        raise SystemExit(str(error)) from None
    gc.collect()
    gc.freeze()  # or the first collection in a worker would copy every page
    Zygote(boot, identities).run()


def _read_boot() -> Boot:
    size = int.from_bytes(_read(8), "big")
    boot: Boot = pickle.loads(_read(size))  # noqa: S301  # from our own master, through a pipe
    return boot


def _read(size: int) -> bytes:
    data = b""
    while len(data) < size:
        some = os.read(BOOT, size - len(data))
        if not some:
            raise SystemExit("the master is gone")
        data += some
    return data


class Zygote:
    """Forks when it is told to, and tells who ended."""

    def __init__(self, boot: Boot, identities: Identities | None) -> None:
        self._boot, self._identities = boot, identities
        self._commands = b""
        self._waker, self._wakened = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)

    def run(self) -> None:
        """Until there is nobody to take orders from."""
        signal.set_wakeup_fd(self._wakened, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        self._report("ready")
        while True:
            ready, _, _ = select.select([BOOT, self._waker], [], [])
            if self._waker in ready:
                os.read(self._waker, 512)
                self._reap()
            if BOOT in ready and not self._obey():
                return

    def _report(self, words: str) -> None:
        with suppress(BrokenPipeError):
            os.write(REPORTS, words.encode() + b"\n")

    def _obey(self) -> bool:
        data = os.read(BOOT, 4096)
        *lines, self._commands = (self._commands + data).split(b"\n")
        for line in lines:
            _, slot, region = line.split()
            self._fork(int(slot), int(region))
        return bool(data)

    def _fork(self, slot: int, region: int) -> None:
        sys.stdout.flush()
        sys.stderr.flush()
        pid = os.fork()
        if pid:
            self._report(f"forked {slot} {pid}")
            return
        status = 1
        try:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            for number in (BOOT, REPORTS, self._waker, self._wakened):
                os.close(number)
            os.open(os.devnull, os.O_RDONLY)  # the lowest: standard input
            from mailgw.worker import run_worker

            run_worker(self._boot, self._identities, slot, region)
            status = 0
        except BaseException:
            sys.excepthook(*sys.exc_info())
        finally:
            os._exit(status)

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if not pid:
                return
            self._report(f"ended {pid} {os.waitstatus_to_exitcode(status)}")


if __name__ == "__main__":
    main()
