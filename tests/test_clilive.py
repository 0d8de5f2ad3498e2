"""Tests of L{mailgw.clilive}; the running gateway is played."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mailgw import clilive
from mailgw.ops import control
from mailgw.ops.control import Refused, Row
from tests.test_cli import Case

BACKEND = {"pool": "main", "name": "be1", "protocol": "imap", "host": "10.0.0.1", "port": 143, "health": "up"}
BACKEND |= {"admin": "up", "sessions": 3, "weight": 1, "reason": "", "at": "main/be1"}


class LiveCase(Case):
    def setUp(self) -> None:
        """A gateway that answers what C{rows} has."""
        super().setUp()
        self.rows: list[Row] = []
        self.asked: list[tuple[str, Row]] = []

        def ask(folder: str, command: str, arguments: Row) -> Iterator[Row]:
            self.asked.append((command, arguments))
            if not self.rows:
                raise Refused("not now")
            return iter(self.rows)

        self.patch(control, "ask", ask)


class MoveTests(LiveCase):
    def test_told(self) -> None:
        """Who was moved where, and how many sessions that cost."""
        self.rows = [{"user": "anna@x", "backend": "main/be2", "ended": 1}]
        self.assertEqual(self.run_command("move", "anna", "be2"), 0)
        self.assertEqual(self.out, "anna@x moved to main/be2: 1 session ended\n")
        self.assertEqual(self.asked, [("move", {"user": "anna", "backend": "be2", "hold": 30.0})])
        self.run_command("move", "anna", "be2", "--json", "--hold", "2m")
        self.assertEqual((json.loads(self.out), self.asked[1][1]["hold"]), (self.rows[0], 120.0))

    def test_clear(self) -> None:
        """The rules decide again."""
        self.rows = [{"user": "anna@x", "backend": None, "ended": 0}]
        self.assertEqual(self.run_command("move", "anna", "--clear", "--hold", "0s"), 0)
        self.assertEqual(self.out, "anna@x goes where the rules say: 0 sessions ended\n")
        self.assertEqual(self.asked, [("move", {"user": "anna", "backend": None, "hold": 0.0})])

    def test_usage(self) -> None:
        """Neither backend nor --clear, both, or no time: nobody is asked."""
        for more in (
            (),
            ("be2", "--clear"),
            ("be2", "--hold", "soon"),
            ("be2", "--hold", "2h"),
            ("be2", "--hold", "-1s"),
        ):
            self.assertEqual(self.run_command("move", "anna", *more), 2, more)
        self.assertEqual(self.asked, [])

    def test_refused(self) -> None:
        """What the gateway says is printed, and the status is 1."""
        self.assertEqual(self.run_command("move", "anna", "be2"), 1)
        self.assertEqual(self.err, "mailgw: not now\n")


class BackendTests(LiveCase):
    def test_listed(self) -> None:
        """The table, or JSON."""
        self.rows = [BACKEND]
        self.assertEqual(self.run_command("backend"), 0)
        self.assertEqual(self.out.splitlines()[1].split()[:4], ["main", "be1", "imap", "10.0.0.1:143"])
        self.run_command("backend", "--json")
        self.assertEqual(json.loads(self.out), [BACKEND])

    def test_state(self) -> None:
        """The new state of one is asked for."""
        self.rows = [BACKEND]
        self.assertEqual(self.run_command("backend", "be1", "drain"), 0)
        self.assertEqual(self.asked, [("backend", {"name": "be1", "state": "drain"})])

    def test_usage(self) -> None:
        """A name without a state, and states that are none."""
        for arguments in (("be1",), ("be1", "off")):
            self.assertEqual(self.run_command("backend", *arguments), 2)
        self.assertEqual(self.asked, [])


class FlushTests(LiveCase):
    def test_told(self) -> None:
        """How much was forgotten."""
        self.rows = [{"logins": 1, "routes": 2}]
        self.assertEqual(self.run_command("flush", "anna"), 0)
        self.assertEqual((self.out, self.asked), ("forgotten: 1 login, 2 routes\n", [("flush", {"user": "anna"})]))


class RouteTests(LiveCase):
    def setUp(self) -> None:
        """The state has a folder of its own."""
        super().setUp()
        text = self.config.read_text().replace("[gateway]", '[gateway]\nstate = "state"')
        listener = text.index("[tls]"), text.index("[[listener]]")
        self.config.write_text(
            (text[: listener[0]] + text[listener[1] :]).replace('"tcp:143"', '"tcp:143"\ntls = "none"')
        )
        (self.folder / "passwd").write_text("anna@x:{PLAIN}secret\n")

    def test_without_a_gateway(self) -> None:
        """The settings and what is on the board say where a user goes."""
        self.patch(control, "answers", lambda path: False)
        done: list[Any] = []

        def explained(settings: Any, user: str, protocol: str) -> Row:
            done.append((Path(settings.gateway.state).name, user, protocol))
            return {**ROUTE, "refused": None}

        self.patch(clilive, "_explained", explained)
        self.assertEqual(self.run_command("route", "anna@x", "--protocol", "pop3"), 0)
        self.assertEqual((done, self.asked), ([("state", "anna@x", "pop3")], []))

    def test_asked(self) -> None:
        """Where somebody listens he is asked; who would be refused makes the status 1."""
        self.rows = [{**ROUTE, "refused": "nobody knows"}]
        state = self.folder / "state"
        state.mkdir()
        self.patch(control, "answers", lambda path: path == str(state / "control"))
        self.assertEqual(self.run_command("route", "anna@x"), 1)
        self.assertEqual(self.asked, [("route", {"user": "anna@x", "protocol": "imap"})])
        self.assertTrue(self.out.endswith("refused: nobody knows\n"))


ROUTE = {"user": "anna@x", "protocol": "imap", "directories": [], "username": None, "rules": [], "pool": None}
ROUTE |= {"cache": None, "members": [], "backend": "local"}
