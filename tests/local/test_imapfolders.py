"""Tests for L{mailgw.local.imapfolders}: folders, subscriptions and APPEND."""

from __future__ import annotations

import errno
import os
import re

from mailgw.local import disk, imapfolders
from tests.local.contract import APPEND, MAIL, ImapCase


class AppendTests(ImapCase):
    def test_refused_before_asked(self) -> None:
        """What cannot be stored is refused before the client sends it."""
        talk = self.session(append_limit=1000)
        for command, code in (
            (b"APPEND Nowhere {10}", b"a NO [TRYCREATE]"),
            (b"APPEND INBOX {1001}", b"a NO [TOOBIG]"),
            (b"APPEND INBOX {9999999999}", b"a NO [TOOBIG]"),
            (b"APPEND INBOX {99999999999}", b"a BAD"),
            (b"APPEND INBOX {0}", b"a NO"),
            (b"APPEND ../x {10}", b"a NO [CANNOT]"),
            (b"APPEND INBOX (\\Seen {10}", b"a BAD"),
            (b'APPEND INBOX "yesterday" {10}', b"a BAD"),
            (b'APPEND INBOX "41-Jan-2000 00:00:00 +0000" {10}', b"a BAD"),
            (b"APPEND INBOX", b"a BAD"),
        ):
            answer = talk.line(command)
            self.assertTrue(answer[0].startswith(code), answer)
            self.assertEqual(talk.line(b"NOOP"), [b"a OK NOOP completed"], command)

    def test_refused_and_unasked(self) -> None:
        """A message that comes without being asked for and is refused is not taken for commands."""
        answer = self.talk(b"a APPEND Nowhere {12+}\r\nx LOGOUT\r\n\r\n\r\nb NOOP\r\n")
        self.assertEqual(answer.splitlines(), [b"a NO [TRYCREATE] No such mailbox", b"b OK NOOP completed"])

    def test_name_as_literal(self) -> None:
        """The mailbox's name may be a literal too."""
        self.assertEqual(self.talk(b"a APPEND {5}\r\n"), b"+ OK\r\n")
        self.assertEqual(self.talk(b"INBOX (\\Seen) {%d}\r\n" % len(MAIL)), b"+ OK\r\n")
        self.assertEqual(self.talk(MAIL + b"\r\n"), b"a OK [APPENDUID 1000000 1] APPEND completed\r\n")
        self.assertTrue(self.files("cur")[0].endswith(":2,S"))

    def test_no_room(self) -> None:
        """A disk that is full before or on the way is OVERQUOTA; nothing is left, the session goes on."""
        self.patch(imapfolders, "RESERVE", 1 << 62)
        self.assertTrue(self.talk.line(b"APPEND INBOX {10}")[0].startswith(b"a NO [OVERQUOTA]"))
        self.patch(imapfolders, "RESERVE", 0)
        real = os.write

        def write(descriptor: int, data: bytes) -> int:
            if b"Subject" in bytes(data):
                raise OSError(errno.ENOSPC, "full")
            return real(descriptor, data)

        self.patch(disk.os, "write", write)
        self.assertTrue(self.talk.line(APPEND)[0].startswith(b"a NO [OVERQUOTA]"))
        self.assertEqual((self.files("tmp"), self.files("new")), ([], []))
        self.assertEqual(self.talk.line(b"NOOP"), [b"a OK NOOP completed"])

    def test_lost_on_the_way(self) -> None:
        """A client that goes away in the middle of its message leaves nothing."""
        self.talk(b"a APPEND INBOX {100}\r\n" + b"x" * 50)
        self.assertEqual(len(self.files("tmp")), 1)
        self.talk.server.connectionLost()
        self.assertEqual(self.files("tmp"), [])

    def test_into_the_selected_mailbox(self) -> None:
        """An APPEND to the selected mailbox is told as a new message, before the OK."""
        talk = self.selected(1)
        self.assertEqual(
            talk.line(APPEND), [b"* 2 EXISTS", b"* 2 RECENT", b"a OK [APPENDUID 1000000 2] APPEND completed"]
        )


class FolderTests(ImapCase):
    def test_too_many_patterns(self) -> None:
        """LIST takes a handful of patterns, not thousands."""
        few, many = (b"(" + b" ".join([b"*"] * count) + b")" for count in (20, 21))
        self.assertTrue(self.talk.line(b'LIST "" ' + few)[-1].split(b" ")[1:2] == [b"OK"])
        self.assertTrue(self.talk.line(b'LIST "" ' + many)[-1].split(b" ")[1:2] == [b"BAD"])

    def names(self, command: bytes = b'LIST "" *') -> list[bytes]:
        """The names that LIST or LSUB tells."""
        return [re.sub(rb'^.*"\." ', b"", row) for row in self.talk.line(command)[:-1]]

    def test_tree(self) -> None:
        """CREATE, RENAME with children, DELETE, and what LIST makes of it."""
        for name in (b"Sent", b"a.b.c", b"a.b", b"Entw&APw-rfe", b"x."):
            self.assertEqual(self.talk.line(b"CREATE " + name), [b"a OK CREATE completed"])
        self.assertEqual(self.names(), [b'"Entw&APw-rfe"', b'"INBOX"', b'"Sent"', b'"a"', b'"a.b"', b'"a.b.c"', b'"x"'])
        rows = self.talk.line(b'LIST "" %')
        self.assertIn(b'* LIST (\\Noselect \\HasChildren) "." "a"', rows)
        self.assertIn(b'* LIST (\\HasNoChildren \\Sent) "." "Sent"', rows)
        self.assertEqual(self.talk.line(b"RENAME a.b z"), [b"a OK RENAME completed"])
        self.assertEqual(self.names(b'LIST "z" *'), [b'"z"', b'"z.c"'])
        self.assertEqual(self.talk.line(b"DELETE z"), [b"a OK DELETE completed"])
        self.assertEqual(self.names(b'LIST "" z*'), [b'"z"', b'"z.c"'])
        self.assertTrue(self.talk.line(b"SELECT z")[0].startswith(b"a NO [NONEXISTENT]"))
        self.assertEqual([name for name in os.listdir(self.root()) if name.startswith("..")], [])

    def test_refusals(self) -> None:
        """What is there already, what is not there, and INBOX."""
        self.talk.line(b"CREATE a")
        for command, code in (
            (b"CREATE a", b"[ALREADYEXISTS]"),
            (b"CREATE INBOX", b"[ALREADYEXISTS]"),
            (b"DELETE INBOX", b"[CANNOT]"),
            (b"DELETE nowhere", b"[NONEXISTENT]"),
            (b"RENAME nowhere b", b"[NONEXISTENT]"),
            (b"RENAME a INBOX", b"[CANNOT]"),
            (b"RENAME a a.b", b"[CANNOT]"),
            (b"RENAME a a", b"[ALREADYEXISTS]"),
            (b"CREATE a*", b"a BAD"),
            (b'CREATE "a*"', b"[CANNOT]"),
            (b"STATUS nowhere (MESSAGES)", b"[NONEXISTENT]"),
            (b"STATUS a (X)", b"a BAD"),
        ):
            self.assertIn(code, self.talk.line(command)[-1], command)

    def test_made_again(self) -> None:
        """A mailbox deleted and made again within a second has another UIDVALIDITY."""
        self.talk.line(b"CREATE a")
        first = self.talk.line(b"STATUS a (UIDVALIDITY)")
        self.talk.line(b"DELETE a")
        self.talk.line(b"CREATE a")
        self.assertNotEqual(self.talk.line(b"STATUS a (UIDVALIDITY)"), first)

    def test_subscriptions(self) -> None:
        """LSUB tells what is subscribed, whether it exists or not; the file is Dovecot's."""
        for name in (b"INBOX", b"a.b", b"gone"):
            self.talk.line(b"SUBSCRIBE " + name)
        self.assertEqual(self.names(b'LSUB "" *'), [b'"INBOX"', b'"a.b"', b'"gone"'])
        self.assertIn(b'* LSUB (\\Noselect \\HasChildren) "." "a"', self.talk.line(b'LSUB "" %'))
        with open(self.root("subscriptions"), "rb") as file:
            self.assertEqual(file.read(), b"V\t2\n\nINBOX\na\tb\ngone\n")
        self.talk.line(b"UNSUBSCRIBE gone")
        self.assertEqual(self.names(b'LIST (SUBSCRIBED) "" *'), [b'"INBOX"', b'"a.b"'])
        with open(self.root("subscriptions"), "wb") as file:
            file.write(b"old.style\n")
        self.assertEqual(self.names(b'LSUB "" *'), [b'"old.style"'])

    def test_special_use(self) -> None:
        """LIST tells special uses, and only these where asked (RFC 6154)."""
        for name in (b"Trash", b"Drafts", b"Other"):
            self.talk.line(b"CREATE " + name)
        self.assertEqual(self.names(b'LIST (SPECIAL-USE) "" "*"'), [b'"Drafts"', b'"Trash"'])
        self.assertEqual(self.names(b'LIST "" ("T%" O*) RETURN (SPECIAL-USE)'), [b'"Trash"', b'"Other"'])

    def test_delimiter(self) -> None:
        """An empty pattern asks for the delimiter, NAMESPACE tells it as well."""
        self.assertEqual(self.talk.line(b'LIST "" ""')[0], b'* LIST (\\Noselect) "." ""')
        self.assertEqual(self.talk.line(b"NAMESPACE")[0], b'* NAMESPACE (("" ".")) NIL NIL')

    def test_status(self) -> None:
        """STATUS tells what is asked, and does not make new mail old."""
        self.talk.line(APPEND)
        asked = b"STATUS INBOX (UIDNEXT MESSAGES RECENT UNSEEN UIDVALIDITY)"
        expected = b'* STATUS "INBOX" (UIDNEXT 2 MESSAGES 1 RECENT 1 UNSEEN 1 UIDVALIDITY 1000000)'
        for _ in range(2):
            self.assertEqual(self.talk.line(asked), [expected, b"a OK STATUS completed"])
