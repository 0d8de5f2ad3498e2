"""The s_client tour behind C{mailgw probe}: connect, do TLS, see what is offered and whose certificate it is.

Tries no password and sends no mail. It blocks, and is for the command line only.
"""

from __future__ import annotations

import errno
import ipaddress
import re
import socket
import ssl
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from typing import Any

from cryptography import x509
from cryptography.x509.oid import NameOID

from mailgw.ops.talk import Dialect, Line, Offer, TalkError, dialect, printable

PORTS: dict[int, tuple[str, str]] = {
    25: ("mx", "starttls"),
    465: ("submission", "implicit"),
    587: ("submission", "starttls"),
    143: ("imap", "starttls"),
    993: ("imap", "implicit"),
    110: ("pop3", "starttls"),
    995: ("pop3", "implicit"),
    4190: ("managesieve", "starttls"),
}
"""The standard ports, in the order of the tour."""
_EMBEDDED = {1000 + port: what for port, what in PORTS.items() if port < 1000} | {1419: PORTS[4190]}
_NO_IPV6 = frozenset({errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT, errno.ENETUNREACH})


@dataclass(frozen=True, slots=True)
class Target:
    """One service to look at.

    @ivar host: a name, an address, or the path of a UNIX socket.
    @ivar port: 0 for a UNIX socket.
    @ivar tls: C{"starttls"}, C{"optional"}, C{"implicit"}, C{"none"}.
    @ivar name: what the certificate should be for; the host when empty.
    @ivar proxied: it wants a PROXY header from us.
    @ivar expected: nothing listening there is a failure.
    """

    service: str
    host: str
    port: int
    tls: str
    name: str = ""
    proxied: bool = False
    expected: bool = True

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}" if self.port else self.host


@dataclass(frozen=True, slots=True)
class Finding:
    """What one service showed. Empty texts stand for what it did not get to.

    @ivar days: how long the certificate is valid still.
    @ivar before: SASL mechanisms before TLS; C{after}: inside it.
    @ivar plaintext: a password would be taken without TLS.
    @ivar fault: what is wrong, C{""} where all is well.
    @ivar skipped: why it was not tried at all.
    """

    service: str
    address: str
    tls: str
    version: str = ""
    cipher: str = ""
    certificate: str = ""
    issuer: str = ""
    days: int | None = None
    verified: bool = False
    before: tuple[str, ...] = ()
    after: tuple[str, ...] = ()
    plaintext: bool = False
    fault: str = ""
    skipped: str = ""

    def as_json(self) -> dict[str, Any]:
        """For C{--json}."""
        return asdict(self)


def targets_at(place: str) -> list[Target]:
    """What C{HOST}, C{HOST:PORT} or C{[IPv6]:PORT} stands for; without a port, the standard ones.

    @raise ValueError: it is none of these.
    """
    match = re.fullmatch(r"\[([0-9A-Fa-f:.]+)\](?::(\d+))?|([^:\[\]/]+)(?::(\d+))?|([0-9A-Fa-f:.]+)", place)
    if match is None:
        raise ValueError(f"{place!r} is neither HOST nor HOST:PORT")
    host, port = match[1] or match[3] or match[5], match[2] or match[4]
    if not match[3]:
        ipaddress.IPv6Address(host)
    if port is None:
        return [Target(service, host, number, tls, expected=False) for number, (service, tls) in PORTS.items()]
    if not 0 < int(port) < 65536:
        raise ValueError(f"{port} is no port")
    service, tls = (PORTS | _EMBEDDED).get(int(port), ("", ""))
    return [Target(service, host, int(port), tls)]


def trust(certificates: Iterable[str] = (), ca: str | None = None, system: bool = True) -> ssl.SSLContext:
    """A context that believes the system's CAs, a CA file, and single certificates.

    @raise OSError: a file cannot be read (L{ssl.SSLError} is one).
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if system:
        context.load_default_certs()
    for file in (*certificates, *([ca] if ca else ())):
        context.load_verify_locations(file)
    # our own certificate is believed as it is, whoever signed it; 3.13 has this by default
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    return context


def blind() -> ssl.SSLContext:
    """A context that believes everybody: to show a certificate that did not verify."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def probe(target: Target, context: ssl.SSLContext, now: datetime, seconds: float = 5.0) -> Finding:
    """Visit one service.

    @param context: decides whether the certificate is good; where it is not, it is looked at all the same.
    @param seconds: for the whole visit; a second one, to look at a bad certificate, has as many again.
    """
    finding = Finding(target.service, str(target), target.tls)
    if not target.port and not target.host.startswith("/"):
        return replace(finding, skipped="its port is systemd's to know; name it: mailgw probe HOST:PORT")
    try:
        return _guessed(target, context, now, seconds, finding)
    except ssl.SSLCertVerificationError as error:
        reason = error.verify_message
    except OSError as error:
        return _unreachable(target, finding, error)
    except TalkError as error:
        return replace(finding, fault=str(error))
    try:
        shown = _guessed(target, blind(), now, seconds, finding)
    except (OSError, TalkError):
        shown = finding
    return replace(shown, verified=False, fault=f"certificate not verified: {reason.rstrip('.')}")


def _unreachable(target: Target, finding: Finding, error: OSError) -> Finding:
    if error.errno in _NO_IPV6 and target.host == "::1":
        return replace(finding, skipped="this machine has no IPv6")
    if isinstance(error, ConnectionRefusedError) and not target.expected:
        return replace(finding, skipped="nothing listens there")
    if isinstance(error, TimeoutError):
        return replace(finding, fault="no answer in time")
    if isinstance(error, ssl.SSLError):
        return replace(finding, fault=f"TLS handshake fails: {(error.reason or str(error)).replace('_', ' ').lower()}")
    return replace(finding, fault=error.strerror or str(error))


def _guessed(target: Target, context: ssl.SSLContext, now: datetime, seconds: float, finding: Finding) -> Finding:
    """Find out first what a port of no fixed purpose speaks, where it is not known."""
    if not target.service:
        target = _recognised(target, seconds)
        finding = replace(finding, service=target.service, tls=target.tls)
    return _visit(target, context, now, seconds, finding)


def _recognised(target: Target, seconds: float) -> Target:
    """All our protocols greet first: who is silent wants TLS, and greets inside it."""
    try:
        with _connect(target, seconds / 2) as connection:
            return replace(target, service=_service(Line(connection, seconds / 2).receive()), tls="starttls")
    except TimeoutError:
        pass
    with _connect(target, seconds) as connection, blind().wrap_socket(connection, server_hostname=target.host) as tls:
        return replace(target, service=_service(Line(tls, seconds).receive()), tls="implicit")


def _service(greeting: str) -> str:
    for start, service in (("* ", "imap"), ("+OK", "pop3"), ("220", "smtp"), ('"', "managesieve")):
        if greeting.startswith(start):
            return service
    raise TalkError(f"speaks no mail protocol: {greeting[:60]!r}")


def _connect(target: Target, seconds: float) -> socket.socket:
    if target.port:
        return socket.create_connection((target.host, target.port), seconds)
    connection = socket.socket(socket.AF_UNIX)
    connection.settimeout(seconds)
    try:
        connection.connect(target.host)
    except OSError:
        connection.close()
        raise
    return connection


def _visit(target: Target, context: ssl.SSLContext, now: datetime, seconds: float, finding: Finding) -> Finding:
    with _connect(target, seconds) as connection:
        line, talk = Line(connection, seconds), dialect(target.service)
        try:
            if target.proxied:
                line.send(_proxy_header(connection))
            if target.tls == "implicit":
                line.secure(context, target.name or target.host)
                talk.greet(line)
                return _seen(line, talk.offer(line), context, now, finding)
            return _upgraded(target, line, talk, context, now, finding)
        finally:
            _leave(line, talk)


def _upgraded(
    target: Target, line: Line, talk: Dialect, context: ssl.SSLContext, now: datetime, finding: Finding
) -> Finding:
    talk.greet(line)
    before = talk.offer(line)
    finding = replace(finding, before=before.sasl, plaintext=before.login)
    if target.tls == "none" or not before.starttls:
        fault = "" if target.tls == "none" else f"does not offer {talk.starttls}"
        return replace(finding, fault=fault)
    if before.login and target.tls == "starttls":
        finding = replace(finding, fault="takes passwords without TLS")
    talk.ask_for_tls(line)
    line.secure(context, target.name or target.host)
    return _seen(line, talk.offer(line), context, now, finding)


def _seen(line: Line, after: Offer, context: ssl.SSLContext, now: datetime, finding: Finding) -> Finding:
    """Note what the handshake brought."""
    assert isinstance(line.socket, ssl.SSLSocket)
    certificate = x509.load_der_x509_certificate(line.socket.getpeercert(True) or b"")
    cipher = line.socket.cipher()
    return replace(
        finding,
        version=line.socket.version() or "",
        cipher=cipher[0] if cipher else "",
        certificate=subject_of(certificate),
        issuer="itself" if certificate.issuer == certificate.subject else name_of(certificate.issuer),
        days=(certificate.not_valid_after_utc - now).days,
        verified=context.verify_mode is ssl.CERT_REQUIRED,
        after=after.sasl,
    )


def _leave(line: Line, talk: Dialect) -> None:
    try:
        talk.farewell(line)
    except (OSError, TalkError):
        pass  # it was on its way out, too
    finally:
        line.socket.close()


def _proxy_header(connection: socket.socket) -> str:
    (host, port, *_), (peer, peer_port, *_) = connection.getsockname(), connection.getpeername()
    return f"PROXY TCP{6 if ':' in host else 4} {host} {peer} {port} {peer_port}"


def subject_of(certificate: x509.Certificate) -> str:
    """The name on a certificate: its first DNS name, else its first address, else its common name."""
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return name_of(certificate.subject)
    found: Sequence[Any] = names.get_values_for_type(x509.DNSName) or names.get_values_for_type(x509.IPAddress)
    return printable(str(found[0])) if found else name_of(certificate.subject)


def name_of(name: x509.Name) -> str:
    """Who that is, in one word."""
    for kind in (NameOID.COMMON_NAME, NameOID.ORGANIZATION_NAME):
        if found := name.get_attributes_for_oid(kind):
            return printable(str(found[0].value))
    return printable(name.rfc4514_string()) or "nobody"


def table(findings: Sequence[Finding]) -> str:
    """The findings as aligned columns, faults at the end of their lines."""
    head = (
        "SERVICE",
        "ADDRESS",
        "TLS",
        "VERSION AND CIPHER",
        "CERTIFICATE",
        "SASL BEFORE > AFTER",
        "CLEAR LOGIN",
        "RESULT",
    )
    return aligned([head, *(_row(finding) for finding in findings)])


def _row(finding: Finding) -> tuple[str, ...]:
    certificate = ""
    if finding.certificate:
        verified = "verified" if finding.verified else "NOT VERIFIED"
        certificate = f"{finding.certificate} by {finding.issuer}, {finding.days} days, {verified}"
    sasl = f"{' '.join(finding.before) or '-'} > {' '.join(finding.after) or '-'}"
    return (
        finding.service or "?",
        finding.address,
        finding.tls or "?",
        f"{finding.version} {finding.cipher}".strip() or "-",
        certificate or "-",
        sasl,
        "OFFERED" if finding.plaintext else "no",
        f"FAILED: {finding.fault}" if finding.fault else f"skipped: {finding.skipped}" if finding.skipped else "ok",
    )


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """Columns of equal width, the last one as it comes."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)][:-1]
    lines = []
    for row in rows:
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=False)]
        lines.append("  ".join((*cells, row[-1])).rstrip())
    return "\n".join(lines)
