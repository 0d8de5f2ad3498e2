"""What is said of Perdition's options that become no key of the settings, one line for each.

An option that gets a counterpart loses its line here and gets one in L{mailgw.importing.perdition}.
"""

from __future__ import annotations

from mailgw.importing.known import LATER

_LOG = "no counterpart; mailgw logs to standard error or to twistd's --logfile, passwords never"
_CAPABILITY = "no counterpart; what is announced is what the gateway does, and after the login what the backend does"
_PROCESS = "no counterpart; twistd or the service manager takes care of it"
_TRUST = (
    "no counterpart; certificates of backends are checked as a whole. Put the certificate or its CA into the file "
    "that `ca` of the pool names"
)
_DATES = "no counterpart; a backend whose certificate is out of date is not talked to"
_CIPHERS = "no counterpart; the cipher suites are OpenSSL's own for TLS 1.2 and newer"
_NEWEST = "no counterpart; the newest TLS that both sides speak is used"
_PASSPHRASE = (
    "no counterpart; the key has to be stored without a passphrase (openssl pkey -in OLD -out NEW), since the "
    "gateway reads it again when it changes"
)

WORDS: dict[str, str] = {
    "authenticate_in": "no counterpart for PAM; the [[directory]] checks every password before a backend is asked",
    "capability": _CAPABILITY,
    "client_server_specification": (
        "refused on purpose: whoever can reach the gateway could make it connect to any host and port"
    ),
    "config_file": "means nothing inside a file, in Perdition neither",
    "connect_relog": "no counterpart; a session is logged when it begins and when it ends",
    "connection_limit": (
        f"{LATER}; limits.connections_per_address and limits.connections_per_user bound what one client can take"
    ),
    "connection_logging": _LOG,
    "debug": _LOG,
    "group": "no counterpart of its own; the groups are those of gateway.user",
    "help": "means nothing inside a file, in Perdition neither",
    "imap_capability": _CAPABILITY,
    "inetd_mode": 'no counterpart; a socket of systemd goes into endpoint = "systemd:domain=INET:name=imap"',
    "log_facility": _LOG,
    "log_passwd": "no counterpart on purpose; passwords are never logged",
    "login_disabled": f"{LATER}; whoever must not log in yet keeps the gateway stopped, or the ports closed",
    "managesieve_capability": _CAPABILITY,
    "no_bind_banner": "no counterpart; every greeting has gateway.hostname",
    "no_daemon": _PROCESS,
    "no_lookup": "no counterpart; names of backends are resolved, addresses are taken as they are",
    "ok_line": "no counterpart; the answer to a login is the gateway's own",
    "pid_file": _PROCESS,
    "pop_capability": _CAPABILITY,
    "quiet": _LOG,
    "server_ok_line": "no counterpart; the answer to a login is the gateway's own",
    "server_resp_line": "no counterpart; the answer to a login is the gateway's own",
    "ssl_ca_accept_self_signed": _TRUST,
    "ssl_ca_path": "no counterpart for a folder; put its certificates into one file and name that in `ca` of the pool",
    "ssl_cert_accept_expired": _DATES,
    "ssl_cert_accept_not_yet_valid": _DATES,
    "ssl_cert_accept_self_signed": _TRUST,
    "ssl_cert_verify_depth": "no counterpart; chains may be as long as OpenSSL lets them",
    "ssl_dh_params_file": "no counterpart; key exchange is by elliptic curves, which need no parameters",
    "ssl_listen_ciphers": _CIPHERS,
    "ssl_listen_compression": "no counterpart on purpose; compression inside TLS gives secrets away (CRIME)",
    "ssl_listen_max_proto_version": _NEWEST,
    "ssl_no_cipher_server_preference": _CIPHERS,
    "ssl_no_client_cert_verify": "not needed; clients are not asked for certificates",
    "ssl_no_cn_verify": (
        "no counterpart; the name in a backend's certificate has to be the one in `members` or in the map. Write "
        "that one there, or, at the cost of all checking, verify = false"
    ),
    "ssl_outgoing_ciphers": _CIPHERS,
    "ssl_outgoing_compression": "no counterpart on purpose; compression inside TLS gives secrets away (CRIME)",
    "ssl_outgoing_max_proto_version": _NEWEST,
    "ssl_passphrase_fd": _PASSPHRASE,
    "ssl_passphrase_file": _PASSPHRASE,
    "tcp_keepalive": f"{LATER}; idle sessions end after limits.idle",
}
