"""Reads perdition.conf: lines of C{option value}, with short or long names, quotes, escapes and comments.

Only takes the text apart; what the options mean is L{mailgw.importing.perdition}'s work.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from mailgw.importing.toml import CannotImport
from mailgw.routing.regexmap import logical_lines

SHORT = {
    "A": "add_domain",
    "a": "authenticate_in",
    "B": "no_bind_banner",
    "b": "bind_address",
    "C": "connection_logging",
    "c": "client_server_specification",
    "D": "domain_delimiter",
    "d": "debug",
    "e": "explicit_domain",
    "F": "log_facility",
    "f": "config_file",
    "g": "group",
    "h": "help",
    "I": "capability",
    "i": "inetd_mode",
    "L": "connection_limit",
    "l": "listen_port",
    "M": "map_library",
    "m": "map_library_opt",
    "n": "no_lookup",
    "O": "ok_line",
    "o": "server_resp_line",
    "P": "protocol",
    "p": "outgoing_port",
    "q": "quiet",
    "S": "strip_domain",
    "s": "outgoing_server",
    "t": "timeout",
    "U": "username_from_database",
    "u": "username",
}
FLAGS = frozenset(
    {
        *("authenticate_in", "no_bind_banner", "connection_logging", "client_server_specification", "debug", "help"),
        *("inetd_mode", "no_lookup", "server_ok_line", "server_resp_line", "username_from_database", "quiet"),
        *("login_disabled", "no_daemon", "tcp_keepalive", "ssl_ca_accept_self_signed", "ssl_cert_accept_expired"),
        *("ssl_cert_accept_not_yet_valid", "ssl_cert_accept_self_signed", "ssl_no_cert_verify"),
        *("ssl_no_client_cert_verify", "ssl_no_cn_verify", "ssl_listen_compression", "ssl_outgoing_compression"),
        "ssl_no_cipher_server_preference",
    }
)
"""Options without a value."""
VALUED = (
    frozenset(
        {
            *SHORT.values(),
            *("authenticate_timeout", "connect_relog", "imap_capability", "managesieve_capability", "pop_capability"),
            *("log_passwd", "query_key", "lower_case", "pid_file", "ssl_mode", "ssl_ca_chain_file", "ssl_ca_file"),
            *("ssl_ca_path", "ssl_cert_file", "ssl_dh_params_file", "ssl_cert_verify_depth", "ssl_key_file"),
            *("ssl_listen_ciphers", "ssl_outgoing_ciphers", "ssl_passphrase_fd", "ssl_passphrase_file"),
            *("ssl_listen_min_proto_version", "ssl_outgoing_min_proto_version"),
            *("ssl_listen_max_proto_version", "ssl_outgoing_max_proto_version"),
        }
    )
    - FLAGS
)


@dataclass(frozen=True, slots=True)
class Option:
    """One line.

    @ivar line: its number, from 1.
    @ivar name: the long name, without dashes; as it stands there when Perdition has no such option.
    @ivar value: without quotes, C{""} for a flag.
    """

    line: int
    name: str
    value: str

    @property
    def known(self) -> bool:
        """Perdition 2.2 has this option."""
        return self.name in FLAGS or self.name in VALUED


def read_options(text: str) -> list[Option]:
    """Read a file's text.

    @raise CannotImport: a quote is not closed.
    """
    return list(_options(text))


def _options(text: str) -> Iterator[Option]:
    for number, line in logical_lines(text):
        try:
            key, value = _key_and_value(line)
        except ValueError as error:
            raise CannotImport(f"line {number}: {error}") from None
        if key:
            name = key.lstrip("-")
            yield Option(number, SHORT.get(name, name), value)


def _key_and_value(line: str) -> tuple[str, str]:
    """The first word, and what follows it, both without quotes and escapes; comments are left out.

    @raise ValueError: a quote is not closed.
    """
    parts = [""]
    quote, escaped = "", False
    for character in line:
        if escaped:
            parts[-1] += character
            escaped = False
        elif character == "\\" and quote != "'":
            escaped = True
        elif character == quote:
            quote = ""
        elif quote:
            parts[-1] += character
        elif character in "'\"":
            quote = character
        elif character == "#":
            break
        elif character.isspace() and len(parts) == 1:
            parts += [""] if parts[0] else []
        else:
            parts[-1] += character
    if quote:
        raise ValueError(f"a {quote} is not closed")
    return parts[0], "".join(parts[1:]).strip()
