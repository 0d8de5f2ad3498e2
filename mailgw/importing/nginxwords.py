"""What is said of nginx's mail directives that become no key of the settings, one line for each.

A directive that gets a counterpart loses its line here and gets one in L{mailgw.importing.nginx}.
"""

from __future__ import annotations

from mailgw.importing.known import LATER

_CAPABILITIES = "no counterpart; what is announced is what the gateway does, and after the login what the backend does"
_SESSIONS = "no counterpart; TLS sessions are OpenSSL's affair"
_CLIENTS = f"{LATER}; clients are not asked for certificates"
_CIPHERS = "no counterpart; cipher suites and curves are OpenSSL's own for TLS 1.2 and newer"
_BUFFER = "no counterpart; buffers are the transport's affair, limits.line bounds a line before the login"
_MECHANISMS = (
    "no counterpart; PLAIN and LOGIN are offered, and nothing that needs the password in clear at the gateway "
    "(APOP, CRAM-MD5)"
)

WORDS: dict[str, str] = {
    "auth_http_pass_client_cert": _CLIENTS,
    "error_log": "no counterpart; mailgw logs to standard error or to twistd's --logfile",
    "imap_auth": _MECHANISMS,
    "imap_capabilities": _CAPABILITIES,
    "imap_client_buffer": _BUFFER,
    "pop3_auth": _MECHANISMS,
    "pop3_capabilities": _CAPABILITIES,
    "pop3_client_buffer": _BUFFER,
    "proxy": "no counterpart; the gateway always logs in at a backend",
    "proxy_buffer": _BUFFER,
    "proxy_pass_error_message": (
        "no counterpart on purpose: what a backend says of a failed login is in the log under the session's id, the "
        "client gets a code that its program understands"
    ),
    "resolver": "no counterpart; names are resolved by the system, and those of clients not at all",
    "resolver_timeout": "no counterpart; names of clients are not looked up",
    "set_real_ip_from": "goes with listen … proxy_protocol only",
    "smtp_capabilities": _CAPABILITIES,
    "smtp_client_buffer": _BUFFER,
    "smtp_greeting_delay": f"{LATER}; who talks before the greeting is not punished",
    "ssl_certificate_compression": "no counterpart",
    "ssl_ciphers": _CIPHERS,
    "ssl_client_certificate": _CLIENTS,
    "ssl_conf_command": _CIPHERS,
    "ssl_crl": _CLIENTS,
    "ssl_dhparam": "no counterpart; key exchange is by elliptic curves, which need no parameters",
    "ssl_ecdh_curve": _CIPHERS,
    "ssl_password_file": (
        "no counterpart; the key has to be stored without a passphrase (openssl pkey -in OLD -out NEW), since the "
        "gateway reads it again when it changes"
    ),
    "ssl_prefer_server_ciphers": _CIPHERS,
    "ssl_session_cache": _SESSIONS,
    "ssl_session_ticket_key": _SESSIONS,
    "ssl_session_tickets": _SESSIONS,
    "ssl_session_timeout": _SESSIONS,
    "ssl_trusted_certificate": _CLIENTS,
    "ssl_verify_client": _CLIENTS,
    "ssl_verify_depth": _CLIENTS,
}

HANDLED = frozenset(
    {
        *("auth_http", "auth_http_header", "auth_http_timeout", "include", "listen", "max_errors", "protocol"),
        *("proxy_smtp_auth", "proxy_timeout", "server", "server_name", "smtp_auth", "ssl", "ssl_certificate"),
        *("proxy_protocol", "ssl_certificate_key", "ssl_protocols", "starttls", "timeout", "xclient"),
    }
)
"""Directives that L{mailgw.importing.nginx} looks at."""
