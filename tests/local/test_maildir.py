"""Tests for L{mailgw.local.maildir}, L{mailgw.local.keywords}, L{mailgw.local.content} and L{mailgw.local.disk}."""

from __future__ import annotations

import fcntl
import io
import os

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from mailgw.local import content, disk, maildir
from mailgw.local.content import open_content, with_crlf
from mailgw.local.disk import locked
from mailgw.local.keywords import Keywords
from mailgw.local.maildir import SETTLED, STALE, Entry, Folder, FolderGone, MessageGone
from tests.local.contract import InlineDisk


class FolderCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.root = self.mktemp()
        self.folder = Folder(self.root, self.root, InlineDisk(self.clock))
        self.folder.ensure()

    def put(self, name: str, sub: str = "cur", text: bytes = b"x") -> str:
        """Put a file into the folder; its path."""
        path = os.path.join(self.root, sub, name)
        with open(path, "wb") as file:
            file.write(text)
        return path


class LookTests(FolderCase):
    def test_new_stays_until_adopted(self) -> None:
        """Only who may change the folder moves what is new, keeping flags that it has already."""
        self.put("1.a", "new")
        self.put("2.b:2,S", "new")
        self.assertEqual({entry.subfolder for entry in self.folder.look(adopt=False).entries}, {"new"})
        snapshot = self.folder.look(adopt=True)
        self.assertEqual([entry.name for entry in snapshot.entries], ["1.a:2,", "2.b:2,S"])
        self.assertEqual(snapshot.fresh, {1, 2})
        self.assertEqual(self.folder.look(adopt=True).fresh, frozenset())

    def test_strangers(self) -> None:
        """Hidden files, folders, links and names with control characters are no messages."""
        self.put(".hidden")
        self.put("a\nb")
        os.mkdir(os.path.join(self.root, "cur", "folder"))
        os.symlink("/etc/passwd", os.path.join(self.root, "cur", "1.link"))
        self.assertEqual(self.folder.look(adopt=True).entries, ())

    def test_passed_over(self) -> None:
        """A message that one reading of the folder misses keeps its UID."""
        self.put("1.a:2,")
        self.folder.look(adopt=False)
        real, calls = self.folder._list, []

        def missing() -> dict[str, tuple[str, str]]:
            calls.append(1)
            return real() if len(calls) > 1 else {}

        self.patch(self.folder, "_list", missing)
        self.assertEqual([entry.uid for entry in self.folder.look(adopt=False).entries], [1])

    def test_stamp(self) -> None:
        """A folder that has just changed is looked at again; one that has been still is not."""
        self.clock.advance(os.stat(os.path.join(self.root, "cur")).st_mtime + SETTLED / 2)
        self.assertIsNone(self.folder.look(adopt=False).stamp)
        self.clock.advance(SETTLED)
        stamp = self.folder.look(adopt=False).stamp
        self.assertFalse(self.folder.changed(stamp))
        path = self.put("1.a")
        os.utime(os.path.dirname(path), (1, 1))
        self.assertTrue(self.folder.changed(stamp))

    def test_gone(self) -> None:
        """A folder that is not there is no empty folder, and is not made by looking."""
        other = Folder(os.path.join(self.root, ".x"), self.root, InlineDisk())
        self.assertRaises(FolderGone, other.look, adopt=True)
        self.assertRaises(FolderGone, other.changed, (1, 2))
        self.assertFalse(os.path.exists(other.path))

    def test_stale(self) -> None:
        """What has been in tmp for days is removed, what is being written is not."""
        self.put("old", "tmp")
        fresh = self.put("new", "tmp")
        self.clock.advance(os.stat(fresh).st_mtime + STALE + 1)
        os.utime(fresh, (self.clock.seconds(), self.clock.seconds()))
        self.folder.tidy()
        self.assertEqual(os.listdir(os.path.join(self.root, "tmp")), ["new"])

    def test_sizes(self) -> None:
        """A name's sizes are believed if its S= is true; else the message is measured, line ends as CRLF."""
        self.put("1.a,S=4,W=6:2,", text=b"a\nb\n")
        self.put("2.b,S=99,W=100:2,", text=b"a\nb\n")
        self.put("3.c:2,", text=b"a\r\nb\n")
        self.put("4.d,S=4:2,", text=b"a\nb\n")
        entries = self.folder.look(adopt=False).entries
        self.assertEqual([self.folder.size(entry) for entry in entries], [6, 6, 6, 6])
        os.unlink(self.folder.file(entries[0]))
        self.assertRaises(MessageGone, self.folder.size, entries[0])


class ContentTests(FolderCase):
    def read(self, entry: Entry) -> bytes:
        """A whole message."""
        opened = open_content(self.folder, entry)
        self.addCleanup(opened.close)
        return opened.read(0, opened.size)

    def test_line_ends(self) -> None:
        """Lines end with CRLF, whatever the file has and whether its name tells or not."""
        self.put("1.a,S=4,W=6:2,", text=b"a\nb\n")
        self.put("2.b,S=6,W=6:2,", text=b"a\r\nb\r\n")
        self.put("3.c,S=99,W=99:2,", text=b"a\nb\n")
        self.put("4.d:2,", text=b"a\r\nb\n")
        entries = self.folder.look(adopt=False).entries
        self.assertEqual([self.read(entry) for entry in entries], [b"a\r\nb\r\n"] * 4)

    def test_measured_once(self) -> None:
        """A client that fetches a message piece by piece does not have it read through for every piece."""
        measured: list[str] = []
        real = maildir.count_bare_lf
        self.patch(maildir, "count_bare_lf", lambda path: measured.append(path) or real(path))
        self.put("1.a,S=6,W=6:2,", text=b"a\r\nb\r\n")
        unnamed = self.put("2.b:2,", text=b"a\r\nb\r\n")
        for entry in self.folder.look(adopt=False).entries * 3:
            self.read(entry)
        self.assertEqual(measured, [unnamed])

    def test_renamed(self) -> None:
        """A message whose flags somebody has changed is found, and measured, under its new name."""
        self.put("1.a:2,", text=b"a\n")
        (entry,) = self.folder.look(adopt=False).entries
        os.rename(self.folder.file(entry), self.folder.file(entry) + "S")
        self.assertEqual(self.read(entry), b"a\r\n")
        self.assertEqual(self.folder.size(entry), 3)
        os.unlink(self.folder.file(entry) + "S")
        self.assertRaises(MessageGone, open_content, self.folder, entry)


class LockTests(FolderCase):
    def test_waits_and_gives_up(self) -> None:
        """A lock that somebody else holds is waited for, but not for ever."""
        path = os.path.join(self.root, "lock")
        with open(path, "w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            self.patch(disk, "LOCK_WAIT", 0.0)
            with self.assertRaises(BlockingIOError), locked(path):
                pass
        with locked(path):
            pass

    def test_names(self) -> None:
        """Unique names have no character in them that means something in a Maildir."""
        odd = InlineDisk()
        odd.host = disk.Disk(Clock(), "a/b:c,d").host
        self.assertNotEqual(odd.unique(), odd.unique())
        self.assertRegex(odd.unique(), r"^[^/:,]+$")


class KeywordTests(FolderCase):
    def test_full(self) -> None:
        """There are 26 letters; further keywords are not kept, and nothing breaks."""
        letters = Keywords(self.root).letters([f"k{number}" for number in range(30)], learn=True)
        self.assertEqual(len(letters), 26)
        self.assertEqual(len(Keywords(self.root).known), 27)

    def test_not_learned(self) -> None:
        """Taking a keyword away that nobody knows does not make it known; system flags need no file."""
        self.assertEqual(Keywords(self.root).letters(["new", "\\SEEN", "\\Odd", "\\Recent"], learn=False), "S")
        self.assertFalse(os.path.exists(os.path.join(self.root, "dovecot-keywords")))


class LineEndTests(SynchronousTestCase):
    @given(st.lists(st.sampled_from([b"\r", b"\n", b"a"]), max_size=30), st.integers(1, 7))
    def test_any_cut(self, pieces: list[bytes], chunk: int) -> None:
        """Every lone LF gets its CR, and nothing else changes, whatever is read at a time."""
        text = b"".join(pieces)
        self.patch(content, "CHUNK", chunk)
        with with_crlf(io.BytesIO(text)) as copy:
            copy.seek(0)
            self.assertEqual(copy.read(), text.replace(b"\r\n", b"\n").replace(b"\n", b"\r\n"))
