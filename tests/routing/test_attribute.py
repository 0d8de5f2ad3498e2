"""Tests of L{mailgw.routing.attribute}."""

from __future__ import annotations

from mailgw.errors import SettingsError
from mailgw.model import Identity, Route
from mailgw.routing.attribute import AttributeRule
from tests.routing.contract import FakeHouse, RoutingTestCase, RuleContract


def user(*values: str, attribute: str = "mailHost") -> Identity:
    """A user with these values of an attribute."""
    return Identity("alice@example.org", attributes={attribute: values, "cn": ("Alice",)})


class AttributeRuleTests(RuleContract, RoutingTestCase):
    known = user("be1")

    def make(self, **options: str) -> AttributeRule:
        """The rule, with the pool main."""
        options = {"name": "mailHost", "pool": "main", **options}
        return AttributeRule.from_options("attribute-1", AttributeRule.Options(**options), FakeHouse())

    def test_backend(self) -> None:
        """A value that names no pool is a backend of the rule's pool, left to the pool to understand."""
        for value in ("be1", "10.0.0.7", "elsewhere.example:1143"):
            self.assertEqual(self.answer(self.make(), user(value)), Route("main", value))

    def test_pool_wins(self) -> None:
        """A value that names a pool is that pool, which chooses the member."""
        self.assertEqual(self.answer(self.make(), user("labs")), Route("labs"))

    def test_missing_attribute(self) -> None:
        """A user without the attribute is the next rule's business."""
        self.assertIsNone(self.answer(self.make(), user("be1", attribute="other")))
        self.assertIsNone(self.answer(self.make(), user()))

    def test_several_values(self) -> None:
        """Several values are temporary trouble, never the first of them."""
        self.assertIn("2 values", self.refused(self.make(), user("be1", "be2")).reason)

    def test_empty_value(self) -> None:
        """An empty value is an error of the directory, not a user without the attribute."""
        self.assertIn("empty", self.refused(self.make(), user(" ")).reason)

    def test_without_a_pool(self) -> None:
        """A rule without a pool takes values that name one, and refuses the others."""
        rule = AttributeRule.from_options("attribute-1", AttributeRule.Options(name="mailHost"), FakeHouse())
        self.assertEqual(self.answer(rule, user("labs")), Route("labs"))
        self.assertIn("names no pool", self.refused(rule, user("be1")).reason)

    def test_case_of_the_attribute(self) -> None:
        """The attribute's name is compared without regard to case, as a directory does."""
        self.assertEqual(self.answer(self.make(), user("be1", attribute="MAILHOST")), Route("main", "be1"))

    def test_username(self) -> None:
        """Another attribute may say who to log in as; users without it have their canonical name."""
        rule = self.make(username="mailHostUser")
        attributes = {"mailHost": ("be1",), "MAILHOSTUSER": ("mbox17",)}
        self.assertEqual(
            self.answer(rule, Identity("alice", attributes=attributes)), Route("main", "be1", username="mbox17")
        )
        self.assertEqual(self.answer(rule, user("be1")), Route("main", "be1"))
        for values in (("a", "b"), ("",), ("a\r\nb",), ("x" * 257,)):
            self.refused(rule, Identity("alice", attributes=attributes | {"MAILHOSTUSER": values}))

    def test_needs_both_attributes(self) -> None:
        """The directory is told to fetch the second attribute, too."""
        self.assertEqual(AttributeRule.Options(name="mailHost", username="u").attributes_needed, ("u",))
        self.assertEqual(AttributeRule.Options(name="mailHost").attributes_needed, ())

    def test_hostile_values(self) -> None:
        """Whatever a value is, it is one backend's name, which the pool understands or refuses."""
        for value in ("be1 be2", "be1\nbe2", "labs/be1", "\udc80", "x" * 9999):
            self.assertEqual(self.answer(self.make(), user(value)), Route("main", value))

    def test_unknown_pool(self) -> None:
        """A pool that does not exist stops the start, with the rule's name."""
        with self.assertRaises(SettingsError) as caught:
            self.make(pool="mian")
        self.assertEqual(caught.exception.faults, ("route attribute-1: pool: there is no pool 'mian'",))
