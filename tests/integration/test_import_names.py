"""What Perdition makes of user names, and what the gateway made of its files makes of them: option by option.

All Perditions run at once and are asked side by side, since each of them sleeps for three seconds after a login that
it refuses; the gateway is one, which gets new settings for each of them and listens on the same port.
"""

from __future__ import annotations

import imaplib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import NamedTuple

from mailgw.config.check import check
from mailgw.config.file import read
from mailgw.importing.command import imported
from tests.integration.case import ServersTestCase
from tests.integration.dovecot import Dovecot
from tests.integration.gateway import Gateway
from tests.integration.perdition import Perdition, map_library
from tests.integration.ports import HOST, answers, needs, wait_for

PASSWORD = "correct horse"
ACCOUNTS = (
    *("anna", "ben", "anna@example.org", "ben@example.org", "anna@labs.example.org", "ben@labs.example.org"),
    *("anna@localhost", "ben@localhost", "anna-labs.example.org", "ben-example.org", "anna.at.labs.example.org"),
)
USERS = ("anna", "ben", "anna@labs.example.org", "ben@example.org")
LARGE = ("Anna", "BEN", "Anna@Labs.example.ORG", "ben@EXAMPLE.org")
NOBODY = "nobody"

POPMAP = """
anna:@1@
ben:@2@
anna@labs.example.org:@2@
ben@example.org:@1@
anna@example.org:@2@
ben@labs.example.org:@2@
anna@localhost:@2@
labs.example.org:@1@
@example.org:@2@
annalabs.example.orga_domain:@2@
example.orga_domain:@2@
default:@1@
127.0.0.1:@2@
anna-at-127.0.0.1:@1@
"""
"""Every form of a name leads somewhere else than the ones that it could be taken for."""

OTHERS = "anna:ben@@1@\nben:anna@example.org@@2@\nben@example.org:@1@\nanna@labs.example.org:ben@labs.example.org@@2@\n"
"""Users beside the hosts."""

EXPRESSIONS = "^anna$: @1@\n^port[0-9]+$: @2@\n^labs: @2@\n^.*@example.org$: @1@\n^ben: @2@\n"


class Case(NamedTuple):
    """One perdition.conf; C{@1@} and C{@2@} are the backends."""

    options: str
    users: Sequence[str] = USERS
    popmap: str = POPMAP
    expressions: str = ""


def _options(text: str) -> str:
    return text.replace("; ", "\n") + "\n"


def _by_expression(text: str, users: Sequence[str] = USERS) -> Case:
    library = map_library("posix_regex") + "map_library_opt @D@/popmap.re\n"
    return Case(library + _options(text), users, "", EXPRESSIONS)


EXPLICIT = "; explicit_domain example.org"
CASES = {
    text: Case(_options(text))
    for text in (
        "domain_delimiter @",
        "strip_domain servername_lookup",
        "strip_domain remote_login",
        "strip_domain servername_lookup,remote_login",
        "strip_domain server_lookup; strip_domain remote_login",
        "strip_domain all",
        "strip_domain local_authentication",
        f"add_domain servername_lookup{EXPLICIT}",
        f"add_domain remote_login{EXPLICIT}",
        f"add_domain servername_lookup,remote_login{EXPLICIT}",
        f"add_domain all{EXPLICIT}",
        "add_domain all,0",
        "add_domain servername_lookup,0",
        "add_domain all",
        "explicit_domain example.org",
        f"strip_domain all; add_domain all{EXPLICIT}",
        f"strip_domain servername_lookup; add_domain remote_login{EXPLICIT}",
        f"strip_domain remote_login; add_domain servername_lookup{EXPLICIT}",
        f"strip_domain servername_lookup; add_domain servername_lookup{EXPLICIT}",
        f"strip_domain remote_login; add_domain remote_login{EXPLICIT}",
        "query_key '\\U'",
        "query_key '\\u'",
        "query_key '\\d'",
        "query_key '\\D\\d'",
        "query_key '\\u,\\D\\d'",
        "query_key '\\d,\\D\\d,\\U'",
        "query_key '\\i'",
        "query_key '\\I'",
        "query_key 'nothing,\\u-at-\\I,default'",
        "query_key '\\u\\da_domain,\\da_domain'",
        "query_key '\\U,default'; strip_domain servername_lookup",
        f"query_key '\\d'; add_domain servername_lookup{EXPLICIT}",
        f"query_key '\\u\\D\\d'; strip_domain all; add_domain all{EXPLICIT}",
        "outgoing_server @2@; strip_domain servername_lookup",
        "map_library ''; outgoing_server @2@; strip_domain remote_login",
        f"map_library ''; outgoing_server @1@; add_domain remote_login{EXPLICIT}",
    )
}
CASES |= {
    f"{text} (in capitals)": Case(_options(text), LARGE)
    for text in (
        "lower_case servername_lookup",
        "lower_case all",
        "lower_case servername_lookup,remote_login",
        "lower_case servername_lookup; strip_domain remote_login",
        "lower_case all; strip_domain all",
        "lower_case all; add_domain all; explicit_domain Example.ORG",
        "lower_case servername_lookup; query_key '\\u,\\d'",
    )
}
CASES |= {
    f"{text} (users in the map)": Case(_options(text), USERS, OTHERS)
    for text in (
        "quiet",
        "username_from_database",
        "username_from_database; strip_domain remote_login",
        f"username_from_database; strip_domain remote_login; add_domain remote_login{EXPLICIT}",
    )
}
CASES |= {
    f"{text} (expressions)": _by_expression(text)
    for text in (
        "strip_domain all",
        "query_key '\\d,\\u'",
        "query_key 'port\\P'",
        f"query_key '\\U'; add_domain servername_lookup{EXPLICIT}",
    )
}
CASES |= {
    "domain_delimiter - and strip_domain": Case(
        "domain_delimiter -\nstrip_domain servername_lookup\n", ("anna-labs.example.org", "ben-example.org", "anna")
    ),
    "domain_delimiter .at. and strip_domain": Case(
        "domain_delimiter .at.\nstrip_domain all\n", ("anna.at.labs.example.org", "ben", "ben@example.org")
    ),
    "domain_delimiter - and add_domain": Case(
        "domain_delimiter -\nadd_domain remote_login\nexplicit_domain example.org\n", ("ben", "anna-labs.example.org")
    ),
    "domain_delimiter - and query_key": Case(
        "domain_delimiter -\nquery_key '\\d,\\u,\\D\\d'\n", ("anna-labs.example.org", "ben-example.org", "ben")
    ),
}


class Imported(Gateway):
    """A gateway that gets the settings of one import after the other."""

    def __init__(self) -> None:
        self._port = 0
        super().__init__()
        accounts = "".join(f"{user}:{{PLAIN}}{PASSWORD}\n" for user in ACCOUNTS)
        (self.folder / "users.passwd").write_text(accounts)

    def command(self) -> Sequence[str]:
        chosen = {"gateway.state": f"{self.folder}/state"}
        chosen |= {"limits.failure_delay": "50ms", "limits.logins_per_address": "10000"}
        return [*super().command(), *(word for key, value in chosen.items() for word in ("--set", f"{key}={value}"))]

    def listening(self) -> Sequence[int]:
        return [self._port]

    def take_the_place_of(self, perdition: Perdition, maps: Sequence[str]) -> None:
        """Import a configuration, see that check finds no fault in it, and listen on its port."""
        found = imported(str(perdition.configuration), [str(perdition.folder / name) for name in maps])
        self.settings.write_text(found.settings)
        faults = [words for grave, words in check(read(self.settings), datetime.now(UTC)) if grave]
        assert not faults, f"{faults}\n{found.settings}"
        self._port = perdition.port
        if self.process is None:
            self.start()
        else:
            self.reload()
            wait_for("the next port", lambda: answers(self._port))


class NamesTests(ServersTestCase):
    """Two Dovecots with all accounts; folders of each mailbox tell whose it is, and which of the two it is on."""

    skip = needs("dovecot", "perdition", "makegdbm")
    first: Dovecot
    second: Dovecot

    @classmethod
    def start_servers(cls) -> None:
        for name in ("first", "second"):
            server = Dovecot(dict.fromkeys(ACCOUNTS, PASSWORD.encode()))
            for user in ACCOUNTS:
                for folder in (name, f"={user.replace('.', '!')}"):
                    for part in ("cur", "new", "tmp"):
                        (server.mailbox(user) / f".{folder}" / part).mkdir(parents=True)
            setattr(cls, name, cls.run_server(server))

    def place(self, port: int, user: str) -> str:
        """Whose mailbox a login opens, and where; C{NOBODY} where it fails."""
        client = imaplib.IMAP4(HOST, port, 20.0)
        try:
            client.login(user, PASSWORD)
            names = [line.split()[-1].decode().strip('"') for line in client.list()[1] if isinstance(line, bytes)]
            client.logout()
        except imaplib.IMAP4.error:
            client.shutdown()
            return NOBODY
        [account] = [name[1:].replace("!", ".") for name in names if name.startswith("=")]
        [server] = set(names) & {"first", "second"}
        return f"{account} on {server}"

    def places(self, port: int, users: Sequence[str]) -> dict[str, str]:
        return {user: self.place(port, user) for user in users}

    def perdition(self, case: Case) -> Perdition:
        texts = [case.options, case.popmap, case.expressions]
        for number, server in (("1", self.first), ("2", self.second)):
            texts = [text.replace(f"@{number}@", f"{HOST}:{server.imap}") for text in texts]
        options, popmap, expressions = texts
        library = "" if "map_library" in options else "map_library_opt @D@/popmap.gdbm.db\n"
        return Perdition(f"protocol IMAP4\n{library}{options}", popmap, expressions)

    def test_same_places(self) -> None:
        """Every user reaches the same mailbox on the same backend, whatever the options are."""
        self.assertGreaterEqual(len(CASES), 30)
        perditions = {name: self.perdition(case) for name, case in CASES.items()}
        gateway = Imported()
        try:
            with ThreadPoolExecutor(24) as threads:
                for perdition in perditions.values():
                    perdition.start()
                asked = {name: threads.submit(self.places, perditions[name].port, CASES[name].users) for name in CASES}
                before = {name: found.result() for name, found in asked.items()}
            after = {}
            for name, case in CASES.items():
                perditions[name].end()
                maps = [file for file, text in (("popmap", case.popmap), ("popmap.re", case.expressions)) if text]
                gateway.take_the_place_of(perditions[name], [] if "map_library ''" in case.options else maps)
                after[name] = self.places(perditions[name].port, case.users)
        finally:
            gateway.stop()
            for perdition in perditions.values():
                perdition.stop()
        differences = [
            f"{name}: {user} was {place}, is {after[name][user]}"
            for name, found in before.items()
            for user, place in found.items()
            if place != after[name][user]
        ]
        self.assertFalse(differences, "\n" + "\n".join(differences))
        for name, found in before.items():
            self.assertNotEqual(set(found.values()), {NOBODY}, name)
