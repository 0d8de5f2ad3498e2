"""THE table of plugs: C{(group, kind)} to C{"module:Object"}.

A new protocol, directory or rule is one file and one line here. A kind written C{"pkg.module:Name"} in the settings
needs no line: it is the site's own plug.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

TABLE: dict[str, dict[str, str]] = {
    "protocol": {
        "imap": "mailgw.wire.imap:IMAP",
        "pop3": "mailgw.wire.pop3:POP3",
        "managesieve": "mailgw.wire.managesieve:MANAGESIEVE",
        "submission": "mailgw.delivery.reception:SUBMISSION",
        "mx": "mailgw.delivery.reception:MX",
    },
    "directory": {
        "ldap": "mailgw.directory.ldap:LdapDirectory",
        "passwd": "mailgw.directory.passwd:PasswdDirectory",
        "http": "mailgw.directory.http:HttpDirectory",
    },
    "route": {
        "attribute": "mailgw.routing.attribute:AttributeRule",
        "regex": "mailgw.routing.regexmap:RegexRule",
        "table": "mailgw.routing.table:TableRule",
        "http": "mailgw.routing.http:HttpRule",
        "sql": "mailgw.routing.sql:SqlRule",
        "hook": "mailgw.routing.hook:HookRule",
        "hash": "mailgw.routing.rendezvous:HashRule",
        "pool": "mailgw.routing.rendezvous:PoolRule",
        "local": "mailgw.routing.router:LocalRule",
    },
}

LATER: dict[str, frozenset[str]] = {
    "protocol": frozenset({"lmtp"}),
    "directory": frozenset({"sql", "oauth"}),
    "route": frozenset(),
}
"""Kinds that the settings format knows and this version does not build: refused as such, not as typos."""


def load(group: str, kind: str) -> Any:
    """Import the plug of that kind.

    @raise LookupError: there is no such kind, or the site's own plug cannot be imported; the message says which.
    """
    path = TABLE[group].get(kind, kind if ":" in kind else "")
    if not path:
        raise LookupError(f"no {group} of kind {kind!r}; there are {', '.join(sorted(TABLE[group]))}")
    module, _, name = path.partition(":")
    try:
        return getattr(import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise LookupError(f"{group} {kind!r} cannot be loaded: {error}") from error
