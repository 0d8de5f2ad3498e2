"""Tests of L{mailgw.importing.toml}."""

from __future__ import annotations

import tomllib

from twisted.trial.unittest import SynchronousTestCase

from mailgw.importing.toml import Draft, Value, listed, value_text


class ValueTests(SynchronousTestCase):
    """What is written can be read."""

    def test_values(self) -> None:
        """Every kind of value comes back as it was, whatever is in it."""
        values: list[Value] = [
            *("", "plain", 'a "quote"', "it's", "back\\slash", "both ' and \\", "line\nend", "\x7f\x00\x1b", "ä€😀"),
            *(0, -3, True, False, ["a", 1, [True]], {"host": "be1", "strange key": {"x": "y"}}),
            [f"a rather long name of a member {number}" for number in range(20)],
        ]
        for value in values:
            self.assertEqual(tomllib.loads(f"key = {value_text(value)}")["key"], value)

    def test_listed(self) -> None:
        """A list as people write it."""
        self.assertEqual([listed("a"), listed("ab"), listed("abc")], ["a", "a and b", "a, b and c"])


class DraftTests(SynchronousTestCase):
    """The settings as a whole."""

    def test_remark_stays_a_comment(self) -> None:
        """Whatever an old configuration has in its values, no line end gets out of a comment."""
        draft = Draft("perdition.conf\n[gateway]")
        draft.remark(3, "timeout", "strange\r\n[gateway]\nuser = 'root'\x85\u2028[x]")
        found = draft.finish()
        self.assertEqual(tomllib.loads(found.settings), {})
        self.assertTrue(all(line.startswith("#") for line in found.settings.splitlines()))

    def test_order(self) -> None:
        """Remarks come in the order of the old file, the same one once."""
        draft = Draft("x")
        for line, words in ((9, "b"), (2, "a"), (9, "b")):
            draft.remark(line, "option", words)
        self.assertEqual([str(one) for one in draft.finish().remarks], ["line 2, option: a", "line 9, option: b"])

    def test_empty_tables(self) -> None:
        """A table with nothing in it is left out, but for those of a pool and of arrays."""
        draft = Draft("x")
        draft.table("[limits]", "words")
        draft.table("[pool.main]", "words")
        draft.table("[[listener]]")
        self.assertEqual(tomllib.loads(draft.finish().settings), {"pool": {"main": {}}, "listener": [{}]})
