"""A real Perdition for tests: IMAP or POP3 on loopback, with a map of its own and in the foreground.

Its configuration is the test's; what every such file needs here stands in L{COMMON}.
"""

from __future__ import annotations

import subprocess
from collections.abc import Sequence

from tests.integration.certificates import certificates
from tests.integration.daemon import Daemon
from tests.integration.ports import HOST, free_port, program


class Perdition(Daemon):
    """One Perdition.

    @ivar port: where it listens.
    @ivar configuration: the path of its perdition.conf; C{popmap} and C{popmap.re} lie beside it.
    """

    name = "perdition"

    def __init__(self, options: str, popmap: str = "", expressions: str = "") -> None:
        """
        @param options: lines of perdition.conf; C{@D@} in them is the folder.
        @param popmap: the text of the map C{popmap}, which is made a database of, too.
        @param expressions: the text of the map C{popmap.re}.
        """
        super().__init__()
        self.port = free_port()
        certificates().copy_to(self.folder)
        (self.folder / "popmap").write_text(popmap)
        (self.folder / "popmap.re").write_text(expressions)
        if popmap:
            self._make_database(popmap)
        self.configuration = self.folder / "perdition.conf"
        text = COMMON + options
        self.configuration.write_text(text.replace("@D@", str(self.folder)).replace("@PORT@", str(self.port)))

    def command(self) -> Sequence[str]:
        return [program("perdition") or "perdition", "-f", str(self.configuration)]

    def listening(self) -> Sequence[int]:
        return [self.port]

    def _make_database(self, popmap: str) -> None:
        database = str(self.folder / "popmap.gdbm.db")
        subprocess.run([program("makegdbm") or "makegdbm", database], input=popmap, text=True, check=True, timeout=20.0)


COMMON = f"""
bind_address {HOST}             # as every site has it, more or less
listen_port @PORT@
pid_file ""
no_daemon
log_facility -                  # standard output
no_lookup
ssl_cert_file @D@/server.pem
ssl_key_file @D@/server.key
"""
"""In every perdition.conf here."""


def map_library(name: str) -> str:
    """The line that names a library of the installed Perdition."""
    return f"map_library libperditiondb_{name}.so.0\n"
