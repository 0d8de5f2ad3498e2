"""mailgw: a mail gateway for IMAP4, POP3, SMTP and their backends, run as C{twistd mailgw}.

The map of this tree, in the order in which one login walks through it::

    tap.py, cli.py     command lines
    settings.py        the settings as values;  registry.py: the table of plugs
    config/            the settings file: reading, judging, checking, showing it
    gateway.py         the composition root: settings and reactor to services
    edge/              connections: listeners, TLS, the session, the dialer, the relay
    wire/              the protocols, pure: bytes in, events out
    cred.py            the portal's checker and realm
    directory/         who: LDAP, passwd file, and the chain and cache over them
    routing/           where: rules, pools
    delivery/          mail in transit: SMTP from the first MAIL on
    local/             the embedded mail store
    ops/               counting and probing

C{docs/architecture.md} tells the rest.
"""
