"""Tests for L{mailgw.local.imapselect}: keywords that come into a mailbox while a session has it selected."""

from __future__ import annotations

from tests.local.contract import APPEND, MAIL, ImapCase, ImapTalk

KNOWN = rb"\Answered \Flagged \Deleted \Seen \Draft $Forwarded"
TOLD = b"* FLAGS (%b $label1)" % KNOWN
LABELLED = b"APPEND %%b ($label1) {%d+}\r\n%b" % (len(MAIL), MAIL)


class KeywordNewsTests(ImapCase):
    def idle_in(self, name: bytes) -> ImapTalk:
        """One more session, that has a mailbox selected and waits for news."""
        talk = self.session()
        talk.line(b"SELECT " + name)
        talk(b"i IDLE\r\n")
        return talk

    def test_moved_here(self) -> None:
        """A message that is moved here with a keyword shows it; that there is such a keyword is told first."""
        talk = self.selected(1)
        talk.line(b"CREATE Work")
        other = self.idle_in(b"Work")
        talk.line(b"STORE 1 +FLAGS ($label1)")
        talk.line(b"MOVE 1 Work")
        self.assertEqual(other.transport.said().splitlines(), [TOLD, b"* 1 EXISTS", b"* 0 RECENT"])
        self.assertEqual(other(b"DONE\r\n"), b"i OK IDLE completed\r\n")
        self.assertEqual(other.line(b"FETCH 1 FLAGS")[0], b"* 1 FETCH (FLAGS ($label1))")

    def test_appended_here(self) -> None:
        """A keyword that came with APPEND is known at once, and told once."""
        talk = self.selected(0)
        self.assertEqual(talk.line(LABELLED % b"INBOX")[:2], [TOLD, b"* 1 EXISTS"])
        self.assertEqual(talk.line(b"FETCH 1 FLAGS")[0], b"* 1 FETCH (FLAGS ($label1))")
        self.assertEqual(talk.line(LABELLED % b"INBOX")[0], b"* 2 EXISTS")

    def test_set_by_another(self) -> None:
        """A keyword that another session sets is told before the message that has it."""
        talk = self.selected(1)
        other = self.idle_in(b"INBOX")
        talk.line(b"STORE 1 +FLAGS ($label1)")
        self.assertEqual(other.transport.said().splitlines(), [TOLD, b"* 1 FETCH (FLAGS ($label1))"])

    def test_seen_on_the_way(self) -> None:
        """A keyword that is found when reading sets \\\\Seen is told before the answer."""
        talk = self.selected(1)
        other = self.session()
        other.line(b"SELECT INBOX")
        other.line(APPEND)
        talk.line(b"STORE 1 +FLAGS ($label1)")
        self.assertEqual(other.line(b"FETCH 1 BODY[TEXT]")[0], TOLD)
        self.assertEqual(other.line(b"FETCH 1 FLAGS")[0], b"* 1 FETCH (FLAGS (\\Seen $label1))")

    def test_told_with_the_mailbox(self) -> None:
        """What one mailbox has is not held to be known in the next one."""
        talk = self.selected(0)
        talk.line(b"CREATE Work")
        talk.line(LABELLED % b"INBOX")
        self.assertEqual(talk.line(b"SELECT Work")[0], b"* FLAGS (%b)" % KNOWN)
        self.assertEqual(talk.line(LABELLED % b"Work")[:2], [TOLD, b"* 1 EXISTS"])
