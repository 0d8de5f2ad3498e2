"""Tests of L{mailgw.config.endpoints}."""

from __future__ import annotations

from twisted.internet.endpoints import quoteStringArgument, serverFromString
from twisted.internet.testing import MemoryReactor
from twisted.trial.unittest import SynchronousTestCase

from mailgw.config.endpoints import Address, address_of, collide


class AddressOfTests(SynchronousTestCase):
    """L{address_of}."""

    def test_tcp(self) -> None:
        """Ports, interfaces by name and by position."""
        for endpoint, host in (
            ("tcp:143", ""),
            ("tcp:143:interface=127.0.0.1", "127.0.0.1"),
            ("tcp:143:10.0.0.1", "10.0.0.1"),
            ("tcp:port=143:backlog=5", ""),
            (r"tcp:143:interface=\:\:1", "::1"),
            ("tcp:143:interface=" + quoteStringArgument("fd00::1"), "fd00::1"),
            ("tcp6:143", "::"),
            (r"tcp6:143:interface=\:\:1", "::1"),
        ):
            self.assertEqual(address_of(endpoint), Address("tcp", host, 143), endpoint)

    def test_same_as_twisted(self) -> None:
        """What is understood here is what Twisted would bind."""
        for endpoint in ("tcp:143:interface=127.0.0.1", r"tcp:143:interface=\:\:1", "tcp:143:backlog=7"):
            reactor = MemoryReactor()
            self.successResultOf(serverFromString(reactor, endpoint).listen(None))
            port, _, _, interface = reactor.tcpServers[0]
            self.assertEqual(address_of(endpoint), Address("tcp", interface, port))

    def test_unix_and_systemd(self) -> None:
        """Paths and names of inherited sockets."""
        self.assertEqual(address_of("unix:/run/x.sock:mode=660"), Address("unix", "/run/x.sock"))
        self.assertEqual(address_of("systemd:domain=INET6:name=imap"), Address("systemd", "imap"))
        self.assertEqual(address_of("systemd:INET:0"), Address("systemd", "0"))

    def test_faults(self) -> None:
        """What Twisted would not take is refused with the cure."""
        for endpoint, words in (
            ("tcp", "names no port"),
            ("tcp:", "names no port"),
            ("tcp:imap", "'imap' is no port"),
            ("tcp:70000", "'70000' is no port"),
            ("tcp:143:interface=::1", "need backslashes"),
            ("tcp:143:backlog=x", "backlog must be"),
            ("tcp:143:interfce=::", "need backslashes"),
            ("tcp:143:interfce=127.0.0.1", "did you mean 'interface'?"),
            ("tcp:143:127.0.0.1:50:more", "too many parts"),
            ("tpc:143", "did you mean 'tcp'?"),
            ("", "no endpoint of kind ''"),
            ("port=143", "no endpoint of kind ''"),
            ("tcp:1\\", "not an endpoint"),
            ("unix", "names no socket"),
            ("systemd:INET", "FileDescriptorName="),
            ("ssl:993:privateKey=x", 'tls = "implicit"'),
            ("haproxy:tcp:143", "proxy_from"),
            ("stdio:", "no port"),
        ):
            self.assertIn(words, str(self.assertRaises(ValueError, address_of, endpoint)), endpoint)

    def test_words(self) -> None:
        """An address shows itself as people write it."""
        shown = [str(address_of(one)) for one in ("tcp:1", r"tcp:1:interface=\:\:1", "unix:/x", "tcp:1:127.0.0.1")]
        self.assertEqual(shown, ["*:1", "[::1]:1", "unix:/x", "127.0.0.1:1"])


class CollideTests(SynchronousTestCase):
    """L{collide}."""

    def assert_collide(self, expected: bool, one: str, other: str) -> None:
        first, second = address_of(one), address_of(other)
        self.assertEqual((collide(first, second), collide(second, first)), (expected, expected), (one, other))

    def test_same(self) -> None:
        """The same address or path twice."""
        for endpoint in ("tcp:143", "tcp:143:127.0.0.1", "unix:/x", "systemd:INET:name=a"):
            self.assert_collide(True, endpoint, endpoint)

    def test_wildcards(self) -> None:
        """An address that covers another."""
        self.assert_collide(True, "tcp:143", "tcp:143:127.0.0.1")
        self.assert_collide(True, "tcp6:143", "tcp:143:127.0.0.1")
        self.assert_collide(True, "tcp6:143", "tcp:143")
        self.assert_collide(True, "tcp6:143", r"tcp:143:interface=\:\:1")

    def test_different(self) -> None:
        """Other ports, other addresses, other families, other kinds."""
        self.assert_collide(False, "tcp:143", "tcp:993")
        self.assert_collide(False, "tcp:143:127.0.0.1", "tcp:143:10.0.0.1")
        self.assert_collide(False, "tcp:143", r"tcp:143:interface=\:\:1")
        self.assert_collide(False, "unix:/x", "unix:/y")
        self.assert_collide(False, "unix:/x", "tcp:143")

    def test_any_port(self) -> None:
        """Port 0 is another one each time."""
        self.assert_collide(False, "tcp:0", "tcp:0")
