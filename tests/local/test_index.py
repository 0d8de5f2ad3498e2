"""Tests for L{mailgw.local.index}."""

from __future__ import annotations

import os

from twisted.trial.unittest import SynchronousTestCase

from mailgw.local.index import FILE, Index, load, save


class IndexTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.folder = self.mktemp()
        os.mkdir(self.folder)
        self.index, self.new = load(self.folder, self.folder, 1000.5)

    def test_new(self) -> None:
        """A folder without an index gets a UIDVALIDITY from the clock."""
        self.assertTrue(self.new)
        self.assertEqual((self.index.validity, self.index.next_uid), (1000, 1))

    def test_order_of_arrival(self) -> None:
        """New names get UIDs by the second in them, then by name; others come first."""
        self.index.update(["20.b", "9.x", "20.a", "odd"])
        self.assertEqual(self.index.uids, {"odd": 1, "9.x": 2, "20.a": 3, "20.b": 4})

    def test_never_again(self) -> None:
        """A UID is not given twice, even if its message, the last one, is gone and the file was read anew."""
        self.index.update(["1.a", "2.b"])
        self.index.update(["1.a"])
        save(self.folder, self.index)
        again, new = load(self.folder, self.folder, 2000)
        again.update(["1.a", "3.c"])
        self.assertFalse(new)
        self.assertEqual((again.validity, again.uids), (1000, {"1.a": 1, "3.c": 3}))

    def test_unchanged(self) -> None:
        """Nothing new is nothing to write."""
        self.index.update(["1.a"])
        self.assertFalse(self.index.update(["1.a"]))

    def test_odd_names(self) -> None:
        """Names with blanks and octets that are no text survive."""
        self.index.update(["1.a b", "2.\udcff"])
        save(self.folder, self.index)
        self.assertEqual(load(self.folder, self.folder, 0)[0].uids, {"1.a b": 1, "2.\udcff": 2})

    def test_damage(self) -> None:
        """Any damage whatever makes a new index with a greater UIDVALIDITY, never a wrong one."""
        self.index.update(["1.a", "2.b"])
        data = self.index.dump()
        self.assertIsNotNone(Index.parse(data))
        for cut in range(len(data)):
            self.assertIsNone(Index.parse(data[:cut]))
            flipped = data[:cut] + bytes([data[cut] ^ 1]) + data[cut + 1 :]
            self.assertIsNone(Index.parse(flipped), flipped)
        with open(os.path.join(self.folder, FILE), "wb") as file:
            file.write(data[:-3])
        again, new = load(self.folder, self.folder, 0)
        self.assertTrue(new)
        self.assertEqual(again.validity, 1001)

    def test_validity_is_unique(self) -> None:
        """Folders made within one second have different UIDVALIDITYs."""
        self.assertEqual(load(self.folder, self.folder, 1000.9)[0].validity, 1001)
