"""The list of what is measured names what there is, and is cut down as the command line says."""

from __future__ import annotations

import io
import sys

from twisted.trial.unittest import SynchronousTestCase

from bench import gateway, sampling
from bench.command import PEERS, parse
from bench.figures import Series
from bench.measures import DIRECT, Contestant
from bench.menu import GROUPS, MEASURES, choose
from bench.rounds import KINDS, add_latency, check_handshakes, rotated


class MeasureTests(SynchronousTestCase):
    """The list itself."""

    def test_servers(self) -> None:
        """Every contestant is the backend itself, a value, or a server of a known kind."""
        for measure in MEASURES:
            for contestant in measure.contestants:
                kind, *rest = contestant.server.split("-")
                known = contestant.server == DIRECT or contestant.constant is not None or kind in KINDS
                self.assertTrue(known, contestant)
                if kind == "mailgw":
                    self.assertIn(contestant.port, (*gateway.LISTENERS, "imap-rsa"), measure.key)
                    self.assertIn(rest[0] if rest else "", ("", *gateway.DIRECTORIES), contestant)

    def test_keys(self) -> None:
        """Keys are unique, and a measure of another's runs names one that is run, with the same contestants in it."""
        by_key = {measure.key: measure for measure in MEASURES}
        self.assertEqual(len(by_key), len(MEASURES))
        for measure in MEASURES:
            if measure.of:
                self.assertFalse(by_key[measure.of].of)
                names = {contestant.name for contestant in by_key[measure.of].contestants}
                self.assertLessEqual({contestant.name for contestant in measure.contestants}, names)

    def test_only_the_group(self) -> None:
        """C{--only} takes whole groups, in the order of the table."""
        chosen = choose(("plain", "pop3"), PEERS, False)
        self.assertEqual([measure.key for measure in chosen], ["login-plain", "login-pop3"])
        self.assertEqual([m.key for m in choose(GROUPS, PEERS, False)], [m.key for m in MEASURES])

    def test_peers(self) -> None:
        """Without a peer its rows are gone; where the first is gone the goals are: they were meant beside it."""
        (plain,) = choose(("plain",), ("dovecot",), False)
        self.assertEqual([(c.name, c.goal) for c in plain.contestants], [("mailgw", None), ("dovecot", None)])
        (plain,) = choose(("plain",), ("nginx",), False)
        self.assertEqual([(c.name, c.goal) for c in plain.contestants], [("nginx", None), ("mailgw", 1.4)])

    def test_quick(self) -> None:
        """A quick run has smaller numbers and leaves out what is slow."""
        whole = {measure.key: measure for measure in choose(GROUPS, PEERS, False)}
        small = choose(GROUPS, PEERS, True)
        self.assertLess(len(small), len(whole))
        for measure in small:
            self.assertLess(measure.number[0], whole[measure.key].number[0])

    def test_profiles(self) -> None:
        """Each load that can be profiled is that of a measure, on mailgw alone, and longer than there."""
        by_key = {measure.key: measure for measure in MEASURES}
        for name, key in sampling.LOADS.items():
            load = sampling.load(name)
            self.assertEqual([contestant.server for contestant in load.contestants], ["mailgw"])
            self.assertEqual(load.load, by_key[key].load)
            self.assertGreater(load.number[0], by_key[key].number[0])

    def test_unknown(self) -> None:
        """An unknown mode or peer ends with the known ones named, before anything is started."""
        said = io.StringIO()
        self.patch(sys, "stderr", said)
        for arguments in (["--only", "login,dance"], ["--peers", "exim"]):
            self.assertEqual(self.assertRaises(SystemExit, parse, arguments).code, 2)
        self.assertIn("'dance' is not one of login, plain", said.getvalue())
        self.assertIn("'exim' is not one of nginx", said.getvalue())


class RoundTests(SynchronousTestCase):
    """What happens around the runs."""

    def test_order(self) -> None:
        """In as many rounds as there are servers, each is first once."""
        three = [Contestant(name) for name in "abc"]
        orders = ["".join(contestant.name for contestant in rotated(three, number)) for number in range(4)]
        self.assertEqual(orders, ["abc", "bca", "cab", "abc"])

    def test_other_cipher(self) -> None:
        """A server with another cipher or certificate than the first is no fair comparison: said, and a failure."""
        same, other = {"handshake": "TLSv1.3 A cert"}, {"handshake": "TLSv1.3 B cert"}
        runs = {"nginx": Series([same]), "mailgw": Series([same]), "dovecot": Series([other]), "plain": Series([{}])}
        check_handshakes(runs)
        self.assertEqual([name for name, series in runs.items() if series.failed], ["dovecot"])
        self.assertEqual(runs["dovecot"].notes, ["not the same TLS: TLSv1.3 B cert instead of TLSv1.3 A cert"])

    def test_added_latency(self) -> None:
        """What a server adds to the latency is counted from the same round's run without a server."""
        runs = {
            "nginx": Series([{"p50_ms": 0.5}]),
            "mailgw": Series([None]),
            DIRECT: Series([{"p50_ms": 0.125}]),
        }
        add_latency(runs)
        self.assertEqual(runs["nginx"].samples, [{"p50_ms": 0.5, "added_p50_ms": 0.375}])
        self.assertEqual((runs["mailgw"].samples, runs[DIRECT].samples), ([None], [{"p50_ms": 0.125}]))
