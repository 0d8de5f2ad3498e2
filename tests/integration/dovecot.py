"""A real Dovecot for tests: IMAP and POP3 with STARTTLS and with implicit TLS, and LMTP, on loopback.

Dovecot 2.3 (Debian 12) and 2.4 (Debian 13) read different languages; the one for the installed version is written.
"""

from __future__ import annotations

import functools
import hashlib
import imaplib
import re
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.integration.certificates import certificates
from tests.integration.daemon import Daemon, who
from tests.integration.ports import HOST, free_port, program

MASTER, MASTER_PASSWORD = "gw", "gwsecret"
EVERY_OCTET = bytes(octet for octet in range(1, 256) if octet not in b"\r\n")
"""Every octet that a password may have."""
DOVECOTS_OCTETS = bytes(octet for octet in EVERY_OCTET if octet not in b"\1\t")
"""Those of them that Dovecot takes: it refuses a password with one of its own separators in it, as "illegal chars"."""


@functools.cache
def version() -> tuple[int, int]:
    """Major and minor version of the installed Dovecot."""
    answer = subprocess.run([program("dovecot") or "dovecot", "--version"], capture_output=True, check=True, text=True)
    match = re.match(r"(\d+)\.(\d+)", answer.stdout)
    assert match is not None, answer.stdout
    return int(match[1]), int(match[2])


class Dovecot(Daemon):
    """A Dovecot with some users, each of whom has an empty mailbox.

    The master user C{gw} may log in as everybody, as C{user*gw} or with a SASL authzid; loopback is trusted to tell
    a client's address (IMAP ID, XCLIENT); plaintext logins are allowed.

    @ivar imap: the port; likewise C{imaps}, C{pop3}, C{pop3s}, C{lmtp}.
    """

    name = "dovecot"

    def __init__(self, users: Mapping[str, bytes]) -> None:
        """
        @param users: password by user name; see L{DOVECOTS_OCTETS} for what it may hold.
        """
        super().__init__()
        self.imap, self.imaps, self.pop3, self.pop3s, self.lmtp = (free_port() for _ in range(5))
        certificates().copy_to(self.folder)
        for part in ("run", "state", "mail"):
            (self.folder / part).mkdir()
        (self.folder / "passwd").write_text("".join(_line(name, password) for name, password in users.items()))
        (self.folder / "master").write_text(_line(MASTER, MASTER_PASSWORD.encode()))
        (self.folder / "dovecot.conf").write_text(self._configuration())

    def command(self) -> Sequence[str]:
        return [program("dovecot") or "dovecot", "-F", "-c", str(self.folder / "dovecot.conf")]

    def listening(self) -> Sequence[int]:
        return self.imap, self.imaps, self.pop3, self.pop3s, self.lmtp

    def mailbox(self, user: str) -> Path:
        """The Maildir of a user."""
        return self.folder / "mail" / user / "Maildir"

    def inbox(self, user: str) -> list[bytes]:
        """The messages in a user's INBOX, read past the gateway, in the order of their delivery."""
        client = imaplib.IMAP4(HOST, self.imap, 10.0)
        try:
            client.login(f"{user}*{MASTER}", MASTER_PASSWORD)
            client.select(readonly=True)
            parts = client.fetch("1:*", "(BODY.PEEK[])")[1] if client.untagged_responses["EXISTS"][0] != b"0" else []
            return [part[1] for part in parts if isinstance(part, tuple)]
        finally:
            client.logout()

    def _configuration(self) -> str:
        user, group = who()
        text = _COMMON + (_LANGUAGE_24 if version() >= (2, 4) else _LANGUAGE_23)
        if version() >= (2, 4):
            text = "dovecot_config_version = 2.4.0\ndovecot_storage_version = 2.4.0\n" + text
        values = {"D": str(self.folder), "USER": user, "GROUP": group, "HOST": HOST}
        values["KEEP"] = "restart_request_count = unlimited" if version() >= (2, 4) else "service_count = 0"
        values |= {name.upper(): str(getattr(self, name)) for name in ("imap", "imaps", "pop3", "pop3s", "lmtp")}
        return re.sub(r"@([A-Z0-9]+)@", lambda match: values[match[1]], text)


def _line(name: str, password: bytes) -> str:
    # a hash: the file could not hold every octet of a password, and colons would end the field
    return f"{name}:{{SHA256.HEX}}{hashlib.sha256(password).hexdigest()}\n"


_COMMON = """
base_dir = @D@/run
state_dir = @D@/state
log_path = @D@/dovecot.log
instance_name = mailgw-@IMAP@
listen = @HOST@
default_internal_user = @USER@
default_internal_group = @GROUP@
default_login_user = @USER@
mail_uid = @USER@
mail_gid = @GROUP@
first_valid_uid = 1
auth_verbose = yes
auth_failure_delay = 0
auth_master_user_separator = *
login_trusted_networks = 127.0.0.0/8
mail_max_userip_connections = 0
ssl = yes
service anvil {
  chroot =
  client_limit = 6000
}
service stats {
  chroot =
  client_limit = 6000
}
service auth {
  client_limit = 6000
}
service imap {
  process_limit = 1024
  client_limit = 20
}
service imap-login {
  chroot =
  @KEEP@
  process_min_avail = 1
  client_limit = 3000
  inet_listener imap {
    port = @IMAP@
  }
  inet_listener imaps {
    port = @IMAPS@
    ssl = yes
  }
}
service pop3-login {
  chroot =
  @KEEP@
  process_min_avail = 1
  inet_listener pop3 {
    port = @POP3@
  }
  inet_listener pop3s {
    port = @POP3S@
    ssl = yes
  }
}
service lmtp {
  inet_listener lmtp {
    port = @LMTP@
  }
}
"""

_LANGUAGE_23 = """
protocols = imap pop3 lmtp
ssl_cert = <@D@/server.pem
ssl_key = <@D@/server.key
disable_plaintext_auth = no
auth_mechanisms = plain login
mail_location = maildir:~/Maildir
passdb {
  driver = passwd-file
  args = username_format=%u @D@/master
  master = yes
  result_success = continue
}
passdb {
  driver = passwd-file
  args = username_format=%u @D@/passwd
}
userdb {
  driver = static
  args = uid=@USER@ gid=@GROUP@ home=@D@/mail/%u
}
protocol lmtp {
  postmaster_address = postmaster@example.org
  hostname = localhost
}
namespace inbox {
  inbox = yes
}
"""

_LANGUAGE_24 = """
protocols {
  imap = yes
  pop3 = yes
  lmtp = yes
}
ssl_server_cert_file = @D@/server.pem
ssl_server_key_file = @D@/server.key
auth_allow_cleartext = yes
auth_mechanisms {
  plain = yes
  login = yes
}
mail_driver = maildir
mail_path = ~/Maildir
mail_home = @D@/mail/%{user}
passdb master {
  driver = passwd-file
  passwd_file_path = @D@/master
  master = yes
  result_success = continue
}
passdb users {
  driver = passwd-file
  passwd_file_path = @D@/passwd
}
userdb users {
  driver = static
  fields {
    uid = @USER@
    gid = @GROUP@
    home = @D@/mail/%{user}
  }
}
protocol lmtp {
  postmaster_address = postmaster@example.org
  hostname = localhost
}
namespace inbox {
  inbox = yes
  separator = /
}
"""
