"""One connection to one LDAP server, through ldap3.

The only file that imports ldap3, which blocks: a L{Link} lives in the threads of a L{mailgw.crew.Crew}.
It follows no referral, opens nothing again by itself, and says nothing about which user an entry is.
"""

from __future__ import annotations

import ssl
from collections.abc import Sequence
from math import ceil
from typing import Any
from urllib.parse import urlsplit

import ldap3
from ldap3.core.exceptions import (
    LDAPCommunicationError,
    LDAPInvalidFilterError,
    LDAPResponseTimeoutError,
    LDAPStartTLSError,
)
from ldap3.operation.bind import bind_operation
from ldap3.operation.search import parse_filter
from ldap3.protocol.rfc4511 import AuthenticationChoice, Simple
from ldap3.utils.conv import escape_filter_chars

from mailgw.directory.ldapentry import TROUBLED, Entry, Outcome
from mailgw.directory.servers import NoAnswer, Seconds

CONNECT = 3.0
"""Seconds for connecting to one address, at most."""
NO_ATTRIBUTES = (ldap3.NO_ATTRIBUTES,)
"""Only the names of the entries (RFC 4511 §4.5.1.8)."""
_PASSWORD_POLICY = "1.3.6.1.4.1.42.2.27.8.5.1"
_SILENT = (LDAPCommunicationError, LDAPResponseTimeoutError, LDAPStartTLSError, OSError)


def escape(value: str) -> str:
    """Make a value safe inside a filter (RFC 4515 §3)."""
    return escape_filter_chars(value)


def filter_fault(text: str) -> str:
    """Say what is wrong with a filter's syntax, or C{""}."""
    try:
        parse_filter(text, None, False, True, None, False)
    except LDAPInvalidFilterError as error:
        return str(error)
    return ""


class StrictTls(ldap3.Tls):
    """TLS whose certificate and name OpenSSL checks itself, IP addresses included.

    ldap3's own check is off by default, sends no server name, and refuses IP addresses on newer Pythons.
    """

    def __init__(self, context: ssl.SSLContext, host: str) -> None:
        super().__init__(validate=ssl.CERT_REQUIRED)
        self._context = context
        self._host = host

    def wrap_socket(self, connection: Any, do_handshake: bool = False) -> None:
        """Put TLS on the connection's socket; called by ldap3."""
        connection.socket = self._context.wrap_socket(
            connection.socket, do_handshake_on_connect=do_handshake, server_hostname=self._host
        )


def tls_context(ca: str | None, minimum: str) -> ssl.SSLContext:
    """A context that checks certificates and names.

    @param ca: PEM file, or C{None} for the system's CAs.
    @raise OSError: the file cannot be read.
    """
    context = ssl.create_default_context(cafile=ca)
    context.minimum_version = ssl.TLSVersion.TLSv1_3 if minimum == "1.3" else ssl.TLSVersion.TLSv1_2
    # Python 3.13 turns this on; many a company's own CA lacks the extensions it asks for. Same answer on every Python.
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    return context


class Link:
    """One connection to one server, used by one thread at a time."""

    def __init__(self, uri: str, starttls: bool, context: ssl.SSLContext, until: float, seconds: Seconds) -> None:
        """Connect, and do TLS where it is asked for; without it there is no connection.

        Each gets an ldap3 Server of its own: after a failure that object refuses its address for seconds.

        @raise NoAnswer: there is no connection.
        """
        parts, left = urlsplit(uri), until - seconds()
        host, tls = parts.hostname or "", parts.scheme == "ldaps"
        if left <= 0:
            raise NoAnswer("no time left")
        server = ldap3.Server(
            host,
            port=parts.port or (636 if tls else 389),
            use_ssl=tls,
            tls=StrictTls(context, host),
            get_info=ldap3.NONE,
            allowed_referral_hosts=[],
            connect_timeout=min(left, CONNECT),
        )
        self._seconds = seconds
        self._connection = ldap3.Connection(
            server,
            auto_bind=ldap3.AUTO_BIND_NONE,
            authentication=ldap3.ANONYMOUS,
            client_strategy=ldap3.SAFE_SYNC,
            auto_referrals=False,
            auto_range=False,
            auto_escape=False,
            check_names=False,
            receive_timeout=ceil(left),  # an int, or struct.error; _limit() is more exact
        )
        try:
            self._connection.open(read_server_info=False)
            if starttls and not tls:
                self._limit(until)
                self._connection.start_tls(read_server_info=False)
                if not self._connection.tls_started:
                    raise NoAnswer("StartTLS refused")
        except _SILENT as error:
            self.abandon()
            raise NoAnswer(_words(error)) from error
        except BaseException:
            self.abandon()
            raise

    def bind(self, dn: str, password: bytes, until: float) -> Outcome:
        """Try a password on an entry. Only C{SUCCESS} means that it is right."""
        if not dn or not password:
            raise ValueError("a bind without name or password would succeed for anybody (RFC 4513 §5.1.2)")
        link = self._connection
        self._limit(until)
        request = bind_operation(3, ldap3.SIMPLE, dn, password)
        # ldap3 also makes text of the request, for its log: of a password that is not UTF-8 too.
        simple = Simple(password, encoding="iso-8859-1")
        request["authentication"] = AuthenticationChoice().setComponentByName("simple", simple)
        try:
            link.post_send_single_response(link.send("bindRequest", request, [(_PASSWORD_POLICY, False, None)]))
            result = link.result
        except _SILENT as error:
            raise NoAnswer(_words(error)) from error
        finally:
            link.request = None  # that text
        control = (result.get("controls") or {}).get(_PASSWORD_POLICY, {}).get("value") or b""
        return _checked(Outcome(result["result"], result["message"], control))

    def search(
        self, base: str, text: str, attributes: Sequence[str], limit: int, until: float
    ) -> tuple[Outcome, list[Entry]]:
        """Search the whole tree below a base."""
        left = self._limit(until)
        try:
            _, result, response, _ = self._connection.search(
                base,
                text,
                ldap3.SUBTREE,
                dereference_aliases=ldap3.DEREF_NEVER,
                attributes=list(attributes),
                size_limit=limit,
                time_limit=ceil(left),
            )
        except _SILENT as error:
            raise NoAnswer(_words(error)) from error
        found = [item for item in response or () if item["type"] == "searchResEntry"]
        entries = [Entry.read(item["dn"], item["raw_attributes"]) for item in found]
        return _checked(Outcome(result["result"], result["message"])), entries

    def close(self) -> None:
        """Unbind and close."""
        try:
            self._connection.unbind()
        except _SILENT:
            self.abandon()

    def abandon(self) -> None:
        """Close without a word."""
        sock = self._connection.socket
        self._connection.strategy.close()
        if sock is not None:  # ldap3 leaves it open where TLS did not come about
            sock.close()

    def _limit(self, until: float) -> float:
        left = until - self._seconds()
        # ldap3 would open a closed connection again for some operations, without StartTLS.
        if left <= 0 or self._connection.closed:
            raise NoAnswer("no time left" if left <= 0 else "connection closed")
        self._connection.socket.settimeout(left)
        return left


def _checked(outcome: Outcome) -> Outcome:
    if outcome.code in TROUBLED:
        raise NoAnswer(f"result code {outcome.code} {outcome.text!r}")
    return outcome


def _words(error: BaseException) -> str:
    return str(error) or type(error).__name__
