"""Tests of the examples in C{docs/migrating.md}: they are what the import says today."""

from __future__ import annotations

import re
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from mailgw.importing import nginx, perdition
from mailgw.importing.nginxfile import Source
from mailgw.importing.perditionmaps import MapFile

PAGE = Path(__file__).resolve().parents[2] / "docs" / "migrating.md"
_EXAMPLE = re.compile(r"```\n\$ cat ([a-z0-9.]+)\n(.*?)\$ mailgw import [^\n]*\n(.*?)```\n", re.DOTALL)


class ExampleTests(SynchronousTestCase):
    """What the page shows between two lines of backquotes."""

    def setUp(self) -> None:
        self.examples = {name: (old, new) for name, old, new in _EXAMPLE.findall(PAGE.read_text())}

    def test_perdition(self) -> None:
        """The settings made of the perdition.conf on the page are those on the page."""
        name = "perdition.imap4.conf"
        old, new = self.examples[name]
        maps = [MapFile("/etc/perdition/popmap", "anna:be1\n")]
        found = perdition.translate(old, maps, origin=name, hostname="mail.example.com", guessed=["IMAP4"])
        self.assertEqual(found.settings, new)

    def test_nginx(self) -> None:
        """Likewise for the nginx.conf."""
        old, new = self.examples["nginx.conf"]
        found = nginx.translate(Source("/etc/nginx/nginx.conf", old), lambda pattern: [])
        self.assertEqual(found.settings, new)
