"""Tests of L{mailgw.ops.asking}."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from mailgw.ops.asking import backends_table, counts_table, duration, route_table, sessions_table, size


class WordsTests(SynchronousTestCase):
    """Figures for people."""

    def test_duration(self) -> None:
        """Two units at most, the smaller one only where it is not zero and next to the larger."""
        figures = {0: "0s", 0.9: "0s", 59: "59s", 60: "1m", 61.5: "1m1s", 3599: "59m59s", 3600: "1h", 3601: "1h"}
        figures |= {3660: "1h1m", 86399: "23h59m", 86400: "1d", 183600: "2d3h", 8_640_000: "100d"}
        self.assertEqual({seconds: duration(seconds) for seconds in figures}, figures)

    def test_size(self) -> None:
        """Two or three digits, with a unit of 1024."""
        figures = {0: "0", 999: "999", 1000: "1.0K", 3500: "3.4K", 12_345: "12K", 1_000_000: "977K"}
        figures |= {1 << 20: "1.0M", 12 << 20: "12M", 1 << 30: "1.0G", 5000 << 30: "5000.0G"}
        self.assertEqual({octets: size(octets) for octets in figures}, figures)


class TableTests(SynchronousTestCase):
    """What lines up."""

    def test_sessions(self) -> None:
        """A line for each session, its columns below their heads; no session is a head alone."""
        row = {"id": "m5p4y3jnoned6anz", "user": "anna@example.org", "protocol": "imap", "client": "192.0.2.1"}
        row |= {"tls": True, "backend": "main/be1", "age": 3700.4, "in": 59, "out": 200_000}
        other = {**row, "user": "b", "tls": False, "backend": "-", "age": 1, "client": "2001:db8::1"}
        head, first, second = sessions_table([row, other]).splitlines()
        self.assertEqual(
            first.split(),
            ["m5p4y3jnoned6anz", "anna@example.org", "imap", "192.0.2.1", "yes", "main/be1", "1h1m", "59", "195K"],
        )
        for title in ("USER", "PROTOCOL", "CLIENT", "TLS", "BACKEND", "AGE", "IN", "OUT"):
            column = head.index(title)
            for line in (first, second):
                self.assertEqual((line[column - 1], line[column] != " "), (" ", True), title)
        self.assertEqual(sessions_table([]).split()[0], "ID")
        self.assertEqual(len(sessions_table([]).splitlines()), 1)

    def test_counts(self) -> None:
        """What is of no protocol comes first, the rest by name."""
        table = counts_table({"imap.logins": 12, "uptime": 5, "workers": 2, "imap.connections": 3})
        self.assertEqual(
            [line.split() for line in table.splitlines()],
            [["uptime", "5"], ["workers", "2"], ["imap.connections", "3"], ["imap.logins", "12"]],
        )


class RouteTableTests(SynchronousTestCase):
    """C{mailgw backend} and C{mailgw route}."""

    row = {"pool": "main", "name": "be1", "at": "main/be1", "protocol": "imap", "host": "10.0.0.1", "port": 143}
    row |= {"health": "up", "reason": "", "admin": "up", "sessions": 3, "weight": 1}

    def test_backends(self) -> None:
        """A line for each; the reason has a column where there is one."""
        head, line = backends_table([self.row]).splitlines()
        self.assertEqual(
            head.split(), ["POOL", "MEMBER", "PROTOCOL", "ADDRESS", "HEALTH", "STATE", "SESSIONS", "WEIGHT"]
        )
        self.assertEqual(line.split(), ["main", "be1", "imap", "10.0.0.1:143", "up", "up", "3", "1"])
        down = {**self.row, "host": "2001:db8::1", "health": "down", "reason": "no greeting within 5 s"}
        head, line, other = backends_table([down, self.row]).splitlines()
        self.assertEqual(line[head.index("REASON") :], "no greeting within 5 s")
        self.assertIn(" [2001:db8::1]:143 ", line)
        self.assertEqual(other.index("10.0.0.1"), head.index("ADDRESS"))

    def test_no_backends(self) -> None:
        """Without pools there is the head alone."""
        self.assertEqual(len(backends_table([]).splitlines()), 1)

    def test_route(self) -> None:
        """A line for each thing that decided, then the members, then the decision."""
        said = {"user": "anna", "protocol": "imap", "username": "anna@x", "groups": ["cn=a", "cn=b"], "hold": "30"}
        said |= {"attributes": {"mailHost": ["be1"]}, "override": None, "refused": None, "members": [self.row]}
        said |= {"directories": [{"directory": "ldap-1", "query": "(uid=anna)", "answer": "anna@x uid=anna"}]}
        said |= {"rules": [{"rule": "hash-1", "answer": "pool main"}], "pool": "main", "cache": {"logins": 1}}
        lines = route_table({**said, "backend": "main/be1 (10.0.0.1:143)"}).splitlines()
        self.assertEqual(
            [" ".join(line.split()) for line in lines],
            [
                "user anna",
                "protocol imap",
                "ldap-1 (uid=anna): anna@x uid=anna",
                "canonical anna@x",
                "groups cn=a, cn=b",
                "mailHost be1",
                "override -",
                "hold new logins wait, at most 30 s: the user is being moved",
                "rule hash-1 pool main",
                "pool main",
                "cached 1 login",
                "",
                "POOL MEMBER PROTOCOL ADDRESS HEALTH STATE SESSIONS WEIGHT",
                "main be1 imap 10.0.0.1:143 up up 3 1",
                "",
                "goes to main/be1 (10.0.0.1:143)",
            ],
        )

    def test_refused(self) -> None:
        """What is not known is left out, and the last line says why."""
        said = {"user": "carl", "protocol": "imap", "username": None, "rules": [], "pool": None, "members": []}
        said |= {"directories": [{"directory": "passwd-1", "query": "", "answer": "not known here"}], "cache": None}
        text = route_table({**said, "backend": None, "refused": "no directory knows this user"})
        self.assertEqual(text.splitlines()[-1], "refused: no directory knows this user")
        self.assertIn("passwd-1  not known here", text)
