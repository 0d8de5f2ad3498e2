"""Tests of health checks in the whole gateway: what logins make of them, and what a reload keeps."""

from __future__ import annotations

from tests.kit import IMAP, POP3, KitTestCase


class HealthTests(KitTestCase):
    pool = "health_fall = 1\nhealth_rise = 1"

    def write(self, more: str = "", **changed: str) -> None:
        super().write(more, **changed)
        path = self.folder / "mailgw.toml"
        path.write_text(path.read_text().replace('health = "0s"', 'health = "10s"'))

    def check(self, seconds: float = 1.0) -> None:
        """Have everybody checked, who all refuse to be connected to."""
        self.loop.wait(seconds)
        for dial in list(self.loop.dials):
            dial.refuse()

    def test_down_is_told_at_once(self) -> None:
        """Who is known to be down is not dialled for a user, a reload forgets nothing, and its recovery is noticed."""
        self.check()
        for reloaded in (False, True):
            client = self.visit(IMAP.port)
            client.send(IMAP.login)
            self.assertTrue(client.read().startswith(IMAP.unavailable))
            self.assertEqual(self.loop.dials, [])
            if not reloaded:
                self.assertEqual(self.successResultOf(self.gateway.reload(self.load)), [])
        self.loop.wait(1.0)
        for dial in list(self.loop.dials):
            dial.accept().send(IMAP.greeting if dial.port == 143 else b"-ERR no\r\n")
        self.logged_in(IMAP)
        client = self.visit(POP3.port)
        client.send(POP3.login)
        self.assertIn(POP3.unavailable, client.read())
        rows = {row["protocol"]: row["health"] for row in self.gateway.house.pools["main"].rows()}
        self.assertEqual(rows, {"imap": "up", "pop3": "down", "managesieve": "down"})

    def test_old_house_checks_no_more(self) -> None:
        """After a reload only the new settings are checked, and the old pools hear nothing more."""
        self.check()
        old = self.gateway.house
        self.write(members='"10.0.0.2"')
        self.assertEqual(self.successResultOf(self.gateway.reload(self.load)), [])
        self.check()
        self.loop.wait(11.0)
        self.assertEqual({dial.host for dial in self.loop.dials}, {"10.0.0.2"})
        self.assertFalse(old.health.running)
        self.assertEqual({name.split()[0] for name in self.gateway.house.board.words("health")}, {"main/10.0.0.2"})

    def test_stop(self) -> None:
        """A gateway that stops checks nobody any more."""
        self.loop.wait(0.9)
        self.gateway.stopService()
        self.loop.wait(30.0)
        self.assertEqual(self.loop.dials, [])
