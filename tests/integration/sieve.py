"""ManageSieve for tests: a Dovecot that keeps scripts, a gateway with a port for them, and a client.

The client knows the protocol's strings and replies, and nothing of what is in a script.
"""

from __future__ import annotations

import base64
import re
import socket
import ssl
from collections.abc import Mapping, Sequence

from tests.integration.clients import Wire
from tests.integration.dovecot import Dovecot, version
from tests.integration.gateway import Ports
from tests.integration.ports import HOST, free_port

_LITERAL = re.compile(rb"\{(\d+)\}\r\n\Z")


class SieveDovecot(Dovecot):
    """A Dovecot that keeps Sieve scripts too.

    @ivar sieve: its ManageSieve port.
    """

    def __init__(self, users: Mapping[str, bytes]) -> None:
        self.sieve = free_port()
        super().__init__(users)

    def listening(self) -> Sequence[int]:
        return (*super().listening(), self.sieve)

    def _configuration(self) -> str:
        new = version() >= (2, 4)
        return super()._configuration() + (_SIEVE_24 if new else _SIEVE_23).replace("@SIEVE@", str(self.sieve))


_SIEVE_23 = """
protocols = imap pop3 lmtp sieve
service managesieve-login {
  chroot =
  inet_listener sieve {
    port = @SIEVE@
  }
}
plugin {
  sieve = file:~/sieve;active=~/.dovecot.sieve
}
"""

_SIEVE_24 = """
protocols {
  sieve = yes
}
service managesieve-login {
  chroot =
  inet_listener sieve {
    port = @SIEVE@
  }
}
sieve_script personal {
  driver = file
  path = ~/sieve
  active_path = ~/.dovecot.sieve
}
"""


class SievePorts(Ports):
    """The ports of a gateway with ManageSieve.

    @ivar sieve: with STARTTLS; C{optional}: with a login in clear too.
    """

    def __init__(self) -> None:
        super().__init__()
        self.sieve, self.optional = free_port(), free_port()

    def all(self) -> list[int]:
        return [*super().all(), self.sieve, self.optional]

    def settings(self) -> str:
        return super().settings() + "".join(
            f'[[listener]]\nprotocol = "managesieve"\nendpoint = "tcp:{port}:interface=127.0.0.1"\ntls = "{tls}"\n'
            for port, tls in ((self.sieve, "starttls"), (self.optional, "optional"))
        )


class Sieve(Wire):
    """A ManageSieve client, from an address of loopback that tells it apart in logs; it has read the greeting.

    @ivar told: the capabilities as they were told last.
    """

    def __init__(self, port: int, context: ssl.SSLContext | None = None, source: str = HOST) -> None:
        """
        @param context: for STARTTLS, which is done at once.
        """
        self._socket = socket.create_connection((HOST, port), 30.0, (source, 0))
        self._buffer = b""
        self.told = self.response()
        if context is not None:
            self.ask(b"STARTTLS")
            self.secure(context)
            self.told = self.response()

    def response(self) -> list[bytes]:
        """All lines up to and with the OK, NO or BYE; the octets of a literal are part of their line."""
        lines = [self._whole_line()]
        while lines[-1] and not re.match(rb"(?:OK|NO|BYE)\b", lines[-1]):
            lines.append(self._whole_line())
        return lines

    def ask(self, *words: bytes) -> list[bytes]:
        """Send a command, and return what is said to it."""
        self.send(b" ".join(words) + b"\r\n")
        return self.response()

    def login(self, user: str, password: bytes) -> bytes:
        """AUTHENTICATE; return its reply."""
        response = base64.b64encode(b"\0" + user.encode() + b"\0" + password)
        return self.ask(b'AUTHENTICATE "PLAIN"', b'"' + response + b'"')[-1]

    def put(self, name: bytes, script: bytes) -> bytes:
        """PUTSCRIPT; return its reply."""
        return self.ask(b'PUTSCRIPT "' + name + b'"', b"{%d+}\r\n%b" % (len(script), script))[-1]

    def _whole_line(self) -> bytes:
        line = self.until(b"\r\n")
        while (announced := _LITERAL.search(line)) is not None:
            size = int(announced[1])
            while len(self._buffer) < size and (more := self._more()):
                self._buffer += more
            line += self._buffer[:size]
            self._buffer = self._buffer[size:]
            line += self.until(b"\r\n")
        return line.removesuffix(b"\r\n")
