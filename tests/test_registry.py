"""Tests of L{mailgw.registry}."""

from __future__ import annotations

from importlib.util import find_spec

from pydantic import BaseModel
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import Interface
from zope.interface.verify import verifyClass

from mailgw import registry
from mailgw.interfaces import IDirectory, IRoutingRule


class TableTests(SynchronousTestCase):
    def assertLoads(self, group: str, interface: type[Interface]) -> None:
        """Assert that each kind of a group is a plug: it provides the interface and declares its options."""
        for kind in registry.TABLE[group]:
            plug = registry.load(group, kind)
            self.assertTrue(verifyClass(interface, plug), kind)
            self.assertTrue(issubclass(plug.Options, BaseModel), kind)
            self.assertTrue(callable(plug.from_options), kind)

    def test_routes(self) -> None:
        """Every kind of route in the table is a rule."""
        self.assertLoads("route", IRoutingRule)

    def test_directories(self) -> None:
        """Every kind of directory in the table is a directory."""
        self.assertLoads("directory", IDirectory)

    def test_modules_exist(self) -> None:
        """The table names no module that is not there."""
        for group in registry.TABLE.values():
            for path in group.values():
                self.assertIsNotNone(find_spec(path.partition(":")[0]), path)

    def test_later_kinds_are_not_there_yet(self) -> None:
        """A kind is built or announced, never both."""
        for group, kinds in registry.LATER.items():
            self.assertEqual(kinds & set(registry.TABLE[group]), set())


class LoadTests(SynchronousTestCase):
    def fault(self, group: str, kind: str) -> str:
        """What is said of a kind that cannot be loaded."""
        with self.assertRaises(LookupError) as caught:
            registry.load(group, kind)
        return str(caught.exception.args[0])

    def test_unknown_kind(self) -> None:
        """An unknown kind is told together with the known ones."""
        self.assertEqual(
            self.fault("route", "regexp"),
            "no route of kind 'regexp'; there are attribute, hash, hook, http, local, pool, regex, sql, table",
        )

    def test_own_plug(self) -> None:
        """A kind that is module and name is loaded from there."""
        self.assertIs(registry.load("route", "mailgw.registry:TABLE"), registry.TABLE)

    def test_own_plug_that_is_not_there(self) -> None:
        """A site's own plug that cannot be imported is told as such, with the reason."""
        self.assertIn("No module named 'nowhere'", self.fault("route", "nowhere:Rule"))
        self.assertIn("has no attribute 'Missing'", self.fault("directory", "mailgw.registry:Missing"))
