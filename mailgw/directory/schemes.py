"""Password hashes: the schemes of Dovecot's passwd files, verified; and our own, argon2id, made.

Nothing here needs a compiler: what libcrypt would do, pure Python does where no module for it is installed. Schemes
that keep no hash of the password itself (CRAM-MD5, DIGEST-MD5, OTP) are not verified.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
import warnings
from collections.abc import Callable
from importlib import import_module

import bcrypt
from argon2 import PasswordHasher
from argon2.exceptions import VerificationError, VerifyMismatchError
from passlib.hash import des_crypt, md5_crypt, sha256_crypt, sha512_crypt

_STORED = re.compile(r"\{([A-Za-z0-9-]+)(?:\.(HEX|B64|BASE64))?\}(.*)", re.IGNORECASE | re.DOTALL)
_HEX = re.compile(r"(?:[0-9a-fA-F]{2})+")
_OURS = PasswordHasher(time_cost=2, memory_cost=19456, parallelism=1)
"""OWASP's parameters; one lane, because Dovecot's libsodium verifies no more."""


class UnusableHash(ValueError):
    """A stored password that nobody can be compared with: an unknown scheme, or a mutilated hash."""


def make(password: bytes) -> str:
    """Hash a password with argon2id, as Dovecot's passwd files hold it."""
    return "{ARGON2ID}" + _OURS.hash(password)


def scheme(stored: str) -> str:
    """The scheme of a stored password, in capitals and without the encoding; without one it is C{CRYPT}."""
    match = _STORED.fullmatch(stored)
    return match[1].upper() if match else "CRYPT"


def known(stored: str) -> bool:
    """True for a scheme that L{verify} knows."""
    return scheme(stored) in _VERIFIERS


def memory_hard(stored: str) -> bool:
    """True where each verification takes tens of megabytes."""
    return "$argon2" in stored or scheme(stored).startswith("ARGON2")


def verify(stored: str, password: bytes) -> bool:
    """Compare a password with a stored one.

    @param stored: C{{SCHEME}hash}, C{{SCHEME.HEX}hash}, C{{SCHEME.B64}hash}, or a bare crypt(3) hash.
    @raise UnusableHash: they cannot be compared.
    """
    match = _STORED.fullmatch(stored)
    text, encoding = (match[3], (match[2] or "").upper()) if match else (stored, "")
    verifier = _VERIFIERS.get(scheme(stored))
    if verifier is None:
        raise UnusableHash(f"unknown scheme {scheme(stored)}")
    if not text or not password:
        return False
    try:
        return verifier(text, encoding, password)
    except (ValueError, VerificationError) as error:
        raise UnusableHash(f"mutilated {scheme(stored)} hash ({type(error).__name__})") from None


def _octets(text: str, encoding: str) -> bytes:
    if encoding == "HEX":
        return bytes.fromhex(text)
    if encoding:
        return base64.b64decode(text, validate=True)
    return text.encode()


def _plain(text: str, encoding: str, password: bytes) -> bool:
    return hmac.compare_digest(_octets(text, encoding), password)


def _digest(algorithm: str, salted: bool = False) -> Callable[[str, str, bytes], bool]:
    """A digest of password and salt, the salt behind it; in hex where it looks so, else in base64."""
    size = hashlib.new(algorithm, usedforsecurity=False).digest_size

    def check(text: str, encoding: str, password: bytes) -> bool:
        if not encoding:
            encoding = "HEX" if len(text) == 2 * size and _HEX.fullmatch(text) else "B64"
        octets = _octets(text, encoding)
        if len(octets) < size or (len(octets) > size) != salted:
            raise binascii.Error
        made = hashlib.new(algorithm, password + octets[size:], usedforsecurity=False).digest()
        return hmac.compare_digest(made, octets[:size])

    return check


def _argon2(text: str, encoding: str, password: bytes) -> bool:
    try:
        return _OURS.verify(_octets(text, encoding), password)
    except VerifyMismatchError:
        return False


def _pbkdf2(text: str, encoding: str, password: bytes) -> bool:
    """C{$1$salt$rounds$hex}, HMAC-SHA-1."""
    _, version, salt, rounds, made = _octets(text, encoding).decode().split("$")
    if version != "1":
        raise binascii.Error
    expected = bytes.fromhex(made)
    return hmac.compare_digest(
        hashlib.pbkdf2_hmac("sha1", password, salt.encode(), int(rounds), len(expected)), expected
    )


def _scram(algorithm: str) -> Callable[[str, str, bytes], bool]:
    """C{iterations,salt,StoredKey,ServerKey} (RFC 5802 §3)."""

    def check(text: str, encoding: str, password: bytes) -> bool:
        rounds, salt, stored, _ = _octets(text, encoding).decode().split(",")
        salted = hashlib.pbkdf2_hmac(algorithm, password, base64.b64decode(salt, validate=True), int(rounds))
        client = hmac.digest(salted, b"Client Key", algorithm)
        made = hashlib.new(algorithm, client).digest()
        return hmac.compare_digest(made, base64.b64decode(stored, validate=True))

    return check


def _system_crypt() -> Callable[[str, str], str | None] | None:
    """The crypt(3) of this machine, which also knows what only libcrypt does, such as yescrypt."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        for name in ("crypt_r", "crypt"):
            try:
                found: Callable[[str, str], str | None] = import_module(name).crypt
            except ImportError:
                continue
            return found
    return None


_SYSTEM = _system_crypt()
_PORTABLE = {"$1$": md5_crypt, "$5$": sha256_crypt, "$6$": sha512_crypt}


def _crypt(text: str, encoding: str, password: bytes) -> bool:
    """What begins with C{*} or C{!} is a locked account."""
    stored = _octets(text, encoding).decode()
    if stored[:1] in "*!":
        return False
    if stored.startswith("$2"):
        return bcrypt.checkpw(password[:72], stored.encode())  # crypt(3) looks at 72 octets; bcrypt 5 raises
    if stored.startswith("$argon2"):
        return _argon2(stored, "", password)
    portable = _PORTABLE.get(stored[:3]) or (des_crypt if len(stored) == 13 and "$" not in stored else None)
    made = _by_libcrypt(password, stored)
    if made is not None:
        return hmac.compare_digest(made.encode(), stored.encode())
    if portable is None:
        raise ValueError
    return bool(portable.verify(password, stored))


def _by_libcrypt(password: bytes, stored: str) -> str | None:
    """C{None} where there is no libcrypt, or it cannot: the password is no text or too long, the hash is strange."""
    if _SYSTEM is None:
        return None
    try:
        made = _SYSTEM(password.decode(), stored)
    except (OSError, UnicodeDecodeError):
        return None
    return None if made is None or made.startswith("*") else made


def _md5(text: str, encoding: str, password: bytes) -> bool:
    """C{{MD5}} means the crypt in Dovecot, and the plain digest in older files."""
    return (_crypt if text.startswith("$1$") else _digest("md5"))(text, encoding, password)


_VERIFIERS: dict[str, Callable[[str, str, bytes], bool]] = {
    **dict.fromkeys(("PLAIN", "CLEAR", "CLEARTEXT"), _plain),
    **dict.fromkeys(("CRYPT", "DES-CRYPT", "MD5-CRYPT", "SHA256-CRYPT", "SHA512-CRYPT", "BLF-CRYPT"), _crypt),
    **dict.fromkeys(("ARGON2I", "ARGON2ID"), _argon2),
    **dict.fromkeys(("SHA", "SHA1"), _digest("sha1")),
    **dict.fromkeys(("PLAIN-MD5", "LDAP-MD5"), _digest("md5")),
    "MD5": _md5,
    "SMD5": _digest("md5", salted=True),
    "SHA256": _digest("sha256"),
    "SHA512": _digest("sha512"),
    "SSHA": _digest("sha1", salted=True),
    "SSHA256": _digest("sha256", salted=True),
    "SSHA512": _digest("sha512", salted=True),
    "PBKDF2": _pbkdf2,
    "SCRAM-SHA-1": _scram("sha1"),
    "SCRAM-SHA-256": _scram("sha256"),
}
