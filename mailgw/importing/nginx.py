"""Makes settings of the mail block of an nginx.conf: listeners, TLS, the authentication server, limits.

Reads no file: an C{include} is read by whoever calls. What stands in C{http} or C{stream} is passed over.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence

from mailgw.importing.known import LATER, has_key
from mailgw.importing.nginxfile import Directive, Include, Source, expand, parse
from mailgw.importing.nginxwords import HANDLED, WORDS
from mailgw.importing.toml import CannotImport, Draft, Imported, Table
from mailgw.routing.target import split_host

_PORTS = {143: "imap", 993: "imap", 110: "pop3", 995: "pop3", 25: "smtp", 465: "smtp", 587: "smtp"}
_BACKEND_PORTS = {"imap": 143, "pop3": 110, "smtp": 25}
_TIME = re.compile(r"(\d+)(ms|[smhdwMy]?)")
_SECONDS = {"": 1.0, "ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0, "M": 2592000.0}
_SOCKET_ONLY = ("rcvbuf", "sndbuf", "bind", "ipv6only", "so_keepalive", "multipath", "reuseport", "deferred")
_STARTTLS = {"on": "optional", "only": "starttls", "off": "none"}


def translate(source: Source, include: Include, *, hostname: str = "localhost") -> Imported:
    """Make settings of an nginx.conf.

    @param source: the file with its absolute path.
    @param include: reads included files.
    @param hostname: for greetings, where C{server_name} says nothing; nginx takes it from the machine.
    @raise CannotImport: no settings can be made of it; the message says why.
    @raise OSError: an included file cannot be read.
    """
    folder = os.path.dirname(source.path)
    main = list(expand(parse(source), include, folder))
    blocks = [one.block for one in main if one.name == "mail" and one.block is not None]
    if not blocks:
        raise CannotImport("there is no mail { } block")
    mail = [one for block in blocks for one in expand(block, include, folder)]
    servers = [
        Server(list(expand(one.block, include, folder)), mail) for one in mail if one.name == "server" and one.block
    ]
    if not servers:
        raise CannotImport("there is no server { } in the mail { } block")
    return _Translation(source, main, mail, servers).settings(hostname)


class Server:
    """One server block, on top of what the mail block says for all."""

    def __init__(self, own: Sequence[Directive], mail: Sequence[Directive]) -> None:
        self.own = own
        self._mail = mail

    def all(self, name: str) -> list[Directive]:
        """Every directive of that name: the server's, else the mail block's."""
        own = [one for one in self.own if one.name == name]
        return own or [one for one in self._mail if one.name == name]

    def one(self, name: str) -> Directive | None:
        """The last of them, if there is any."""
        found = self.all(name)
        return found[-1] if found else None

    def value(self, name: str, default: str = "") -> str:
        """Its first argument."""
        found = self.one(name)
        return found.arguments[0] if found and found.arguments else default

    @property
    def certificates(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """C{ssl_certificate} and C{ssl_certificate_key}, as they stand there."""
        names = ("ssl_certificate", "ssl_certificate_key")
        files, keys = (tuple(one.arguments[0] for one in self.all(name) if one.arguments) for name in names)
        return files, keys


class _Translation:
    """One nginx.conf on its way."""

    def __init__(
        self, source: Source, main: Sequence[Directive], mail: Sequence[Directive], servers: Sequence[Server]
    ) -> None:
        self._source = source
        self._main = main
        self._servers = servers
        self._draft = Draft(os.path.basename(source.path))
        self._protocols: dict[str, None] = {}
        for one in [*mail, *(one for server in servers for one in server.own)]:
            if one.name in WORDS:
                self._remark(one, WORDS[one.name])
            elif one.name not in HANDLED:
                self._remark(one, "not a mail directive that is known here; left out")

    def settings(self, hostname: str) -> Imported:
        name = next((name for server in self._servers if (name := server.value("server_name"))), hostname)
        gateway = self._draft.table("[gateway]")
        gateway.set("hostname", name)
        self._process(gateway)
        tls = self._draft.table("[tls]")
        listening = self._listeners()
        if any(mode != "none" for _, mode, _ in listening):
            self._identities(tls, [server for _, mode, server in listening if mode != "none"])
        if any(protocol == "mx" for protocol, _, _ in listening):
            domains = self._draft.table("[domains]")
            domains.set("accept", [name], "CHANGE THIS: the domains whose mail comes in")
        self._auth()
        self._pool()
        self._limits()
        return self._draft.finish()

    def _remark(self, one: Directive, words: str) -> None:
        place = "" if one.file == self._source.path else f"{one.file}, "
        self._draft.remark(one.line, f"{place}{one.name}", words)

    def _process(self, gateway: Table) -> None:
        for one in self._main:
            value = one.arguments[0] if one.arguments else ""
            if one.name == "user":
                words = (
                    f"not taken over: user = {value!r} in [gateway] is right once that user can read the key of [tls]"
                )
                self._remark(one, f"{words}; nginx reads it before it changes its user")
            elif one.name == "worker_shutdown_timeout" and (seconds := _seconds(value)):
                gateway.set("drain", _written(seconds), one.name)
            elif one.name == "worker_processes" and value not in ("", "1"):
                if has_key("gateway", "workers"):
                    gateway.set("workers", "auto" if value == "auto" else int(value), one.name)
                else:
                    self._remark(one, LATER)

    def _listeners(self) -> list[tuple[str, str, Server]]:
        """Write them.

        @return: protocol, TLS mode and server of each.
        """
        found: dict[tuple[str, int], tuple[str, str, Server, Directive]] = {}
        for server in self._servers:
            for listen in (one for one in server.own if one.name == "listen" and one.arguments):
                host, port = self._address(listen)
                protocol = server.value("protocol") or _PORTS.get(port, "")
                if protocol not in _BACKEND_PORTS:
                    self._remark(listen, f"no protocol for {listen.arguments[0]}; left out, as nginx refuses it")
                    continue
                self._protocols[protocol] = None
                found[host, port] = (
                    self._offered(protocol, listen, server),
                    self._mode(listen, server),
                    server,
                    listen,
                )
        if not found:
            raise CannotImport("no server { } listens")
        for (host, port), (protocol, mode, _, listen) in list(found.items()):
            if host == "" and ("::", port) in found:
                self._remark(listen, "IPv4 is taken by the listener of [::], too, which makes this one redundant")
                del found[host, port]
            else:
                self._listener(host, port, protocol, mode, listen)
        return [(protocol, mode, server) for protocol, mode, server, _ in found.values()]

    def _address(self, listen: Directive) -> tuple[str, int]:
        """Host (C{""} for all of IPv4, a path for a UNIX socket) and port (0 for such) of a C{listen}."""
        text = listen.arguments[0]
        if text.startswith("unix:"):
            return text.removeprefix("unix:"), 0
        if text.isdecimal():
            return "", int(text)
        try:
            host, port = split_host(text.replace("*:", "0.0.0.0:", 1) if text.startswith("*") else text)
        except ValueError as error:
            raise CannotImport(f"{listen.file}:{listen.line}: listen: {error}") from None
        if port is None:
            raise CannotImport(f"{listen.file}:{listen.line}: listen: {text!r} has no port")
        return "" if host == "0.0.0.0" else host, port

    def _offered(self, protocol: str, listen: Directive, server: Server) -> str:
        """What to call nginx's C{smtp}."""
        if protocol != "smtp":
            return protocol
        asked = server.one("smtp_auth")
        methods = set(asked.arguments) if asked else {"plain", "login"}
        if "none" not in methods:
            return "submission"
        mx = methods == {"none"} or self._address(listen)[1] == 25
        words = "mail without a login is taken by mx, for recipients in domains.accept who exist, and by nobody else"
        self._remark(asked or listen, words if mx else f"{words}; this port is submission, which wants a login")
        return "mx" if mx else "submission"

    def _mode(self, listen: Directive, server: Server) -> str:
        if "ssl" in listen.arguments[1:] or server.value("ssl") == "on":
            return "implicit"
        mode = _STARTTLS.get(server.value("starttls", "off"), "none")
        if (found := server.one("starttls")) and mode == "optional":
            words = 'on lets clients log in without TLS, and so does "optional". Better is "starttls"'
            self._remark(found, f"{words}, as soon as all clients can do it")
        return mode

    def _listener(self, host: str, port: int, protocol: str, mode: str, listen: Directive) -> None:
        table = self._draft.table("[[listener]]")
        table.set("protocol", protocol)
        place = f"tcp:{port}" if port else f"unix:{_escaped(host)}"
        if port and host:
            place += f":interface={_escaped(host)}"
        for option in listen.arguments[1:]:
            name, _, value = option.partition("=")
            if name == "backlog" and value.isdecimal():
                place += f":backlog={value}"
            elif name == "proxy_protocol":
                self._proxied(table, listen)
            elif name in _SOCKET_ONLY:
                self._remark(listen, f"{option}: no counterpart; it is the system's choice")
            elif name != "ssl":
                self._remark(listen, f"{option}: is not known here; left out")
        table.set("endpoint", place)
        # mail from other servers comes in either way: RFC 3207 §4 has it so
        table.set("tls", "starttls" if protocol == "mx" and mode == "optional" else mode)

    def _proxied(self, table: Table, listen: Directive) -> None:
        trusted = [one for server in self._servers for one in server.all("set_real_ip_from") if listen in server.own]
        networks = list(dict.fromkeys(one.arguments[0] for one in trusted if one.arguments))
        if networks and has_key("listener", "proxy_from"):
            table.set("proxy_from", networks, "set_real_ip_from")
        elif not has_key("listener", "proxy_from"):
            self._remark(listen, f"proxy_protocol: {LATER}; clients have to come straight here")
        else:
            words = "proxy_protocol: from whom? No set_real_ip_from says so; write the balancers into proxy_from"
            self._remark(listen, words)

    def _identities(self, tls: Table, servers: Sequence[Server]) -> None:
        """The first certificates that a TLS listener has are C{[tls]}, all others are chosen by SNI."""
        folder = os.path.dirname(self._source.path)
        seen: list[tuple[tuple[str, ...], tuple[str, ...]]] = []
        for server in servers:
            files, keys = server.certificates
            if not files or len(files) != len(keys):
                raise CannotImport(f"TLS in a server with {len(files)} ssl_certificate and {len(keys)} keys")
            if (files, keys) in seen:
                continue
            table = self._draft.table("[[tls.name]]") if seen else tls
            if seen:
                table.set("names", server.value("server_name", os.path.basename(files[0]).rpartition(".")[0]))
            seen.append((files, keys))
            for key, paths in (("certificate", files), ("key", keys)):
                absolute = [os.path.join(folder, path) for path in paths]
                table.set(key, absolute if len(absolute) > 1 else absolute[0])
        self._oldest(tls, servers)

    def _oldest(self, tls: Table, servers: Sequence[Server]) -> None:
        spoken = [one for server in servers if (one := server.one("ssl_protocols"))]
        if spoken and all(set(one.arguments) == {"TLSv1.3"} for one in spoken):
            tls.set("minimum", "1.3", "ssl_protocols")
        for one in spoken:
            if old := [name for name in one.arguments if name not in ("TLSv1.2", "TLSv1.3")]:
                self._remark(one, f"{' '.join(old)}: nothing older than TLS 1.2 is spoken")

    def _auth(self) -> None:
        """The authentication server as directory and rule in one."""
        asked = [one for server in self._servers if (one := server.one("auth_http")) and one.arguments]
        if not asked:
            raise CannotImport("there is no auth_http, without which nginx would refuse it, too")
        uri = _uri(asked[0])
        for one in asked:
            if _uri(one) != uri:
                self._remark(
                    one, f"{one.arguments[0]}: there is one authentication server for all listeners; {uri} it is"
                )
        directory = self._draft.table("[[directory]]")
        directory.set("kind", "http")
        directory.set("uri", [uri])
        waits = [one for server in self._servers if (one := server.one("auth_http_timeout")) and one.arguments]
        if waits:
            seconds = max(_seconds(one.arguments[0]) for one in waits)
            directory.set("timeout", _written(seconds), "auth_http_timeout")
        pairs = [one.arguments for server in self._servers for one in server.all("auth_http_header")]
        if headers := {pair[0]: pair[1] for pair in pairs if len(pair) == 2}:
            directory.set("header", headers, "auth_http_header")
        route = self._draft.table("[[route]]", "Auth-Server and Auth-Port of the same answer.")
        route.set("kind", "http")
        route.set("pool", "main")

    def _pool(self) -> None:
        pool = self._draft.table("[pool.main]", "The hosts come from the authentication server.")
        pool.set("members", [])
        smtp = [server for server in self._servers if server.value("proxy_smtp_auth", "off") != "on"]
        smtp = [server for server in smtp if self._speaks(server, "smtp")]
        if set(self._protocols) == {"smtp"} and smtp:
            off = smtp[0].value("xclient", "on") == "off"
            pool.set("login", "none" if off else "xclient", "proxy_smtp_auth off, xclient " + ("off" if off else "on"))
        else:
            pool.set("login", "own")
            for server in smtp:
                words = (
                    "proxy_smtp_auth off: nginx does not log in at the SMTP backend. The login is the pool's, for all "
                    "its protocols: the backend has to take AUTH with the user's password, or an account of the "
                    "gateway has to be in service_user and service_password in [pool.main.smtp]"
                )
                self._draft.remark(server.own[0].line, "server", words)
        self._header(pool)
        for protocol in self._protocols:
            table = self._draft.table(f"[pool.main.{protocol}]")
            table.set("port", _BACKEND_PORTS[protocol], "where the answer names none (Auth-Port)")
            table.set("tls", "none", "as nginx, which speaks no TLS to backends; better: starttls or implicit")

    def _header(self, pool: Table) -> None:
        """The PROXY header that backends get."""
        said = [(server.value("proxy_protocol", "off"), server) for server in self._servers]
        versions = {"v2" if value == "v2" else "v1" for value, _ in said if value != "off"}
        if versions:
            pool.set("proxy", max(versions), "proxy_protocol")
        for value, server in said if len({value for value, _ in said}) > 1 else ():
            words = f"proxy_protocol {value}: it is the pool's, for all listeners; {max(versions)} is taken"
            self._draft.remark(server.own[0].line, "proxy_protocol", words)

    def _speaks(self, server: Server, protocol: str) -> bool:
        listens = [one for one in server.own if one.name == "listen" and one.arguments]
        named = server.value("protocol")
        return any((named or _PORTS.get(self._address(one)[1])) == protocol for one in listens)

    def _limits(self) -> None:
        table = self._draft.table("[limits]")
        for name, key in (("timeout", "login_deadline"), ("proxy_timeout", "idle")):
            given = {one.arguments[0]: one for server in self._servers if (one := server.one(name)) and one.arguments}
            if given:
                table.set(key, _written(max(map(_seconds, given))), name)
            if len(given) > 1:
                for value, one in given.items():
                    self._remark(one, f"{value}: there is one limits.{key} for all listeners; the longest is taken")
        errors = [server.value("max_errors") for server in self._servers]
        if numbers := [int(text) for text in errors if text.isdecimal() and int(text)]:
            table.set("bad_commands", max(numbers), "max_errors")


def _escaped(text: str) -> str:
    """Text inside an endpoint string."""
    return re.sub(r"([\\:=])", r"\\\1", text)


def _uri(one: Directive) -> str:
    """The URI of an C{auth_http}, which may lack scheme and path."""
    text = one.arguments[0].removeprefix("http://")
    if text.startswith("unix:"):
        words = "auth_http on a UNIX socket: no counterpart; let the server listen on loopback"
        raise CannotImport(f"{one.file}:{one.line}: {words}")
    return f"http://{text}" if "/" in text else f"http://{text}/"


def _seconds(text: str) -> float:
    """nginx's durations: C{90}, C{90s}, C{1m30s}; 0 for what is none."""
    return sum(int(found[1]) * _SECONDS.get(found[2], 0.0) for found in _TIME.finditer(text))


def _written(seconds: float) -> str:
    return f"{int(seconds)}s" if seconds == int(seconds) else f"{int(seconds * 1000)}ms"
