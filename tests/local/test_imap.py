"""Tests for L{mailgw.local.imap} and the files it is made of: commands and answers over a Maildir."""

from __future__ import annotations

import errno
import os

from mailgw.local.imapselect import POLL
from tests.local.contract import ALICE, APPEND, MAIL, ImapCase, ImapTalk, local_store


class SelectTests(ImapCase):
    def test_select(self) -> None:
        """SELECT tells all that RFC 3501 asks for; what was new is recent, once."""
        for _ in range(2):
            self.talk.line(APPEND)
        answer = self.talk.line(b"SELECT inbox")
        flags = rb"\Answered \Flagged \Deleted \Seen \Draft $Forwarded"
        self.assertEqual(
            answer,
            [
                b"* FLAGS (%b)" % flags,
                b"* OK [PERMANENTFLAGS (%b \\*)] Flags that are kept" % flags,
                b"* 2 EXISTS",
                b"* 2 RECENT",
                b"* OK [UNSEEN 1] First unseen",
                b"* OK [UIDVALIDITY 1000000] UIDs valid",
                b"* OK [UIDNEXT 3] Next UID",
                b"a OK [READ-WRITE] SELECT completed",
            ],
        )
        self.assertIn(b"* 0 RECENT", self.session().line(b"SELECT INBOX"))

    def test_examine(self) -> None:
        """EXAMINE changes nothing: not what is recent, no flag by reading; STORE, EXPUNGE and MOVE are refused."""
        self.talk.line(APPEND)
        other = self.session()
        self.assertEqual(other.line(b"EXAMINE INBOX")[-1], b"a OK [READ-ONLY] EXAMINE completed")
        other.line(b"FETCH 1 BODY[]")
        for command in (b"STORE 1 FLAGS (\\Seen)", b"EXPUNGE", b"MOVE 1 INBOX", b"UID EXPUNGE 1"):
            self.assertTrue(other.line(command)[-1].startswith(b"a NO [READ-ONLY]"))
        self.assertEqual(len(self.files("new")), 1)
        self.assertIn(b"* 1 RECENT", self.talk.line(b"SELECT INBOX"))

    def test_failed_select(self) -> None:
        """A SELECT that fails leaves no mailbox selected."""
        talk = self.selected()
        self.assertEqual(talk.line(b"SELECT Nowhere"), [b"a NO [NONEXISTENT] No such mailbox"])
        self.assertTrue(talk.line(b"FETCH 1 FLAGS")[0].startswith(b"a BAD"))

    def test_close_and_unselect(self) -> None:
        """CLOSE removes silently what is marked, UNSELECT and EXAMINE with CLOSE do not."""
        talk = self.selected(2)
        talk.line(b"STORE 1 +FLAGS (\\Deleted)")
        self.assertEqual(talk.line(b"UNSELECT"), [b"a OK UNSELECT completed"])
        talk.line(b"EXAMINE INBOX")
        talk.line(b"CLOSE")
        self.assertEqual(len(self.files("cur")), 2)
        talk.line(b"SELECT INBOX")
        self.assertEqual(talk.line(b"CLOSE"), [b"a OK CLOSE completed"])
        self.assertEqual(len(self.files("cur")), 1)

    def test_uids_survive(self) -> None:
        """UIDs and UIDVALIDITY are the same in a new process; a lost index is a new UIDVALIDITY."""
        self.selected()
        self.talk.line(b"STORE 2 +FLAGS (\\Deleted)")
        self.talk.line(b"EXPUNGE")
        again = ImapTalk(local_store(os.path.dirname(os.path.dirname(self.root())), self.clock))
        self.assertIn(b"* OK [UIDVALIDITY 1000000] UIDs valid", again.line(b"SELECT INBOX"))
        self.assertEqual(again.line(b"UID SEARCH ALL")[0], b"* SEARCH 1 3")
        os.unlink(self.root("mailgw-uids"))
        self.assertIn(b"* OK [UIDVALIDITY 1000001] UIDs valid", again.line(b"SELECT INBOX"))
        self.assertEqual(again.line(b"UID SEARCH ALL")[0], b"* SEARCH 1 2")


class NewsTests(ImapCase):
    def test_foreign_changes(self) -> None:
        """What other programs add, flag and remove is told at NOOP, in this order: gone, come, changed."""
        talk = self.selected()
        names = self.files("cur")
        os.unlink(self.root("cur", names[0]))
        os.rename(self.root("cur", names[1]), self.root("cur", names[1] + "F"))
        with open(self.root("new", "9999999999.x.y"), "wb") as file:
            file.write(MAIL)
        self.assertEqual(
            talk.line(b"NOOP"),
            [
                b"* 1 EXPUNGE",
                b"* 3 EXISTS",
                b"* 3 RECENT",
                b"* 1 FETCH (FLAGS (\\Flagged \\Recent))",
                b"a OK NOOP completed",
            ],
        )
        self.assertEqual(talk.line(b"UID SEARCH ALL")[0], b"* SEARCH 2 3 4")

    def test_numbers_stand_still(self) -> None:
        """FETCH, STORE and SEARCH never move the numbers, though messages are gone; the others are answered."""
        talk = self.selected()
        os.unlink(self.root("cur", self.files("cur")[0]))
        answer = talk.line(b"FETCH 1:3 (UID RFC822.SIZE)")
        self.assertEqual(answer, [b"* 2 FETCH (UID 2 RFC822.SIZE 47)", b"* 3 FETCH (UID 3 RFC822.SIZE 47)", answer[-1]])
        self.assertTrue(answer[-1].startswith(b"a NO [EXPUNGEISSUED]"))
        self.assertTrue(talk.line(b"STORE 1 +FLAGS (\\Seen)")[-1].startswith(b"a NO [EXPUNGEISSUED]"))
        self.assertEqual(talk.line(b"SEARCH SUBJECT hello")[0], b"* SEARCH 2 3")

    def test_renamed_behind_our_back(self) -> None:
        """A message whose flags somebody else has changed is still found."""
        talk = self.selected(1)
        (name,) = self.files("cur")
        os.rename(self.root("cur", name), self.root("cur", name + "R"))
        self.assertIn(b"Subject: hello", talk.line(b"FETCH 1 BODY.PEEK[]"))
        self.assertEqual(talk.line(b"STORE 1 +FLAGS (\\Seen)")[0], b"* 1 FETCH (FLAGS (\\Answered \\Seen \\Recent))")

    def test_idle(self) -> None:
        """In IDLE what this process delivers is told at once, what others do within seconds; only DONE ends it."""
        talk = self.selected(0)
        self.assertEqual(talk(b"i IDLE\r\n"), b"+ idling\r\n")
        message = self.store.inbox(ALICE, "")
        message.dataReceived(MAIL)
        self.successResultOf(message.eomReceived())
        self.assertEqual(talk.transport.said(), b"* 1 EXISTS\r\n* 1 RECENT\r\n")
        os.unlink(self.root("cur", self.files("cur")[0]))
        self.clock.advance(POLL)
        self.assertEqual(talk.transport.said(), b"* 1 EXPUNGE\r\n")
        self.assertEqual(talk(b"d LOGOUT\r\n"), b"* BAD Expected DONE\r\n")
        self.assertEqual(talk(b"done\r\ne NOOP\r\n"), b"i OK IDLE completed\r\ne OK NOOP completed\r\n")
        self.assertEqual(self.store.board._listeners, {})

    def test_idle_chatter(self) -> None:
        """Whoever says other things than DONE for too long is hung up on."""
        talk = self.selected(0)
        talk(b"i IDLE\r\n")
        self.assertIn(b"* BYE", talk(b"x NOOP\r\n" * 10))

    def test_idle_goes_away(self) -> None:
        """A client that vanishes in IDLE leaves no timer and no listener."""
        talk = self.selected(0)
        talk(b"i IDLE\r\n")
        talk.server.connectionLost()
        self.assertEqual((self.clock.getDelayedCalls(), self.store.board._listeners), ([], {}))

    def test_folder_gone(self) -> None:
        """A session whose mailbox is deleted by another is told BYE: its numbers mean nothing any more."""
        self.talk.line(b"CREATE Old")
        self.talk.line(b"SELECT Old")
        self.session().line(b"DELETE Old")
        self.assertEqual(self.talk.line(b"NOOP"), [b"* BYE Mailbox was deleted or replaced"])
        self.assertTrue(self.talk.transport.disconnecting)


class FetchTests(ImapCase):
    def fetch(self, what: bytes, text: bytes) -> bytes:
        """Fetch from a message, from behind C{FETCH (} to the closing parenthesis."""
        self.talk.line(b"APPEND INBOX {%d}" % len(text))
        self.talk(text + b"\r\n")
        answer = self.talk(b"a EXAMINE INBOX\r\n") and self.talk(b"a FETCH * " + what + b"\r\n")
        self.assertTrue(answer.endswith(b")\r\na OK FETCH completed\r\n"), answer)
        return answer.partition(b"FETCH (")[2].removesuffix(b")\r\na OK FETCH completed\r\n")

    def test_sections(self) -> None:
        """Header, text, fields and parts of them, octet for octet."""
        text = b"Subject: a\r\n b\r\nTo: x\r\nsubject: c\r\nX\r\n\r\nbody\r\n"
        for what, expected in (
            (b"BODY[]", text),
            (b"BODY[HEADER]", text[:-6]),
            (b"BODY[TEXT]", b"body\r\n"),
            (b"BODY[1]", b"body\r\n"),
            (b"BODY[1.MIME]", text[:-6]),
            (b"BODY[HEADER.FIELDS (SUBJECT)]", b"Subject: a\r\n b\r\nsubject: c\r\n\r\n"),
            (b"BODY[HEADER.FIELDS.NOT (Subject)]", b"To: x\r\n\r\n"),
            (b"BODY[HEADER.FIELDS (Bcc)]", b"\r\n"),
            (b"BODY[]<0>", text[:10]),
            (b"BODY[TEXT]<2>", b"dy\r\n"),
            (b"BODY[]<1000>", b""),
        ):
            asked = what.replace(b">", b".10>").replace(b"BODY", b"BODY.PEEK")
            self.assertEqual(self.fetch(asked, text), what + b" {%d}\r\n%b" % (len(expected), expected))
        for what in (b"BODY[2]", b"BODY[1.1]", b"BODY[1.HEADER]", b"BODY[1.2.3.HEADER.FIELDS (X)]"):
            self.assertEqual(self.fetch(what, text), what + b" NIL")
        self.assertEqual(self.fetch(b"RFC822.SIZE", text), b"RFC822.SIZE %d" % len(text))
        self.assertEqual(self.fetch(b"RFC822.TEXT", text), b"RFC822.TEXT {6}\r\nbody\r\n")

    def test_bad_items(self) -> None:
        """What is no item is BAD."""
        talk = self.selected(1)
        for what in (
            b"X",
            b"()",
            b"(FLAGS",
            b"FLAGS)",
            b"BODY[",
            b"BODY[0]",
            b"BODY[MIME]",
            b"BODY[1.]",
            b"BODY[X]",
            b"BODY[]<1>",
            b"BODY[]<1.0>",
            b"BODY[HEADER.FIELDS]",
            b"FLAGS FLAGS",
            b"(ALL)",
            b"BODY[]x",
            b"(" + b"FLAGS " * 101 + b"UID)",
        ):
            self.assertTrue(talk.line(b"FETCH 1 " + what)[-1].startswith(b"a BAD "), what)
        for which in (b"0", b"4", b"1:9", b"a", b"1:", b":", b"1,,1", b"1:2:3", b"99999999999", b"-1"):
            self.assertTrue(talk.line(b"FETCH " + which + b" FLAGS")[-1].startswith(b"a BAD "), which)

    def test_sets(self) -> None:
        """Sets in any order, with stars; UIDs that do not exist are nothing."""
        talk = self.selected(5)
        for which, expected in ((b"2,1", b"12"), (b"5:3", b"345"), (b"*", b"5"), (b"*:4", b"45"), (b"1,1:2,2", b"12")):
            found = [row[2:3] for row in talk.line(b"FETCH " + which + b" FLAGS")[:-1]]
            self.assertEqual(b"".join(found), expected)
        self.assertEqual(talk.line(b"UID FETCH 17 FLAGS"), [b"a OK FETCH completed"])
        self.assertEqual(talk.line(b"UID FETCH 9:* UID"), [b"* 5 FETCH (UID 5)", b"a OK FETCH completed"])
        self.assertEqual(talk.line(b"UID FETCH 2 FLAGS")[0], b"* 2 FETCH (UID 2 FLAGS (\\Recent))")

    def test_huge_set(self) -> None:
        """A set that names everything ten thousand times costs no more than once."""
        talk = self.selected(2)
        self.assertEqual(len(talk.line(b"FETCH " + b"1:*," * 10000 + b"1 FLAGS")), 3)

    def test_empty_mailbox(self) -> None:
        """C{1:*} of nothing is nothing, not a mistake."""
        self.assertEqual(self.selected(0).line(b"FETCH 1:* FLAGS"), [b"a OK FETCH completed"])

    def test_seen(self) -> None:
        """Reading a text marks it, and says so; PEEK does not."""
        talk = self.selected(1)
        talk.line(b"FETCH 1 BODY.PEEK[]")
        self.assertTrue(self.files("cur")[0].endswith(":2,"))
        self.assertIn(b"FLAGS (\\Seen \\Recent))", talk(b"a FETCH 1 BODY[TEXT]\r\n"))
        self.assertTrue(self.files("cur")[0].endswith(":2,S"))
        self.assertNotIn(b"FLAGS", talk(b"a FETCH 1 RFC822\r\n"))

    def test_internal_date(self) -> None:
        """The date that APPEND gives is the one that FETCH tells, in UTC."""
        self.talk(b'a APPEND INBOX "17-Jul-1996 02:44:25 -0700" {%d+}\r\n%b\r\n' % (len(MAIL), MAIL))
        self.talk.line(b"SELECT INBOX")
        self.assertEqual(
            self.talk.line(b"FETCH 1 INTERNALDATE")[0], b'* 1 FETCH (INTERNALDATE "17-Jul-1996 09:44:25 +0000")'
        )
        self.assertEqual(self.talk.line(b"SEARCH ON 17-Jul-1996 BEFORE 18-Jul-1996")[0], b"* SEARCH 1")


class StoreTests(ImapCase):
    def test_forms(self) -> None:
        """FLAGS, +FLAGS, -FLAGS, with and without .SILENT and parentheses."""
        talk = self.selected(1)
        for command, flags in (
            (b"FLAGS (\\Seen \\Draft)", b"\\Draft \\Seen"),
            (b"+FLAGS \\Flagged", b"\\Draft \\Flagged \\Seen"),
            (b"-FLAGS (\\Draft \\Answered)", b"\\Flagged \\Seen"),
            (b"FLAGS ()", b""),
        ):
            row = talk.line(b"STORE 1 " + command)[0]
            self.assertEqual(row, b"* 1 FETCH (FLAGS (%b))" % (flags + b" \\Recent").strip())
        self.assertEqual(talk.line(b"STORE 1 +FLAGS.SILENT (\\Seen)"), [b"a OK STORE completed"])
        self.assertEqual(talk.line(b"UID STORE 1 +FLAGS (\\Seen)")[0], b"* 1 FETCH (UID 1 FLAGS (\\Seen \\Recent))")
        self.assertTrue(talk.line(b"STORE 1 FLAG (\\Seen)")[0].startswith(b"a BAD"))

    def test_keywords(self) -> None:
        """Keywords are kept in Dovecot's file, told as new flags, and known to other sessions and folders."""
        talk = self.selected(1)
        answer = talk.line(b"STORE 1 +FLAGS ($label1 NonJunk $Forwarded)")
        self.assertTrue(answer[0].startswith(b"* FLAGS (\\Answered"))
        self.assertEqual(answer[1], b"* 1 FETCH (FLAGS ($Forwarded $label1 NonJunk \\Recent))")
        with open(self.root("dovecot-keywords"), "rb") as file:
            self.assertEqual(file.read(), b"0 $label1\n1 NonJunk\n")
        talk.line(b"CREATE Other")
        talk(b"a APPEND Other (other) {%d+}\r\n%b\r\n" % (len(MAIL), MAIL))
        talk.line(b"COPY 1 Other")
        talk.line(b"SELECT Other")
        self.assertIn(b"($Forwarded $label1 NonJunk))", b" ".join(talk.line(b"FETCH 2 FLAGS")))
        self.assertEqual(talk.line(b"SEARCH KEYWORD nonjunk UNKEYWORD other")[0], b"* SEARCH 2")

    def test_unknown_letters_stay(self) -> None:
        """Letters whose meaning only another program knows survive our changes."""
        talk = self.selected(1)
        (name,) = self.files("cur")
        os.rename(self.root("cur", name), self.root("cur", name + "Sz"))
        talk.line(b"NOOP")
        talk.line(b"STORE 1 FLAGS (\\Flagged)")
        self.assertTrue(self.files("cur")[0].endswith(":2,Fz"))

    def test_expunge(self) -> None:
        """EXPUNGE removes what is marked, UID EXPUNGE of that only what it names; numbers are told as they fall."""
        talk = self.selected(5)
        talk.line(b"STORE 1,3:5 +FLAGS.SILENT (\\Deleted)")
        self.assertEqual(talk.line(b"UID EXPUNGE 2:3"), [b"* 3 EXPUNGE", b"a OK EXPUNGE completed"])
        self.assertEqual(
            talk.line(b"EXPUNGE"), [b"* 1 EXPUNGE", b"* 2 EXPUNGE", b"* 2 EXPUNGE", b"a OK EXPUNGE completed"]
        )
        self.assertEqual(talk.line(b"UID SEARCH ALL")[0], b"* SEARCH 2")

    def test_copy_and_move(self) -> None:
        """COPY keeps flags and dates; MOVE also removes; both tell the UIDs."""
        talk = self.selected(3)
        talk.line(b"CREATE To")
        talk.line(b"STORE 2 +FLAGS.SILENT (\\Seen)")
        self.assertEqual(talk.line(b"COPY 1:2 To"), [b"a OK [COPYUID 1000001 1:2 1:2] COPY completed"])
        self.assertEqual(
            talk.line(b"UID MOVE 2:3 To"),
            [b"* OK [COPYUID 1000001 2:3 3:4] Moved", b"* 2 EXPUNGE", b"* 2 EXPUNGE", b"a OK MOVE completed"],
        )
        self.assertTrue(talk.line(b"COPY 1 Nowhere")[0].startswith(b"a NO [TRYCREATE]"))
        self.assertEqual(talk.line(b"UID COPY 99 To"), [b"a OK COPY completed"])
        talk.line(b"SELECT To")
        self.assertEqual(talk.line(b"SEARCH SEEN")[0], b"* SEARCH 2 3")

    def test_copy_all_or_none(self) -> None:
        """A copy that fails in the middle leaves nothing."""
        talk = self.selected(3)
        talk.line(b"CREATE To")
        os.unlink(self.root("cur", self.files("cur")[1]))
        self.assertTrue(talk.line(b"COPY 1:3 To")[-1].startswith(b"a NO [EXPUNGEISSUED]"))
        self.assertEqual(os.listdir(self.root(".To", "cur")), [])

    def test_copy_without_links(self) -> None:
        """Where the file system knows no links, the message is copied."""
        talk = self.selected(1)

        def link(source: str, target: str) -> None:
            raise OSError(errno.EPERM, "no links")

        self.patch(os, "link", link)
        self.assertIn(b"COPYUID", talk.line(b"COPY 1 INBOX")[-1])
        self.assertEqual((len(self.files("cur")), self.files("tmp")), (2, []))
