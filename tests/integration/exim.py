"""A real Exim for tests: SMTP with STARTTLS and AUTH PLAIN, and SMTP with implicit TLS, on loopback.

It takes mail for C{example.org}, and for every domain from who has logged in; all of it lands in one Maildir, none
leaves the machine.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from tests.integration.certificates import certificates
from tests.integration.daemon import Daemon, who
from tests.integration.ports import HOST, free_port, program, wait_for


class Exim(Daemon):
    """An Exim with some accounts.

    The recipients C{reject@example.org} and C{defer@example.org} are answered 550 and 451, a message with the subject
    "refuse at end" is answered 550 after its last dot.

    @ivar smtp: the port with STARTTLS.
    @ivar smtps: the port with implicit TLS.
    """

    name = "exim"

    def __init__(self, accounts: Mapping[str, str], message_size: str = "100M") -> None:
        """
        @param accounts: password by user name, for AUTH; plain words.
        @param message_size: the largest message, as Exim's C{message_size_limit}.
        """
        super().__init__()
        self.smtp, self.smtps = free_port(), free_port()
        self._message_size = message_size
        certificates().copy_to(self.folder)
        for part in ("spool", "log", "mail"):
            (self.folder / part).mkdir()
        lines = (f'"{user}": {password}\n' for user, password in accounts.items())
        (self.folder / "accounts").write_text("".join(lines))
        (self.folder / "exim.conf").write_text(self._configuration())

    def command(self) -> Sequence[str]:
        # -bdf: a daemon in the foreground; -q2s: runs its queue every two seconds
        return [program("exim4") or "exim4", "-C", str(self.folder / "exim.conf"), "-bdf", "-q2s"]

    def listening(self) -> Sequence[int]:
        return self.smtp, self.smtps

    def mail_for(self, address: str) -> list[bytes]:
        """The messages delivered for that address, with CRLF at the end of lines as they came in."""
        to = b"Envelope-to: %s\n" % address.encode()
        found = [path.read_bytes() for path in sorted((self.folder / "mail" / "new").glob("*"))]
        return [message.replace(b"\n", b"\r\n") for message in found if to in message]

    def wait_for_mail(self, address: str, containing: bytes, seconds: float = 15.0) -> bytes:
        """Wait until a message for that address with these bytes in it is delivered, and give it.

        @raise AssertionError: there is none within that time; with Exim's log.
        """
        found: list[bytes] = []

        def arrived() -> list[bytes]:
            found.extend(message for message in self.mail_for(address) if containing in message)
            return found

        try:
            wait_for(f"mail for {address}", arrived, seconds)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.log()}") from None
        return found[0]

    def _configuration(self) -> str:
        user, group = who()
        values = {"D": str(self.folder), "USER": user, "GROUP": group, "HOST": HOST, "SIZE": self._message_size}
        values |= {"SMTP": str(self.smtp), "SMTPS": str(self.smtps)}
        return re.sub(r"@([A-Z]+)@", lambda match: values[match[1]], _CONFIGURATION)


_CONFIGURATION = r"""
primary_hostname = mx.example.org
spool_directory = @D@/spool
log_file_path = @D@/log/%slog
pid_file_path = @D@/exim.pid
keep_environment =
exim_user = @USER@
exim_group = @GROUP@
never_users =
deliver_drop_privilege = true
local_interfaces = @HOST@
daemon_smtp_ports = @SMTP@ : @SMTPS@
tls_on_connect_ports = @SMTPS@
tls_advertise_hosts = *
tls_certificate = @D@/server.pem
tls_privatekey = @D@/server.key
host_lookup =
rfc1413_hosts =
dns_ipv4_lookup = *
log_selector = +incoming_port +tls_cipher +smtp_protocol_error +received_recipients
acl_smtp_rcpt = acl_rcpt
acl_smtp_data = acl_data
message_size_limit = @SIZE@
check_spool_space = 0
smtp_accept_max = 200
pipelining_advertise_hosts = *
chunking_advertise_hosts = *
begin acl
acl_rcpt:
  defer   recipients = defer@example.org
          message = 4.3.0 try again later
  deny    recipients = reject@example.org
          message = 5.1.1 no such user
  accept  domains = example.org
  accept  authenticated = *
  deny    message = 5.7.1 relay not permitted
acl_data:
  deny    condition = ${if eq{$h_Subject:}{refuse at end}}
          message = 5.7.1 not this one
  accept
begin routers
all:
  driver = accept
  transport = maildir
begin transports
maildir:
  driver = appendfile
  maildir_format
  directory = @D@/mail
  create_directory
  user = @USER@
  group = @GROUP@
  delivery_date_add
  envelope_to_add
  return_path_add
begin retry
* * F,1m,2s
begin authenticators
plain:
  driver = plaintext
  public_name = PLAIN
  server_condition = ${if eq{$auth3}{${lookup{$auth2}lsearch{@D@/accounts}{$value}fail}}}
  server_set_id = $auth2
  server_prompts = :
  server_advertise_condition = *
"""
