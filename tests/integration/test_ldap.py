"""L{LdapDirectory} against a real slapd: every way to talk to it, and every way in which it can fail."""

from __future__ import annotations

import base64
import contextlib
import socket
import statistics
import time
from types import SimpleNamespace
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.task import deferLater
from twisted.trial.unittest import TestCase

from mailgw import settings
from mailgw.directory.ldap import LdapDirectory, LdapOptions
from mailgw.directory.ldapentry import SUCCESS
from mailgw.directory.ldaplink import Link, tls_context
from mailgw.directory.servers import NoAnswer
from mailgw.errors import DirectoryDown, LoginRefused
from mailgw.interfaces import IDirectory
from mailgw.model import Identity, Login, RefusalKind
from tests.directory.contract import CarefulDirectoryContract
from tests.integration.ports import HOST, free_port, needs
from tests.integration.slapd import (
    BASE,
    GROUPS_BASE,
    MAIL_GROUP,
    NAMELESS,
    PEOPLE_BASE,
    SERVICE,
    SERVICE_PASSWORD,
    Slapd,
    person,
)

SKIP = needs("slapd", "slapadd", "ldapadd")


class _WithSlapd(TestCase):
    """A slapd for each test: they start in a tenth of a second."""

    skip = SKIP
    timeout = 60

    def setUp(self) -> None:
        self.slapd = self.new_slapd()

    def new_slapd(self, **arguments: Any) -> Slapd:
        slapd = Slapd(**arguments)
        self.addCleanup(slapd.stop)
        slapd.start()
        return slapd

    def directory(self, **changes: Any) -> IDirectory:
        """A directory that has not been started, without a cache unless one is asked for."""
        options = {
            "uri": self.slapd.uri,
            "base": PEOPLE_BASE,
            "filter": "(&(objectClass=inetOrgPerson)(|(uid={user})(mail={user})))",
            "bind_dn": SERVICE,
            "bind_password": SERVICE_PASSWORD,
            "cache": "0s",
            "ca": self.slapd.ca,
            **changes,
        }
        house = SimpleNamespace(reactor=reactor, settings=settings.Settings())
        return LdapDirectory.from_options("ldap-1", LdapOptions.model_validate(options), house)  # type: ignore[arg-type]

    def started(self, **changes: Any) -> IDirectory:
        directory = self.directory(**changes)
        directory.start()
        self.addCleanup(lambda: Deferred.fromCoroutine(directory.stop()))
        return directory

    @staticmethod
    def ask(directory: IDirectory, user: str = "alice", password: bytes = b"alicepw") -> Deferred[Identity | None]:
        return Deferred.fromCoroutine(directory.authenticate(Login(user, password)))

    async def kind(self, directory: IDirectory, user: str, password: bytes) -> RefusalKind:
        error = await self.assertFailure(self.ask(directory, user, password), LoginRefused)
        return error.refusal.kind


class LdapContractTests(CarefulDirectoryContract, _WithSlapd):
    """The contract of every directory, in clear."""

    def make(self) -> IDirectory:
        return self.directory()


class LdapsContractTests(CarefulDirectoryContract, _WithSlapd):
    """The contract of every directory, over TLS, through a cache."""

    def make(self) -> IDirectory:
        return self.directory(uri=self.slapd.ldaps_uri, cache="60s")


class LdapTests(_WithSlapd):
    """What LDAP gives."""

    async def test_whole_identity(self) -> None:
        """Name, DN, addresses, groups and mailHost come with one search; later logins use the same connections."""
        more = person("dora", "dorapw", mail=["Dora@Example.org"], mailHost="be2", mailLocalAddress=["d@x", "d@y"])
        self.slapd.add(more)
        directory = self.started(addresses=["mail", "mailLocalAddress"])
        identity = await self.ask(directory, "DORA", b"dorapw")
        self.assertEqual(
            identity,
            Identity(
                "Dora@Example.org",
                "ldap-1",
                f"uid=dora,{PEOPLE_BASE}",
                ("dora@example.org", "d@x", "d@y"),
                (),
                {"mailHost": ("be2",)},
            ),
        )
        alice = await self.ask(directory)
        assert alice is not None
        self.assertEqual(alice.groups, (MAIL_GROUP,))
        before = self.slapd.connections()
        for _ in range(5):
            await self.ask(directory)
        self.assertEqual(self.slapd.connections(), before)
        found = await directory.lookup("d@Y")
        self.assertEqual(found, identity)

    async def test_every_transport(self) -> None:
        """In clear, StartTLS and LDAPS, by name and by address: each lets in who is right and nobody else."""
        port, tls_port = self.slapd.port, self.slapd.tls_port
        for changes in (
            {"uri": self.slapd.uri},
            {"uri": self.slapd.uri, "starttls": True},
            {"uri": f"ldap://localhost:{port}", "starttls": True},
            {"uri": self.slapd.ldaps_uri},
            {"uri": f"ldaps://localhost:{tls_port}", "starttls": True},
        ):
            directory = self.started(**changes)
            self.assertIsNotNone(await self.ask(directory), changes)
            self.assertIs(await self.kind(directory, "alice", b"wrong"), RefusalKind.CREDENTIALS)
        self.assertIn("TLS established", self.slapd.log())

    async def test_wrong_authority(self) -> None:
        """C6: a certificate that nobody we trust has signed is no answer, and no password is sent."""
        for changes in ({"uri": self.slapd.ldaps_uri}, {"uri": self.slapd.uri, "starttls": True}):
            await self.assertFailure(self.ask(self.started(ca=None, **changes)), DirectoryDown)
        self.assertNotIn(f'BIND dn="{SERVICE}"', self.slapd.log())

    async def test_wrong_name(self) -> None:
        """C6: a certificate for another name or address is no answer either."""
        for changes in (
            {"uri": f"ldaps://{NAMELESS}:{self.slapd.tls_port}"},
            {"uri": f"ldap://{NAMELESS}:{self.slapd.port}", "starttls": True},
        ):
            before = self.slapd.connections()
            await self.assertFailure(self.ask(self.started(**changes)), DirectoryDown)
            self.assertGreater(self.slapd.connections(), before)
        self.assertNotIn(f'BIND dn="{SERVICE}"', self.slapd.log())

    async def test_anonymous(self) -> None:
        """Where the server lets everybody search, no service account is needed."""
        self.slapd = self.new_slapd(anonymous=True)
        directory = self.started(bind_dn="", bind_password="")
        self.assertIsNotNone(await self.ask(directory))
        self.assertIs(await self.kind(directory, "alice", b"wrong"), RefusalKind.CREDENTIALS)

    async def test_service_account_refused(self) -> None:
        """A wrong password of the service account is our trouble, not the user's."""
        await self.assertFailure(self.ask(self.started(bind_password="x")), DirectoryDown)

    async def test_spellings(self) -> None:
        """C4: whatever spelling the server takes for equal, the name is the entry's."""
        directory = self.started(username="uid")
        for typed in ("ALICE", " alice ", "alice  ", "\uff41lice", "Alice@EXAMPLE.org"):
            identity = await self.ask(directory, typed)
            assert identity is not None
            self.assertEqual(identity.username, "alice", typed)

    async def test_several_entries(self) -> None:
        """C2: two or three entries with one address let nobody in."""
        directory = self.started()
        for uid in ("alice2", "alice3"):
            self.slapd.add(person(uid, "alicepw", mail="alice@example.org"))
            self.assertIs(await self.kind(directory, "alice@example.org", b"alicepw"), RefusalKind.CREDENTIALS)
            await self.assertFailure(Deferred.fromCoroutine(directory.lookup("alice@example.org")), DirectoryDown)
        self.flushLoggedErrors()

    async def test_passwords_are_octets(self) -> None:
        """Every octet that a password may have arrives as it is."""
        password = bytes(octet for octet in range(1, 256) if octet not in b"\r\n")
        encoded = base64.b64encode(password).decode()
        self.slapd.add(person("eve", "").replace("\n\n", f"\nuserPassword:: {encoded}\n\n"))
        self.assertIsNotNone(await self.ask(self.started(), "eve", password))

    async def test_groups(self) -> None:
        """Only members get in, by memberOf, and by searching the groups."""
        for changes in (
            {"allow_groups": f"CN=MailUsers, {GROUPS_BASE}"},
            {"allow_groups": MAIL_GROUP, "group_base": GROUPS_BASE},
        ):
            directory = self.started(**changes)
            self.assertIsNotNone(await self.ask(directory))
            self.assertIs(await self.kind(directory, "carol", b"carolpw"), RefusalKind.CREDENTIALS)
            self.assertIs(await self.kind(directory, "carol", b"wrong"), RefusalKind.CREDENTIALS)

    async def test_locked(self) -> None:
        """C11: an account that the password policy has locked looks like a wrong password."""
        directory = self.started()
        for _ in range(5):
            self.assertIs(await self.kind(directory, "bob", b"wrong"), RefusalKind.CREDENTIALS)
        # slapd reads two clocks: one lags by milliseconds, and a lock from the other's next second is not yet in force
        await deferLater(reactor, 0.05)  # type: ignore[arg-type]
        self.assertIs(await self.kind(directory, "bob", b"bobpw"), RefusalKind.CREDENTIALS)

    async def test_referral(self) -> None:
        """C5: nobody is connected to because a server says so."""
        trap = socket.create_server((HOST, free_port()))
        trap.setblocking(False)
        self.addCleanup(trap.close)
        port = trap.getsockname()[1]
        self.slapd.add(
            f"dn: ou=elsewhere,{PEOPLE_BASE}\nobjectClass: referral\nobjectClass: extensibleObject\nou: elsewhere\n"
            f"ref: ldap://{HOST}:{port}/ou=elsewhere,{PEOPLE_BASE}\n"
        )
        self.assertIsNotNone(await self.ask(self.started()))
        elsewhere = self.started(base=f"ou=elsewhere,{PEOPLE_BASE}")
        await self.assertFailure(self.ask(elsewhere), DirectoryDown)
        self.assertRaises(BlockingIOError, trap.accept)

    async def test_missing_suffix(self) -> None:
        """A base that is not there is trouble, not an unknown user."""
        await self.assertFailure(self.ask(self.started(base="ou=typo,dc=example,dc=org")), DirectoryDown)

    async def test_many_at_once(self) -> None:
        """A hundred logins at once all get their own answers."""
        directory = self.started()
        asked = [
            self.ask(directory, ("alice", "bob")[number % 2], (b"alicepw", b"bobpw")[number % 2])
            for number in range(100)
        ]
        names = [identity.username for identity in await gatherResults(asked)]
        self.assertEqual(names, ["alice@example.org", "bob@example.org"] * 50)

    async def test_timing(self) -> None:
        """C11: an unknown user takes as long as a wrong password: medians differ by less than 5 ms."""
        people = [f"user{number}" for number in range(10)]
        self.slapd.add("".join(person(uid, "pw") for uid in people))
        directory = self.started()
        took: dict[bool, list[float]] = {True: [], False: []}
        for number in range(40):
            for known in (True, False):
                began = time.perf_counter()
                with contextlib.suppress(LoginRefused):
                    await self.ask(directory, people[number // 4] if known else f"nobody{number}", b"wrong")
                took[known].append(time.perf_counter() - began)
        difference = statistics.median(took[True]) - statistics.median(took[False])
        self.assertLess(abs(difference), 0.005)


class LdapFailureTests(_WithSlapd):
    """What happens when slapd is away, hangs, and comes back."""

    async def elapsed(self, asked: Deferred[Any]) -> float:
        began = time.monotonic()
        await self.assertFailure(asked, DirectoryDown)
        return time.monotonic() - began

    async def recovery(self, directory: IDirectory) -> float:
        """Seconds until a login works again."""
        began = time.monotonic()
        while time.monotonic() - began < 20:
            try:
                await self.ask(directory)
            except DirectoryDown:
                await deferLater(reactor, 0.1)  # type: ignore[arg-type]
            else:
                return time.monotonic() - began
        raise AssertionError("not back")

    async def test_stopped_and_back(self) -> None:
        """A stopped slapd is trouble at once; when it is back so are we within 5 seconds."""
        directory = self.started()
        await self.ask(directory)
        self.slapd.end()
        self.assertLess(await self.elapsed(self.ask(directory)), 1)
        self.assertLess(await self.elapsed(Deferred.fromCoroutine(directory.lookup("alice@example.org"))), 1)
        self.slapd.start()
        self.assertLess(await self.recovery(directory), 5)

    async def test_restarted(self) -> None:
        """A slapd that was restarted between two logins is no trouble at all."""
        directory = self.started()
        await self.ask(directory)
        self.slapd.end()
        self.slapd.start()
        self.assertIsNotNone(await self.ask(directory))

    async def test_hung_and_back(self) -> None:
        """A slapd that hangs is trouble within 6 seconds, for all who ask; the reactor goes on meanwhile."""
        directory = self.started()
        await self.ask(directory)
        self.slapd.pause()
        asked = [self.elapsed(self.ask(directory, "alice", b"alicepw")) for _ in range(20)]
        waiting = gatherResults([Deferred.fromCoroutine(each) for each in asked])
        lags = []
        while not waiting.called:
            began = time.monotonic()
            await deferLater(reactor, 0.05)  # type: ignore[arg-type]
            lags.append(time.monotonic() - began - 0.05)
        self.assertLess(max(await waiting), 6)
        self.assertGreater(len(lags), 20)
        self.slapd.resume()
        self.assertLess(await self.recovery(directory), 5)

    async def test_hung_before_the_first(self) -> None:
        """The same over TLS and StartTLS, when it hangs from the beginning."""
        self.slapd.pause()
        self.addCleanup(self.slapd.resume)
        for changes in ({"uri": self.slapd.ldaps_uri}, {"starttls": True}):
            directory = self.started(timeout="1s", **changes)
            self.assertLess(await self.elapsed(self.ask(directory)), 2)

    async def test_fail_over(self) -> None:
        """A second server answers while the first is stopped or hangs; the first is used again when it is back."""
        second = self.new_slapd()
        directory = self.started(uri=[self.slapd.uri, second.uri], timeout="2s")
        await self.ask(directory)
        self.assertEqual(second.log().count("uid=alice"), 0)
        self.slapd.end()
        self.assertIsNotNone(await self.ask(directory))
        self.slapd.start()
        await deferLater(reactor, 3.2)  # type: ignore[arg-type]
        began = second.log().count('BIND dn="uid=alice')
        self.assertIsNotNone(await self.ask(directory))
        self.assertEqual(second.log().count('BIND dn="uid=alice'), began)
        self.slapd.pause()
        began_at = time.monotonic()
        self.assertIsNotNone(await self.ask(directory))
        self.assertLess(time.monotonic() - began_at, 2)
        began_at = time.monotonic()
        self.assertIsNotNone(await self.ask(directory))
        self.assertLess(time.monotonic() - began_at, 0.5)
        self.slapd.resume()

    async def test_overloaded(self) -> None:
        """Behind a slapd that hangs no queue without end builds up: past its bound the answer comes at once."""
        directory = self.started(timeout="1s", connections=2)
        self.slapd.pause()
        self.addCleanup(self.slapd.resume)
        waiting = [self.ask(directory, f"user{number}", b"x") for number in range(202)]
        self.assertLess(await self.elapsed(self.ask(directory)), 0.2)
        for asked in waiting:
            await self.assertFailure(asked, DirectoryDown)


class LinkTests(_WithSlapd):
    """L{Link}, directly."""

    def link(self, uri: str | None = None, starttls: bool = False, seconds: float = 3.0) -> Link:
        link = Link(
            uri or self.slapd.uri,
            starttls,
            tls_context(self.slapd.ca, "1.2"),
            time.monotonic() + seconds,
            time.monotonic,
        )
        self.addCleanup(link.abandon)
        return link

    def bind(self, link: Link, password: bytes = SERVICE_PASSWORD.encode()) -> int:
        return link.bind(SERVICE, password, time.monotonic() + 3).code

    def test_no_way_around_the_password(self) -> None:
        """C1: without a name or a password it does not even try, although slapd would say yes."""
        link = self.link()
        self.assertRaises(ValueError, link.bind, SERVICE, b"", time.monotonic() + 3)
        self.assertRaises(ValueError, link.bind, "", b"x", time.monotonic() + 3)

    def test_password_not_kept(self) -> None:
        """After a bind the connection holds no password, in whatever corner."""
        link = self.link()
        self.assertEqual(self.bind(link), SUCCESS)
        held = {**vars(link._connection), **vars(link._connection.strategy)}
        self.assertIn("request", held)
        self.assertNotIn(SERVICE_PASSWORD, repr([value for value in held.values() if not callable(value)]))

    def test_never_opened_again(self) -> None:
        """A connection that was closed stays so: opened again by ldap3, it would send passwords without StartTLS."""
        link = self.link(starttls=True)
        self.assertEqual(self.bind(link), SUCCESS)
        link.close()
        before = self.slapd.connections()
        self.assertRaises(NoAnswer, self.bind, link)
        self.assertRaises(NoAnswer, link.search, BASE, "(uid=alice)", ("mail",), 2, time.monotonic() + 3)
        self.assertEqual(self.slapd.connections(), before)

    def test_closed_by_the_server(self) -> None:
        """A connection that the server closes is told so, not opened again."""
        link = self.link()
        self.slapd.end()
        self.assertRaises(NoAnswer, self.bind, link)

    def test_starttls_refused(self) -> None:
        """C6: a server without StartTLS is not talked to in clear instead."""
        self.slapd = self.new_slapd(tls=False)
        self.assertRaises(NoAnswer, self.link, starttls=True)
        self.assertEqual(self.bind(self.link()), SUCCESS)

    def test_time(self) -> None:
        """C7: connecting, TLS, binding and searching end when the time is over."""
        link = self.link()
        self.slapd.pause()
        self.addCleanup(self.slapd.resume)
        began = time.monotonic()
        self.assertRaises(NoAnswer, link.bind, SERVICE, b"x", began + 0.3)
        self.assertRaises(NoAnswer, self.link, self.slapd.ldaps_uri, seconds=0.3)
        self.assertRaises(NoAnswer, self.link, starttls=True, seconds=0.3)
        self.assertLess(time.monotonic() - began, 2.5)
        self.assertRaises(NoAnswer, self.link, seconds=0)
