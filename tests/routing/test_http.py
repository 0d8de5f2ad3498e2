"""Tests of L{mailgw.routing.http}."""

from __future__ import annotations

from typing import Any

from pydantic import ValidationError

from mailgw.errors import LoginRefused, SettingsError
from mailgw.model import Identity, RefusalKind, Route
from mailgw.routing.http import HttpRule
from tests.directory.httptalk import URI, AuthTestCase, answer, parse
from tests.routing.contract import FakeHouse, RoutingTestCase, RuleContract, pool


def user(server: str = "10.0.0.1", port: str = "143", name: str = "", password: bytes | None = None) -> Identity:
    """A user whom an auth_http server has let in."""
    pairs = {"auth-server": server, "auth-port": port, "auth-user": name}
    attributes = {key: (value,) for key, value in pairs.items() if value}
    return Identity("alice@example.org", "http-1", attributes=attributes, password=password)


class HttpRuleTests(RuleContract, RoutingTestCase):
    known = user()

    def make(self, **options: Any) -> HttpRule:
        """The rule, with the pool main."""
        return HttpRule.from_options("http-1", HttpRule.Options(**{"pool": "main", **options}), FakeHouse())

    def test_place(self) -> None:
        """Auth-Server and Auth-Port are a backend of the rule's pool; without a port the pool's is used."""
        for server, port, backend in (
            ("10.0.0.1", "143", "10.0.0.1:143"),
            ("be1.internal", "143", "be1.internal:143"),
            ("be1.internal", "", "be1.internal"),
            ("fd00::1", "993", "[fd00::1]:993"),
            ("[fd00::1]", "993", "[fd00::1]:993"),
        ):
            self.assertEqual(self.answer(self.make(), user(server, port)), Route("main", backend))

    def test_login_there(self) -> None:
        """Auth-User and Auth-Pass are for the login on the backend; no repr shows the password."""
        route = self.answer(self.make(), user(name="Mbox17", password=b"s3cret"))
        self.assertEqual(route, Route("main", "10.0.0.1:143", username="Mbox17", password=b"s3cret"))
        self.assertNotIn("s3cret", repr(route))

    def test_nothing_said(self) -> None:
        """Users of other directories, and those whom a server lets in without a place, are the next rule's."""
        self.assertIsNone(self.answer(self.make(), Identity("alice", "ldap-1")))
        self.assertIsNone(self.answer(self.make(), user("", "143", "alice")))

    def test_unknown_pool(self) -> None:
        """A pool that does not exist stops the start."""
        self.assertRaises(SettingsError, self.make, pool="mian")

    def test_options(self) -> None:
        """Faults of the rule's own servers are found as a directory's are."""
        for options in ({"uri": "ftp://a/"}, {"uri": URI, "header": {"X Y": "a"}}):
            error = self.assertRaises(ValidationError, HttpRule.Options, pool="main", **options)
            self.assertNotIn("Value error, Value error", str(error))


class OwnServersTests(AuthTestCase):
    """A rule with servers of its own."""

    def setUp(self) -> None:
        super().setUp()
        self.house.pools = {"main": pool()}
        self.rule = self.rule_with()

    def rule_with(self, **more: Any) -> HttpRule:
        options = HttpRule.Options(pool="main", uri=URI, header={"X-Auth-Key": "k"}, **more)
        return HttpRule.from_options("http-1", options, self.house)

    def test_asks(self) -> None:
        """It asks by name and protocol about users of other directories."""
        self.plays(answer(auth_server="10.0.0.1", auth_port="110", auth_user="m17", auth_pass="pw"))
        route = self.wait(self.rule.route(Identity("alice"), "pop3"))
        self.assertEqual(route, Route("main", "10.0.0.1:110", username="m17", password=b"pw"))
        headers = parse(self.reactor.requests[0])
        asked = [headers[name] for name in ("auth-method", "auth-user", "auth-protocol", "x-auth-key")]
        self.assertEqual(asked, ["none", "alice", "pop3", "k"])

    def test_asks_once(self) -> None:
        """Nobody is asked again about a user whom an auth_http server has let in."""
        self.wait(self.rule.route(user(), "imap"))
        self.assertEqual(self.reactor.requests, [])

    def test_no_place(self) -> None:
        """OK without a place leaves the user to the next rule."""
        self.assertIsNone(self.wait(self.rule.route(Identity("alice"), "imap")))

    def test_refused(self) -> None:
        """A server that refuses ends the search: another rule could show the user an empty mailbox."""
        self.plays(answer("No"))
        error = self.fails(self.rule.route(Identity("alice"), "imap"), LoginRefused)
        self.assertIs(error.refusal.kind, RefusalKind.UNAVAILABLE)

    def test_down(self) -> None:
        """Servers that do not answer are temporary trouble."""
        self.plays(b"HTTP/1.1 500 x\r\nContent-Length: 0\r\n\r\n")
        error = self.fails(self.rule.route(Identity("alice"), "imap"), LoginRefused)
        self.assertIs(error.refusal.kind, RefusalKind.UNAVAILABLE)

    def test_remembered(self) -> None:
        """With a cache the servers are asked once for each protocol, and again after a flush."""
        self.plays(answer(auth_server="10.0.0.1", auth_port="110"))
        rule = self.rule_with(cache="60s")
        for protocol in ("pop3", "pop3", "imap", "pop3"):
            self.assertEqual(
                self.wait(rule.route(Identity("alice"), protocol)), Route("main", "10.0.0.1:110", username="alice")
            )
        self.assertEqual(len(self.reactor.requests), 2)
        self.assertEqual(rule.flush("alice"), 2)
        self.wait(rule.route(Identity("alice"), "imap"))
        self.assertEqual(len(self.reactor.requests), 3)

    def test_logins_are_not_remembered(self) -> None:
        """What came with a login counts for that login only: it may have the password of one moment."""
        rule = self.rule_with(cache="60s")
        for word in (b"one", b"two"):
            route = self.wait(rule.route(user(password=word), "imap"))
            self.assertEqual(route.password if route is not None else None, word)
        self.assertEqual(rule.flush(), 0)

    def test_stop(self) -> None:
        """Stopping closes what is open, and a rule without servers of its own has nothing open."""
        self.plays(answer(auth_server="10.0.0.1", auth_port="110"))
        self.wait(self.rule.route(Identity("alice"), "imap"))
        self.assertEqual(self.reactor.open, 1)
        self.wait(self.rule.stop())
        self.assertEqual(self.reactor.open, 0)
        self.wait(HttpRule.from_options("http-1", HttpRule.Options(pool="main"), self.house).stop())
