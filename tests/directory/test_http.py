"""Tests of L{mailgw.directory.http}: what it asks, what answers mean; failover stands in C{test_httpservers.py}."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from pydantic import ValidationError
from twisted.internet.task import LoopingCall
from twisted.trial.unittest import TestCase

from mailgw.directory.http import PATIENCE, HttpDirectory
from mailgw.errors import DirectoryDown, LoginRefused, SettingsError
from mailgw.interfaces import IDirectory
from mailgw.model import Envelope, Identity, Login, Origin, Peer, RefusalKind
from tests.directory.contract import ALICE, CarefulDirectoryContract
from tests.directory.httptalk import URI, AuthHouse, AuthTestCase, Headers, answer, parse

ORIGIN = Origin("abcdefgh", "imap", Peer("198.51.100.7", 40000), secure=True, attempt=2)


def login(protocol: str = "imap", username: str = "alice@example.org", password: bytes = b"alicepw") -> Login:
    """A login from somewhere."""
    return Login(username, password, origin=replace(ORIGIN, protocol=protocol))


class HttpContractTests(CarefulDirectoryContract, TestCase):
    """What every directory promises. This one differs where it cannot tell a stranger from a wrong password."""

    def make(self) -> IDirectory:
        house = AuthHouse()
        house.reactor.servers["192.0.2.1"] = self.play
        # the contract waits for real: let the clock of the house turn meanwhile
        turning = LoopingCall(house.reactor.turn)
        turning.start(0.001)
        self.addCleanup(turning.stop)
        return HttpDirectory.from_options("http-1", HttpDirectory.Options(uri=URI), house)

    @staticmethod
    def play(headers: Headers) -> bytes:
        """Knows alice and her password."""
        if headers["auth-method"] == "none":
            good = headers["auth-smtp-to"] == "RCPT TO:<alice@example.org>"
            good = good or headers["auth-smtp-to"] == "RCPT TO:<Alice@example.org>"
        else:
            good = (headers["auth-user"].lower(), headers["auth-pass"]) == ("alice@example.org", "alicepw")
        return answer() if good else answer("Invalid login or password")

    async def test_unknown_user(self) -> None:
        """The protocol has no word for "not known here": an unknown user is refused; a recipient is not there."""
        directory = self.started()
        assert await self.refusal(directory, Login("nobody@example.org", b"x")) is RefusalKind.CREDENTIALS
        assert await directory.lookup("nobody@example.org") is None

    async def test_not_a_pattern(self) -> None:
        """What means something in a pattern or a path is only a character in a name."""
        directory = self.started()
        for name in ("*", "alice*", "alice)(uid=*", "../alice", "%s", "{user}", "alice%40example.org"):
            assert await self.refusal(directory, Login(name, b"alicepw")) is RefusalKind.CREDENTIALS, name
            assert await directory.lookup(name) is None, name


class QuestionTests(AuthTestCase):
    """What is sent."""

    def asked(self, who: Login, **options: Any) -> bytes:
        """The request that a login leads to."""
        self.wait(self.make(**options).authenticate(who))
        return self.reactor.requests[-1]

    def test_login(self) -> None:
        """The headers of nginx, in its order; only the protocol's version is newer."""
        self.assertEqual(
            self.asked(login()),
            b"GET /auth HTTP/1.1\r\nHost: 192.0.2.1\r\nAuth-Method: plain\r\nAuth-User: alice@example.org\r\n"
            b"Auth-Pass: alicepw\r\nAuth-Protocol: imap\r\nAuth-Login-Attempt: 2\r\nClient-IP: 198.51.100.7\r\n"
            b"Auth-SSL: on",
        )

    def test_protocols(self) -> None:
        """Submission is smtp to nginx, with its Client-Host; without TLS there is no Auth-SSL."""
        for protocol, name, host in (("pop3", "pop3", None), ("submission", "smtp", "[UNAVAILABLE]")):
            headers = parse(self.asked(login(protocol)))
            self.assertEqual((headers["auth-protocol"], headers.get("client-host")), (name, host))
        clear = replace(login(), origin=replace(ORIGIN, secure=False))
        self.assertNotIn("auth-ssl", parse(self.asked(clear)))

    def test_escaping(self) -> None:
        """Control characters, blanks and the percent sign as nginx escapes them, other octets as they are."""
        octets = bytes(octet for octet in range(1, 256) if octet not in b"\r\n")
        request = self.asked(login(password=octets, username="a b%ä"))
        self.assertIn(b"Auth-User: a%20b%25\xc3\xa4\r\n", request)
        wanted = b"".join(b"%%%02X" % octet if octet < 33 or octet == 37 else bytes([octet]) for octet in octets)
        self.assertIn(b"Auth-Pass: " + wanted + b"\r\n", request)

    def test_more_headers(self) -> None:
        """Headers of the settings go with every request."""
        request = self.asked(login(), header={"X-Auth-Key": "s3cret", "X-From": "gw"})
        self.assertTrue(request.endswith(b"\r\nX-Auth-Key: s3cret\r\nX-From: gw"))

    def test_host(self) -> None:
        """The host has its port unless it is the scheme's own; the query is sent."""
        request = self.asked(login(), uri="http://192.0.2.1:8080?a=b")
        self.assertTrue(request.startswith(b"GET /?a=b HTTP/1.1\r\nHost: 192.0.2.1:8080\r\n"))

    def test_recipient(self) -> None:
        """A recipient is asked about as nginx does where nobody logs in."""
        origin = replace(ORIGIN, protocol="mx", attempt=1)
        self.wait(self.make().lookup("bob@example.org", Envelope(origin, "there.example", "ann@there.example")))
        headers = parse(self.reactor.requests[-1])
        self.assertEqual((headers["client-ip"], headers["client-host"]), ("198.51.100.7", "[UNAVAILABLE]"))
        self.assertEqual(
            {name: headers[name] for name in headers if name.startswith("auth")},
            {
                "auth-method": "none",
                "auth-user": "",
                "auth-pass": "",
                "auth-protocol": "smtp",
                "auth-login-attempt": "1",
                "auth-smtp-helo": "there.example",
                "auth-smtp-from": "MAIL FROM:<ann@there.example>",
                "auth-smtp-to": "RCPT TO:<bob@example.org>",
                "auth-ssl": "on",
            },
        )

    def test_recipient_of_nothing(self) -> None:
        """So is one of whose mail nothing is known, as checks and routes explained have it."""
        self.wait(self.make().lookup("bob@example.org"))
        headers = parse(self.reactor.requests[-1])
        names = ("auth-protocol", "auth-smtp-helo", "auth-smtp-from", "auth-smtp-to")
        wanted = ["smtp", "", "MAIL FROM:<>", "RCPT TO:<bob@example.org>"]
        self.assertEqual([headers[name] for name in names], wanted)

    def test_nothing_slips_in(self) -> None:
        """What an SMTP client says of itself ends no line."""
        self.wait(self.make().lookup("bob@example.org", Envelope(ORIGIN, "a\r\nX: y", "b\nc@d")))
        headers = parse(self.reactor.requests[-1])
        self.assertEqual((headers["auth-smtp-helo"], headers["auth-smtp-from"]), ("a??X: y", "MAIL FROM:<b?c@d>"))

    def test_cipher(self) -> None:
        """Version and cipher of TLS are told where they are known."""
        headers = parse(self.asked(replace(login(), origin=replace(ORIGIN, cipher=("TLSv1.3", "TLS_X")))))
        self.assertEqual((headers["auth-ssl-protocol"], headers["auth-ssl-cipher"]), ("TLSv1.3", "TLS_X"))


class AnswerTests(AuthTestCase):
    """What answers mean."""

    def identity(self, who: Login | None = None, /, **headers: str) -> Identity:
        """Of a login that the server lets in."""
        self.plays(answer(**headers))
        identity: Identity | None = self.wait(self.make().authenticate(who or login()))
        assert identity is not None
        return identity

    def test_place(self) -> None:
        """Where to go stands in the attributes, the name as it was typed with it."""
        found = self.identity(login(username="Alice"), auth_server="10.0.0.1", auth_port="143")
        wanted = {"auth-server": ("10.0.0.1",), "auth-port": ("143",), "auth-user": ("Alice",)}
        self.assertEqual((found.username, dict(found.attributes), found.password), ("alice", wanted, None))
        self.assertEqual(found.addresses, ("alice@gw.example", "alice@example.org"))

    def test_nothing_but_ok(self) -> None:
        """OK alone lets in, and leaves the way to other rules."""
        self.assertEqual(dict(self.identity().attributes), {"auth-user": ("alice@example.org",)})

    def test_other_login(self) -> None:
        """Auth-User and Auth-Pass are for the backend; the password is in no attribute and in no repr."""
        found = self.identity(auth_user="Mbox17", auth_pass="s3cret pw")
        self.assertEqual((found.username, found.password), ("alice@example.org", b"s3cret pw"))
        self.assertEqual(found.attributes["auth-user"], ("Mbox17",))
        self.assertNotIn("s3cret", repr(found))
        self.assertNotIn("s3cret", repr(dict(found.attributes)))

    def test_canonical_from_the_answer(self) -> None:
        """With username = "auth-user" the answer names the user, who may send as what was typed too."""
        self.plays(answer(auth_user="Mbox17@Example.org"))
        found = self.wait(self.make(username="auth-user").authenticate(login()))
        self.assertEqual(found.username, "Mbox17@Example.org")
        self.assertEqual(found.addresses, ("mbox17@example.org", "alice@example.org"))

    def test_refusal(self) -> None:
        """Any other status is a refusal, its text is for the log, whatever the HTTP status is."""
        for code in (200, 401, 403, 500):
            self.plays(answer("Invalid login or password", code=code))
            refusal = self.fails(self.make().authenticate(login()), LoginRefused).refusal
            self.assertIs(refusal.kind, RefusalKind.CREDENTIALS)
            self.assertEqual(refusal.reason, "http-1: Invalid login or password")

    def test_ok_is_exact(self) -> None:
        """Only OK is OK: not ok, and not twice."""
        for status in ("ok", "OK.", "OKAY", "OK\r\nAuth-Status: OK", "Nein\r\nAuth-Status: OK"):
            self.plays(answer(status))
            self.fails(self.make().authenticate(login()), LoginRefused)

    def test_temporary_refusal(self) -> None:
        """An Auth-Error-Code of the kind 4xx says that it is trouble, for recipients as well."""
        self.plays(answer("Try later", auth_error_code="451 4.3.0"))
        error = self.fails(self.make().authenticate(login()), LoginRefused)
        self.assertIs(error.refusal.kind, RefusalKind.UNAVAILABLE)
        self.fails(self.make().lookup("bob@example.org"), DirectoryDown)
        self.plays(answer("No", auth_error_code="535 5.7.8"))
        error = self.fails(self.make().authenticate(login()), LoginRefused)
        self.assertIs(error.refusal.kind, RefusalKind.CREDENTIALS)
        self.assertIsNone(self.wait(self.make().lookup("bob@example.org")))

    def test_wait(self) -> None:
        """Auth-Wait holds a refusal up, up to a bound, and a login not at all."""
        for text, seconds in (("3", 3), ("99999", 30)):
            self.plays(answer("No", auth_wait=text))
            asking = self.begin(self.make().authenticate(login()))
            self.reactor.turn(seconds - 0.1)
            self.assertNoResult(asking)
            self.reactor.turn(0.1)
            self.failureResultOf(asking, LoginRefused)
        for text in ("", "-1", "x", "1.5", "1" * 20):
            self.plays(answer("No", auth_wait=text))
            self.fails(self.make().authenticate(login()), LoginRefused)
        self.identity(auth_wait="5")

    def test_ask_again(self) -> None:
        """WAIT: the question is put again after Auth-Wait, not without end."""
        self.plays(answer("WAIT", auth_wait="2"))
        asking = self.begin(self.make().authenticate(login()))
        self.reactor.turn(1.9)
        self.assertEqual(len(self.reactor.requests), 1)
        self.plays(answer())
        self.reactor.turn(0.1)
        self.assertIsNotNone(self.successResultOf(asking))
        self.plays(answer("WAIT"))
        asking = self.begin(self.make().authenticate(login()))
        for _ in range(PATIENCE):
            self.reactor.turn(1.0)
        self.assertIn("WAIT", str(self.failureResultOf(asking, DirectoryDown).value))

    def test_no_answer_at_all(self) -> None:
        """What says neither yes nor no is trouble, never a wrong password: pages of errors, values that are none."""
        for said in (
            b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
            b"HTTP/1.1 500 Oops\r\nContent-Length: 0\r\n\r\n",
            b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nAuth-Status:\r\nContent-Length: 0\r\n\r\n",
            answer(code=302),
            answer(code=500),
            answer(auth_user="a\tb"),
            answer(auth_user="x" * 300),
            answer(auth_pass="x" * 1025),
            answer(auth_server="x" * 300),
            b"HTTP/1.1 200 OK\r\nAuth-Status: OK\r\nAuth-User: \xff\r\nContent-Length: 0\r\n\r\n",
        ):
            self.plays(said)
            self.fails(self.make().authenticate(login()), DirectoryDown)
            self.fails(self.make().lookup("bob@example.org"), DirectoryDown)
        self.flushLoggedErrors()

    def test_lookup(self) -> None:
        """A recipient who is there, with the way to the mailbox."""
        self.plays(answer(auth_server="10.0.0.1", auth_port="25"))
        found = self.wait(self.make().lookup("bob@example.org"))
        self.assertEqual((found.username, found.addresses), ("bob@example.org", ("bob@example.org",)))
        self.assertEqual(found.attributes["auth-server"], ("10.0.0.1",))

    def test_locate(self) -> None:
        """Where somebody goes whom another directory has let in: by name and protocol, without a password."""
        directory = self.make()
        self.plays(answer(auth_server="10.0.0.1"))
        self.assertEqual(self.wait(directory.locate("Bob", "pop3")).attributes["auth-server"], ("10.0.0.1",))
        headers = parse(self.reactor.requests[-1])
        asked = [headers[f"auth-{name}"] for name in ("method", "user", "pass", "protocol")]
        self.assertEqual(asked, ["none", "Bob", "", "pop3"])
        self.plays(answer("No"))
        self.assertIsNone(self.wait(directory.locate("Bob", "pop3")))


class SettingsTests(AuthTestCase):
    """Options, and what comes of them."""

    def test_uris(self) -> None:
        """URIs that are none are faults, and passwords in them are not repeated."""
        for uri in (
            "ftp://a/",
            "http://",
            "auth.example/x",
            "http://u:pw@a/",
            "http://a/#x",
            "http://a:99999/",
            "http://a/ b",
            [],
        ):
            error = self.assertRaises(ValidationError, HttpDirectory.Options, uri=uri)
            self.assertNotIn("pw@", str(error))
        for uri in ("http://a", "https://[::1]:8443/x?y=z", ["http://a/", "http://b/"]):
            HttpDirectory.Options(uri=uri)

    def test_headers(self) -> None:
        """Headers that are none are faults; their values are secrets."""
        for header in ({"X Y": "a"}, {"X": "a\r\nY: b"}, {"": "a"}):
            self.assertRaises(ValidationError, HttpDirectory.Options, uri=URI, header=header)
        self.assertNotIn("s3cret", repr(HttpDirectory.Options(uri=URI, header={"X-Auth-Key": "s3cret"})))

    def test_authorities(self) -> None:
        """A CA file that cannot be used stops the start, with the directory's name."""
        path = self.mktemp()
        error = self.assertRaises(SettingsError, self.make, ca=path)
        self.assertEqual(error.faults, (f"directory http-1: ca: {path}: No such file or directory",))
        with open(path, "w") as file:
            file.write("nothing")
        error = self.assertRaises(SettingsError, self.make, ca=path)
        self.assertEqual(error.faults, (f"directory http-1: ca: {path}: no usable PEM certificate",))

    def test_cache(self) -> None:
        """With a cache a good login is remembered, for each protocol by itself, because its port differs."""
        directory = self.make(cache="60s")
        self.wait(directory.authenticate(login("imap")))
        self.wait(directory.authenticate(replace(login("imap"), origin=replace(ORIGIN, session_id="other", attempt=1))))
        self.assertEqual(len(self.reactor.requests), 1)
        self.wait(directory.authenticate(login("pop3")))
        self.wait(directory.authenticate(login("pop3")))
        self.assertEqual(len(self.reactor.requests), 2)

    def test_no_cache(self) -> None:
        """Without one, the servers are asked every time: they may count, or look at the address."""
        directory = self.make()
        for _ in range(3):
            self.wait(directory.authenticate(ALICE))
        self.assertEqual(len(self.reactor.requests), 3)
