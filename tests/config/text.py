"""Settings files for tests: a good one, ways to change it, and plugs of no room in particular."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from pydantic import SecretBytes
from twisted.trial.unittest import SynchronousTestCase

from mailgw.settings import Duration, FilePath, FilePaths, Secret, Strings, Table


def short_folder(test: SynchronousTestCase) -> Path:
    """A folder until the end of a test. Trial's own can lie so deep that the control socket's path is too long."""
    folder = Path(tempfile.mkdtemp(prefix="mailgw-")).resolve()
    test.addCleanup(shutil.rmtree, folder)
    return folder


GOOD = """
[gateway]
hostname = "mail.example.com"
state = "var"
[tls]
certificate = "certs/a.crt"
key = "certs/a.key"
[[listener]]
protocol = "imap"
endpoint = "tcp:143"
[[directory]]
kind = "people"
file = "people.txt"
[[route]]
kind = "anywhere"
pool = "main"
[pool.main]
members = ["be1", {host = "be2", weight = 2}]
[pool.main.imap]
"""


class PeopleOptions(Table):
    """C{[[directory]]} of kind "people"."""

    file: FilePath
    more: FilePaths = ()
    maybe: FilePath | None = None
    password: Secret = SecretBytes(b"")
    other: Secret | None = None
    attributes: Strings = ("mailHost",)
    timeout: Duration = 5.0


class People:
    """A directory of no use."""

    Options = PeopleOptions


class Anywhere:
    """A rule of no use."""

    class Options(Table):
        """C{[[route]]} of kind "anywhere"."""

        pool: str | None = None
        name: str = ""
        expect: tuple[str, ...] = ()

        @property
        def attributes_needed(self) -> tuple[str, ...]:
            """Attributes that the rule will read."""
            return self.expect


class Bare:
    """A plug that forgot its options."""


TABLE = {
    "protocol": dict.fromkeys(("imap", "pop3", "submission", "mx"), "tests.config.text:Bare"),
    "directory": {"people": "tests.config.text:People", "bare": "tests.config.text:Bare"},
    "route": {
        "anywhere": "tests.config.text:Anywhere",
        "attribute": "tests.config.text:Anywhere",
        "hash": "tests.config.text:Anywhere",
        "local": "tests.config.text:Anywhere",
    },
}
"""What takes the place of L{mailgw.registry.TABLE}."""


def write(folder: str | Path, text: str = GOOD) -> str:
    """Write a settings file into a folder and return its path."""
    path = Path(folder)
    path.mkdir(parents=True, exist_ok=True)
    (path / "mailgw.toml").write_text(text)
    return str(path / "mailgw.toml")
