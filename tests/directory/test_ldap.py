"""Tests of L{mailgw.directory.ldap} without any server; the numbers are those of the threats that they answer."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

from pydantic import ValidationError
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase, TestCase

from mailgw import settings
from mailgw.directory.cache import CachedDirectory
from mailgw.directory.ldap import LdapDirectory, LdapOptions
from mailgw.directory.ldapentry import Outcome
from mailgw.errors import DirectoryDown, LoginRefused, SettingsError
from mailgw.interfaces import IDirectory
from mailgw.model import Identity, Login, Refusal, RefusalKind
from tests.directory.contract import ALICE, CarefulDirectoryContract, InlineCrew
from tests.directory.ldaptree import Tree

BASE = "dc=example"
SERVICE = "cn=mailgw,dc=example"
ALICE_DN = "uid=alice,dc=example"
MAIL_GROUP = "cn=mail,ou=groups,dc=example"
OPTIONS = {
    "uri": ["ldap://one", "ldaps://two:1636"],
    "base": BASE,
    "bind_dn": SERVICE,
    "bind_password": "servicepw",
}


def options(**changes: Any) -> LdapOptions:
    return LdapOptions.model_validate({**OPTIONS, **changes})


class _Ldap:
    """To be mixed into a test case: a directory over a L{Tree}."""

    def directory(self, **changes: Any) -> LdapDirectory:
        self.clock = Clock()
        self.tree = Tree(self.clock)
        self.tree.add(SERVICE, b"servicepw")
        self.tree.add(ALICE_DN, b"alicepw", uid="alice", mail="alice@example.org", mailHost="be1", memberOf=MAIL_GROUP)
        self.tree.add("uid=bob,dc=example", b"bobpw", uid="bob", mail="bob@example.org")
        self.tree.add(MAIL_GROUP, member=ALICE_DN, memberUid="alice")
        return LdapDirectory("ldap-1", options(**changes), InlineCrew(), self.clock, self.tree.connect)


class LdapContractTests(_Ldap, CarefulDirectoryContract, TestCase):
    """LDAP is a directory."""

    def make(self) -> IDirectory:
        return self.directory()


class LdapDirectoryTests(_Ldap, SynchronousTestCase):
    """L{LdapDirectory}."""

    def begin(self, **changes: Any) -> None:
        self.ldap = self.directory(**changes)
        self.ldap.start()

    def ask(self, login: Login = ALICE) -> Deferred[Identity | None]:
        return Deferred.fromCoroutine(self.ldap.authenticate(login))

    def good(self, login: Login = ALICE) -> Identity:
        identity = self.successResultOf(self.ask(login))
        assert identity is not None
        return identity

    def refused(self, login: Login = ALICE) -> Refusal:
        return cast(LoginRefused, self.failureResultOf(self.ask(login), LoginRefused).value).refusal

    def lookup(self, address: str) -> Deferred[Identity | None]:
        return Deferred.fromCoroutine(self.ldap.lookup(address))

    def test_whole_identity(self) -> None:
        """One search brings name, DN, addresses, groups and routing attributes."""
        self.begin()
        self.assertEqual(
            self.good(),
            Identity(
                "alice@example.org",
                "ldap-1",
                ALICE_DN,
                ("alice@example.org",),
                (MAIL_GROUP,),
                {"mailHost": ("be1",)},
            ),
        )
        self.assertEqual(self.tree.operations("bind"), [SERVICE, ALICE_DN])
        self.assertEqual(len(self.tree.operations("search")), 1)
        self.assertEqual(self.tree.attributes, ("mail", "mailHost", "memberOf"))

    def test_connections(self) -> None:
        """Searches are the service account's; what checks passwords is never searched with, and both are kept (C9)."""
        self.begin()
        self.good(), self.good(), self.refused(Login("bob@example.org", b"x"))
        searching, checking = self.tree.links
        self.assertEqual((searching.bound, searching.searches), ([SERVICE], 3))
        self.assertEqual((checking.bound, checking.searches), ([ALICE_DN, ALICE_DN, "uid=bob,dc=example"], 0))

    def test_anonymous_search(self) -> None:
        """Without a service account nobody is bound for the search."""
        self.begin(bind_dn="", bind_password="")
        self.good()
        self.assertEqual(self.tree.operations("bind"), [ALICE_DN])

    def test_empty_password_never_asked(self) -> None:
        """C1: an empty password, which a server would take for an anonymous bind, does not reach one."""
        self.begin()
        self.assertIs(self.refused(Login("alice@example.org", b"")).kind, RefusalKind.CREDENTIALS)
        self.assertEqual(self.tree.asked, [])

    def test_filter_injection(self) -> None:
        """C2: the filter has the user's name as a value, whatever is in it."""
        self.begin(filter="(&(objectClass=person)(|(uid={user})(mail={local}@{domain})))")
        self.assertIsNone(self.successResultOf(self.ask(Login("*)(uid=\\{domain}@x(", b"p"))))
        self.assertEqual(
            self.tree.operations("search"),
            [
                "(&(objectClass=person)(|(uid=\\2a\\29\\28uid=\\5c{domain}@x\\28)(mail=\\2a\\29\\28uid=\\5c{domain}@x\\28)))"
            ],
        )

    def test_local_and_domain(self) -> None:
        """{local} and {domain} are the parts of the name; without a domain {local} is the whole of it."""
        self.begin(filter="(|(uid={local})(dc={domain}))")
        self.good(Login("alice@anything", b"alicepw"))
        self.good(Login("alice", b"alicepw"))
        self.assertEqual(self.tree.operations("search"), ["(|(uid=alice)(dc=anything))", "(|(uid=alice)(dc=))"])

    def test_several_entries(self) -> None:
        """C2: when several entries match, nobody gets in, with the right password neither; the client cannot tell."""
        self.begin()
        self.tree.add("uid=other,dc=example", b"alicepw", uid="x", mail="alice@example.org")
        self.assertEqual(self.refused(), Refusal(RefusalKind.CREDENTIALS, "several entries match 'alice@example.org'"))
        self.tree.add("uid=third,dc=example", b"alicepw", uid="y", mail="alice@example.org")
        self.assertIs(self.refused().kind, RefusalKind.CREDENTIALS)
        self.assertNotIn(ALICE_DN, self.tree.operations("bind"))
        self.failureResultOf(self.lookup("alice@example.org"), DirectoryDown)

    def test_limited_by_the_server(self) -> None:
        """C2: one entry with "there are more" is not one entry."""
        self.begin()
        self.tree.searched = Outcome(4)
        self.failureResultOf(self.ask(), DirectoryDown)

    def test_canonical_name(self) -> None:
        """C4: the name is the entry's, whatever spelling the server takes for equal."""
        self.begin(username="uid")
        for typed in ("ALICE", " alice ", "alice  "):
            self.assertEqual(self.good(Login(typed, b"alicepw")).username, "alice")

    def test_no_canonical_name(self) -> None:
        """An entry without the name's attribute is refused, after the password was right; mail to it has to wait."""
        self.begin(username="employeeNumber")
        self.assertIs(self.refused().kind, RefusalKind.DISABLED)
        self.assertIs(self.refused(Login("alice", b"wrong")).kind, RefusalKind.CREDENTIALS)
        self.failureResultOf(self.lookup("alice@example.org"), DirectoryDown)

    def test_refused_binds(self) -> None:
        """C11: wrong, locked, expired and disabled look the same to the client; the log knows why."""
        self.begin()
        for outcome, reason in (
            (Outcome(49), "wrong password"),
            (Outcome(49, "", b"\x30\x03\x81\x01\x01"), "account locked"),
            (Outcome(49, "", b"\x30\x03\x81\x01\x00"), "password expired"),
            (Outcome(53), "unwilling to perform, as a disabled account answers"),
            (Outcome(19), "constraint violation, as a locked account answers"),
            (Outcome(48), "the entry has no password"),
        ):
            self.tree.binds[ALICE_DN] = outcome
            self.assertEqual(self.refused(), Refusal(RefusalKind.CREDENTIALS, f"{ALICE_DN}: {reason}"))

    def test_only_success_is_success(self) -> None:
        """C1: every other result of a bind than 0 lets nobody in."""
        self.begin(uri="ldap://one")
        for code in set(range(1, 130)) - {0}:
            self.tree.binds[ALICE_DN] = Outcome(code)
            self.failureResultOf(self.ask(), LoginRefused, DirectoryDown)
            self.clock.advance(10)

    def test_trouble_is_no_wrong_password(self) -> None:
        """C12: busy, unavailable, a time limit or anything else strange is temporary trouble."""
        for code in (1, 3, 10, 11, 32, 50, 51, 52, 80):
            self.begin()
            self.tree.searched = Outcome(code)
            self.failureResultOf(self.ask(), DirectoryDown)
            self.failureResultOf(self.lookup("alice@example.org"), DirectoryDown)
        for code in (1, 8, 10, 13, 51, 52, 80):
            self.begin()
            self.tree.binds[ALICE_DN] = Outcome(code)
            self.failureResultOf(self.ask(), DirectoryDown)

    def test_strange_error(self) -> None:
        """C12: an error that nobody has thought of is trouble too, and logged with its traceback."""
        self.begin()
        self.tree.error = KeyError("pyasn1")
        self.failureResultOf(self.ask(), DirectoryDown)
        self.assertEqual(len(self.flushLoggedErrors(KeyError)), 1)
        self.tree.error = None
        self.good()

    def test_one_question_does_not_fail_a_server(self) -> None:
        """A question that a server cannot answer leaves everybody else's questions alone."""
        self.begin()
        self.tree.searched = Outcome(80)
        self.failureResultOf(self.ask(), DirectoryDown)
        self.tree.searched = Outcome(0)
        self.good()
        self.assertEqual({uri for uri, _, _ in self.tree.asked}, {"ldap://one"})

    def test_fail_over_and_back(self) -> None:
        """C8: the next URI is asked when the first is down, and the first again soon after it is back."""
        self.begin()
        self.tree.down.add("ldap://one")
        self.good()
        self.assertEqual({uri for uri, _, _ in self.tree.asked}, {"ldaps://two:1636"})
        self.tree.down.clear(), self.tree.asked.clear()
        self.clock.advance(5)
        self.good()
        self.assertEqual({uri for uri, _, _ in self.tree.asked}, {"ldap://one"})

    def test_all_down(self) -> None:
        """C12: with all servers down the directory is, and recovers within 5 seconds."""
        self.begin()
        self.good()
        self.tree.down |= {"ldap://one", "ldaps://two:1636"}
        self.failureResultOf(self.ask(), DirectoryDown)
        self.tree.down.clear()
        self.clock.advance(5)
        self.good()

    def test_service_account_refused(self) -> None:
        """A service account that is refused is our trouble, never the user's."""
        self.begin(bind_password="wrong")
        failure = self.failureResultOf(self.ask(), DirectoryDown)
        self.assertIn("the service account was refused", str(failure.value))
        self.assertEqual([link.open for link in self.tree.links], [False, False])

    def test_unknown_user_binds_too(self) -> None:
        """C11: for an unknown user as many operations are done as for a wrong password."""
        self.begin()
        self.refused(Login("alice", b"wrong"))
        known = len(self.tree.asked)
        self.assertIsNone(self.successResultOf(self.ask(Login("nobody", b"wrong"))))
        self.assertEqual(len(self.tree.asked), known + known - 1)  # the service account's bind came first only
        self.assertRegex(self.tree.operations("bind")[-1], r"^cn=[0-9a-f]{16},dc=example$")

    def test_unknown_user_takes_as_long(self) -> None:
        """C11: what a server needs longer for a wrong password, an unknown user's answer is held back."""
        self.begin()
        self.tree.cost[ALICE_DN] = 0.3
        for _ in range(3):
            self.refused(Login("alice", b"wrong"))
        asked = self.ask(Login("nobody", b"wrong"))
        self.assertNoResult(asked)
        self.clock.advance(0.29)
        self.assertNoResult(asked)
        self.clock.advance(0.02)
        self.assertIsNone(self.successResultOf(asked))

    def test_allow_groups(self) -> None:
        """Only members get in, by memberOf and however the group's name is written; the password comes first."""
        self.begin(allow_groups=["CN=Mail, OU=groups, dc=example", "cn=other"])
        self.good()
        self.assertIs(self.refused(Login("bob", b"bobpw")).kind, RefusalKind.CREDENTIALS)
        self.assertIs(self.refused(Login("bob", b"wrong")).kind, RefusalKind.CREDENTIALS)
        self.assertIsNotNone(self.successResultOf(self.lookup("bob@example.org")))

    def test_group_search(self) -> None:
        """Groups can be searched, by the entry's DN or its canonical name, both escaped."""
        self.begin(
            allow_groups=MAIL_GROUP, group_base=f"ou=groups,{BASE}", group_filter="(|(member={dn})(memberUid={local}))"
        )
        del self.tree.entries[ALICE_DN]
        dn = "uid=alice (x),dc=example"
        self.tree.add(dn, b"alicepw", uid="alice", mail="alice@example.org")
        self.tree.add(MAIL_GROUP, memberUid="alice")
        self.assertEqual(self.good().groups, (MAIL_GROUP,))
        self.assertEqual(
            self.tree.operations("search")[1], "(|(member=uid=alice \\28x\\29,dc=example)(memberUid=alice))"
        )
        self.assertIs(self.refused(Login("bob", b"bobpw")).kind, RefusalKind.CREDENTIALS)

    def test_lookup(self) -> None:
        """An address is looked for in every attribute that holds addresses, escaped; no password is checked."""
        self.begin(addresses=["mail", "mailAlternateAddress"])
        self.tree.add("uid=c,dc=example", uid="c", mail="c@x", mailAlternateAddress="(c)@x")
        identity = self.successResultOf(self.lookup("(c)@x"))
        assert identity is not None
        self.assertEqual((identity.username, identity.addresses), ("c@x", ("c@x", "(c)@x")))
        self.assertEqual(self.tree.operations("search"), ["(|(mail=\\28c\\29@x)(mailAlternateAddress=\\28c\\29@x))"])
        self.assertEqual(self.tree.operations("bind"), [SERVICE])

    def test_lookup_filter(self) -> None:
        """The settings may have their own filter for that."""
        self.begin(lookup_filter="(|(uid={local})(x={address})(y={domain}))")
        self.successResultOf(self.lookup("alice@d"))
        self.assertEqual(self.tree.operations("search"), ["(|(uid=alice)(x=alice@d)(y=d))"])

    def test_lookup_by_name(self) -> None:
        """What has no domain is a user's name, found as at a login."""
        self.begin()
        self.assertIsNotNone(self.successResultOf(self.lookup("alice")))

    def test_stop(self) -> None:
        """Stopping closes the idle connections."""
        self.begin()
        self.good()
        self.successResultOf(Deferred.fromCoroutine(self.ldap.stop()))
        self.assertEqual([link.open for link in self.tree.links], [False, False])


class LookupSharingTests(_Ldap, SynchronousTestCase):
    """Look-ups that come together."""

    def test_shared(self) -> None:
        """The same address at the same time is one question."""
        ldap = self.directory()
        held: list[Deferred[None]] = []

        class SlowCrew(InlineCrew):
            async def run(self, job: Any, *args: Any, **kwargs: Any) -> Any:
                held.append(Deferred())
                await held[-1]
                return job(*args, **kwargs)

        ldap._crew = SlowCrew()
        asked = [Deferred.fromCoroutine(ldap.lookup(address)) for address in ("alice@example.org",) * 3]
        other = Deferred.fromCoroutine(ldap.lookup("bob@example.org"))
        self.assertEqual(len(held), 2)
        for waiting in held:
            waiting.callback(None)
        for result in asked:
            self.assertEqual(self.successResultOf(result).username, "alice@example.org")
        self.assertEqual(self.successResultOf(other).username, "bob@example.org")


class LdapOptionsTests(SynchronousTestCase):
    """L{LdapOptions}."""

    def fault(self, **changes: Any) -> str:
        error = self.assertRaises(ValidationError, options, **changes)
        return str(error)

    def test_example(self) -> None:
        """The example of the manual is taken as it stands."""
        made = options(
            uri=["ldaps://ldap1.corp.example", "ldap://ldap2.corp.example"],
            filter="(&(objectClass=inetOrgPerson)(|(uid={user})(mail={user})))",
            username="mail",
            addresses=["mail", "mailAlternateAddress"],
            allow_groups=["cn=mail,ou=groups,dc=corp,dc=example"],
            timeout="5s",
            cache="60s",
        )
        self.assertEqual((made.timeout, made.cache, made.attributes), (5.0, 60.0, ("mailHost",)))

    def test_uri(self) -> None:
        """URIs have a scheme that is known, a host, at most a port, and there is one."""
        for uri in ("ldap1", "http://x", "ldap://", "ldap://x/dc=y", "ldap://x:70000", "ldapi:///", []):
            self.fault(uri=uri)
        options(uri=["ldap://[::1]:3890/", "ldaps://x"])

    def test_filters(self) -> None:
        """Filters have only names that are known, at least one that tells users apart, and the right syntax."""
        self.assertIn("{usr} is not known here", self.fault(filter="(uid={usr})"))
        self.assertIn("finds everybody", self.fault(filter="(objectClass=person)"))
        self.assertIn("finds everybody", self.fault(filter="(dc={domain})"))
        self.assertIn("not an LDAP filter", self.fault(filter="(|(uid={user})"))
        self.assertIn("not an LDAP filter", self.fault(filter="uid={user}"))
        self.assertIn("{address} is not known here", self.fault(group_filter="(member={address})"))
        self.assertIn("{dn} is not known here", self.fault(lookup_filter="(member={dn})"))
        options(group_filter="(member:1.2.840.113556.1.4.1941:={dn})")

    def test_bind(self) -> None:
        """A service account has a name and a password."""
        self.fault(bind_password="")
        self.fault(bind_dn="")

    def test_secret(self) -> None:
        """Neither repr nor an error shows the service account's password."""
        self.assertNotIn("servicepw", repr(options()))
        self.assertNotIn("servicepw", self.fault(bind_dn=""))

    def test_timeout(self) -> None:
        """A question may not take no time."""
        self.fault(timeout="0s")

    def test_from_options(self) -> None:
        """What comes out stands under a cache; a CA that cannot be read is a fault of the settings."""
        house = SimpleNamespace(reactor=Clock(), settings=settings.Settings())
        made = LdapDirectory.from_options("ldap-1", options(), house)  # type: ignore[arg-type]
        self.assertIsInstance(made, CachedDirectory)
        self.assertEqual(made.name, "ldap-1")
        bad = options(ca="/nowhere/ca.pem")
        error = self.assertRaises(SettingsError, LdapDirectory.from_options, "ldap-1", bad, house)
        self.assertEqual(error.faults, ("directory ldap-1: ca: /nowhere/ca.pem: No such file or directory",))
