"""Tests of L{mailgw.directory.servers}."""

from __future__ import annotations

from functools import partial

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from mailgw.directory import servers
from mailgw.directory.servers import NoAnswer, Server, Servers


class FakeLink:
    """A connection that can break."""

    def __init__(self, server: str) -> None:
        self.server = server
        self.state = "open"

    def close(self) -> None:
        self.state = "closed"

    def abandon(self) -> None:
        self.state = "abandoned"


class ServersTests(SynchronousTestCase):
    """L{Servers} and L{Server}."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.links: list[FakeLink] = []
        self.down: set[str] = set()
        self.hanging: set[str] = set()
        self.reports: list[tuple[str, str]] = []
        self.tried: list[str] = []
        self.servers = self.make("one", "two")

    def make(self, *names: str) -> Servers[FakeLink]:
        made = [Server(name, partial(self.connect, name), self.clock.seconds) for name in names]
        return Servers(made, self.clock.seconds, lambda name, reason: self.reports.append((name, reason)))

    def connect(self, name: str, kind: str, until: float) -> FakeLink:
        self.tried.append(name)
        if self.clock.seconds() >= until:
            raise NoAnswer("no time left")
        if name in self.down:
            raise NoAnswer("refused")
        self.links.append(FakeLink(name))
        return self.links[-1]

    def question(self, link: FakeLink, until: float) -> str:
        if link.server in self.hanging:
            self.clock.advance(until - self.clock.seconds())
            raise NoAnswer("timed out")
        if link.server in self.down or link.state != "open":
            raise NoAnswer("broken")
        return link.server

    def ask(self, kind: str = "search", seconds: float = 6.0) -> str:
        self.tried.clear()
        return self.servers.ask(kind, self.clock.seconds() + seconds, self.question)

    def test_first(self) -> None:
        """The first server is asked, and its connection used again."""
        self.assertEqual([self.ask(), self.ask()], ["one", "one"])
        self.assertEqual(len(self.links), 1)

    def test_kinds(self) -> None:
        """Connections of one kind are never used for another."""
        self.ask("search"), self.ask("bind"), self.ask("bind")
        self.assertEqual(len(self.links), 2)

    def test_fail_over(self) -> None:
        """When the first does not answer, the second does, and the first is left alone for a while."""
        self.down.add("one")
        self.assertEqual(self.ask(), "two")
        self.assertEqual(self.tried, ["one", "two"])
        self.clock.advance(servers.REST - 0.1)
        self.assertEqual(self.ask(), "two")
        self.assertNotIn("one", self.tried)
        self.assertEqual(self.reports, [("one", "refused")])

    def test_fail_back(self) -> None:
        """Once it has rested, the first is asked first again."""
        self.down.add("one")
        self.ask()
        self.clock.advance(servers.REST)
        self.assertEqual(self.ask(), "two")
        self.assertEqual(self.tried[0], "one")
        self.down.clear()
        self.clock.advance(servers.REST)
        self.assertEqual(self.ask(), "one")
        self.assertEqual(self.reports, [("one", "refused"), ("one", "")])

    def test_all_down(self) -> None:
        """With all servers down it says so, with every reason; while they rest, at once."""
        self.down |= {"one", "two"}
        error = self.assertRaises(NoAnswer, self.ask)
        self.assertEqual(str(error), "one: refused; two: refused")
        self.assertRaises(NoAnswer, self.ask)
        self.assertEqual(self.tried, [])

    def test_hanging(self) -> None:
        """A server that hangs takes its share of the time, not all of it."""
        self.hanging.add("one")
        self.assertEqual(self.ask(seconds=6), "two")
        self.assertEqual(self.clock.seconds(), 3.0)
        self.hanging.add("two")
        self.clock.advance(100)
        began = self.clock.seconds()
        self.assertRaises(NoAnswer, self.ask)
        self.assertEqual(self.clock.seconds() - began, 6.0)

    def test_one_probe(self) -> None:
        """While one question finds out whether the first server is back, others go to the second at once."""
        self.down.add("one")
        self.ask()
        self.down.clear()
        self.clock.advance(servers.REST)
        others: list[str] = []

        def probing(link: FakeLink, until: float) -> str:
            if link.server == "one":
                others.append(self.servers.ask("search", until, self.question))
            return link.server

        self.assertEqual(self.servers.ask("search", self.clock.seconds() + 6, probing), "one")
        self.assertEqual(others, ["two"])
        self.assertEqual(self.ask(), "one")

    def test_probe_with_strange_end(self) -> None:
        """A probe that ends in an unexpected error does not leave the server marked for ever."""
        self.down.add("one")
        self.ask()
        self.down.clear()
        self.clock.advance(servers.REST)
        self.assertRaises(ZeroDivisionError, self.servers.ask, "search", self.clock.seconds() + 6, lambda *_: 1 // 0)
        self.assertEqual(self.links[-1].state, "abandoned")
        self.assertEqual(self.ask(), "one")

    def test_single_server_hurries_back(self) -> None:
        """Of a single server nobody is sent away because somebody else is just asking it."""
        self.servers = self.make("one")
        self.down.add("one")
        self.assertRaises(NoAnswer, self.ask)
        self.down.clear()
        self.clock.advance(servers.REST)
        inner: list[str] = []

        def probing(link: FakeLink, until: float) -> str:
            inner.append(self.servers.ask("search", until, self.question))
            return link.server

        self.servers.ask("search", self.clock.seconds() + 6, probing)
        self.assertEqual(inner, ["one"])

    def test_broken_idle_connection(self) -> None:
        """An idle connection that the server has closed is replaced; the server has not failed."""
        self.ask()
        self.links[0].state = "gone"
        self.assertEqual(self.ask(), "one")
        self.assertEqual(self.links[0].state, "abandoned")
        self.assertEqual((len(self.links), self.reports), (2, []))

    def test_idle_connections_grow_old(self) -> None:
        """A connection is not used after a long idle time, nor beyond its age."""
        self.ask()
        self.clock.advance(servers.IDLE)
        self.ask()
        self.assertEqual([link.state for link in self.links], ["closed", "open"])
        while self.clock.seconds() < servers.IDLE + servers.AGE:
            self.clock.advance(20)
            self.ask()
        self.assertEqual([link.state for link in self.links], ["closed", "closed", "open"])

    def test_failure_drops_the_others(self) -> None:
        """With a server that failed go its idle connections."""
        inner: list[str] = []

        def nested(link: FakeLink, until: float) -> str:
            if not inner:
                inner.append(self.servers.ask("search", until, self.question))
            return link.server

        self.servers.ask("search", 6, nested)
        self.assertEqual([link.state for link in self.links], ["open", "open"])
        self.down.add("one")
        self.ask()
        self.assertEqual([link.state for link in self.links if link.server == "one"], ["abandoned", "closed"])

    def test_kept_connections_are_bounded(self) -> None:
        """No more than so many idle connections are kept."""

        def nested(deep: int, link: FakeLink, until: float) -> str:
            if deep:
                self.servers.ask("search", until, partial(nested, deep - 1))
            return link.server

        self.servers.ask("search", 6, partial(nested, servers.KEPT + 1))
        states = [link.state for link in self.links]
        self.assertEqual((states.count("open"), states.count("closed")), (servers.KEPT, 2))

    def test_close(self) -> None:
        """Closing closes what is idle."""
        self.ask("search"), self.ask("bind")
        self.servers.close()
        self.assertEqual([link.state for link in self.links], ["closed", "closed"])
