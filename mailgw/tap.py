"""C{twistd mailgw}: the command line becomes settings, the settings become services.

Every fault of the settings is printed, one a line, before anything starts.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from twisted.python import usage

from mailgw.errors import MailgwError, SettingsError

if TYPE_CHECKING:
    from mailgw.master import Master
    from mailgw.settings import Settings
    from mailgw.single import Single

DEFAULT_CONFIG = "/etc/mailgw/mailgw.toml"


class Options(usage.Options):
    """The options behind C{twistd mailgw}."""

    synopsis = "[options]"
    longdesc = "A mail gateway for IMAP, POP3, submission and SMTP. `mailgw check` tells whether the settings are good."
    optParameters = [  # noqa: RUF012  # usage.Options reads it
        ["config", "c", None, f"settings file [default: $MAILGW_CONFIG, then {DEFAULT_CONFIG}]"],
    ]

    def __init__(self) -> None:
        super().__init__()
        self["set"] = []

    def opt_set(self, assignment: str) -> None:
        """Override a setting, as table.key=value; may be given several times"""
        self["set"].append(assignment)


def makeService(options: Options) -> Single | Master:
    """Check the settings and build what C{twistd} starts.

    @raise SystemExit: with status 2 where there is no settings file, 1 where it has faults; both are told.
    """
    from twisted.internet import reactor as global_reactor

    from mailgw.config.file import load

    reactor: Any = global_reactor

    path = options["config"] or os.environ.get("MAILGW_CONFIG") or DEFAULT_CONFIG
    if not os.path.exists(path):
        sys.stderr.write(f"mailgw: no settings file {path}; name one with --config or $MAILGW_CONFIG\n")
        raise SystemExit(2)
    overrides = tuple(options["set"])
    lasting_path = os.path.abspath(path)  # twistd may change to another folder before a reload
    try:
        settings = load(path, overrides)
        service = _program(settings, reactor, lambda: load(lasting_path, overrides), _logs_to_stdout(options.parent))
    except SettingsError as error:
        sys.stderr.write("".join(f"{fault}\n" for fault in error.faults))
        raise SystemExit(1) from None
    except MailgwError as error:
        sys.stderr.write(f"mailgw: {error}\n")
        raise SystemExit(1) from None

    def reload(*_: Any) -> None:
        reactor.callFromThread(service.renew)

    reactor.callWhenRunning(signal.signal, signal.SIGHUP, reload)
    return service


def _logs_to_stdout(twistd: Any) -> bool:
    """Whether C{twistd}, with these options, logs to its standard output and nowhere else."""
    if twistd is None or not twistd.get("nodaemon"):
        return False
    return twistd.get("logfile") in (None, "-") and not twistd.get("syslog") and not twistd.get("logger")


def _program(settings: Settings, reactor: Any, load: Callable[[], Settings], logs_to_stdout: bool) -> Single | Master:
    """One process, or several.

    @raise SettingsError: a file that the settings name is not usable.
    """
    if settings.gateway.workers:
        from mailgw.master import Master

        return Master(settings, reactor, load, logs_to_stdout=logs_to_stdout)
    from mailgw.single import Single

    return Single(settings, reactor, load)
