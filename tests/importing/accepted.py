"""What every import has to pass: the settings load, and C{mailgw check} finds no fault in them."""

from __future__ import annotations

import tomllib
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from mailgw.config.check import check
from mailgw.config.file import read
from mailgw.edge.selfsigned import write_pair
from mailgw.importing.toml import Imported


class ImportCase(SynchronousTestCase):
    """Has a folder with a certificate, C{mail.example.com.crt} and C{.key}."""

    def setUp(self) -> None:
        self.folder = Path(self.mktemp()).resolve()
        self.folder.mkdir()
        write_pair(["mail.example.com"], str(self.folder), 3650, datetime.now(UTC), None)

    def accepted(self, found: Imported) -> dict[str, Any]:
        """See that the settings are good, and return them as TOML has them."""
        path = self.folder / "mailgw.toml"
        path.write_text(found.settings)
        remarks = check(read(path), datetime.now(UTC), lambda host: ["192.0.2.1"])
        self.assertEqual([words for grave, words in remarks if grave], [], found.settings)
        return tomllib.loads(found.settings)

    def said(self, found: Imported, subject: str) -> str:
        """All remarks about an option; each of them stands in the settings, too."""
        words = " | ".join(str(remark) for remark in found.remarks if remark.subject.rpartition(" ")[2] == subject)
        comments = " ".join(line.strip("# ") for line in found.settings.splitlines() if line.startswith("#"))
        for remark in found.remarks:
            self.assertIn(" ".join(str(remark).split()), " ".join(comments.split()))
        return words
