"""TLS contexts: the server's identities with SNI and reload, and the verified contexts towards backends.

It opens no sockets. Which listener uses TLS, and when, is decided in L{mailgw.edge.listeners} and by the dialogues.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from OpenSSL import SSL
from twisted.internet import ssl
from twisted.internet.interfaces import IOpenSSLClientConnectionCreator, IOpenSSLServerConnectionCreator
from twisted.internet.protocol import Protocol
from twisted.logger import Logger
from zope.interface import implementer

from mailgw.errors import SettingsError
from mailgw.settings import Pool, Tls

ALPN: Mapping[str, tuple[bytes, ...]] = {
    "imap": (b"imap",),
    "pop3": (b"pop3",),
    "managesieve": (b"managesieve",),
    "submission": (b"smtp",),
    "mx": (b"smtp",),
    "lmtp": (b"lmtp",),
}
"""What a client may offer by ALPN (RFC 7301); anything else is refused, against cross-protocol attacks (ALPACA)."""


def _versions(minimum: str) -> dict[str, Any]:
    """The oldest version spoken, as L{ssl.CertificateOptions} takes it: "insecurely" also sets one that is newer."""
    return {"insecurelyLowerMinimumTo": {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}[minimum]}


@dataclass(frozen=True, slots=True)
class KeyPair:
    """A certificate file (chain included) and its key file."""

    certificate: str
    key: str

    def stamp(self) -> tuple[tuple[int, int, int], ...]:
        """What changes when one of the files does.

        @raise OSError: a file is not there.
        """
        return tuple(
            (status.st_ino, status.st_size, status.st_mtime_ns)
            for status in (os.stat(self.certificate), os.stat(self.key))
        )


def _no_passphrase(*_: object) -> bytes:
    """Answer OpenSSL's question for an encrypted key's passphrase: there is nobody to ask on a server's terminal."""
    return b""


def _one_line(error: SSL.Error) -> str:
    """OpenSSL's error queue in words."""
    return "; ".join(entry[-1] for entry in error.args[0]) if error.args and error.args[0] else "unreadable file"


def server_context(pairs: Sequence[KeyPair], minimum: str) -> SSL.Context:
    """Make a context with one or more key pairs (of different types, such as ECDSA and RSA).

    Session tickets are on, renegotiation and compression off.

    @raise SettingsError: a file cannot be read, or a key is not its certificate's.
    """
    options = ssl.CertificateOptions(enableSessions=True, enableSessionTickets=True, **_versions(minimum))
    context = options.getContext()
    context.set_options(SSL.OP_NO_RENEGOTIATION | SSL.OP_NO_COMPRESSION)
    context.set_alpn_select_callback(_select_alpn)
    context.set_passwd_cb(_no_passphrase)
    for pair in pairs:
        try:
            context.use_certificate_chain_file(pair.certificate)
        except SSL.Error as error:
            raise SettingsError([f"{pair.certificate}: no usable PEM certificate: {_one_line(error)}"]) from None
        try:
            context.use_privatekey_file(pair.key)
            context.check_privatekey()
        except SSL.Error as error:
            raise SettingsError(
                [f"{pair.key}: not the private key of {pair.certificate}: {_one_line(error)}"]
            ) from None
    return context


def _select_alpn(connection: SSL.Connection, offered: list[bytes]) -> bytes:
    """Choose the listener's own protocol, or end the handshake with the C{no_application_protocol} alert."""
    accepted = getattr(connection, "accepted", ())
    for name in offered:
        if name in accepted:
            return name
    raise SSL.Error([("mailgw", "", f"ALPN offers {offered!r}, not {accepted!r}")])  # in the form of OpenSSL's queue


class Identities:
    """Every certificate that the gateway can show, the one that SNI asks for first, and their reload."""

    log = Logger()

    def __init__(self, tls: Tls) -> None:
        """@raise SettingsError: as L{server_context}."""
        self._tls = tls
        self._load()

    def _load(self) -> None:
        tls = self._tls
        groups = [((), tls.certificate, tls.key)] + [(name.names, name.certificate, name.key) for name in tls.name]
        pairs = [[KeyPair(*files) for files in zip(chains, keys, strict=True)] for _, chains, keys in groups]
        stamps = self._stamps([pair for group in pairs for pair in group])
        contexts = [server_context(group, tls.minimum) for group in pairs]
        by_name = {
            name.lower().encode(): context
            for (names, _, _), context in zip(groups, contexts, strict=True)
            for name in names
        }
        contexts[0].set_tlsext_servername_callback(self._choose)
        self._pairs = [pair for group in pairs for pair in group]
        self._stamp, self._by_name, self.default = stamps, by_name, contexts[0]

    @staticmethod
    def _stamps(pairs: Iterable[KeyPair]) -> list[tuple[tuple[int, int, int], ...]]:
        try:
            return [pair.stamp() for pair in pairs]
        except OSError as error:
            raise SettingsError([f"{error.filename}: {error.strerror}"]) from None

    def _choose(self, connection: SSL.Connection) -> None:
        """Take the certificate of exactly that name, else of its wildcard, else stay with the default."""
        name = (connection.get_servername() or b"").lower()
        context = self._by_name.get(name) or self._by_name.get(b"*." + name.partition(b".")[2])
        if context is not None:
            connection.set_context(context)

    def reload(self, *, only_changed: bool = False) -> bool:
        """Read the files again; keep the old contexts, and say why, unless every key fits its certificate.

        Running sessions stay on the context they began with.

        @param only_changed: do nothing unless a file is another one than before.
        @return: whether new contexts are in force.
        """
        try:
            if only_changed and self._stamps(self._pairs) == self._stamp:
                return False
            self._load()
        except SettingsError as error:
            self.log.error("certificates not reloaded, the old ones stay in force: {error}", error=error)
            return False
        self.log.info("certificates reloaded")
        return True


class _ServerConnection(SSL.Connection):
    """A connection that knows its listener's protocols; its app data is Twisted's."""

    accepted: tuple[bytes, ...] = ()


@implementer(IOpenSSLServerConnectionCreator)
class ServerTls:
    """What one listener's connections start TLS with.

    @ivar identities: may be replaced at any time; connections that are there keep what they began with.
    """

    def __init__(self, identities: Identities, protocol: str) -> None:
        """@param protocol: the listener's, for ALPN."""
        self.identities = identities
        self._accepted = ALPN[protocol]

    def serverConnectionForTLS(self, tlsProtocol: Protocol) -> SSL.Connection:
        connection = _ServerConnection(self.identities.default, None)
        connection.accepted = self._accepted
        return connection


@implementer(IOpenSSLClientConnectionCreator)
class _Unverified:
    """TLS towards a backend whose certificate nobody checks (C{verify = false}); SNI is sent all the same."""

    def __init__(self, hostname: str, context: SSL.Context) -> None:
        self._hostname, self._context = hostname, context

    def clientConnectionForTLS(self, tlsProtocol: Protocol) -> SSL.Connection:
        connection = SSL.Connection(self._context, None)
        connection.set_tlsext_host_name(self._hostname.encode("idna"))
        return connection


class PoolTls:
    """The client side of TLS towards one pool: its own context, so that no other leg's settings leak in."""

    def __init__(self, pool: Pool, minimum: str) -> None:
        """@raise SettingsError: the pool's CA file cannot be read."""
        self._verify = pool.verify
        self._extra = _versions(minimum)
        self._trust = _trust_of(pool.ca) if pool.ca else None
        self._creators: dict[str, IOpenSSLClientConnectionCreator] = {}

    def creator(self, host: str) -> IOpenSSLClientConnectionCreator:
        """What a connection to that host starts TLS with; C{host} is the name (or address) in its certificate."""
        creator = self._creators.get(host)
        if creator is None:
            creator = self._creators[host] = self._make(host)
            if len(self._creators) > 1000:  # hosts come from directories: an unbounded table would grow for ever
                self._creators.pop(next(iter(self._creators)))
        return creator

    def _make(self, host: str) -> IOpenSSLClientConnectionCreator:
        if not self._verify:
            return _Unverified(host, ssl.CertificateOptions(verify=False, **self._extra).getContext())
        return ssl.optionsForClientTLS(host, trustRoot=self._trust, extraCertificateOptions=self._extra)


def _trust_of(path: str) -> Any:
    """The CAs of a PEM file.

    @raise SettingsError: there are none.
    """
    try:
        with open(path, "rb") as file:
            text = file.read()
    except OSError as error:
        raise SettingsError([f"{path}: {error.strerror}"]) from None
    begin = b"-----BEGIN CERTIFICATE-----"
    blocks = [begin + block for block in text.split(begin)[1:]]
    try:
        certificates = [ssl.Certificate.loadPEM(block) for block in blocks]
    except (SSL.Error, ValueError):
        certificates = []
    if not certificates:
        raise SettingsError([f"{path}: no usable PEM certificate"])
    return ssl.trustRootFromCertificates(certificates)
