"""Serve: the local store as the rest of the house sees it: deliveries go in, sessions come for what is there.

It decides nothing about users: which one, and whether the password was right, is settled before.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from twisted.python.threadpool import ThreadPool
from zope.interface import implementer

from mailgw.errors import BackendFailed
from mailgw.interfaces import IDestination, IMailStore, ISession
from mailgw.local.bell import Board
from mailgw.local.disk import Disk
from mailgw.local.folders import Account
from mailgw.local.imap import LocalImap
from mailgw.local.maildir import Folder
from mailgw.local.message import InboxMessage
from mailgw.local.names import INBOX, check_template, user_path
from mailgw.local.pop3 import LocalPop3, Maildrop
from mailgw.model import Arrival, Failure, Identity

IDLE = 1800.0
"""Seconds: RFC 3501 §5.4 asks for at least 30 minutes, RFC 1939 §3 for 10."""
APPEND_LIMIT = 50 << 20


@implementer(IMailStore)
class MaildirStore:
    """All mailboxes under one path.

    @ivar disk: where its file work is done; C{board}: where its sessions hear of changes; C{reactor}: its clock.
    """

    def __init__(self, path_template: str, hostname: str, reactor: Any, pool: ThreadPool | None = None) -> None:
        """
        @param path_template: C{[local] path}.
        @param hostname: in the names of files, and in the place of the domain of a user name that has none.
        @param pool: the threads for file work; the store makes its own when left out.
        @raise SettingsError: the template cannot give each user a folder of their own.
        """
        self._template, self._hostname = check_template(path_template), hostname.lower()
        self.reactor = reactor
        self.disk, self.board = Disk(reactor, hostname, pool), Board()

    def account(self, identity: Identity) -> Account:
        return Account(user_path(self._template, identity.username, self._hostname), self.disk)

    def mailbox(self, identity: Identity) -> Maildrop:
        return Maildrop(self.account(identity).existing(INBOX))

    def inbox(self, identity: Identity, sender: str) -> InboxMessage:
        folder: Folder = self.account(identity).folder(INBOX)
        head = f"Return-Path: <{sender}>\r\nDelivered-To: {identity.username}\r\n".encode()
        return InboxMessage(self.disk, folder, head, partial(self.board.tell, folder.path))


@implementer(IDestination)
class LocalDestination:
    """One user's mail, read over IMAP or POP3 by a server that the client finds itself logged in at."""

    def __init__(
        self,
        identity: Identity,
        store: MaildirStore,
        protocol: str,
        idle: float = IDLE,
        *,
        append_limit: int = APPEND_LIMIT,
    ) -> None:
        """
        @param protocol: C{"imap"} or C{"pop3"}.
        @param idle: seconds without a word from the client, after which the session ends.
        @param append_limit: octets of a message that IMAP's APPEND takes.
        """
        self.username = identity.username
        self._identity, self._store, self._protocol = identity, store, protocol
        self._idle, self._append_limit = idle, append_limit

    async def open(self, session: ISession) -> Arrival:
        if self._protocol not in ("imap", "pop3"):
            raise BackendFailed(Failure.PROTOCOL, f"no {self._protocol} in the local store")
        store = self._store
        account = store.account(self._identity)
        try:
            await store.disk.run(account.existing, INBOX)
            if self._protocol == "pop3":
                return await self._pop3(session)
        except OSError as error:
            raise BackendFailed(Failure.TEMPFAIL, f"local store: {error}") from error
        server = LocalImap(
            account,
            store.disk,
            store.board,
            store.reactor,
            session_id=session.session_id,
            idle=self._idle,
            append_limit=self._append_limit,
        )
        return Arrival(server, b"[CAPABILITY " + server.capability_words() + b"] Logged in")

    async def _pop3(self, session: ISession) -> Arrival:
        store = self._store
        maildrop = await store.disk.run(store.mailbox, self._identity)
        server = LocalPop3(
            maildrop, store.disk, store.board, store.reactor, session_id=session.session_id, idle=self._idle
        )
        return Arrival(server, b"Logged in, %d messages" % len(maildrop.entries))
