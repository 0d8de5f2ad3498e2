"""What is measured, in the order of the table, and how the command line cuts it down.

What the servers are is said in L{bench.servers} and L{bench.gateway}, what a measure is in L{bench.measures}.
"""

from __future__ import annotations

from dataclasses import replace

from bench.measures import DIRECT, Contestant, Measure
from bench.processes import MOST_FILES

_LOGIN = Measure(
    "login-ec",
    "login",
    "TLS login, ECDSA",
    "ms CPU",
    "cpu_ms_per_unit",
    (
        Contestant("nginx", "nginx"),
        Contestant("mailgw", "mailgw", goal=1.1),
        Contestant("dovecot", "dovecot"),
        Contestant("perdition", "perdition", share=0.2),
    ),
    {"mode": "login", "tls": "implicit", "c": "32", "warm": "64"},
)


def _ported(measure: Measure, port: str) -> tuple[Contestant, ...]:
    return tuple(replace(contestant, port=port) for contestant in measure.contestants)


def _only(contestants: tuple[Contestant, ...], *names: str) -> tuple[Contestant, ...]:
    return tuple(contestant for contestant in contestants if contestant.name in names)


_RIVALS = ("nginx", "mailgw", "dovecot")

_LOGINS = (
    _LOGIN,
    replace(
        _LOGIN,
        key="login-rsa",
        title="TLS login, RSA 2048",
        contestants=_only(_ported(_LOGIN, "imap-rsa"), *_RIVALS),
        load={**_LOGIN.load, "name": "rsa.localhost"},
    ),
    replace(
        _LOGIN,
        key="login-starttls",
        title="STARTTLS login, ECDSA",
        contestants=_ported(_LOGIN, "imap-starttls"),
        load={**_LOGIN.load, "tls": "starttls"},
    ),
    replace(
        _LOGIN,
        key="login-resumed",
        title="TLS login, resumed",
        contestants=_only(_LOGIN.contestants, *_RIVALS),
        load={**_LOGIN.load, "resume": "true", "warm": "128"},
    ),
    replace(
        _LOGIN,
        key="login-dovecot",
        title="TLS login, ECDSA, beside Dovecot",
        contestants=(Contestant("dovecot", "dovecot"), Contestant("mailgw", "mailgw", goal=0.8)),
        of="login-ec",
    ),
    replace(
        _LOGIN,
        key="login-perdition",
        title="TLS login, ECDSA, beside Perdition",
        contestants=(Contestant("perdition", "perdition"), Contestant("mailgw", "mailgw", goal=0.12)),
        of="login-ec",
    ),
    replace(
        _LOGIN,
        key="login-ldap",
        title="TLS login, LDAP search and bind at each",
        contestants=(
            Contestant("perdition, LDAP map", "perdition-ldap", share=0.2),
            Contestant("mailgw, LDAP", "mailgw-ldap", goal=0.5),
        ),
    ),
    replace(
        _LOGIN,
        key="login-directory",
        title="TLS login, other directories",
        contestants=(
            Contestant("nginx", "nginx"),
            Contestant("mailgw, LDAP", "mailgw-ldap"),
            Contestant("mailgw, LDAP cached", "mailgw-cached"),
            Contestant("mailgw, passwd file", "mailgw-passwd"),
        ),
        load={**_LOGIN.load, "warm": "240"},
    ),
)

_PLAIN = replace(
    _LOGIN,
    key="login-plain",
    group="plain",
    title="login without TLS",
    contestants=tuple(
        replace(contestant, goal=1.4 if contestant.name == "mailgw" else None)
        for contestant in _ported(_LOGIN, "imap-plain")
    ),
    load={**_LOGIN.load, "tls": "none"},
    number=(1000, 300),
)

_OTHER_LOGINS = (
    replace(
        _LOGIN,
        key="login-pop3",
        group="pop3",
        title="POP3 TLS login, ECDSA",
        contestants=_ported(_LOGIN, "pop3-ec"),
        load={**_LOGIN.load, "protocol": "pop3"},
    ),
    replace(
        _LOGIN,
        key="login-smtp",
        group="smtp",
        title="submission over TLS, one message",
        contestants=_only(_ported(_LOGIN, "smtp-ec"), "nginx", "mailgw"),
        load={**_LOGIN.load, "protocol": "smtp"},
    ),
)


def _bulk(key: str, title: str, way: str, goal: float, down: bool) -> Measure:
    port = "imap-ec" if way == "TLS" else "imap-plain"
    buffered = (Contestant("nginx64k", "nginx", f"{port}-64k"),)
    contestants = (
        Contestant("nginx", "nginx", port),
        *buffered,
        Contestant("mailgw", "mailgw", port, goal=goal),
        Contestant("dovecot", "dovecot", port, share=0.34),
        Contestant("perdition", "perdition", port, share=0.34),
    )
    load = {"mode": "bulk" if down else "append", "tls": "implicit" if way == "TLS" else "none", "c": "1"}
    load |= {"kib": "51200", "warm": "1"}
    return Measure(key, "bulk", title, "s CPU/GB", "cpu_ms_per_unit", contestants, load, number=(6, 3), scale=1 / 1000)


_BULKS = (
    _bulk("bulk-down", "download over TLS", "TLS", 0.65, True),
    _bulk("bulk-up", "upload over TLS", "TLS", 0.9, False),
    _bulk("bulk-down-plain", "download without TLS", "plain", 0.25, True),
    _bulk("bulk-up-plain", "upload without TLS", "plain", 0.25, False),
)


def _chat(key: str, title: str, port: str, tls: str, clients: int, number: tuple[int, int], goal: float) -> Measure:
    contestants = (
        Contestant("nginx", "nginx", port),
        Contestant("mailgw", "mailgw", port, goal=goal),
        Contestant("dovecot", "dovecot", port),
        Contestant("perdition", "perdition", port),
        Contestant("direct", DIRECT),
    )
    load = {"mode": "chat", "tls": tls, "c": str(clients), "warm": "50"}
    return Measure(key, "chat", title, "us CPU", "cpu_ms_per_unit", contestants, load, number, scale=1000.0)


def _added(key: str, of: Measure) -> Measure:
    contestants = tuple(
        replace(contestant, goal=0.05 if contestant.name == "mailgw" else None)
        for contestant in of.contestants
        if contestant.server != DIRECT
    )
    return replace(
        of,
        key=key,
        title=of.title.replace("NOOP", "p50 that a NOOP gains"),
        unit="ms",
        metric="added_p50_ms",
        contestants=contestants,
        scale=1.0,
        compare="difference",
        of=of.key,
    )


_CHAT = _chat("chat", "NOOP over TLS, one session", "imap-ec", "implicit", 1, (3000, 1500), 1.4)
_CHAT_PLAIN = replace(
    _chat("chat-plain", "NOOP without TLS, one session", "imap-plain", "none", 1, (3000, 1500), 1.4), slow=True
)
_CHATS = (
    _CHAT,
    _added("chat-added", _CHAT),
    _CHAT_PLAIN,
    _added("chat-plain-added", _CHAT_PLAIN),
    _chat("chat-50", "NOOP over TLS, 50 sessions", "imap-ec", "implicit", 50, (300, 100), 1.4),
)


def _idle(key: str, title: str, port: str, tls: str, goal: float | None) -> Measure:
    contestants = (
        Contestant("nginx", "nginx", port),
        Contestant("mailgw", "mailgw", port, goal=goal),
        Contestant("dovecot", "dovecot", port),
        Contestant("perdition", "perdition", port, share=0.1),
    )
    load = {"mode": "idle", "tls": tls, "c": "16", "warm": "64", "settle": "1s", "verify": "true"}
    return Measure(
        key, "idle", title, "KiB/session", "pss_kib_per_session", contestants, load, (2000, 600), fresh=True, once=True
    )


_IDLES = (
    _idle("idle-tls", "memory of an idle TLS session", "imap-ec", "implicit", 1.0),
    replace(_idle("idle-plain", "memory of an idle session without TLS", "imap-plain", "none", None), slow=True),
)


def _held(name: str, *numbers: int) -> tuple[Measure, Measure]:
    contestants = tuple(
        Contestant(f"{name}, {idle} idle" if idle else name, name, idle=idle, goal=0.9 if idle == 5000 else None)
        for idle in (0, *numbers)
    )
    rate = replace(
        _LOGIN,
        key=f"sessions-{name}",
        group="sessions",
        title=f"logins a second of {name} with idle sessions",
        unit="logins/s",
        metric="units_per_s",
        contestants=contestants if name == "mailgw" else tuple(replace(c, goal=None) for c in contestants),
        more_is_better=True,
    )
    cost = replace(
        rate,
        key=f"sessions-{name}-cost",
        title=f"TLS login of {name} with idle sessions",
        unit="ms CPU",
        metric="cpu_ms_per_unit",
        contestants=tuple(replace(contestant, goal=None) for contestant in contestants),
        more_is_better=False,
        of=rate.key,
    )
    return rate, cost


_SESSIONS = (
    *_held("mailgw", 100, 1000, 5000),
    *(replace(measure, slow=True) for measure in _held("nginx", 1000, 5000)),
)

_WORKERS = replace(
    _LOGIN,
    key="workers",
    group="workers",
    title="TLS login, by workers",
    contestants=(
        Contestant("mailgw, no workers", "mailgw"),
        Contestant("mailgw, 1 worker", "mailgw--1"),
        Contestant("mailgw, 2 workers", "mailgw--2"),
        Contestant("nginx, 2 workers", "nginx"),
    ),
)
_RATES = replace(
    _WORKERS,
    key="workers-rate",
    title="logins a second, by workers",
    unit="logins/s",
    metric="units_per_s",
    more_is_better=True,
    of="workers",
)

SPARE_FILES = 100
"""Descriptors of a server that are no sessions: listeners, files, questions to the directory."""

_MOST = Measure(
    "most",
    "most",
    "idle TLS sessions in one process, all answering",
    "sessions",
    "alive",
    (
        Contestant("descriptor limit / 2", constant=MOST_FILES / 2),
        Contestant("mailgw", "mailgw", goal=0.98),
    ),
    {"mode": "idle", "tls": "implicit", "c": "16", "settle": "1s", "verify": "true"},
    ((MOST_FILES - SPARE_FILES) // 2, 1000),
    more_is_better=True,
    fresh=True,
    once=True,
    slow=True,
)

MEASURES: tuple[Measure, ...] = (
    *_LOGINS,
    _PLAIN,
    *_OTHER_LOGINS,
    *_BULKS,
    *_CHATS,
    *_IDLES,
    *_SESSIONS,
    _WORKERS,
    _RATES,
    _MOST,
)
GROUPS = tuple(dict.fromkeys(measure.group for measure in MEASURES))
"""What C{--only} may name."""

_QUICK_IDLE = 1000


def quick(measure: Measure) -> Measure | None:
    """@return: the measure as a quick run has it, if it has it."""
    if measure.slow:
        return None
    contestants = tuple(contestant for contestant in measure.contestants if contestant.idle in (0, _QUICK_IDLE))
    return replace(measure, contestants=contestants, number=(measure.number[1],) * 2)


def choose(groups: tuple[str, ...], peers: tuple[str, ...], is_quick: bool) -> list[Measure]:
    """@return: the measures of these groups, with mailgw and these peers only; those without mailgw are left out."""
    chosen = []
    for measure in MEASURES:
        fitting = quick(measure) if is_quick else measure
        if fitting is None or measure.group not in groups:
            continue
        contestants = tuple(
            contestant
            for contestant in fitting.contestants
            if contestant.server in ("", DIRECT) or contestant.server.partition("-")[0] in (*peers, "mailgw")
        )
        if contestants[:1] != fitting.contestants[:1]:
            # goals are meant beside the first one, which is not there
            contestants = tuple(replace(contestant, goal=None) for contestant in contestants)
        if len(contestants) > 1:
            chosen.append(replace(fitting, contestants=contestants))
    return chosen
