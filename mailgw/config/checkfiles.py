"""Do the files that the settings name hold what they should, and can the gateway's user read them?

Certificates with their keys and expiry, CA files, map and passwd files. Changes nothing, needs no network.
"""

from __future__ import annotations

import os
import pwd
import ssl
import stat
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TypeVar

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key

from mailgw.config.lines import Path
from mailgw.settings import Plug, Settings, Tls, TlsName

T = TypeVar("T")
SOON = timedelta(days=30)
"""A certificate that ends within this is worth a warning."""


@dataclass(frozen=True, slots=True)
class Remark:
    """One thing to say about the settings.

    @ivar grave: it is a fault; otherwise a warning.
    """

    path: Path
    words: str
    grave: bool = True


def certificate_remarks(settings: Settings, now: datetime) -> Iterator[Remark]:
    """Certificates, their keys, and whether the default one names this host."""
    if settings.tls is None:
        return
    yield from _identity(("tls",), settings.tls, now, settings.gateway.hostname)
    for index, name in enumerate(settings.tls.name):
        yield from _identity(("tls", "name", index), name, now, None)


def _identity(path: Path, table: Tls | TlsName, now: datetime, hostname: str | None) -> Iterator[Remark]:
    for certificate_file, key_file in zip(table.certificate, table.key, strict=False):
        chain, trouble = _read(certificate_file, x509.load_pem_x509_certificates)
        key, key_trouble = _read(key_file, lambda data: load_pem_private_key(data, None))
        if trouble:
            yield Remark((*path, "certificate"), f"{certificate_file}: {trouble}")
        if key_trouble:
            yield Remark((*path, "key"), f"{key_file}: {key_trouble}")
        if chain and key and _public(chain[0]) != _public(key):
            words = f"{key_file} is not the key of {certificate_file}"
            if any(_public(one) == _public(key) for one in chain[1:]):
                words += ": the server's own certificate must come first in the chain"
            yield Remark((*path, "key"), words)
        if key and stat.S_IMODE(os.stat(key_file).st_mode) & 0o007:
            yield Remark((*path, "key"), f"everybody can read {key_file}; chmod o= {key_file}", grave=False)
        for index, certificate in enumerate(chain or ()):
            yield from _expiry((*path, "certificate"), certificate_file, certificate, index, now)
        if chain and hostname and not _names(chain[0], hostname):
            words = (
                f"{certificate_file} is not for {hostname} (gateway.hostname); clients that check names will refuse it"
            )
            yield Remark((*path, "certificate"), words, grave=False)


def _expiry(path: Path, file: str, certificate: x509.Certificate, index: int, now: datetime) -> Iterator[Remark]:
    which = file if index == 0 else f"certificate {index + 1} in {file}"
    end = certificate.not_valid_after_utc
    if end < now:
        yield Remark(path, f"{which} has expired on {end:%Y-%m-%d}")
    elif certificate.not_valid_before_utc > now:
        yield Remark(path, f"{which} is valid from {certificate.not_valid_before_utc:%Y-%m-%d %H:%M} UTC on only")
    elif end - now < SOON:
        yield Remark(path, f"{which} expires in {(end - now).days} days, on {end:%Y-%m-%d}", grave=False)


def _public(one: object) -> bytes:
    public = one.public_key()  # type: ignore[attr-defined]  # certificates and every kind of private key have it
    data: bytes = public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return data


def _names(certificate: x509.Certificate, hostname: str) -> bool:
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return False
    _, _, parent = hostname.lower().partition(".")
    return any(name.lower() in (hostname.lower(), f"*.{parent}") for name in names.get_values_for_type(x509.DNSName))


def _read(file: str, parse: Callable[[bytes], T]) -> tuple[T | None, str]:
    """What a PEM file holds, or why it does not."""
    try:
        with open(file, "rb") as stream:
            return parse(stream.read()), ""
    except FileNotFoundError:
        return None, "no such file (mailgw cert makes a self-signed pair)"
    except OSError as error:
        return None, f"cannot be read: {error.strerror}"
    except TypeError:
        return None, "is encrypted; the gateway starts unattended and needs it without a passphrase"
    except ValueError:
        return None, "holds no PEM that is understood here"


def file_remarks(settings: Settings) -> Iterator[Remark]:
    """CA files, maps and passwd files."""
    for name, pool in settings.pool.items():
        if pool.ca is not None:
            yield from _ca(("pool", name, "ca"), pool.ca)
        if pool.certificate is not None and pool.key is not None:
            yield from _own_pair(("pool", name, "certificate"), pool.certificate, pool.key)
    for group, plugs in (("directory", settings.directory), ("route", settings.route)):
        for index, plug in enumerate(plugs):
            if isinstance(ca := getattr(plug.options, "ca", None), str):
                yield from _ca((group, index, "ca"), ca)
            yield from _plug_file((group, index, _file_key(plug)), group, plug)


def _file_key(plug: Plug) -> str:
    """The key that names the plug's file."""
    return "database" if plug.kind == "sql" else "file"


def _ca(path: Path, file: str) -> Iterator[Remark]:
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(file)
    except ssl.SSLError:
        yield Remark(path, f"{file} holds no PEM certificate")
    except OSError as error:
        yield Remark(path, f"{file}: cannot be read: {error.strerror}")


def _own_pair(path: Path, certificate: str, key: str) -> Iterator[Remark]:
    """What we show to backends."""
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_cert_chain(certificate, key, password="")
    except ssl.SSLError as error:
        yield Remark(path, f"{certificate} and {key} are no PEM certificate and its key: {error.reason or error}")
    except OSError as error:
        yield Remark(path, f"{certificate} or {key}: cannot be read: {error.strerror}")


def _plug_file(path: Path, group: str, plug: Plug) -> Iterator[Remark]:
    file = getattr(plug.options, "file", None)
    if not isinstance(file, str):
        return
    if group == "directory" and plug.kind == "passwd" and not os.path.exists(file):
        yield Remark(path, f"{file} does not exist yet; mailgw user add NAME makes it", grave=False)
        return
    try:
        with open(file, "rb"):
            pass
        yield from (Remark(path, f"{file}:{words}") for words in _faults_inside(group, plug, file))
    except OSError as error:
        yield Remark(path, f"{file}: cannot be read: {error.strerror}")


def _faults_inside(group: str, plug: Plug, file: str) -> Sequence[str]:
    """What the plug's own reader says of its file, C{LINE: words} each."""
    if (group, plug.kind) == ("route", "table"):
        from mailgw.routing.regexmap import MapFaults
        from mailgw.routing.table import read_map

        try:
            read_map(file, getattr(plug.options, "match", "name"))
        except MapFaults as error:
            return error.faults
    if (group, plug.kind) == ("directory", "passwd"):
        from mailgw.directory.passwdfile import PasswdFile

        try:
            PasswdFile(file).names()
        except ValueError as error:
            return [f" {error}"]
    return []


def readable_files(settings: Settings, secrets: Sequence[tuple[Path, str]]) -> Iterator[tuple[Path, str]]:
    """Every file that the gateway reads after it has become its user: at the next reload at the latest."""
    if settings.tls is not None:
        identities: list[tuple[Path, Tls | TlsName]] = [(("tls",), settings.tls)]
        identities += [(("tls", "name", index), name) for index, name in enumerate(settings.tls.name)]
        for path, identity in identities:
            yield from (((*path, "certificate"), file) for file in identity.certificate)
            yield from (((*path, "key"), file) for file in identity.key)
    yield from secrets
    for name, pool in settings.pool.items():
        files = (("ca", pool.ca), ("certificate", pool.certificate), ("key", pool.key))
        yield from ((("pool", name, key), file) for key, file in files if file)
    for group, plugs in (("directory", settings.directory), ("route", settings.route)):
        for index, plug in enumerate(plugs):
            for key in ("file", "ca"):
                if isinstance(file := getattr(plug.options, key, None), str):
                    yield (group, index, _file_key(plug) if key == "file" else key), file


def user_remarks(settings: Settings, secrets: Sequence[tuple[Path, str]]) -> Iterator[Remark]:
    """Whether C{gateway.user} exists and can read all files."""
    user = settings.gateway.user
    if user is None:
        return
    try:
        entry = pwd.getpwnam(user)
    except KeyError:
        yield Remark(("gateway", "user"), f"there is no user {user!r} on this machine (adduser --system {user})")
        return
    groups = frozenset(os.getgrouplist(user, entry.pw_gid))
    for path, file in readable_files(settings, secrets):
        if os.path.exists(file) and (obstacle := obstacle_for(entry.pw_uid, groups, file)):
            words = f"{user} (gateway.user) cannot read {file}: {obstacle}"
            yield Remark(path, words)


def obstacle_for(uid: int, groups: frozenset[int], file: str) -> str:
    """Why a user cannot read a file, C{""} where nothing is in the way. Access control lists are believed to allow."""
    file = os.path.realpath(file)
    folder = os.path.dirname(file)
    folders = [folder]
    while folder != os.path.dirname(folder):
        folder = os.path.dirname(folder)
        folders.append(folder)
    for one in reversed(folders):
        if not may(one, uid, groups, 0o1):
            return f"the folder {one} is closed (chgrp, and chmod g+x {one})"
    return "" if may(file, uid, groups, 0o4) else f"its mode is {os.stat(file).st_mode & 0o777:04o} (chgrp, chmod g+r)"


def may(path: str, uid: int, groups: frozenset[int], bit: int) -> bool:
    """Whether the mode of a file or folder gives a user a right: 4 to read, 1 to go through."""
    status = os.stat(path)
    if uid == 0 or _has_acl(path):
        return True
    shift = 6 if status.st_uid == uid else 3 if status.st_gid in groups else 0
    return bool(status.st_mode >> shift & bit)


def _has_acl(path: str) -> bool:
    try:
        return "system.posix_acl_access" in os.listxattr(path)
    except OSError:
        return False
