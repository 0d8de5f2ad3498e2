"""TLS contexts: the server's identities with SNI and reload, and the verified contexts towards backends.

It opens no sockets. Which listener uses TLS, and when, is decided in L{mailgw.edge.listeners} and by the dialogues.
"""

from __future__ import annotations

import base64
import os
import socket
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from typing import Any

from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from OpenSSL import SSL, crypto
from service_identity.hazmat import DNS_ID, IPAddress_ID, ServiceID, verify_service_identity
from service_identity.pyopenssl import extract_patterns
from twisted.internet import ssl
from twisted.internet.abstract import isIPAddress, isIPv6Address
from twisted.internet.interfaces import IOpenSSLClientConnectionCreator, IOpenSSLServerConnectionCreator
from twisted.internet.protocol import Protocol
from twisted.logger import Logger
from twisted.python.failure import Failure
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

Pins = frozenset[str]
"""Public keys, as C{pool.pin} has them."""


def _versions(minimum: str) -> dict[str, Any]:
    """The oldest version spoken, as L{ssl.CertificateOptions} takes it: "insecurely" also sets one that is newer."""
    return {"insecurelyLowerMinimumTo": {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}[minimum]}


@dataclass(frozen=True, slots=True)
class KeyPair:
    """A certificate file (chain included) and its key file."""

    certificate: str
    key: str

    def stamp(self) -> tuple[tuple[int, int, int], ...]:
        """What changes when one of the files does; empty while one of them is not there."""
        try:
            found = (os.stat(self.certificate), os.stat(self.key))
        except OSError:
            return ()
        return tuple((status.st_ino, status.st_size, status.st_mtime_ns) for status in found)


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
        _use_pair(context, pair)
    return context


def _use_pair(context: SSL.Context, pair: KeyPair) -> None:
    """Show this certificate.

    @raise SettingsError: as L{server_context}.
    """
    _see_that_readable(pair)
    try:
        context.use_certificate_chain_file(pair.certificate)
    except SSL.Error as error:
        raise SettingsError([f"{pair.certificate}: no usable PEM certificate: {_one_line(error)}"]) from None
    try:
        context.use_privatekey_file(pair.key)
        context.check_privatekey()
    except SSL.Error as error:
        raise SettingsError([f"{pair.key}: not the private key of {pair.certificate}: {_one_line(error)}"]) from None


def _see_that_readable(pair: KeyPair) -> None:
    """Say why a file cannot be read: OpenSSL does not.

    @raise SettingsError: it cannot.
    """
    for path in (pair.certificate, pair.key):
        try:
            os.close(os.open(path, os.O_RDONLY))
        except OSError as error:
            raise SettingsError([f"{path}: {error.strerror}"]) from None


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
        self._pairs = [pair for group in pairs for pair in group]
        self._stamp = [pair.stamp() for pair in self._pairs]  # before reading them: later changes are seen
        contexts = [server_context(group, tls.minimum) for group in pairs]
        by_name = {
            name.lower().encode(): context
            for (names, _, _), context in zip(groups, contexts, strict=True)
            for name in names
        }
        if by_name:  # a question of OpenSSL's in every handshake costs time
            contexts[0].set_tlsext_servername_callback(self._choose)
        self._by_name, self.default = by_name, contexts[0]

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
            if only_changed and [pair.stamp() for pair in self._pairs] == self._stamp:
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
        self._accepted = ALPN.get(protocol, ())

    def serverConnectionForTLS(self, tlsProtocol: Protocol) -> SSL.Connection:
        return self.connection_on(None)

    def connection_on(self, skt: socket.socket | None) -> SSL.Connection:
        """Make a connection that reads and writes C{skt} itself; C{None}: a pair of buffers in memory."""
        connection = _ServerConnection(self.identities.default, skt)
        connection.accepted = self._accepted
        return connection


@implementer(IOpenSSLClientConnectionCreator)
class _Unverified:
    """TLS towards a backend whose certificate nobody checks (C{verify = false}), but for its key where that is pinned;
    SNI is sent all the same.
    """

    def __init__(self, hostname: str, context: SSL.Context) -> None:
        """@param context: asks L{_has_pinned_key} where keys are pinned."""
        self._hostname, self._context = hostname, context

    def clientConnectionForTLS(self, tlsProtocol: Protocol) -> SSL.Connection:
        return self.connection_on(None)

    def connection_on(self, skt: socket.socket | None) -> SSL.Connection:
        """As L{ServerTls.connection_on}."""
        connection = SSL.Connection(self._context, skt)
        connection.set_tlsext_host_name(self._hostname.encode("idna"))
        return connection


def _has_pinned_key(
    pins: Pins, others_matter: bool, connection: SSL.Connection, certificate: Any, error: int, depth: int, good: int
) -> bool:
    """OpenSSL's question about each certificate of a chain, where keys are pinned.

    @param others_matter: what OpenSSL says of the certificate counts too.
    @raise SSL.Error: the last one has another key; in the form of OpenSSL's queue.
    """
    if depth == 0:
        key = certificate.to_cryptography().public_key()
        told = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        if "sha256/" + base64.b64encode(sha256(told).digest()).decode() not in pins:
            raise SSL.Error([("mailgw", "", "its key is none of those that are pinned")])
    return bool(good) or not others_matter


class _IdentifiedConnection(SSL.Connection):
    """A connection that knows whose certificate it wants to see, and with which key."""

    wanted: ServiceID
    pins: Pins = frozenset()


def _identify(connection: SSL.Connection, certificate: Any, error: int, depth: int, good: int) -> bool:
    """OpenSSL's question about each certificate of a chain that it has looked at itself.

    @raise service_identity.VerificationError: the last one is for another name; the handshake raises this then.
    """
    if good and depth == 0:
        assert isinstance(connection, _IdentifiedConnection)
        if connection.pins:
            _has_pinned_key(connection.pins, True, connection, certificate, error, depth, good)
        verify_service_identity(extract_patterns(certificate), [connection.wanted], [])
    return bool(good)


@implementer(IOpenSSLClientConnectionCreator)
class _Verified:
    """TLS towards a backend that has to show a certificate for its name."""

    def __init__(
        self,
        hostname: str,
        stock: IOpenSSLClientConnectionCreator,
        context: Callable[[], SSL.Context],
        pins: Pins,
    ) -> None:
        """
        @param stock: Twisted's creator, which needs Twisted's TLS to refuse a certificate.
        @param context: gives a context that asks L{_identify}.
        """
        self._stock, self._context, self._pins = stock, context, pins
        self._address = isIPAddress(hostname) or isIPv6Address(hostname)
        self._hostname = hostname.encode("ascii" if self._address else "idna")

    def clientConnectionForTLS(self, tlsProtocol: Any) -> SSL.Connection:
        connection: SSL.Connection = self._stock.clientConnectionForTLS(tlsProtocol)
        if self._pins:
            connection.set_verify(SSL.VERIFY_PEER, partial(self._look_at_key, tlsProtocol))
        return connection

    def _look_at_key(self, tls: Any, *asked: Any) -> bool:
        """L{_has_pinned_key} for Twisted's TLS, to which a connection's own callback cannot raise."""
        try:
            return _has_pinned_key(self._pins, True, *asked)
        except SSL.Error:
            tls.failVerification(Failure())
            return False

    def connection_on(self, skt: socket.socket) -> SSL.Connection:
        """As L{ServerTls.connection_on}."""
        connection = _IdentifiedConnection(self._context(), skt)
        connection.pins = self._pins
        name = self._hostname.decode("ascii")
        connection.wanted = IPAddress_ID(name) if self._address else DNS_ID(name)
        if not self._address:  # an address has no place in SNI (RFC 6066 §3)
            connection.set_tlsext_host_name(self._hostname)
        return connection


class PoolTls:
    """The client side of TLS towards one pool: its own context, so that no other leg's settings leak in."""

    def __init__(self, pool: Pool, minimum: str) -> None:
        """@raise SettingsError: the pool's CA file or our certificate towards it cannot be used."""
        self._verify, self._name, self._pins = pool.verify, pool.tls_name, frozenset(pool.pin)
        self._extra = _versions(minimum)
        if pool.certificate and pool.key:
            self._extra |= _shown(KeyPair(pool.certificate, pool.key))
        self._trust = _trust_of(pool.ca) if pool.ca else None
        self._creators: dict[str, IOpenSSLClientConnectionCreator] = {}
        self._context: SSL.Context | None = None

    def creator(self, host: str) -> IOpenSSLClientConnectionCreator:
        """What a connection to that host starts TLS with; C{host} is the name (or address) in its certificate, unless
        the pool says which one is.
        """
        host = self._name or host
        creator = self._creators.get(host)
        if creator is None:
            creator = self._creators[host] = self._make(host)
            if len(self._creators) > 1000:  # hosts come from directories: an unbounded table would grow for ever
                self._creators.pop(next(iter(self._creators)))
        return creator

    def _make(self, host: str) -> IOpenSSLClientConnectionCreator:
        if not self._verify:
            context = ssl.CertificateOptions(verify=False, **self._extra).getContext()
            if self._pins:
                context.set_verify(SSL.VERIFY_PEER, partial(_has_pinned_key, self._pins, False))
            return _Unverified(host, context)
        stock = ssl.optionsForClientTLS(host, trustRoot=self._trust, extraCertificateOptions=self._extra)
        return _Verified(host, stock, self._verifying, self._pins)

    def _verifying(self) -> SSL.Context:
        """One context for all hosts of the pool: reading the authorities costs time and memory."""
        if self._context is None:
            options = ssl.CertificateOptions(trustRoot=self._trust or ssl.platformTrust(), **self._extra)
            context = options.getContext()
            context.set_options(SSL.OP_NO_RENEGOTIATION | SSL.OP_NO_COMPRESSION)
            context.set_verify(SSL.VERIFY_PEER, _identify)
            self._context = context
        return self._context


def _trust_of(path: str) -> Any:
    """The CAs of a PEM file.

    @raise SettingsError: there are none.
    """
    return ssl.trustRootFromCertificates(_certificates_of(path))


def _certificates_of(path: str) -> list[ssl.Certificate]:
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
    return certificates


def _shown(pair: KeyPair) -> dict[str, Any]:
    """What we show, as L{ssl.CertificateOptions} takes it.

    @raise SettingsError: as L{server_context}.
    """
    _use_pair(SSL.Context(SSL.TLS_METHOD), pair)
    first, *chain = _certificates_of(pair.certificate)
    with open(pair.key, "rb") as file:
        key = ssl.KeyPair.load(file.read(), crypto.FILETYPE_PEM)
    return {
        "certificate": first.original,
        "privateKey": key.original,
        "extraCertChain": [certificate.original for certificate in chain],
    }
