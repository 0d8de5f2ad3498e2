"""Tests of L{mailgw.directory.passwdfile}."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from unittest.mock import patch

from twisted.trial.unittest import SynchronousTestCase

from mailgw.directory import passwdfile, schemes
from mailgw.directory.passwdfile import FaultyFile, PasswdFile, read_lines

CONTENT = """\
# the company: everybody
Alice:{PLAIN}old:1000:1000::/home/alice::mailHost=be1

bob@example.org:{PLAIN}bobpw:mailHost=10.0.0.1:143
"""


class PasswdFileTests(SynchronousTestCase):
    """L{PasswdFile}."""

    def setUp(self) -> None:
        self.path = Path(self.mktemp()).absolute() / "mail" / "passwd"
        self.file = PasswdFile(str(self.path))

    def fill(self) -> None:
        self.path.parent.mkdir(parents=True)
        self.path.write_text(CONTENT)

    def password(self, name: str, password: bytes) -> bool:
        lines = {line.name: line for line in read_lines(self.path.read_bytes())}
        return schemes.verify(lines[name].stored, password)

    def test_first_user(self) -> None:
        """The first user makes the folder and the file, for nobody else to read."""
        self.assertEqual(self.file.names(), [])
        self.file.add("Alice@Example.org", b"secret: pw")
        self.assertEqual(self.file.names(), ["alice@example.org"])
        self.assertEqual(self.path.stat().st_mode & 0o777, 0o600)
        self.assertEqual(self.path.parent.stat().st_mode & 0o777, 0o700)
        self.assertTrue(self.path.read_text().startswith("alice@example.org:{ARGON2ID}$argon2id$"))
        self.assertTrue(self.password("alice@example.org", b"secret: pw"))

    def test_add_keeps_the_rest(self) -> None:
        """What is there stays as it is, also where the last line had no end."""
        self.fill()
        self.path.write_text(CONTENT.rstrip("\n"))
        self.file.add("carol", b"pw")
        self.assertTrue(self.path.read_text().startswith(CONTENT + "carol:{ARGON2ID}"))

    def test_add_twice(self) -> None:
        """A user who is there already, in whatever case, is not added; nothing is written."""
        self.fill()
        error = self.assertRaises(ValueError, self.file.add, "aLICE", b"pw")
        self.assertEqual(str(error), "alice is there already")
        self.assertEqual(self.path.read_text(), CONTENT)

    def test_bad_names(self) -> None:
        """What would break the line cannot be a name."""
        for name in ("", "a:b", "a b", "#a", "a\n", "a\0", "a\u2028b", "x" * 300):
            self.assertRaises(ValueError, self.file.add, name, b"pw")
        self.assertFalse(self.path.exists())

    def test_bad_passwords(self) -> None:
        """A password that no client could send is refused, by all that set one."""
        self.fill()
        for password in (b"", b"a\nb", b"a\0", b"x" * 1025):
            self.assertRaises(ValueError, self.file.add, "new", password)
            self.assertRaises(ValueError, self.file.set_password, "alice", password)
        self.assertEqual(self.path.read_text(), CONTENT)

    def test_set_password(self) -> None:
        """Only the password of that line changes."""
        self.fill()
        self.file.set_password("ALICE", b"new")
        self.assertTrue(self.password("alice", b"new"))
        stored = next(read_lines(self.path.read_bytes())).stored
        self.assertEqual(self.path.read_text().replace(stored, "{PLAIN}old"), CONTENT)
        self.file.set_password("bob@example.org", b"new")
        self.assertIn(":mailHost=10.0.0.1:143\n", self.path.read_text())

    def test_delete(self) -> None:
        """Only that line goes."""
        self.fill()
        self.file.delete("Alice")
        self.assertEqual(self.file.names(), ["bob@example.org"])
        self.assertTrue(self.path.read_text().startswith("# the company: everybody\n\nbob@"))

    def test_nobody(self) -> None:
        """Who is not there cannot be changed, not even where there is no file."""
        error = self.assertRaises(KeyError, self.file.delete, "x")
        self.assertIn("no user x", str(error))
        self.assertRaises(KeyError, self.file.set_password, "x", b"pw")
        self.assertFalse(self.path.exists())

    def test_faulty(self) -> None:
        """A file that cannot be read as a whole is not edited."""
        self.fill()
        self.path.write_text(CONTENT + "no colon\n")
        for edit in (
            self.file.names,
            lambda: self.file.add("new", b"pw"),
            lambda: self.file.delete("alice"),
        ):
            error = self.assertRaises(FaultyFile, edit)
            self.assertIn("line 5", str(error))
        self.assertEqual(self.path.read_text(), CONTENT + "no colon\n")

    def test_mode_and_owner(self) -> None:
        """The old file's mode stays, and its owner where we may give files away."""
        self.fill()
        self.path.chmod(0o640)
        if os.geteuid() == 0:
            os.chown(self.path, 65534, 65534)
        before = self.path.stat()
        self.file.add("new", b"pw")
        after = self.path.stat()
        self.assertEqual(after.st_mode & 0o777, 0o640)
        self.assertEqual((after.st_uid, after.st_gid), (before.st_uid, before.st_gid))
        self.assertNotEqual(after.st_ino, before.st_ino)

    def test_symbolic_link(self) -> None:
        """A link stays one; the file behind it is replaced."""
        self.fill()
        link = self.path.parent / "link"
        link.symlink_to(self.path)
        PasswdFile(str(link)).add("new", b"pw")
        self.assertTrue(link.is_symlink())
        self.assertIn("new", self.file.names())

    def test_safe(self) -> None:
        """The new content is on disk before it takes the old one's place; after a failure the old one is whole."""
        self.fill()
        done: list[str] = []
        real_fsync, real_replace = os.fsync, os.replace

        def fsync(descriptor: int) -> None:
            done.append("fsync")
            real_fsync(descriptor)

        def replace(old: str, new: str) -> None:
            done.append("replace")
            real_replace(old, new)

        with patch.object(passwdfile.os, "fsync", fsync), patch.object(passwdfile.os, "replace", replace):
            self.file.add("new", b"pw")
        self.assertEqual(done, ["fsync", "replace", "fsync"])
        before = self.path.read_bytes()
        with patch.object(passwdfile.os, "replace", side_effect=OSError):
            self.assertRaises(OSError, self.file.add, "newer", b"pw")
        self.assertEqual(self.path.read_bytes(), before)
        self.assertEqual(sorted(os.listdir(self.path.parent)), ["passwd"])

    def test_locked(self) -> None:
        """While a file is edited nobody else can edit it."""
        self.fill()
        probes: list[bool] = []

        def probe(*arguments: object) -> None:
            folder = os.open(self.path.parent, os.O_RDONLY)
            try:
                fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
                probes.append(False)
            except BlockingIOError:
                probes.append(True)
            finally:
                os.close(folder)

        with patch.object(self.file, "_replace", probe):
            self.file.add("new", b"pw")
        probe()
        self.assertEqual(probes, [True, False])
