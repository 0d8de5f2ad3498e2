"""Tests of L{mailgw.directory.passwd}."""

from __future__ import annotations

import os
from types import SimpleNamespace
from typing import cast
from unittest.mock import patch

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.logger import globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase, TestCase

from mailgw import settings
from mailgw.directory import passwd, schemes
from mailgw.directory.cache import CachedDirectory
from mailgw.directory.passwd import PasswdDirectory, PasswdOptions
from mailgw.errors import DirectoryDown, LoginRefused
from mailgw.interfaces import IDirectory
from mailgw.model import Identity, Login, RefusalKind
from tests.directory.contract import CarefulDirectoryContract, InlineCrew

USERS = """\
# the company
alice@example.org:{PLAIN}alicepw
bob:{PLAIN.HEX}626f627077:1000:1000:Bob:/home/bob:/bin/sh:mailHost=10.0.0.1:1143 mail=Robert@Example.Org,b@example.net

Carol:{PLAIN}carolpw:mailHost=be1 mailHost=be2 flag
dave:{PLAIN}davepw::::::nologin
eve:{OTP}x::::::allow_nets=10.0.0.0/8
frank:{SSHA}mutilated
"""


class _Passwd:
    """To be mixed into a test case: a directory over a file in a temp folder."""

    def directory(self, content: str | bytes = USERS) -> PasswdDirectory:
        self.path = self.mktemp()  # type: ignore[attr-defined]
        self.write(content)
        self.clock = Clock()
        return PasswdDirectory("passwd-1", self.path, ("mail.example.org", "example.com"), InlineCrew(), self.clock)

    def write(self, content: str | bytes) -> None:
        """As editors do it: a new file in the old one's place."""
        with open(self.path + ".new", "wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
        os.replace(self.path + ".new", self.path)


class PasswdContractTests(_Passwd, CarefulDirectoryContract, TestCase):
    """A passwd file is a directory."""

    def make(self) -> IDirectory:
        return self.directory()


class PasswdDirectoryTests(_Passwd, SynchronousTestCase):
    """L{PasswdDirectory}."""

    def setUp(self) -> None:
        self.logged: list[str] = []
        globalLogPublisher.addObserver(self.observe)
        self.addCleanup(globalLogPublisher.removeObserver, self.observe)
        self.users = self.directory()
        self.users.start()

    def observe(self, event: dict[str, object]) -> None:
        if event.get("directory") == "passwd-1":
            self.logged.append(str(event.get("reason") or event.get("note") or ""))

    def login(self, name: str, password: bytes) -> Identity | None:
        return self.successResultOf(Deferred.fromCoroutine(self.users.authenticate(Login(name, password))))

    def refused(self, name: str, password: bytes) -> RefusalKind:
        asked = Deferred.fromCoroutine(self.users.authenticate(Login(name, password)))
        return cast(LoginRefused, self.failureResultOf(asked, LoginRefused).value).refusal.kind

    def lookup(self, address: str) -> Identity | None:
        return self.successResultOf(Deferred.fromCoroutine(self.users.lookup(address)))

    def test_dovecot_line(self) -> None:
        """In Dovecot's format the extra fields come last, and may have colons in them."""
        identity = self.login("bob", b"bobpw")
        assert identity is not None
        self.assertEqual(identity.username, "bob")
        self.assertEqual(identity.attributes["mailHost"], ("10.0.0.1:1143",))
        self.assertEqual(identity.directory, "passwd-1")

    def test_short_line(self) -> None:
        """Attributes may follow the password at once; a repeated one has several values, a lone word an empty one."""
        identity = self.login("carol", b"carolpw")
        assert identity is not None
        self.assertEqual(dict(identity.attributes), {"mailHost": ("be1", "be2"), "flag": ("",)})

    def test_lower_case(self) -> None:
        """Names are compared in lower case, as Dovecot does it, and become so."""
        for name in ("carol", "CAROL", "Carol"):
            identity = self.login(name, b"carolpw")
            assert identity is not None
            self.assertEqual(identity.username, "carol")

    def test_addresses(self) -> None:
        """A name with a domain is its address; one without has our domains; mail= adds more."""
        alice, bob = self.lookup("alice@example.org"), self.lookup("bob")
        assert alice is not None
        assert bob is not None
        self.assertEqual(alice.addresses, ("alice@example.org",))
        ours = ("bob@mail.example.org", "bob@example.com")
        self.assertEqual(bob.addresses, (*ours, "robert@example.org", "b@example.net"))
        for address in bob.addresses:
            self.assertEqual(self.lookup(address.upper()), bob)

    def test_foreign_domain(self) -> None:
        """A local part at somebody else's domain, or a local part of a full name, is nobody."""
        for address in ("bob@example.org", "alice@example.com", "alice", "bob@", "@example.com"):
            self.assertIsNone(self.lookup(address), address)

    def test_login_by_address(self) -> None:
        """Who receives at an address may log in with it, under the canonical name."""
        identity = self.login("B@Example.net", b"bobpw")
        assert identity is not None
        self.assertEqual(identity.username, "bob")

    def test_nologin(self) -> None:
        """nologin refuses the right password as disabled, the wrong one as wrong; mail still arrives."""
        self.assertIs(self.refused("dave", b"davepw"), RefusalKind.DISABLED)
        self.assertIs(self.refused("dave", b"x"), RefusalKind.CREDENTIALS)
        self.assertIsNotNone(self.lookup("dave@example.com"))

    def test_unusable_hash(self) -> None:
        """A hash that cannot be compared is our trouble, not a wrong password, and the log names the user."""
        for name in ("eve", "frank"):
            asked = Deferred.fromCoroutine(self.users.authenticate(Login(name, b"x")))
            self.failureResultOf(asked, DirectoryDown)
        self.assertIn("unknown scheme OTP", self.logged)
        self.assertIn("mutilated SSHA hash (Error)", self.logged)

    def test_notes(self) -> None:
        """What is odd in the file is said when it is read."""
        self.assertIn("eve has a password of the unknown scheme OTP", self.logged)
        self.assertIn("eve has allow_nets, which is not enforced here", self.logged)
        self.write("a:{PLAIN}1\nA:{PLAIN}2\n")
        self.clock.advance(1)
        self.assertIsNotNone(self.login("a", b"1"))
        self.assertIn("a is there twice; the first one counts", self.logged)

    def test_secrets_not_shown(self) -> None:
        """No repr and no log shows a stored password."""
        line = self.users._current().find("carol")
        self.assertNotIn("carolpw", repr(line))
        self.assertNotIn("carolpw", "".join(self.logged))

    def test_reread(self) -> None:
        """A changed file is in force after a second at the latest, and is not looked at more often."""
        self.write(USERS + "new:{PLAIN}newpw\n")
        self.clock.advance(0.9)
        self.assertIsNone(self.login("new", b"newpw"))
        self.clock.advance(0.1)
        self.assertIsNotNone(self.login("new", b"newpw"))
        with patch.object(passwd.os, "stat", side_effect=AssertionError):
            self.login("new", b"newpw")

    def test_unchanged_not_read(self) -> None:
        """A file that has not changed is not read again."""
        self.clock.advance(1)
        with patch("builtins.open", side_effect=AssertionError):
            self.login("bob", b"bobpw")

    def test_broken_new_file(self) -> None:
        """A file that cannot be taken leaves the old one in force, and is told once, with the line's number."""
        for content in (USERS + "no colon\n", b"alice:\xff\n", ":{PLAIN}x\n"):
            self.write(content)
            for _ in range(3):
                self.clock.advance(1)
                self.assertIsNotNone(self.login("bob", b"bobpw"))
        told = [text for text in self.logged if text.startswith("line ")]
        self.assertEqual(
            told,
            [
                "line 9: not a line of the form user:{SCHEME}hash",
                "line 1: not UTF-8",
                "line 1: not a line of the form user:{SCHEME}hash",
            ],
        )

    def test_gone_and_back(self) -> None:
        """While the file is gone the old users stay; a new one counts as soon as it is there."""
        os.unlink(self.path)
        self.clock.advance(1)
        self.assertIsNotNone(self.login("bob", b"bobpw"))
        self.write("new:{PLAIN}newpw\n")
        self.clock.advance(1)
        self.assertIsNotNone(self.login("new", b"newpw"))
        self.assertIsNone(self.login("bob", b"bobpw"))

    def test_never_there(self) -> None:
        """Without any readable file nobody can tell; once there is one, all is well."""
        self.users = self.directory()
        os.unlink(self.path)
        self.users.start()
        asked = Deferred.fromCoroutine(self.users.authenticate(Login("bob", b"bobpw")))
        self.failureResultOf(asked, DirectoryDown)
        self.failureResultOf(Deferred.fromCoroutine(self.users.lookup("bob")), DirectoryDown)
        self.write(USERS)
        self.clock.advance(1)
        self.assertIsNotNone(self.login("bob", b"bobpw"))

    def test_empty_file(self) -> None:
        """An empty file knows nobody, and does not fail over it."""
        self.write("")
        self.clock.advance(1)
        self.assertIsNone(self.login("bob", b"bobpw"))

    def test_unknown_user_costs_the_same(self) -> None:
        """For an unknown user a password of the file's commonest scheme is verified, and the result thrown away."""
        seen: list[str] = []

        def verify(stored: str, password: bytes) -> bool:
            seen.append(stored)
            return True

        with patch.object(schemes, "verify", verify):
            self.assertIsNone(self.login("nobody", b"alicepw"))
        self.assertEqual(seen, ["{PLAIN}alicepw"])

    def test_argon2_few_at_a_time(self) -> None:
        """Only so many memory-hard verifications run at once; others are not held up."""
        held = [self.users._memory.acquire(blocking=False) for _ in range(passwd.MEMORY_HARD)]
        self.assertEqual(held, [True] * passwd.MEMORY_HARD)
        self.assertFalse(self.users._memory.acquire(blocking=False))
        self.assertIsNotNone(self.login("bob", b"bobpw"))
        self.users._memory.release()
        self.write("ann:" + schemes.make(b"annpw"))
        self.clock.advance(1)
        self.assertIsNotNone(self.login("ann", b"annpw"))
        self.assertTrue(self.users._memory.acquire(blocking=False))

    def test_from_options(self) -> None:
        """The settings' names without a domain belong to the hostname and to the accepted domains."""
        house = SimpleNamespace(
            reactor=Clock(),
            settings=settings.Settings.model_validate(
                {"gateway": {"hostname": "h.example"}, "domains": {"accept": ["Other.Example"]}}
            ),
        )
        options = PasswdOptions.model_validate({"file": self.path})
        made = PasswdDirectory.from_options("passwd-1", options, house)  # type: ignore[arg-type]
        self.assertIsInstance(made, CachedDirectory)
        bob = self.successResultOf(Deferred.fromCoroutine(self._started(made).lookup("bob@other.example")))
        self.assertEqual(bob.addresses[:2], ("bob@h.example", "bob@other.example"))

    def _started(self, directory: IDirectory) -> IDirectory:
        directory.start()
        crew = directory._directory._crew._pool  # type: ignore[attr-defined]
        self.addCleanup(crew.stop)
        return directory
