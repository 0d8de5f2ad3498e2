"""Backends that lie: whatever they say or do not, clients hear of temporary trouble in time; passwords are safe."""

from __future__ import annotations

import ssl
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor

from tests.integration.attacks import Attacker, assert_nothing_told, leaked, plain
from tests.integration.case import ServersTestCase
from tests.integration.certificates import certificates
from tests.integration.clients import trusting
from tests.integration.gateway import ROOMY, Gateway
from tests.integration.liars import Heard, Liar, Script
from tests.integration.lies import (
    GREETINGS,
    LINE,
    MAIL_LIES,
    MOST,
    OFFERS,
    PASSWORD,
    go_ahead,
    greetings,
    hung,
    leaving,
    lies_in_clear,
    lies_in_tls,
    rejecting,
    slow_lies,
)

IN_TIME = 15.5
"""Seconds until a client is told."""
TOLD = {
    "imap": b"a NO [UNAVAILABLE] Temporary trouble, try again later",
    "pop3": b"-ERR [SYS/TEMP] Temporary trouble, try again later",
    "smtp": b"451 4.3.0 Temporary trouble, try again later",
}
STRANGER = "stranger"
"""The lie of a backend that shows a good certificate, for another name."""
WRONG = {
    "imap": b"a NO [AUTHENTICATIONFAILED] Wrong user name or password",
    "pop3": b"-ERR [AUTH] Wrong user name or password",
}


class LiarsTestCase(ServersTestCase):
    """A gateway, and a backend for each lie; the user of a lie is called as the lie is."""

    protocols: tuple[str, ...] = ("imap", "pop3", "smtp")
    tls, limits = "starttls", ""
    gateway: Gateway
    liars: dict[tuple[str, str], Liar]
    context: ssl.SSLContext

    @classmethod
    def lies(cls, protocol: str) -> Mapping[str, Script]:
        """The scripts by name."""
        raise NotImplementedError

    @classmethod
    def start_servers(cls) -> None:
        cls.liars = {
            (p, name): Liar(script, cls.host(name)) for p in cls.protocols for name, script in cls.lies(p).items()
        }
        for liar in cls.liars.values():
            cls.at_end(liar.stop)
        gateway = Gateway()
        (gateway.folder / "passwd").write_text(
            "".join(
                f"{p}-{name}@example.org:{{PLAIN}}{PASSWORD.decode()}:mailHost={p}-{name}\n" for p, name in cls.liars
            )
        )
        gateway.write(cls.settings(gateway))
        cls.gateway = cls.run_server(gateway)
        cls.context = trusting(certificates().ca)

    @classmethod
    def settings(cls, gateway: Gateway) -> str:
        """Everybody has a backend of their own."""
        members = ",\n".join(
            f'{{host = "{cls.host(name)}", name = "{p}-{name}", {p} = {liar.port}}}'
            for (p, name), liar in cls.liars.items()
        )
        return f"""
[[directory]]
kind = "passwd"
file = "{gateway.folder / "passwd"}"
[[route]]
kind = "attribute"
name = "mailHost"
pool = "main"
[pool.main]
members = [
{members}
]
ca = "{certificates().ca}"
[pool.main.imap]
tls = "{cls.tls}"
[pool.main.pop3]
tls = "{cls.tls}"
[pool.main.smtp]
tls = "{cls.tls}"
[domains]
accept = ["example.org"]
{ROOMY}
{cls.limits}
"""

    @classmethod
    def host(cls, name: str) -> str:
        """Where the backend of a lie is."""
        return "127.0.0.1"

    def tearDown(self) -> None:
        self.gateway.check_log()
        assert_nothing_told(self.gateway, PASSWORD)
        super().tearDown()

    # --- clients -----------------------------------------------------------------------------------------------------

    def imap(self, user: bytes) -> bytes:
        """What the gateway says to a login."""
        with Attacker(self.gateway.ports.imaps, self.context, 30.0) as wire:
            wire.line()
            wire.send(b'a LOGIN %b "%b"\r\n' % (user, PASSWORD))
            return b"\n".join(wire.tagged(b"a"))

    def pop3(self, user: bytes) -> bytes:
        """What the gateway says to a login."""
        with Attacker(self.gateway.ports.pop3s, self.context, 30.0) as wire:
            wire.line()
            wire.send(b"USER %b\r\nPASS %b\r\n" % (user, PASSWORD))
            wire.line()
            return wire.line()

    def smtp(self, user: bytes) -> bytes:
        """What the gateway says to the first recipient that has to go to the backend."""
        with Attacker(self.gateway.ports.submissions, self.context, 30.0) as wire:
            wire.reply()
            for line, code in (
                (b"EHLO client.example", b"250"),
                (b"AUTH PLAIN " + plain(user, PASSWORD), b"235"),
                (b"MAIL FROM:<%b>" % user, b"250"),
            ):
                wire.send(line + b"\r\n")
                reply = wire.reply()
                self.assertEqual(reply[:3], code, reply)
            wire.send(b"RCPT TO:<someone@elsewhere.example>\r\n")
            return wire.reply()

    def visit(self, protocol: str, name: str) -> tuple[bytes, float]:
        """What the victim of a lie is told, and after how many seconds."""
        clients: dict[str, Callable[[bytes], bytes]] = {"imap": self.imap, "pop3": self.pop3, "smtp": self.smtp}
        began = time.monotonic()
        said = clients[protocol](f"{protocol}-{name}@example.org".encode())
        return said, time.monotonic() - began

    def visit_all(self, at_once: int, seconds: float = IN_TIME) -> dict[tuple[str, str], bytes]:
        """Visit all of them, so many at a time.

        @return: what is told, by protocol and name; all of it was in time.
        """
        with ThreadPoolExecutor(at_once) as pool:
            visits = dict(zip(self.liars, pool.map(lambda key: self.visit(*key), self.liars), strict=True))
        for key, (_, took) in visits.items():
            self.assertLess(took, seconds, key)
        return {key: said for key, (said, _) in visits.items()}

    def assert_trouble(self, told: Mapping[tuple[str, str], bytes]) -> None:
        """Everybody is told of temporary trouble, and nothing else."""
        expected = {(protocol, name): TOLD[protocol] for protocol, name in told}
        self.assertEqual(dict(told), expected)
        for key, liar in self.liars.items():
            self.assertTrue(liar.visits, key)

    def assert_not_in_clear(self) -> None:
        """No password was heard in clear."""
        for key, liar in self.liars.items():
            self.assertEqual(leaked(liar.heard[True], PASSWORD), [], key)


class ClearTests(LiarsTestCase):
    """Lies before TLS."""

    @classmethod
    def lies(cls, protocol: str) -> Mapping[str, Script]:
        return {**lies_in_clear(protocol), **greetings(protocol)}

    def test_lies(self) -> None:
        """Whatever is said before TLS, the client hears of temporary trouble, and the password is not told."""
        self.gateway.forget_peak()
        before = self.gateway.memory()
        self.assert_trouble(self.visit_all(4))
        for key, liar in self.liars.items():
            self.assertEqual(leaked(liar.heard[True], PASSWORD), [], key)
            self.assertEqual(liar.heard[False], b"", key)  # whatever was glued to its answer, TLS did not begin
            self.assertLess(liar.said, MOST, key)
        self.assertLess(self.gateway.peak_memory() - before, 8 << 20)


class ImplicitTests(LiarsTestCase):
    """Lies instead of a TLS handshake."""

    tls = "implicit"

    @classmethod
    def lies(cls, protocol: str) -> Mapping[str, Script]:
        def clear(heard: Heard) -> None:
            heard.say(GREETINGS[protocol])
            heard.listen()

        def late(heard: Heard) -> None:
            heard.hear()
            heard.say(GREETINGS[protocol] + OFFERS[protocol])
            heard.listen()

        return {"clear": clear, "late": late, "reset": Heard.reset}

    def test_lies(self) -> None:
        """Where TLS is spoken from the first octet on, clear text is trouble, and nothing is said to it."""
        self.assert_trouble(self.visit_all(4))
        for key, liar in self.liars.items():
            self.assertEqual(leaked(liar.heard[True], PASSWORD, b"CAPA", b"EHLO"), [], key)


class MxTests(LiarsTestCase):
    """Lies towards mail from the world."""

    protocols = ("smtp",)

    @classmethod
    def lies(cls, protocol: str) -> Mapping[str, Script]:
        def no_login(heard: Heard) -> None:
            go_ahead("smtp", heard)
            heard.secure()
            heard.until(b"EHLO")
            heard.say(b"250 liar.example\r\n")
            heard.line()
            heard.say(b"530 5.7.0" + LINE)
            heard.listen()

        return {**lies_in_clear("smtp"), "no-login": no_login}

    def smtp(self, user: bytes) -> bytes:
        with Attacker(self.gateway.ports.mx, None, 30.0) as wire:
            wire.reply()
            wire.send(b"EHLO client.example\r\nMAIL FROM:<a@elsewhere.example>\r\nRCPT TO:<%b>\r\n" % user)
            return [wire.reply() for _ in range(3)][-1]

    def test_lies(self) -> None:
        """Whatever a backend says, mail from the world is put off, and nobody is told a password."""
        self.assert_trouble(self.visit_all(4))


class SlowTests(LiarsTestCase):
    """Lies that take their time, which is less than by default, or this would last longer than all other tests."""

    limits = 'backend_login = "4s"'

    @classmethod
    def lies(cls, protocol: str) -> Mapping[str, Script]:
        return slow_lies(protocol)

    def test_lies(self) -> None:
        """Whoever says nothing, or an octet a second, does not keep clients waiting for ever."""
        self.assert_trouble(self.visit_all(len(self.liars), 5.0))
        self.assert_not_in_clear()


class SecureTests(LiarsTestCase):
    """Lies in TLS."""

    @classmethod
    def lies(cls, protocol: str) -> Mapping[str, Script]:
        return {**lies_in_tls(protocol), **(MAIL_LIES if protocol == "smtp" else {}), STRANGER: hung(protocol)}

    @classmethod
    def host(cls, name: str) -> str:
        return "127.0.0.2" if name == STRANGER else super().host(name)

    def test_lies(self) -> None:
        """Whatever is answered to a login, but that the password is wrong, is temporary trouble."""
        self.assert_trouble(self.visit_all(4))
        self.assert_not_in_clear()
        for key, liar in self.liars.items():
            if key[1] == STRANGER:
                self.assertEqual(liar.heard[False], b"", "somebody else's certificate is none")


class MirrorTests(LiarsTestCase):
    """Backends that are ourselves."""

    @classmethod
    def lies(cls, protocol: str) -> Mapping[str, Script]:
        return {"unused": Heard.listen}

    @classmethod
    def settings(cls, gateway: Gateway) -> str:
        text = super().settings(gateway)
        for (protocol, _), liar in cls.liars.items():
            port = gateway.ports.submission if protocol == "smtp" else getattr(gateway.ports, protocol)
            text = text.replace(f"= {liar.port}", f"= {port}")
        return text

    def test_loop(self) -> None:
        """A login that leads back to us ends as temporary trouble, soon, and leaves nothing open."""
        for protocol in self.protocols:
            said, took = self.visit(protocol, "unused")
            self.assertEqual(said, TOLD[protocol])
            self.assertLess(took, IN_TIME)
        self.gateway.wait_for_sessions_to_end()


class HonestTests(LiarsTestCase):
    """What is to be passed on."""

    @classmethod
    def lies(cls, protocol: str) -> Mapping[str, Script]:
        return {"rejecting": rejecting(protocol), "leaving": leaving(protocol)}

    def test_rejected(self) -> None:
        """A backend that refuses the user's own password: it is wrong; that it is repeated is shown to nobody."""
        for protocol, told in WRONG.items():
            self.assertEqual(self.visit(protocol, "rejecting")[0], told)
        self.assertEqual(self.visit("smtp", "rejecting")[0], TOLD["smtp"])
        self.assert_not_in_clear()

    def test_reset_behind_success(self) -> None:
        """A connection that is reset right behind the login ends the client's, without a word of its own."""
        for protocol, port, commands in (
            ("imap", self.gateway.ports.imaps, b'a LOGIN imap-leaving@example.org "%b"\r\nb NOOP\r\n' % PASSWORD),
            ("pop3", self.gateway.ports.pop3s, b"USER pop3-leaving@example.org\r\nPASS %b\r\nSTAT\r\n" % PASSWORD),
        ):
            with Attacker(port, self.context) as wire:
                wire.line()
                wire.send(commands)
                said = wire.rest()
            self.assertRegex(said, rb"^(?:\+OK\r\n)?(?:a OK \[CAPABILITY IMAP4rev1\] in|\+OK in)\r\n$", protocol)
        self.assertEqual(self.visit("smtp", "leaving")[0], TOLD["smtp"])
