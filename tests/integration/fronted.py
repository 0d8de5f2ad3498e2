"""A gateway with listeners of a test's own, in front of one Dovecot, for one user in a passwd file."""

from __future__ import annotations

import re
from collections.abc import Sequence

from tests.integration.certificates import certificates
from tests.integration.dovecot import Dovecot
from tests.integration.gateway import Gateway


class WideGateway(Gateway):
    """A gateway that is up when all listeners of its settings answer."""

    def listening(self) -> Sequence[int]:
        return [int(port) for port in re.findall(r'"tcp:(\d+)', self.settings.read_text())]


def settings(dovecot: Dovecot, pool: str = "", more: str = "") -> str:
    """Tables for a gateway in front of that Dovecot, with one user in a passwd file."""
    (dovecot.folder / "people").write_text("anna:{PLAIN}annapw:\n")
    (dovecot.folder / "people").chmod(0o644)
    dovecot.folder.chmod(0o755)
    return f"""
[[directory]]
kind = "passwd"
file = "{dovecot.folder}/people"
[[route]]
kind = "pool"
pool = "main"
[domains]
accept = ["example.org"]
{more}
[pool.main]
members = ["localhost"]
ca = "{certificates().ca}"
{pool}
"""
