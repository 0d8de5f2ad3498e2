"""Tests of the PROXY header: what is read, what is refused, and that both versions are written as they are read."""

from __future__ import annotations

import ipaddress
from itertools import pairwise
from struct import pack

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.protocols.haproxy._v1parser import V1Parser
from twisted.protocols.haproxy._v2parser import V2Parser
from twisted.trial.unittest import SynchronousTestCase

from mailgw.model import Peer
from mailgw.wire import proxyheader
from mailgw.wire.proxyheader import (
    SIGNATURE,
    ClientTls,
    HeaderReader,
    ProxyHeader,
    Tlv,
    authority,
    client_tls,
    crc32c,
    unique_id,
    version_1,
    version_2,
)

FOUR = Peer("203.0.113.7", 4242, "192.0.2.1", 993)
SIX = Peer("2001:db8::7", 4242, "2001:db8::1", 65535)
BLOCK = bytes([203, 0, 113, 7, 192, 0, 2, 1]) + pack("!HH", 4242, 993)
BEHIND = b"\r\nPROXY \0\x16a NOOP\r\n"

V4 = st.ip_addresses(v=4).map(str)
V6 = st.ip_addresses(v=6).map(lambda address: str(address.ipv4_mapped or address))
PORTS = st.integers(0, 65535)
PEERS = (
    st.builds(Peer, V4, PORTS, V4, PORTS)
    | st.builds(Peer, V6, PORTS, V6, PORTS)
    | st.builds(Peer, V4, PORTS, V6, PORTS)
)
KINDS = st.integers(0, 255).filter(
    lambda kind: kind not in (proxyheader.CRC32C, proxyheader.SSL, proxyheader.UNIQUE_ID)
)
TLVS = st.lists(st.tuples(KINDS, st.binary(max_size=40)), max_size=5)
TEXTS = st.text("abc.-_ XYZ019\xe4", max_size=20)


def two(rest: bytes, head: int = 0x21, family: int = 0x11, length: int | None = None) -> bytes:
    """A version 2 header, right or wrong."""
    return SIGNATURE + pack("!BBH", head, family, len(rest) if length is None else length) + rest


def tlv(kind: int, value: bytes) -> bytes:
    """An extension."""
    return pack("!BH", kind, len(value)) + value


class HeaderCase(SynchronousTestCase):
    """Headers with octets behind them, cut everywhere."""

    def read(self, header: bytes) -> ProxyHeader:
        """Read a good header, in one piece, octet by octet, and cut in two at each place."""
        [found] = {self.once(cut) for cut in self.cuts(header + BEHIND)}
        assert found is not None
        return found

    def once(self, pieces: list[bytes]) -> ProxyHeader | None:
        """Feed pieces, and see that nothing behind the header is used up."""
        reader, found = HeaderReader(), None
        while pieces and found is None:
            found = reader.feed(pieces.pop(0))
        self.assertEqual(reader.fault, "")
        self.assertEqual(reader.rest() + b"".join(pieces), BEHIND)
        self.assertEqual(reader.rest(), b"")
        return found

    def cuts(self, data: bytes) -> list[list[bytes]]:
        """The pieces of each way to cut."""
        halves = [[data[:place], data[place:]] for place in range(len(data))]
        return [*halves, [data[place : place + 1] for place in range(len(data))]]

    def refuse(self, data: bytes, fault: str) -> None:
        """See that these octets are refused for the same reason, however they are cut; the end comes at once."""
        for pieces in self.cuts(data):
            reader = HeaderReader()
            for piece in pieces:
                self.assertIsNone(reader.feed(piece))
            self.assertEqual(reader.fault, fault, data)
            self.assertIsNone(reader.feed(version_1(FOUR)))
            self.assertEqual(reader.rest(), b"")


class VersionOneTests(HeaderCase):
    """The line."""

    def test_addresses(self) -> None:
        """Both families; an IPv4 address through an IPv6 socket is the IPv4 address."""
        self.assertEqual(self.read(b"PROXY TCP4 203.0.113.7 192.0.2.1 4242 993\r\n").peer, FOUR)
        self.assertEqual(self.read(b"PROXY TCP6 2001:db8::7 2001:DB8:0::1 4242 65535\r\n").peer, SIX)
        self.assertEqual(self.read(b"PROXY TCP6 ::ffff:203.0.113.7 ::ffff:c000:201 4242 993\r\n").peer, FOUR)

    def test_unknown(self) -> None:
        """Of UNKNOWN the rest of the line is passed over, and the longest line is taken."""
        for words in (b"", b" ", b" x", b" ffff:f...f 1 65535", b" \xff\r\0", b" " + b"x" * 91):
            self.assertEqual(self.read(b"PROXY UNKNOWN" + words + b"\r\n"), ProxyHeader())

    def test_malformed(self) -> None:
        """Nothing else is taken for a header."""
        good = b"PROXY TCP4 1.2.3.4 5.6.7.8 1 2\r\n"
        self.read(good)
        for old, new in (
            *(
                (b"TCP4", b"TCP6"),
                (b"TCP4", b"UDP4"),
                (b"TCP4", b"tcp4"),
                (b"TCP4", b"UNKNOWNX"),
                (b"TCP4 ", b"TCP4  "),
            ),
            *((b"1.2.3.4", b"999.1.1.1"), (b"1.2.3.4", b"01.2.3.4"), (b"1.2.3.4", b"1.2.3"), (b"1.2.3.4", b"::1")),
            *(
                (b"1.2.3.4", b""),
                (b"1.2.3.4", b"\xb2.2.3.4"),
                (b" 1 2", b" 1"),
                (b" 1 2", b" 1 2 3"),
                (b" 1 2", b" 1 2 "),
            ),
            *(
                (b" 1 2", b" 01 2"),
                (b" 1 2", b" 65536 2"),
                (b" 1 2", b" 1 99999"),
                (b" 1 2", b" -1 2"),
                (b" 1 2", b" +1 2"),
            ),
            *((b" 1 2", b" 1_0 2"), (b" 1 2", b" 1 "), (b"\r\n", b"\n"), (b"\r\n", b"\r\r\n"), (b" 1 2", b"\t1 2")),
            (b" 1 2", b" \xb2 2"),
        ):
            line = good.replace(old, new, 1)
            reader = HeaderReader()
            self.assertIsNone(reader.feed(line + BEHIND), line)
            self.assertIn("malformed", reader.fault, line)
        for line in (b"PROXY \r\n", b"PROXY  TCP4\r\n", b"PROXY TCP6 fe80::1%eth0 ::1 1 2\r\n", b"PROXY \n"):
            self.refuse(line, "malformed header")

    def test_no_header(self) -> None:
        """A client that begins with its own protocol is found out at the first octet that does not fit."""
        for data in (
            b"a NOOP\r\n",
            b"\x16\x03\x01",
            b"GET / HTTP/1.1\r\n",
            b"PROXX",
            b"proxy TCP4",
            b"PROXY\r\n",
            b"\r\nx",
        ):
            self.refuse(data, "no PROXY header")

    def test_too_long(self) -> None:
        """A line is 107 octets at most, and more are not waited for."""
        self.refuse(b"PROXY UNKNOWN" + b"x" * 94, "header too long")
        self.refuse(b"PROXY TCP4 " + b"1" * 300, "header too long")
        self.refuse(b"PROXY UNKNOWN " + b"x" * 92 + b"\r\n", "header too long")


class VersionTwoTests(HeaderCase):
    """The block."""

    def test_addresses(self) -> None:
        """Both families."""
        self.assertEqual(self.read(two(BLOCK)), ProxyHeader(FOUR))
        ends = ipaddress.ip_address(SIX.host).packed + ipaddress.ip_address(SIX.local_host).packed
        self.assertEqual(self.read(two(ends + pack("!HH", 4242, 65535), family=0x21)).peer, SIX)

    def test_local(self) -> None:
        """Of LOCAL all is passed over, whatever its family is."""
        for family in (0x00, 0x11, 0x12, 0x32, 0x22):
            for rest in (b"", BLOCK, b"x", b"\3\xff"):
                self.assertEqual(self.read(two(rest, 0x20, family)), ProxyHeader())

    def test_no_addresses(self) -> None:
        """A family that we have no address of: the connection's own ends count, and extensions are read."""
        more = tlv(proxyheader.AUTHORITY, b"mail.example")
        self.assertEqual(self.read(two(more, family=0x00)), ProxyHeader(None, ((2, b"mail.example"),)))
        self.assertEqual(self.read(two(bytes(216) + more, family=0x31)).authority, "mail.example")

    def test_extensions(self) -> None:
        """They come as they were sent; of those that we know, in our words."""
        ssl = pack("!BI", 7, 0) + tlv(0x21, b"TLSv1.3") + tlv(0x23, b"AES") + tlv(0x22, "Jörg".encode())
        rest = tlv(4, b"") + tlv(2, b"a.example") + tlv(5, b"\0id") + tlv(0x20, ssl) + tlv(0xE0, b"own") + tlv(2, b"b")
        header = self.read(two(BLOCK + rest))
        self.assertEqual([kind for kind, _ in header.tlvs], [4, 2, 5, 0x20, 0xE0, 2])
        self.assertEqual((header.authority, header.unique_id), ("a.example", b"\0id"))
        self.assertEqual(header.tls, ClientTls("TLSv1.3", "AES", True, "Jörg"))
        self.assertEqual(header.first(0xE0), b"own")

    def test_tls(self) -> None:
        """Verified is a certificate that was shown and found good, and nothing else."""
        for flags, verify, want in ((1, 0, False), (3, 0, True), (5, 0, True), (7, 1, False), (3, 256, False)):
            header = self.read(two(BLOCK + tlv(0x20, pack("!BI", flags, verify))))
            self.assertEqual(header.tls, ClientTls(verified=want))
        self.assertIsNone(self.read(two(BLOCK + tlv(0x20, pack("!BI", 6, 0)))).tls)
        self.assertIsNone(self.read(two(BLOCK)).tls)

    def test_names_for_logs(self) -> None:
        """A name with blanks, control characters or too long is none."""
        for name in (b"a b", b"a\nb", b"\xff", b"x" * 256, b""):
            self.assertEqual(self.read(two(BLOCK + tlv(2, name))).authority, "")

    def test_checksum(self) -> None:
        """It is checked where it is there, wherever that is."""
        self.assertEqual(crc32c(b"123456789"), 0xE3069283)
        for before, behind in ((b"", b""), (tlv(4, b"xxx"), tlv(2, b"a"))):
            blank = two(BLOCK + before + tlv(3, bytes(4)) + behind)
            good = two(BLOCK + before + tlv(3, pack("!I", crc32c(blank))) + behind)
            self.assertEqual(self.read(good).peer, FOUR)
            kind = 16 + len(BLOCK + before)  # another extension in its place is not checked
            for place in (place for place in range(16, len(good)) if place != kind):
                reader = HeaderReader()
                reader.feed(good[:place] + bytes([good[place] ^ 1]) + good[place + 1 :])
                self.assertNotEqual((reader.fault, place), ("", place))
        self.refuse(two(BLOCK + tlv(3, b"abc")), "wrong checksum")

    def test_malformed(self) -> None:
        """What is cut off, unknown or not TCP is refused."""
        for head in (0x22, 0x2F, 0x11, 0x01, 0x31):
            self.refuse(two(BLOCK, head), "unknown version, command or family")
        for family in (0x41, 0x13, 0xFF):
            self.refuse(two(BLOCK, family=family), "unknown version, command or family")
        for family in (0x12, 0x10, 0x22, 0x20):
            self.refuse(two(BLOCK, family=family), "not a TCP connection")
        for family, rest in ((0x11, BLOCK[:-1]), (0x21, BLOCK), (0x31, bytes(215)), (0x11, b"")):
            self.refuse(two(rest, family=family), "addresses cut off")
        for rest in (
            b"\4",
            b"\4\0",
            b"\4\0\1",
            b"\4\xff\xff",
            tlv(0x20, b"\1\0\0\0"),
            tlv(0x20, b"\1\0\0\0\0\x21\0\1"),
        ):
            self.refuse(two(BLOCK + rest), "extension cut off")
        self.refuse(two(BLOCK + tlv(5, b"x" * 129)), "unique id too long")

    def test_too_long(self) -> None:
        """What is longer than any header needs is not waited for."""
        self.refuse(two(b"", length=4097), "header too long")
        self.refuse(two(b"", length=65535), "header too long")
        self.assertEqual(len(self.once([two(BLOCK + tlv(4, bytes(4081))) + BEHIND]).tlvs[0][1]), 4081)  # type: ignore[union-attr]

    def test_waiting(self) -> None:
        """Half a header is neither a header nor a fault."""
        reader = HeaderReader()
        for octet in two(BLOCK)[:-1]:
            self.assertIsNone(reader.feed(bytes([octet])))
        self.assertEqual(reader.fault, "")


class WriterTests(HeaderCase):
    """What is written is what is read."""

    def test_version_1(self) -> None:
        """The line; UNKNOWN where there is no pair of addresses."""
        self.assertEqual(version_1(FOUR), b"PROXY TCP4 203.0.113.7 192.0.2.1 4242 993\r\n")
        for peer in (None, Peer("local", 0), Peer("192.0.2.1", 1), Peer("x\r\n", 1, "192.0.2.1", 2)):
            self.assertEqual(version_1(peer), b"PROXY UNKNOWN\r\n")

    def test_version_2(self) -> None:
        """The block; LOCAL for ourselves, and no addresses where there is no pair of them."""
        self.assertEqual(version_2(FOUR), two(BLOCK))
        self.assertEqual(version_2(None), two(b"", 0x20, 0x00))
        self.assertEqual(version_2(Peer("local", 0)), two(b"", 0x21, 0x00))
        self.assertEqual(
            self.read(version_2(Peer("fe80::1%eth0", 1, "fe80::2", 2))).peer, Peer("fe80::1", 1, "fe80::2", 2)
        )

    def test_too_long(self) -> None:
        """A header that nobody would take is not written."""
        self.assertRaises(ValueError, version_2, FOUR, [(4, bytes(4097))])
        self.assertRaises(ValueError, version_2, FOUR, [(4, bytes(4000)), (4, bytes(90))])

    @settings(max_examples=100, deadline=None, database=None, derandomize=True)
    @given(PEERS, TLVS, st.booleans())
    def test_round_trip(self, peer: Peer, tlvs: list[Tlv], checksum: bool) -> None:
        """Every peer by both versions, with any extensions."""
        reader = HeaderReader()
        self.assertEqual(reader.feed(version_1(peer) + b"x"), ProxyHeader(peer))
        self.assertEqual(reader.rest(), b"x")
        header = HeaderReader().feed(version_2(peer, tlvs, checksum))
        assert header is not None
        self.assertEqual((header.peer, header.tlvs[: len(tlvs)]), (peer, tuple(tlvs)))
        self.assertEqual(len(header.tlvs), len(tlvs) + checksum)

    @settings(max_examples=100, deadline=None, database=None, derandomize=True)
    @given(st.builds(ClientTls, TEXTS, TEXTS, st.booleans(), TEXTS), st.text("abc-.", min_size=1, max_size=50))
    def test_known_extensions(self, tls: ClientTls, name: str) -> None:
        """Those that have a writer."""
        header = HeaderReader().feed(version_2(FOUR, [authority(name), client_tls(tls), unique_id(name)]))
        assert header is not None
        self.assertEqual((header.tls, header.authority, header.unique_id), (tls, name, name.encode()))

    @settings(max_examples=100, deadline=None, database=None, derandomize=True)
    @given(PEERS, TLVS)
    def test_by_another_reader(self, peer: Peer, tlvs: list[Tlv]) -> None:
        """Twisted reads the same out of what we write; it knows addresses only."""
        for header, parser in ((version_1(peer), V1Parser), (version_2(peer, tlvs), V2Parser)):
            info = parser.parse(header.removesuffix(b"\r\n") if parser is V1Parser else header)
            found = [(ipaddress.ip_address(end.host), end.port) for end in (info.source, info.destination)]
            want = [(peer.host, peer.port), (peer.local_host, peer.local_port)]
            for (address, port), (host, wanted_port) in zip(found, want, strict=True):
                self.assertEqual((str(getattr(address, "ipv4_mapped", None) or address), port), (host, wanted_port))


class HostileTests(HeaderCase):
    """Octets of all kinds."""

    @settings(max_examples=400, deadline=None, database=None, derandomize=True)
    @given(
        st.sampled_from(
            [b"", b"PROXY ", b"PROXY TCP4 ", b"PROXY TCP6 ::1 ", SIGNATURE, SIGNATURE + b"\x21\x11\0", two(BLOCK)[:-8]]
        ),
        st.binary(max_size=150),
        st.lists(st.integers(0, 160), max_size=5),
    )
    def test_anything(self, start: bytes, more: bytes, places: list[int]) -> None:
        """No exception, the same for every cut, and every octet is in the header or behind it."""
        data = start + more
        outcomes = set()
        for cuts in ([], places, list(range(len(data)))):
            reader, found, rest = HeaderReader(), None, b""
            bounds = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
            for begin, end in pairwise(bounds):
                if found is None and not reader.fault:
                    found = reader.feed(data[begin:end])
                    rest = reader.rest() if found is not None else b""
                elif found is not None:
                    rest += data[begin:end]
            outcomes.add((found, reader.fault, rest))
        self.assertEqual(len(outcomes), 1, outcomes)

    @settings(max_examples=300, deadline=None, database=None, derandomize=True)
    @given(st.integers(0, 60), st.binary(min_size=1, max_size=3))
    def test_damaged(self, place: int, damage: bytes) -> None:
        """A header with some octets changed is a header, a fault, or not complete; never an exception."""
        good = version_2(FOUR, [authority("a.example"), client_tls(ClientTls("TLSv1.3"))])
        reader = HeaderReader()
        header = reader.feed(good[:place] + damage + good[place + len(damage) :])
        self.assertFalse(header is not None and reader.fault)
        if header is not None:
            self.assertIsInstance(header.tls, ClientTls | None)
