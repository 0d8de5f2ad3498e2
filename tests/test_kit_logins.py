"""Whole logins in memory: client, gateway and backend, for each way in which they can go."""

from __future__ import annotations

import gc
import types
from typing import Any

from mailgw.edge.session import LINGER, Session
from tests.kit import IMAP, MANAGESIEVE, PASSWORD, POP3, KitTestCase, Talk
from tests.network import Far


def cuts(data: bytes) -> list[list[bytes]]:
    """Every way to send this in two segments, in one, and byte by byte."""
    whole = [[data], [data[i : i + 1] for i in range(len(data))]]
    return whole + [[data[:i], data[i:]] for i in range(1, len(data))]


def reachable(start: object) -> list[object]:
    """All that can be reached from an object by references; modules and classes are left out."""
    seen: dict[int, object] = {}
    todo = [start]
    while todo:
        found = todo.pop()
        if id(found) in seen or isinstance(found, types.ModuleType | type | types.FrameType):
            continue
        seen[id(found)] = found
        if isinstance(found, types.FunctionType):
            todo += [found.__defaults__, found.__kwdefaults__, found.__closure__]
        else:
            todo += gc.get_referents(found)
    return list(seen.values())


class LoginsCase(KitTestCase):
    """What every protocol's logins have to do."""

    talk: Talk

    def begin(self) -> Far:
        """A client that has sent its login."""
        client = self.visit(self.talk.port)
        client.send(self.talk.login)
        return client

    def session(self) -> Session:
        """The only one."""
        (session,) = self.gateway.house.sessions
        return session

    def assertUnavailable(self, client: Far) -> None:
        """The client is told of temporary trouble, nothing of the backend is left, and it may try again."""
        said = client.read()
        self.assertIn(self.talk.unavailable, said)
        self.assertNotIn(b"10.0.0.1", said)
        self.assertEqual(self.gateway._lasting.accountant.count("anna@example.com"), 0)
        self.assertFalse(client.closed)
        client.send(self.talk.login)
        backend = self.backend(self.talk)
        backend.send(self.talk.good)
        self.assertTrue(client.read().endswith(self.talk.welcome))
        client.close()
        backend.close()


class LoginsMixin:
    """The tests, for each protocol."""

    def test_login(self: Any) -> None:
        """The login reaches the backend under the canonical name; then bytes pass both ways."""
        client, backend = self.logged_in(self.talk)
        client.send(b"x NOOP\r\n")
        self.assertEqual(backend.read(), b"x NOOP\r\n")
        backend.send(b"x OK\r\n")
        self.assertEqual(client.read(), b"x OK\r\n")
        self.assertEqual(self.session().username, "anna@example.com")

    def test_end(self: Any) -> None:
        """The end of a session ends both connections and gives back its place."""
        client, backend = self.logged_in(self.talk)
        self.assertEqual(self.gateway._lasting.accountant.count("anna@example.com"), 1)
        backend.close()
        self.assertTrue(client.gone)
        client.close()  # where the transport tells half-closes, the relay waits for the client's own end
        self.assertEqual(self.gateway._lasting.accountant.count("anna@example.com"), 0)
        self.assertEqual(self.gateway.house.sessions, set())
        self.assertEqual({row["sessions"] for row in self.gateway.house.pools["main"].rows()}, {0})

    def test_pipelined_in_every_segmentation(self: Any) -> None:
        """What a client pipelines behind its login reaches the backend whole and in order, wherever it was cut."""
        for segments in cuts(self.talk.login + self.talk.rest):
            client = self.visit(self.talk.port)
            client.send(*segments)
            backend = self.backend(self.talk)
            self.assertEqual(backend.read(), self.talk.presented, segments)
            backend.send(self.talk.good)
            self.assertEqual(backend.read(), self.talk.rest, segments)
            self.assertTrue(client.read().endswith(self.talk.welcome), segments)
            client.close()
            backend.close()

    def test_answers_in_every_segmentation(self: Any) -> None:
        """What the backend says, and what it sends behind its last reply, wherever it was cut."""
        more = b"* 5 EXISTS\r\n* 1 RECENT\r\n"
        for segments in cuts(self.talk.good + more):
            client = self.begin()
            backend = self.backend(self.talk)
            backend.send(*segments)
            self.assertTrue(client.read().endswith(self.talk.welcome + more), segments)
            client.close()
            backend.close()

    def test_wrong_password(self: Any) -> None:
        """A password that the directory refuses never reaches a backend; the answer takes its time."""
        client = self.visit(self.talk.port)
        client.send(self.talk.login_as(b"anna", b"wrong"))
        self.loop.wait(1.9)
        self.assertNotIn(self.talk.refused, client.read())
        self.loop.wait(0.2)
        self.assertIn(self.talk.refused, client.read())
        self.assertEqual(self.loop.dials, [])

    def test_directory_down(self: Any) -> None:
        """A directory that cannot tell is temporary trouble, at once."""
        client = self.visit(self.talk.port)
        client.send(self.talk.login_as(b"down", PASSWORD))
        self.assertIn(self.talk.unavailable, client.read())

    def test_backend_refuses(self: Any) -> None:
        """With the user's own password the backend's refusal is a wrong password, delay included."""
        client = self.begin()
        self.backend(self.talk).send(self.talk.bad)
        self.loop.wait(1.9)
        self.assertNotIn(self.talk.refused, client.read())
        self.loop.wait(0.2)
        self.assertIn(self.talk.refused, client.read())
        self.assertFalse(client.closed)

    def test_backend_not_there(self: Any) -> None:
        """Nobody listens there."""
        client = self.begin()
        self.loop.dials[0].refuse()
        self.assertUnavailable(client)

    def test_backend_silent(self: Any) -> None:
        """Nobody answers the dial."""
        client = self.begin()
        self.loop.wait(5.1)
        self.assertUnavailable(client)

    def test_backend_hangs(self: Any) -> None:
        """A backend that accepts and says nothing costs the client limits.backend_login and no more."""
        client = self.begin()
        backend = self.loop.dials[0].accept()
        self.loop.wait(11.9)
        self.assertNotIn(self.talk.unavailable, client.read())
        self.loop.wait(0.2)
        self.assertTrue(backend.gone)
        self.assertUnavailable(client)

    def test_backend_hangs_after_the_password(self: Any) -> None:
        """Likewise when it has the password already."""
        client = self.begin()
        self.backend(self.talk)
        self.loop.wait(12.1)
        self.assertUnavailable(client)

    def test_backend_trickles(self: Any) -> None:
        """Likewise with a byte each second."""
        client = self.begin()
        backend = self.loop.dials[0].accept()
        for letter in b"* OK this goes on":
            self.loop.wait(1)
            backend.pour(bytes([letter]))
        self.assertUnavailable(client)

    def test_backend_says_other_things(self: Any) -> None:
        """Garbage, another protocol, a goodbye, endless lines: at once."""
        for words in (b"\0\xff\r\n", b"220 smtp.example ESMTP\r\n", self.talk.bye, b"x" * 70_000, b"* PREAUTH hi\r\n"):
            client = self.begin()
            backend = self.loop.dials[0].accept()
            backend.pour(words)
            self.assertTrue(backend.gone, words[:20])
            self.assertUnavailable(client)

    def test_backend_hangs_up(self: Any) -> None:
        """Before its greeting, after it, and after the password."""
        for said in (b"", self.talk.greeting):
            client = self.begin()
            backend = self.loop.dials[0].accept()
            backend.send(said)
            backend.close()
            self.assertUnavailable(client)
        client = self.begin()
        self.backend(self.talk).close()
        self.assertUnavailable(client)

    def test_client_leaves(self: Any) -> None:
        """A client that goes away while its login is under way leaves nothing, however far that was."""
        for far in range(3):
            client = self.begin()
            backend = None
            if far:
                backend = self.loop.dials[0].accept() if far == 1 else self.backend(self.talk)
            self.session().transport.abortConnection()
            self.loop.turn()
            self.assertTrue(client.gone)
            self.assertTrue(backend is None or backend.gone)
            self.assertEqual(self.loop.dials, [])
            self.assertEqual(self.gateway._lasting.accountant.count("anna@example.com"), 0)

    def test_flood_in_the_middle(self: Any) -> None:
        """A client that sends without end while its login is under way is not read, or told so and cut off."""
        client = self.begin()
        backend = self.backend(self.talk)
        self.assertLess(client.pour(b"x" * 4_000_000), 500_000)
        backend.send(self.talk.good)
        self.assertTrue(client.read().endswith(self.talk.welcome))

    def test_secrets_are_dropped(self: Any) -> None:
        """After the hand-over nothing that a session holds on to has the password in it, in clear or in base64."""
        client, _ = self.logged_in(self.talk)
        session = self.session()
        secrets = (PASSWORD, self.talk.presented.split()[-1])
        gc.collect()
        held = [one for one in reachable(session) if isinstance(one, bytes | bytearray | str)]
        self.assertGreater(len(held), 50)
        for one in held:
            text = one.encode() if isinstance(one, str) else bytes(one)
            self.assertFalse(any(secret in text for secret in secrets), one)
        del client

    def test_secrets_would_be_found(self: Any) -> None:
        """The search above does find the password while the login is under way."""
        client = self.begin()
        held = [one for one in reachable(self.session()) if isinstance(one, bytes)]
        self.assertTrue(any(PASSWORD in one for one in held))
        del client


class ImapTests(LoginsMixin, LoginsCase):
    """IMAP to IMAP."""

    talk = IMAP


class Pop3Tests(LoginsMixin, LoginsCase):
    """POP3 to POP3."""

    talk = POP3


class ManageSieveTests(LoginsMixin, LoginsCase):
    """ManageSieve to ManageSieve."""

    talk = MANAGESIEVE


class MasterTests(LoginsCase):
    """A pool where the gateway logs in with an account of its own."""

    talk = IMAP
    pool = 'login = "master"\nmaster_user = "gw"\nmaster_password = "mastersecret"'

    def test_backend_refuses(self) -> None:
        """That the backend refuses the gateway is no wrong password of the user's."""
        client = self.begin()
        self.backend(IMAP).send(IMAP.bad)
        said = client.read()
        self.assertIn(IMAP.unavailable, said)
        self.assertNotIn(b"no", said.lower().replace(b"a no", b""))


class SharedPoolTests(LoginsCase):
    """A pool where every member holds every mailbox."""

    talk = IMAP
    members = '"10.0.0.1", "10.0.0.2"'
    pool = "shared = true"

    def test_other_member(self) -> None:
        """One is down: the other serves, and the client does not notice."""
        client = self.begin()
        first = self.loop.dials[0]
        first.refuse()
        self.assertNotEqual(self.loop.dials[0].host, first.host)
        backend = self.backend(IMAP)
        backend.send(IMAP.good)
        self.assertTrue(client.read().endswith(IMAP.welcome))

    def test_client_leaves_while_dialling(self) -> None:
        """A client that goes away while one is dialled has nobody dial the other."""
        client = self.begin()
        client.close()
        self.session().transport.abortConnection()
        self.loop.turn()
        self.assertEqual(self.loop.dials, [])


class StarttlsTests(LoginsCase):
    """Backends with STARTTLS."""

    talk = IMAP
    tls = "starttls"
    greeting = b"* OK [CAPABILITY IMAP4rev1 STARTTLS LOGINDISABLED] ready\r\n"

    def upgrade(self, go_ahead: bytes = b"S OK go\r\n") -> Far:
        """Play the backend until its go-ahead."""
        backend = self.loop.dials[0].accept()
        backend.send(self.greeting)
        self.assertEqual(backend.read(), b"S STARTTLS\r\n")
        backend.send(go_ahead)
        return backend

    def test_login(self) -> None:
        """The login goes through TLS."""
        client = self.begin()
        backend = self.upgrade()
        backend.secure(self.as_backend, server=True)
        self.assertEqual(backend.read(), b"C CAPABILITY\r\n")
        backend.send(b"* CAPABILITY IMAP4rev1 SASL-IR AUTH=PLAIN\r\nC OK\r\n")
        self.assertEqual(backend.read(), IMAP.presented)
        backend.send(IMAP.good)
        self.assertTrue(client.read().endswith(IMAP.welcome))
        client.send(b"b NOOP\r\n")
        self.assertEqual(backend.read(), b"b NOOP\r\n")

    def test_glued_bytes(self) -> None:
        """Bytes in clear behind the go-ahead would count as encrypted: the connection is aborted, no password sent."""
        client = self.begin()
        backend = self.upgrade(b"S OK go\r\n* CAPABILITY IMAP4rev1 AUTH=PLAIN INJECTED\r\n")
        self.assertEqual(backend.read(), b"")
        self.assertTrue(backend.closed)
        self.assertIn(IMAP.unavailable, client.read())

    def test_stripped(self) -> None:
        """A backend that offers no STARTTLS gets no password."""
        for greeting in (b"* OK [CAPABILITY IMAP4rev1 AUTH=PLAIN] ready\r\n", b"* PREAUTH ready\r\n"):
            client = self.begin()
            backend = self.loop.dials[0].accept()
            backend.send(greeting)
            self.assertEqual(backend.read(), b"")
            self.assertTrue(backend.closed)
            self.assertIn(IMAP.unavailable, client.read())

    def test_silent_after_the_go_ahead(self) -> None:
        """A backend that never answers the handshake."""
        client = self.begin()
        backend = self.upgrade()
        self.loop.wait(12.1)
        self.assertTrue(backend.gone)
        self.assertIn(IMAP.unavailable, client.read())


class ClientTlsTests(LoginsCase):
    """Clients in TLS."""

    talk = IMAP

    def test_starttls(self) -> None:
        """A login after STARTTLS, with commands pipelined behind it."""
        client = self.visit(143)
        client.send(b"s STARTTLS\r\n")
        self.assertTrue(client.read(200).startswith(b"s OK"))
        client.secure(self.as_client)
        client.send(IMAP.login + IMAP.rest)
        backend = self.backend(IMAP)
        backend.send(IMAP.good)
        self.assertTrue(client.read().endswith(IMAP.welcome))
        self.assertEqual(backend.read(), IMAP.presented + IMAP.rest)

    def test_implicit(self) -> None:
        """A login on a TLS port; the backend's end closes the client's connection in TLS too."""
        client = self.loop.visit(993)
        client.secure(self.as_client)
        client.send(IMAP.login)
        backend = self.backend(IMAP)
        backend.send(IMAP.good)
        self.assertTrue(client.read().endswith(IMAP.welcome))
        backend.send(b"* BYE\r\n")
        backend.close()
        self.assertEqual(client.read(), b"* BYE\r\n")
        self.assertTrue(client.gone)

    def test_cleartext_behind_starttls(self) -> None:
        """Commands in clear behind STARTTLS never count as encrypted."""
        client = self.visit(143)
        client.send(b"s STARTTLS\r\n" + IMAP.login)
        self.assertTrue(client.gone)
        self.assertEqual(self.loop.dials, [])


class DeadlineTests(LoginsCase):
    """The login deadline, with a backend that may take longer."""

    talk = IMAP
    limits = 'login_deadline = "60s"\nbackend_login = "1000s"\nbefore_login = "16K"'

    def test_in_the_middle_of_a_login(self) -> None:
        """It ends a login that is under way, on the backend too."""
        client = self.begin()
        backend = self.backend(IMAP)
        self.loop.wait(60)
        self.assertIn(b"* BYE Timeout", client.read())
        self.assertTrue(client.closed)
        self.assertTrue(backend.gone)
        self.assertEqual(self.gateway._lasting.accountant.count("anna@example.com"), 0)

    def test_tls_is_closed_properly(self) -> None:
        """A client in TLS that answers our end with its own is let go at once, with a login under way too."""
        client = self.loop.visit(993)
        client.secure(self.as_client)
        client.send(IMAP.login)
        backend = self.backend(IMAP)
        self.loop.wait(60)
        self.assertIn(b"* BYE Timeout", client.read())
        client.unwrap()
        self.assertEqual(self.gateway.house.sessions, set())
        self.assertTrue(backend.gone)

    def test_too_much_in_the_middle_of_a_login(self) -> None:
        """A client that says too much while its login is under way is cut off, and its login is not completed."""
        client = self.loop.visit(993)
        client.secure(self.as_client)
        client.send(IMAP.login + b"b " + b"x" * 70_000)
        self.assertIn(b"* BYE", client.read())
        backend = self.loop.dials[0].accept() if self.loop.dials else None
        self.assertIsNone(backend)
        self.loop.wait(LINGER)
        self.assertEqual(self.gateway.house.sessions, set())
