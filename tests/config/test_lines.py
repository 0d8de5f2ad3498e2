"""Tests of L{mailgw.config.lines}."""

from __future__ import annotations

import tomllib
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from mailgw.config.lines import Lines, Path

TEXT = r'''# a comment with = and [brackets]
[gateway] # x
hostname = "a"   # b = 3

[[listener]]
protocol="imap"
[[listener]]
proxy_from = [ # [not.a.table]
  "10.0.0.0/8",

  "]bad" ]
tls = """
[no]
x = 1 \""" """
endpoint = 'tcp:1\'
[tls]
a.b = 1
[[tls.name]]
names = ["x"]
[[tls.name]]
names = ["y"]
key = {file = "x", "q\"u" = [1,
{z = 2}]}
[pool."main.x"]
members = ["a", {host = "x",  name = "y"},
 {host = "x"}]
[pool."main.x".imap]
port = 1
date = 1979-05-27 07:32:00
'''


class LinesTests(SynchronousTestCase):
    """L{Lines}."""

    def setUp(self) -> None:
        tomllib.loads(TEXT)
        self.lines = Lines(TEXT)

    def assert_line(self, number: int, *path: str | int) -> None:
        self.assertEqual(self.lines.find(path), number, path)

    def test_keys_and_tables(self) -> None:
        """A table is where its header is, a key where it begins."""
        self.assert_line(2, "gateway")
        self.assert_line(3, "gateway", "hostname")
        self.assert_line(17, "tls", "a", "b")

    def test_arrays_of_tables(self) -> None:
        """Every element has a line of its own, also in a table below another array."""
        self.assert_line(5, "listener", 0)
        self.assert_line(7, "listener", 1)
        self.assert_line(6, "listener", 0, "protocol")
        self.assert_line(15, "listener", 1, "endpoint")
        self.assert_line(21, "tls", "name", 1, "names")

    def test_elements(self) -> None:
        """Elements of a list are found on their own lines, past comments and brackets in strings."""
        self.assert_line(9, "listener", 1, "proxy_from", 0)
        self.assert_line(11, "listener", 1, "proxy_from", 1)
        self.assert_line(26, "pool", "main.x", "members", 2, "host")

    def test_multiline_strings(self) -> None:
        """What stands in a string is neither a table nor a key."""
        self.assert_line(12, "listener", 1, "tls")
        self.assert_line(1, "no")

    def test_inline_tables(self) -> None:
        """Quoted keys and nested lists within an inline table are read."""
        self.assert_line(22, "tls", "name", 1, "key", 'q"u', 0)
        self.assert_line(23, "tls", "name", 1, "key", 'q"u', 1, "z")

    def test_missing(self) -> None:
        """What is not there is where its table is, else on the first line."""
        self.assert_line(27, "pool", "main.x", "imap", "tls")
        self.assert_line(7, "listener", 1, "nothing", 3)
        self.assert_line(1, "limits", "idle")

    def test_values_behind_a_date(self) -> None:
        """A date with a blank in it is one value."""
        self.assert_line(29, "pool", "main.x", "imap", "date")

    def test_multiline_quotes(self) -> None:
        """Quotes at the end of a long string belong to it."""
        text = 'a = """x"""""\nb = \'\'\'\ny\'\'\'\'\nc = ""\nd = 1\n'
        self.assertEqual(tomllib.loads(text)["d"], 1)
        self.assertEqual([Lines(text).find((key,)) for key in "abcd"], [1, 2, 4, 5])


KEYS = st.sampled_from(["a", "b-c", '"d.e"', "'f'", '"g\\"h"'])
SCALARS = st.sampled_from(["1", "-2.5", "true", '"x # [y]"', "'z = 1'", '"""\nm\n"""', "1979-05-27T07:32:00Z"])
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3).map(lambda many: "[ # c\n" + ",\n".join(many) + "]"),
    max_leaves=6,
)


class AgreementTests(SynchronousTestCase):
    """L{Lines} against tomllib."""

    @settings(max_examples=60, deadline=None)
    @given(st.lists(st.tuples(KEYS, VALUES), max_size=5, unique_by=lambda pair: pair[0]), st.integers(0, 3))
    def test_everything_is_found(self, pairs: list[tuple[str, str]], tables: int) -> None:
        """Each key that tomllib reads is noted, on a line that holds its name or begins its value."""
        body = "".join(f"{key} = {value}\n" for key, value in pairs)
        text = body + "".join(f"[[t]]\n{body}" for _ in range(tables))
        lines = Lines(text)
        for path in _paths(tomllib.loads(text)):
            self.assertIn(path, lines._found)
            self.assertLessEqual(lines.find(path), text.count("\n"))


def _paths(value: Any, path: Path = ()) -> list[Path]:
    inner: list[Any] = []
    if isinstance(value, dict):
        inner = list(value.items())
    elif isinstance(value, list):
        inner = list(enumerate(value))
    found = [path] if path else []
    for key, one in inner:
        found += _paths(one, (*path, key))
    return found
