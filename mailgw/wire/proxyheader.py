"""The header of the PROXY protocol, versions 1 and 2: what a proxy in front says of the connection behind it.

Read and written as haproxy's proxy-protocol.txt has it. Whom to believe is not decided here, and nothing behind the
header is looked at.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from ipaddress import AddressValueError, IPv4Address, IPv6Address, ip_address
from struct import pack, unpack

from mailgw.model import Forward, Peer

MAX_LINE = 107
"""Octets of a version 1 header, its CRLF counted."""
MAX_BODY = 4096
"""Octets of a version 2 header behind its first 16. Addresses need 36 (sockets' paths 216); all known extensions of
one connection, a client certificate's name among them, fit many times."""

SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
_HEAD = 16
_WORD = b"PROXY "
_PORT = re.compile(r"0|[1-9][0-9]{0,4}")
_HOST_NAME = re.compile(r"[!-~]{1,255}")

ALPN, AUTHORITY, CRC32C, NOOP, UNIQUE_ID, SSL, NETNS = 0x01, 0x02, 0x03, 0x04, 0x05, 0x20, 0x30
SSL_VERSION, SSL_CN, SSL_CIPHER, SSL_SIGNATURE, SSL_KEY = 0x21, 0x22, 0x23, 0x24, 0x25
CLIENT_SSL, CLIENT_CERT_CONN, CLIENT_CERT_SESS = 0x01, 0x02, 0x04
MAX_UNIQUE_ID = 128
_FAMILIES: dict[str, type[IPv4Address] | type[IPv6Address]] = {"TCP4": IPv4Address, "TCP6": IPv6Address}

Tlv = tuple[int, bytes]


@dataclass(frozen=True, slots=True)
class ClientTls:
    """How the client speaks TLS with the proxy in front.

    @ivar version: such as C{"TLSv1.3"}; C{""} where it was not told.
    @ivar verified: the client showed a certificate, and the proxy verified it.
    @ivar common_name: of that certificate.
    """

    version: str = ""
    cipher: str = ""
    verified: bool = False
    common_name: str = ""


@dataclass(frozen=True, slots=True)
class ProxyHeader:
    """What a header says.

    @ivar peer: the client's end and the end that it connected to; C{None}: the connection's own ends count, because
        the proxy speaks for itself (C{LOCAL}: a health check) or cannot tell (C{UNKNOWN}, a UNIX socket).
    @ivar tlvs: extensions of version 2 as they came, in order.
    """

    peer: Peer | None = None
    tlvs: tuple[Tlv, ...] = ()

    def first(self, kind: int) -> bytes:
        """The first extension of a kind, or C{b""}."""
        return next((value for one, value in self.tlvs if one == kind), b"")

    @property
    def authority(self) -> str:
        """The name that the client asked for, by SNI; C{""} where it is none that may stand in a log."""
        name = self.first(AUTHORITY).decode("ascii", "replace")
        return name if _HOST_NAME.fullmatch(name) else ""

    @property
    def unique_id(self) -> bytes:
        """The proxy's name for the connection: octets of any kind, 128 at most."""
        return self.first(UNIQUE_ID)

    @property
    def tls(self) -> ClientTls | None:
        """C{None} where the client speaks no TLS with the proxy, or the proxy does not say."""
        value = self.first(SSL)
        if not value or not value[0] & CLIENT_SSL:
            return None
        inner = ProxyHeader(tlvs=tuple(_tlvs(value[5:])))
        shown = bool(value[0] & (CLIENT_CERT_CONN | CLIENT_CERT_SESS))
        texts = (inner.first(kind).decode("utf-8", "replace") for kind in (SSL_VERSION, SSL_CIPHER, SSL_CN))
        version, cipher, common_name = texts
        return ClientTls(version, cipher, shown and not any(value[1:5]), common_name)


class HeaderReader:
    """Takes the first octets of a connection and gives the header. What it does depends on the octets alone, never on
    how they were cut.

    @ivar fault: what is wrong, once it is known; C{""} until then. Nothing comes after a fault.
    """

    __slots__ = ("_buffer", "_done", "fault")

    def __init__(self) -> None:
        self._buffer = b""
        self._done = False
        self.fault = ""

    def feed(self, data: bytes) -> ProxyHeader | None:
        """Take what came; return the header once, when it is all here.

        Call it no more then: all that came behind is in L{rest}.
        """
        if self._done or self.fault:
            return None
        self._buffer += data
        try:
            end = _length(self._buffer)
            if end is None:
                return None
            raw, self._buffer = self._buffer[:end], self._buffer[end:]
            header = _version_2(raw) if raw.startswith(SIGNATURE) else _version_1(raw)
        except ValueError as error:
            self.fault, self._buffer = str(error), b""
            return None
        self._done = True
        return header

    def rest(self) -> bytes:
        """What came behind the header; nothing is kept."""
        rest, self._buffer = self._buffer, b""
        return rest


# --- reading; what is wrong is a ValueError that says so --------------------------------------------------------------


def _length(data: bytes) -> int | None:
    """Where the header ends, C{None} while that is not known or not all is here."""
    if data[: len(SIGNATURE)] == SIGNATURE[: len(data)]:
        if len(data) < _HEAD:
            return None
        length = int.from_bytes(data[14:16], "big")
        if length > MAX_BODY:
            raise ValueError("header too long")
        return _HEAD + length if len(data) >= _HEAD + length else None
    if data[: len(_WORD)] != _WORD[: len(data)]:
        raise ValueError("no PROXY header")
    end = data.find(b"\n", 0, MAX_LINE)
    if end < 0 and len(data) >= MAX_LINE:
        raise ValueError("header too long")
    return end + 1 if end >= 0 else None


def _version_1(line: bytes) -> ProxyHeader:
    """C{PROXY TCP4 source destination port port}; of UNKNOWN nothing else is read."""
    if not line.endswith(b"\r\n"):
        raise ValueError("malformed header")
    words = line[:-2].decode("latin-1").split(" ")
    if words[1] == "UNKNOWN":
        return ProxyHeader()
    kind = _FAMILIES.get(words[1])
    if kind is None or len(words) != 6 or b"%" in line:  # per cent: a zone, which is nobody else's
        raise ValueError("malformed header")
    try:
        source, destination = kind(words[2]), kind(words[3])
    except AddressValueError:
        raise ValueError("malformed address") from None
    return ProxyHeader(Peer(_plain(source), _port(words[4]), _plain(destination), _port(words[5])))


def _port(word: str) -> int:
    if not _PORT.fullmatch(word) or int(word) > 65535:
        raise ValueError("malformed port")
    return int(word)


def _version_2(raw: bytes) -> ProxyHeader:
    version, command = raw[12] >> 4, raw[12] & 15
    family, transport = raw[13] >> 4, raw[13] & 15
    if version != 2 or command > 1 or family > 3 or transport > 2:
        raise ValueError("unknown version, command or family")
    if command == 0:  # LOCAL: all else must be passed over
        return ProxyHeader()
    if family in (1, 2) and transport != 1:
        raise ValueError("not a TCP connection")
    size = {0: 0, 1: 12, 2: 36, 3: 216}[family]
    if len(raw) < _HEAD + size:
        raise ValueError("addresses cut off")
    tlvs = tuple(_tlvs(raw[_HEAD + size :]))
    _check(raw, _HEAD + size, tlvs)
    return ProxyHeader(_addresses(raw[_HEAD : _HEAD + size]) if family in (1, 2) else None, tlvs)


def _addresses(block: bytes) -> Peer:
    width = (len(block) - 4) // 2
    source, destination = ip_address(block[:width]), ip_address(block[width : 2 * width])
    port, local_port = unpack("!HH", block[-4:])
    return Peer(_plain(source), port, _plain(destination), local_port)


def _plain(address: IPv4Address | IPv6Address) -> str:
    """An address as the rest of the house knows it: a client is the same one through an IPv6 socket."""
    return str(getattr(address, "ipv4_mapped", None) or address)


def _tlvs(block: bytes) -> Iterator[Tlv]:
    place = 0
    while place < len(block):
        end = place + 3 + int.from_bytes(block[place + 1 : place + 3], "big")
        if len(block) < place + 3 or len(block) < end:
            raise ValueError("extension cut off")
        yield block[place], block[place + 3 : end]
        place = end


def _check(raw: bytes, place: int, tlvs: tuple[Tlv, ...]) -> None:
    """Look at the extensions whose form we know."""
    for kind, value in tlvs:
        if kind == CRC32C and (len(value) != 4 or crc32c(_blanked(raw, place + 3)) != int.from_bytes(value, "big")):
            raise ValueError("wrong checksum")
        if kind == UNIQUE_ID and len(value) > MAX_UNIQUE_ID:
            raise ValueError("unique id too long")
        if kind == SSL:
            if len(value) < 5:
                raise ValueError("extension cut off")
            list(_tlvs(value[5:]))
        place += 3 + len(value)


def _blanked(raw: bytes, place: int) -> bytes:
    """The header with noughts in place of its checksum."""
    return raw[:place] + bytes(4) + raw[place + 4 :]


# --- writing ----------------------------------------------------------------------------------------------------------


def version_1(peer: Peer | None) -> bytes:
    """Write a header of version 1; C{UNKNOWN} where there are no two addresses."""
    ends = _ends(peer)
    if ends is None or peer is None:
        return b"PROXY UNKNOWN\r\n"
    kind = "TCP4" if ends[0].version == 4 else "TCP6"
    return f"PROXY {kind} {ends[0]} {ends[1]} {peer.port} {peer.local_port}\r\n".encode()


def version_2(peer: Peer | None, tlvs: Iterable[Tlv] = (), checksum: bool = False) -> bytes:
    """Write a header of version 2.

    @param peer: C{None}: we speak for ourselves, C{LOCAL}, as a health check does.
    @param checksum: add a CRC32C.
    @raise ValueError: the extensions are too long.
    """
    ends = _ends(peer)
    block = b""
    if ends is not None and peer is not None:
        block = ends[0].packed + ends[1].packed + pack("!HH", peer.port, peer.local_port)
    family = {0: 0x00, 12: 0x11, 36: 0x21}[len(block)]
    block += b"".join(_tlv(kind, value) for kind, value in tlvs)
    if checksum:
        block += _tlv(CRC32C, bytes(4))
    if len(block) > MAX_BODY:
        raise ValueError("header too long")
    header = SIGNATURE + pack("!BBH", 0x21 if peer is not None else 0x20, family, len(block)) + block
    return header[:-4] + pack("!I", crc32c(header)) if checksum else header


def introduction(version: str, forward: Forward | None) -> bytes:
    """Write the header that a backend gets before anything else.

    @param version: C{"v1"} or C{"v2"}; the latter also tells of the client's TLS, and our session id.
    @param forward: of the client; C{None}: we speak for ourselves.
    """
    if version == "v1":
        return version_1(forward.peer if forward is not None else None)
    if forward is None:
        return version_2(None)
    protocol, cipher, name = forward.tls
    tlvs = [unique_id(forward.session_id)]
    if name and _HOST_NAME.fullmatch(name):
        tlvs.append(authority(name))
    if forward.secure:
        tlvs.append(client_tls(ClientTls(protocol, cipher)))
    return version_2(forward.peer, tlvs)


def authority(name: str) -> Tlv:
    """The extension that tells which name the client asked for."""
    return AUTHORITY, name.encode("utf-8")


def unique_id(text: str) -> Tlv:
    """The extension that names the connection."""
    return UNIQUE_ID, text.encode("utf-8")[:MAX_UNIQUE_ID]


def client_tls(tls: ClientTls) -> Tlv:
    """The extension that tells how the client speaks TLS with us."""
    flags = CLIENT_SSL | (CLIENT_CERT_CONN | CLIENT_CERT_SESS if tls.verified else 0)
    texts = ((SSL_VERSION, tls.version), (SSL_CIPHER, tls.cipher), (SSL_CN, tls.common_name))
    inner = b"".join(_tlv(kind, text.encode("utf-8")) for kind, text in texts if text)
    return SSL, pack("!BI", flags, 0 if tls.verified else 1) + inner


def _tlv(kind: int, value: bytes) -> bytes:
    if len(value) > MAX_BODY:
        raise ValueError("extension too long")
    return pack("!BH", kind, len(value)) + value


def _ends(peer: Peer | None) -> tuple[IPv4Address, IPv4Address] | tuple[IPv6Address, IPv6Address] | None:
    """Both ends in one family: where they differ, an IPv4 address is written as IPv6 does."""
    if peer is None:
        return None
    try:
        source, destination = (ip_address(host.partition("%")[0]) for host in (peer.host, peer.local_host))
    except ValueError:
        return None
    if isinstance(source, IPv4Address) and isinstance(destination, IPv4Address):
        return source, destination
    return _wide(source), _wide(destination)


def _wide(address: IPv4Address | IPv6Address) -> IPv6Address:
    return address if isinstance(address, IPv6Address) else IPv6Address(bytes(10) + b"\xff\xff" + address.packed)


# --- CRC32C (RFC 4960 appendix B): what the standard library has is another polynomial --------------------------------


def _table() -> tuple[int, ...]:
    table = []
    for value in range(256):
        for _ in range(8):
            value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)
        table.append(value)
    return tuple(table)


_TABLE = _table()


def crc32c(data: bytes) -> int:
    """The Castagnoli checksum."""
    crc = 0xFFFFFFFF
    for octet in data:
        crc = crc >> 8 ^ _TABLE[(crc ^ octet) & 0xFF]
    return crc ^ 0xFFFFFFFF
