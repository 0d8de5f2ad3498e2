"""The settings as values: what may stand in mailgw.toml, its types, ranges and defaults, all frozen.

The options of directories and routes are declared beside their code, on the class that L{mailgw.registry} names,
as its C{Options}. Reading the file and telling its faults is L{mailgw.config.file}'s work.
"""

from __future__ import annotations

import ipaddress
import os
import re
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, SecretBytes

_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)")
_DURATION_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_SIZE = re.compile(r"(\d+)([KMG]?)")
_SIZE_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}


class Table(BaseModel):
    """A table of the settings: unknown keys are faults, values are never changed and never printed in an error."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, use_attribute_docstrings=True, hide_input_in_errors=True
    )


def _duration(value: Any) -> Any:
    if isinstance(value, int | float) and not isinstance(value, bool) and value == 0:
        return 0.0
    if isinstance(value, str) and (match := _DURATION.fullmatch(value)):
        return float(match[1]) * _DURATION_UNITS[match[2]]
    if isinstance(value, float):  # a default
        return value
    raise ValueError('not a duration; write "500ms", "5s", "2m" or "1h"')


def _size(value: Any) -> Any:
    if isinstance(value, str) and (match := _SIZE.fullmatch(value)):
        return int(match[1]) * _SIZE_UNITS[match[2]]
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    raise ValueError('not a size; write "64K", "25M" or a number of bytes')


def _secret(value: Any) -> Any:
    """A secret is a string or one of C{{file = …}}, C{{env = …}}, C{{credential = …}} (systemd's LoadCredential=)."""
    if isinstance(value, str):
        return value.encode()
    if isinstance(value, dict) and len(value) == 1:
        ((kind, name),) = value.items()
        if not isinstance(name, str):
            raise ValueError("a secret's file, env or credential is a string")
        if kind == "env":
            if name not in os.environ:
                raise ValueError(f"environment variable {name} is not set")
            return os.environb[name.encode()]
        if kind == "credential":
            folder = os.environ.get("CREDENTIALS_DIRECTORY")
            if not folder:
                raise ValueError("CREDENTIALS_DIRECTORY is not set (systemd: LoadCredential=)")
            name = os.path.join(folder, name)
        elif kind != "file":
            raise ValueError("a secret is a string, {file = …}, {env = …} or {credential = …}")
        try:
            return Path(name).read_bytes().rstrip(b"\r\n")
        except OSError as error:
            raise ValueError(f"cannot read {name}: {error.strerror}") from None
    raise ValueError("a secret is a string, {file = …}, {env = …} or {credential = …}")


def _strings(value: Any) -> Any:
    return (value,) if isinstance(value, str) else tuple(value) if isinstance(value, list) else value


def _network(value: Any) -> Any:
    words = 'not a network; write "10.0.0.0/8", with no bit set behind the mask'
    if not isinstance(value, str):
        raise ValueError(words)
    try:
        return ipaddress.ip_network(value)
    except ValueError:
        raise ValueError(words) from None


_PIN = re.compile(r"sha256/[A-Za-z0-9+/]{43}=")


def _pins(value: tuple[str, ...]) -> tuple[str, ...]:
    for one in value:
        if not _PIN.fullmatch(one):
            raise ValueError(f'{one!r} is no pin; write "sha256/" and the base64 of the public key\'s SHA-256')
    return value


def _addresses(value: tuple[str, ...]) -> tuple[str, ...]:
    for one in value:
        try:
            ipaddress.ip_address(one)
        except ValueError:
            raise ValueError(f"{one!r} is no IP address") from None
    return value


_CAPABILITY = re.compile(r'[^\x00-\x20"\\\]\x7f-\U0010ffff]+(?: [^\x00-\x20"\\\]\x7f-\U0010ffff]+)*')
_ALWAYS_TRUE = re.compile(
    r"(?:STARTTLS|STLS|LOGINDISABLED|SASL-IR|SASL|AUTH|USER|XCLIENT)(?: .*)?|AUTH=.*", re.IGNORECASE
)


def _tellable(value: tuple[str, ...]) -> tuple[str, ...]:
    for one in value:
        if not _CAPABILITY.fullmatch(one) or len(one) > 400:
            raise ValueError(f"{one!r} is no capability")
        if _ALWAYS_TRUE.fullmatch(one):
            raise ValueError(f"{one!r} is told where it is so, and cannot be told otherwise")
    return value


def _domain(value: str) -> str:
    return value.lower()


DURATION = BeforeValidator(_duration)
SIZE = BeforeValidator(_size)
"""By these two, those who write settings down know what a number means."""
Duration = Annotated[float, DURATION, Field(ge=0)]
"""Seconds."""
Size = Annotated[int, SIZE, Field(ge=0)]
"""Bytes."""
Secret = Annotated[SecretBytes, BeforeValidator(_secret)]
Strings = Annotated[tuple[str, ...], BeforeValidator(_strings)]
"""One string, or a list of them."""
Network = Annotated[ipaddress.IPv4Network | ipaddress.IPv6Network, BeforeValidator(_network)]
Networks = Annotated[tuple[Network, ...], BeforeValidator(_strings)]
PortNumber = Annotated[int, Field(ge=1, le=65535)]
FilePath = Annotated[str, Field(json_schema_extra={"path": True})]
"""A path; L{mailgw.config.file} makes it absolute, starting at the settings file's folder."""
FilePaths = Annotated[tuple[str, ...], BeforeValidator(_strings), Field(json_schema_extra={"path": True})]
TlsMode = Literal["starttls", "optional", "implicit", "none"]
BackendTls = Literal["starttls", "implicit", "none"]
Domain = Annotated[str, AfterValidator(_domain)]


class Gateway(Table):
    """C{[gateway]}: the process."""

    hostname: str = "localhost"
    """Name in greetings, EHLO and Received."""
    workers: Annotated[int, Field(ge=0)] | Literal["auto"] = 0
    """0: one process. N: a master and N worker processes; "auto": one per core."""
    state: FilePath = "/var/lib/mailgw"
    """All that mailgw writes: control socket, spool, overrides; created if absent."""
    drain: Duration = 60.0
    """How long sessions may go on after SIGTERM."""
    user: str | None = None
    """Become this user once the ports are bound; no change when left out."""
    transport: Literal["stream", "twisted"] = "stream"
    """"stream": our own, fast; "twisted": Twisted's stock transports."""


class TlsName(Table):
    """C{[[tls.name]]}: one more identity, chosen by SNI."""

    names: Strings
    """Host names; C{*.example.org} stands for exactly one label."""
    certificate: FilePaths
    """As in [tls]."""
    key: FilePaths
    """As in [tls]."""


class Tls(Table):
    """C{[tls]}: the server identity for every listener."""

    certificate: FilePaths
    """PEM, chain included; a list gives RSA beside ECDSA."""
    key: FilePaths
    """One key for each certificate, in the same order."""
    minimum: Literal["1.2", "1.3"] = "1.2"
    """The oldest TLS version that is spoken, to clients and to backends."""
    name: tuple[TlsName, ...] = ()
    """More identities, by SNI."""


class Listener(Table):
    """C{[[listener]]}: one port."""

    protocol: str
    """imap, pop3, managesieve, submission or mx; lmtp is not built in this version."""
    endpoint: str
    """A Twisted server endpoint string: C{tcp:143}, C{tcp:143:interface=\\:\\:1}, C{unix:/run/x.sock}, C{systemd:…}."""
    tls: TlsMode = "starttls"
    """starttls: login only after it (on mx and lmtp offered, never required); optional; implicit; none."""
    proxy_from: Networks = ()
    """These peers must send a PROXY v1 or v2 header; nobody else may."""
    capabilities: Annotated[tuple[str, ...], BeforeValidator(_strings), AfterValidator(_tellable)] = ()
    """What is told before the login, instead of our own list; what is about TLS and logging in is told as it is."""
    trusted: Networks = ()
    """Webmails and proxies that may tell, by IMAP ID or XCLIENT, the address of the client that they bring."""


Step = Literal["directory", "lookup", "backend"]


def _steps(value: Any) -> Any:
    return get_args(Step) if value in ("all", ["all"], ("all",)) else _strings(value)


def _delimiters(value: tuple[str, ...]) -> tuple[str, ...]:
    if not value or not all(one.isprintable() and one.strip() == one and one for one in value):
        raise ValueError('must be one or more characters that are seen, such as "@"')
    return tuple(dict.fromkeys(value))


def _door(value: str) -> str:
    """A key of C{domains} as sessions have it: an address in its usual form, a host name in lower case."""
    try:
        return str(ipaddress.ip_address(value))
    except ValueError:
        return value if ":" in value else value.lower()


Steps = Annotated[tuple[Step, ...], BeforeValidator(_steps)]
"""Some of the places where a name is used, or "all" of them."""


class Names(Table):
    """C{[names]}: forms of user names; in each the domain is taken away, then added, then case is changed."""

    lower_case: Steps = ()
    """Where names are lower case: "directory", "lookup", "backend", or "all"."""
    strip_domain: Steps = ()
    """Where names lose their domain, from the last delimiter on; likewise."""
    add_domain: Steps = ()
    """Where names without a domain get one; likewise."""
    default_domain: str = ""
    """The one that they get."""
    domains: Annotated[
        dict[str, str], AfterValidator(lambda value: {_door(door): domain for door, domain in value.items()})
    ] = {}
    """Another one by TLS server name (SNI), else by the address connected to, else by the listener's endpoint."""
    domain_delimiter: Annotated[Strings, AfterValidator(_delimiters)] = ("@",)
    """Between name and domain; of several, each one parts and the first one joins."""


class Member(Table):
    """One server of a pool."""

    host: str
    """A name or an address; certificates are checked against it."""
    name: str = ""
    """As `mailgw backend` shows it; the host when left out."""
    weight: Annotated[int, Field(ge=1)] = 1
    """Its share of the users, compared with the other members."""
    imap: PortNumber | None = None
    """A port that differs from the pool's; likewise below."""
    pop3: PortNumber | None = None
    smtp: PortNumber | None = None
    managesieve: PortNumber | None = None


def _member(value: Any) -> Any:
    return {"host": value} if isinstance(value, str) else value


class PoolImap(Table):
    """C{[pool.NAME.imap]}."""

    port: PortNumber = 143
    tls: BackendTls = "starttls"
    """Never falls back to less."""


class PoolPop3(Table):
    """C{[pool.NAME.pop3]}."""

    port: PortNumber = 110
    tls: BackendTls = "starttls"
    """Never falls back to less."""


class PoolManageSieve(Table):
    """C{[pool.NAME.managesieve]}."""

    port: PortNumber = 4190
    tls: BackendTls = "starttls"
    """Never falls back to less."""


class PoolSmtp(Table):
    """C{[pool.NAME.smtp]}: where submission and mx go."""

    port: PortNumber = 25
    tls: BackendTls = "starttls"
    """Never falls back to less."""
    speak: Literal["smtp", "lmtp"] = "smtp"
    """LMTP for a Dovecot or Cyrus that takes mail itself; SMTP for everything else."""
    service_user: str = ""
    """Submission logs in with this account instead of the user's own."""
    service_password: Secret = SecretBytes(b"")
    """Of service_user."""


class Pool(Table):
    """C{[pool.NAME]}: backends that share ports, TLS and a way to log in."""

    members: Annotated[
        tuple[Annotated[Member, BeforeValidator(_member)], ...],
        BeforeValidator(lambda value: tuple(value) if isinstance(value, list) else value),
    ] = ()
    """The servers: a host each, or a table where there is more to say."""
    balance: Literal["hash", "least", "random"] = "hash"
    """Who gets a user: hash of the canonical name, the member with the fewest sessions, or any."""
    shared: bool = False
    """true: every member holds every mailbox, so another serves while one is down; false: its users wait."""
    login: Literal["own", "master", "authzid", "xclient", "none"] = "own"
    """How we log in: the user's own password, Dovecot's user*master, SASL authzid, XCLIENT LOGIN, or not at all."""
    master_user: str = ""
    """For login = "master" and "authzid"."""
    master_password: Secret = SecretBytes(b"")
    """Likewise."""
    mechanism: Literal["best", "plain", "login", "command"] = "best"
    """Of logins there: the best that is offered, only this SASL mechanism, or IMAP's LOGIN and POP3's USER and PASS."""
    source: Annotated[tuple[str, ...], BeforeValidator(_strings), AfterValidator(_addresses)] = ()
    """Addresses of ours to connect from, in turn; for members with a name those of the first one's family."""
    proxy: Literal["none", "v1", "v2"] = "none"
    """The PROXY header that every connection to these backends begins with, TLS included; they have to want it."""
    verify: bool = True
    """Check the backends' certificates and names."""
    ca: FilePath | None = None
    """PEM file of a private CA; the system's CAs when left out."""
    tls_name: str = ""
    """The name in the backends' certificates, and in SNI, where it is not the member's host."""
    pin: Annotated[tuple[str, ...], BeforeValidator(_strings), AfterValidator(_pins)] = ()
    """Keys that the backends may have: "sha256/BASE64" of the public key; with verify = false nothing else counts."""
    certificate: FilePath | None = None
    """What we show the backends: PEM, chain included."""
    key: FilePath | None = None
    """Of that certificate."""
    health: Duration = 10.0
    """Between two health checks of each service of each member, in its own protocol; "0s": none."""
    health_rise: Annotated[int, Field(ge=1)] = 2
    """So many good checks in a row, and a member that was down is up."""
    health_fall: Annotated[int, Field(ge=1)] = 3
    """So many bad ones, and it is down; after the first bad one the next follow within a second or so."""
    health_timeout: Duration = 5.0
    """For one check, from the attempt to connect to its end."""
    probe_user: str = ""
    """Checks log in with this account; they stop before the login when left out."""
    probe_password: Secret = SecretBytes(b"")
    """Of probe_user."""
    slow_start: Duration = 30.0
    """With balance "least" or "random": how long a member that was down takes to get its whole share again."""
    max_connections: Annotated[int, Field(ge=0)] = 0
    """Sessions that each member may have at a time, with the logins in flight; 0: as many as there are."""
    max_logins: Annotated[int, Field(ge=0)] = 0
    """Logins that each member may have in flight at a time; 0: as many as there are."""
    queue: Duration = 2.0
    """How long a login waits for a member that has reached one of these, before it is told of temporary trouble."""
    imap: PoolImap | None = None
    pop3: PoolPop3 | None = None
    smtp: PoolSmtp | None = None
    managesieve: PoolManageSieve | None = None


class Limits(Table):
    """C{[limits]}: every one has a safe default."""

    login_deadline: Duration = 60.0
    """From accept to logged in, TLS handshake included."""
    connections_per_address: Annotated[int, Field(ge=1)] = 100
    """Of one client address, at a time."""
    connections_per_user: Annotated[int, Field(ge=1)] = 50
    """Logged in as one user, at a time."""
    logins_per_address: Annotated[int, Field(ge=1)] = 120
    """Attempts from one client address, a minute."""
    failure_delay: Duration = 2.0
    """After a wrong password; doubles to 15s for an address that goes on."""
    message_size: Size = 50 << 20
    """Of one message; announced by SIZE (RFC 1870)."""
    recipients: Annotated[int, Field(ge=1)] = 1000
    """In one message."""
    line: Annotated[int, Field(ge=512)] = 8192
    """Octets of one line before login."""
    literal: Annotated[int, Field(ge=64)] = 4096
    """Octets of one IMAP literal before login."""
    before_login: Size = 64 << 10
    """Octets that a client may send before it is logged in."""
    bad_commands: Annotated[int, Field(ge=1)] = 10
    """Then the connection is closed."""
    login_attempts: Annotated[int, Field(ge=1)] = 5
    """In one connection; then it is closed."""
    connect: Duration = 5.0
    """To a backend, its TLS handshake not included."""
    backend_login: Duration = 12.0
    """To a backend, from the first attempt to connect to the end of the login there."""
    backend_data: Duration = 600.0
    """For a backend's reply to the final dot of DATA (RFC 5321 §4.5.3.2.6)."""
    idle: Duration = 1860.0
    """Without a byte either way after login; IMAP's IDLE asks for 31 minutes."""
    idle_smtp: Duration = 300.0
    """Without a command or a byte of a message (RFC 5321 §4.5.3.2.7)."""


class Domains(Table):
    """C{[domains]}."""

    accept: Annotated[tuple[Domain, ...], BeforeValidator(_strings)] = ()
    """mx takes mail for these, and only for recipients that exist."""


class Local(Table):
    """C{[local]}: the store behind routes of kind "local"."""

    path: FilePath = "/var/mail/{domain}/{local}"
    """Filled from the canonical user name; without a domain there, {domain} is the gateway's hostname."""


class Plug(Table):
    """One C{[[directory]]} or C{[[route]]}: its kind, and the options that its own class declares."""

    model_config = ConfigDict(frozen=True, arbitrary_types_allowed=True)
    kind: str
    name: str
    """Kind and number, such as C{ldap-1}."""
    options: Table


class Settings(Table):
    """The whole file."""

    gateway: Gateway = Gateway()
    tls: Tls | None = None
    listener: tuple[Listener, ...] = ()
    names: Names = Names()
    directory: tuple[Plug, ...] = ()
    route: tuple[Plug, ...] = ()
    pool: dict[str, Pool] = {}
    limits: Limits = Limits()
    domains: Domains = Domains()
    local: Local = Local()
