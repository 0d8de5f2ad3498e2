"""The programs that the integration tests talk to, and the Debian packages they come in.

Imports nothing but the standard library: it is asked before anything is installed. It installs nothing itself.
"""

from __future__ import annotations

import os
import shutil
from glob import glob

PACKAGES = {
    "slapd": ("slapd",),
    "slapadd": ("slapd",),
    "ldapadd": ("ldap-utils",),
    "dovecot": ("dovecot-imapd", "dovecot-pop3d", "dovecot-lmtpd"),
    "/usr/lib/dovecot/imap": ("dovecot-imapd",),
    "/usr/lib/dovecot/pop3": ("dovecot-pop3d",),
    "/usr/lib/dovecot/lmtp": ("dovecot-lmtpd",),
    "/usr/lib/dovecot/managesieve": ("dovecot-managesieved", "dovecot-sieve"),
    "doveadm": ("dovecot-core",),
    "exim4": ("exim4-daemon-heavy",),
    "go": ("golang-go",),
    "makegdbm": ("perdition",),
    "mbsync": ("isync",),
    "mutt": ("mutt",),
    "nginx": ("nginx-light", "libnginx-mod-mail"),
    "haproxy": ("haproxy",),
    "openssl": ("openssl",),
    "perdition": ("perdition",),
    "initdb": ("postgresql",),
    "postgres": ("postgresql",),
    "psql": ("postgresql-client",),
    "sieve-connect": ("sieve-connect",),
}
"""Servers and clients, by name or path; servers stand in sbin, which is not on everybody's path."""


def find(program: str) -> str | None:
    """@return: the path of a program, also where it is in an C{sbin} folder that C{PATH} leaves out."""
    folders = [os.environ.get("PATH", os.defpath), "/usr/local/sbin", "/usr/sbin", "/sbin"]
    folders += sorted(glob("/usr/lib/postgresql/*/bin"), reverse=True)  # Debian keeps several versions side by side
    return shutil.which(program, path=os.pathsep.join(folders))


def missing_packages() -> list[str]:
    """@return: the packages whose programs this machine lacks."""
    lacking = [package for program, packages in PACKAGES.items() if find(program) is None for package in packages]
    return list(dict.fromkeys(lacking))


if __name__ == "__main__":
    print(*missing_packages())
