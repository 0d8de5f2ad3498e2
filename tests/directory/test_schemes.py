"""Tests of L{mailgw.directory.schemes}."""

from __future__ import annotations

import subprocess
from unittest.mock import patch

import bcrypt
from twisted.trial.unittest import SkipTest, SynchronousTestCase

from mailgw.directory import schemes
from mailgw.directory.schemes import UnusableHash, verify
from tests.integration.ports import program

PASSWORD = "pässword 1".encode()
MADE_BY_DOVEADM = """\
{PLAIN}pässword 1
{CLEAR}pässword 1
{CLEARTEXT}pässword 1
{SSHA}kN93DPIkf8b2N+/9tOcj9SOcC0H5szNz
{SSHA256}RVGm/EI/HTfX1IQ8tgvHxkOL4N2g6nvuh8mVOPpMHjabHhLL
{SSHA512}Etw43NOqxcFBD3s1NzKBBxokiFbnKcfr6toOQvyXPNJ18dEl1UblEuSuhpOaZVLeTv0/jW8sMUddmcKHPQrV+MHdwqE=
{SHA}wBFJYYjnh5eS5Eft5JORpd7Gkko=
{SHA1}wBFJYYjnh5eS5Eft5JORpd7Gkko=
{SHA256}f7RERuWhObO3oHciFhtpNCnGhD0FNBL7CyE3AkK4vbA=
{SHA512}CKWQ1bFe+6HuV0fkV78KrhRH5bOjFVbkHBnd8vTWw2lc3YVFx8X2I6wtGQoVpZVuVsftC++RLO5GPIvd7H4Lyg==
{SMD5}vBJh65fgDlzJ1/57dhUY7EAHMDI=
{LDAP-MD5}7goPoJ33weEME8J5Khxfug==
{PLAIN-MD5}ee0a0fa09df7c1e10c13c2792a1c5fba
{MD5}$1$K8l3znYg$NXI8Svb/Ev2v5yP1E9zW9.
{MD5-CRYPT}$1$ey2Qu.Lm$QjRnH2vaz2oW5HW0y85750
{SHA256-CRYPT}$5$pvvrrwnS4LCvSXNw$ucBNtfjhCfzCAinqUU52ZlEpoOeyZUhzyZkuKz3XWk6
{SHA512-CRYPT}$6$6F3Ha51vArGYgCCf$nyMbPM64KTJqjbBRZKv.uvaEPb2iBdFHaI2.Bi0CA3P7beKORxJJ6XlguFRnjSrPI5Chx/74gK7Le7K/Un1Ks1
{BLF-CRYPT}$2y$05$GJdtJUBx/hbv896Dp4knlev7TuGhTzd.BHOlNiMhEA8IpV.oAhwiG
{ARGON2I}$argon2i$v=19$m=32768,t=4,p=1$WY9YACl2WjfJF2+FfsxKoQ$pc5oEJRTri/WxSoXJ5mkgPXB/QpGbckAM6zjl+J33yM
{ARGON2ID}$argon2id$v=19$m=65536,t=3,p=1$Y7eiNhc+eoU1nd9p7ifdQg$LI4tjriXoHT1ZKzUEaR9tUUFQnj2+30KJJG2uCu/6Hs
{PBKDF2}$1$3gbXolngZ/0YJ6pE$5000$615f3b1a4ec6bf976120d1362dd4ec87858a4158
{SCRAM-SHA-256}4096,wC6tJwZRneqHC6WUMvuIzA==,cpBba78HS2CUtAt5IFh+oSFUEm5FjpbRrvCmKzv9YUU=,/yYK7wkIX65E+7IzMbpEaYazRtU0zJVewqS0Xmhj4w0=
{SCRAM-SHA-1}4096,bjkohh7STCU51v3rcxNmLw==,1ajx4ts70BoSJtyXuW3oYAkL5nI=,d+phU+vFXFLZonQzoDoRBe44A3I=
{CRYPT}$2y$05$4JmXy/Ixv82K8Otj0E2c/e329WOopC8WOdgnFRYg8j/WzbFtCaane
{DES-CRYPT}g1GHIyelPNtkI
{SSHA.HEX}be7a48a3d2c27c871e33c4e0f2776d2711a15d1b6b4a562e
{SHA256.HEX}7fb44446e5a139b3b7a07722161b693429c6843d053412fb0b21370242b8bdb0
{SSHA512.B64}uXab0ERtz63XG6MetpqycqhsMphuWZHN0J55YsA3OgCnNNxGWEHefBG4g7qpHOwmdftk0VeCf++qkh5RFg5bnmWuPPw=
{ssha512.b64}uXab0ERtz63XG6MetpqycqhsMphuWZHN0J55YsA3OgCnNNxGWEHefBG4g7qpHOwmdftk0VeCf++qkh5RFg5bnmWuPPw=
{PLAIN.B64}cMOkc3N3b3JkIDE=
{PLAIN.HEX}70c3a47373776f72642031
{SHA.HEX}c011496188e7879792e447ede49391a5dec6924a
{ARGON2ID.HEX}246172676f6e32696424763d3139246d3d36353533362c743d332c703d31242f7a50652f436166446c52626e6d666d5576594c395124772f7842475767756d44362f476e784350357631747871344936326f74646a4b55336b614254576439706b
{SHA512-CRYPT.B64}JDYkb0VIS004bGZQVm0vRUtXeCRnUlBHM2U1Mks4ckJPdU0vc2xoU2h2OFRQNy5HbHFCaWpMVHBpaVp2NnZReWFGNWF5RC5GN3Z1SUdUL3hHelJBRWJZd1MySlJsRlFrLjJPU0QuOFNtMQ==
{PLAIN-MD5.B64}7goPoJ33weEME8J5Khxfug==
{LDAP-MD5.HEX}ee0a0fa09df7c1e10c13c2792a1c5fba
{SMD5.HEX}eb3bdd53a1eaf43ba6f49b5cfe71c642fb19a988
$6$6F3Ha51vArGYgCCf$nyMbPM64KTJqjbBRZKv.uvaEPb2iBdFHaI2.Bi0CA3P7beKORxJJ6XlguFRnjSrPI5Chx/74gK7Le7K/Un1Ks1
g1GHIyelPNtkI""".splitlines()


class VerifyTests(SynchronousTestCase):
    """L{verify}."""

    def test_doveadm(self) -> None:
        """Hashes that doveadm made verify, of every scheme and encoding; another password never does."""
        for stored in MADE_BY_DOVEADM:
            self.assertTrue(verify(stored, PASSWORD), stored)
            self.assertFalse(verify(stored, b"X" + PASSWORD), stored)

    def test_without_libcrypt(self) -> None:
        """The same without any module for libcrypt, as on Python 3.13: nothing needs a compiler."""
        with patch.object(schemes, "_SYSTEM", None):
            for stored in MADE_BY_DOVEADM:
                if "CRYPT" in schemes.scheme(stored):
                    self.assertTrue(verify(stored, PASSWORD), stored)
                    self.assertFalse(verify(stored, b"X" + PASSWORD), stored)

    def test_live(self) -> None:
        """What this machine's doveadm makes verifies too."""
        doveadm = program("doveadm")
        if doveadm is None:
            raise SkipTest("doveadm not installed; on Debian: apt-get install --no-install-recommends dovecot-core")
        for scheme in ("SSHA512", "BLF-CRYPT", "SHA512-CRYPT", "PBKDF2", "SCRAM-SHA-256", "PLAIN-MD5.B64"):
            command = [doveadm, "-c", "/dev/null", "pw", "-s", scheme, "-p", PASSWORD]
            stored = subprocess.run(command, capture_output=True, check=True).stdout.decode().strip()
            self.assertTrue(verify(stored, PASSWORD), stored)
            self.assertFalse(verify(stored, PASSWORD[:-1]), stored)

    def test_ours(self) -> None:
        """What we make is argon2id with a salt, verifies, and doveadm agrees where there is one."""
        stored = schemes.make(PASSWORD)
        self.assertTrue(stored.startswith("{ARGON2ID}$argon2id$"))
        self.assertNotEqual(stored, schemes.make(PASSWORD))
        self.assertTrue(verify(stored, PASSWORD))
        doveadm = program("doveadm")
        if doveadm is not None:
            command = [doveadm, "-c", "/dev/null", "pw", "-t", stored, "-p", PASSWORD]
            self.assertIn(b"(verified)", subprocess.run(command, capture_output=True).stdout)

    def test_octets(self) -> None:
        """A password need not be text."""
        password = bytes(octet for octet in range(1, 256) if octet not in b"\r\n")
        self.assertTrue(verify(schemes.make(password), password))
        for stored in MADE_BY_DOVEADM:
            self.assertFalse(verify(stored, b"\xff\xfe"), stored)

    def test_long(self) -> None:
        """bcrypt looks at 72 octets, as crypt(3) does, and longer passwords are no error."""
        stored = "{BLF-CRYPT}" + bcrypt.hashpw(b"x" * 72, bcrypt.gensalt(4)).decode()
        self.assertTrue(verify(stored, b"x" * 1024))
        for hashed in MADE_BY_DOVEADM:
            self.assertFalse(verify(hashed, b"x" * 1024), hashed)

    def test_empty(self) -> None:
        """No password and no hash match nothing, not even each other."""
        for stored in ("", "{PLAIN}", "{CRYPT}", "{SSHA}", "{PLAIN}x"):
            self.assertFalse(verify(stored, b""), stored)
        self.assertFalse(verify("{PLAIN}", b"x"))

    def test_locked(self) -> None:
        """Accounts locked in the way of passwd(1) stay locked."""
        for stored in ("*", "!", "!$6$6F3Ha51vArGYgCCf$nyMbPM64KT", "{CRYPT}*0"):
            self.assertFalse(verify(stored, b"x"), stored)

    def test_unusable(self) -> None:
        """Unknown schemes and mutilated hashes say so, and do not show what was stored."""
        for stored in (
            "{NONE}mutilated",
            "{CRAM-MD5}mutilated",
            "{SSHA}mutilated",
            "{SSHA}wBFJYYjnh5eS5Eft5JORpd7Gkko=",
            "{SHA}kN93DPIkf8b2N+/9tOcj9SOcC0H5szNz",
            "{SHA256.HEX}mutilated",
            "{PLAIN.B64}mutilated!",
            "{ARGON2ID}mutilated",
            "{ARGON2ID}$argon2id$v=19$m=65536,t=3,p=1$mutilated",
            "{PBKDF2}mutilated",
            "{PBKDF2}$2$mutilated$1$00",
            "{SCRAM-SHA-1}mutilated",
            "{CRYPT}$mutilated",
            "{BLF-CRYPT}$2y$mutilated",
            "{SHA512-CRYPT}$9$mutilated",
        ):
            error = self.assertRaises(UnusableHash, verify, stored, b"secret")
            self.assertRegex(str(error), r"^unknown scheme [A-Z0-9-]+$|^mutilated [A-Z0-9-]+ hash \(\w+\)$")

    def test_scheme(self) -> None:
        """The scheme without its encoding, in capitals; nothing in braces is crypt."""
        self.assertEqual(schemes.scheme("{ssha.hex}00"), "SSHA")
        self.assertEqual(schemes.scheme("$6$x"), "CRYPT")
        self.assertTrue(schemes.known("{Plain}x"))
        self.assertFalse(schemes.known("{OTP}x"))

    def test_memory_hard(self) -> None:
        """Argon2 is memory-hard, under whatever name."""
        hard = [stored for stored in MADE_BY_DOVEADM if schemes.memory_hard(stored)]
        self.assertEqual([schemes.scheme(stored) for stored in hard], ["ARGON2I", "ARGON2ID", "ARGON2ID"])
        self.assertTrue(schemes.memory_hard("{CRYPT}$argon2id$x"))
