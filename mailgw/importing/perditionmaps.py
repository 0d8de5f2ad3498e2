"""Makes directories and routes of Perdition's map libraries: popmap files, regular expressions, LDAP.

Reads no file and asks no database. The map files themselves stay as they are: C{kind = "table"} reads Perdition's
formats.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import unquote

from mailgw.importing.known import LATER
from mailgw.importing.perditionfile import Option, read_options
from mailgw.importing.toml import CannotImport, Draft
from mailgw.routing.regexmap import MapFaults, RegexMap
from mailgw.routing.table import NameMap

Options = Mapping[str, Option]

NOWHERE = (
    "no map that could be read and no outgoing_server: nobody would have a place. Write the map to a file with "
    "user:host lines, as makegdbm reads it, and name that behind perdition.conf"
)
_USERS = (
    "Perdition leaves the password to the backend; mailgw checks it itself, before any backend is asked. Put the "
    'directory here that the backends use, such as kind = "ldap", or add users by `mailgw user add`'
)
_TO_EXPORT = "export its table to a file of user:host lines and import that"
_DATABASES = {
    "mysql": f"{LATER} for MySQL; {_TO_EXPORT}",
    "postgresql": f"{LATER} for PostgreSQL; {_TO_EXPORT}",
    "odbc": f"{LATER} for ODBC; {_TO_EXPORT}",
    "nis": f"{LATER} for NIS; {_TO_EXPORT} (ypcat -k user_mail_server has the lines but for the colon)",
    "daemon": f"{LATER} for map daemons; {_TO_EXPORT}",
}
_FILES = frozenset({"gdbm", "bdb", "cdb", "posix_regex"})
_MAP_FOLDER = "/etc/perdition"
_LDAP_DEFAULT = "ldap://localhost/ou=mailbox,dc=nodomain?username,mailhost,port?one?(uid=%s)"
_LDAP_URL = re.compile(
    r"(?:\d+:)?(ldaps?)://([^/?]*)(?:/([^?]*))?(?:\?([^?]*))?(?:\?([^?]*))?(?:\?([^?]*))?(?:\?(.*))?"
)
_KEY = re.compile(r"%\d*s")


@dataclass(frozen=True, slots=True)
class MapFile:
    """A map file.

    @ivar path: as the settings are going to name it.
    """

    path: str
    text: str


def library(options: Options) -> str:
    """The map library's short name: C{gdbm}, C{posix_regex}, …; C{""} where there is to be no look-up.

    @param options: by name.
    """
    if "map_library" not in options:
        return "gdbm"
    name = os.path.basename(options["map_library"].value)
    return name.removeprefix("libperditiondb_").partition(".")[0]


def maps_named(text: str) -> tuple[str, ...]:
    """The map files that a perdition.conf itself uses, as far as they are text: what a database was made of.

    @raise CannotImport: a quote is not closed.
    """
    options = {option.name: option for option in read_options(text)}
    given = options["map_library_opt"].value if "map_library_opt" in options else ""
    kind = library(options)
    if kind == "posix_regex":
        return (os.path.join(_MAP_FOLDER, given or "popmap.re"),)
    if kind in _FILES:
        made = os.path.join(_MAP_FOLDER, given or f"popmap.{kind}.db")
        return (re.sub(r"(?:\.(?:gdbm|bdb|cdb))?(?:\.db)?\Z", "", made),)
    return ()


def add_places(
    draft: Draft, options: Options, maps: Sequence[MapFile], default: bool, keys: Sequence[str] = ()
) -> bool:
    """Write who may log in, and where users go.

    @param default: the pool has members, for those who are in no map.
    @param keys: what is looked up in the maps, where that is not the name.
    @return: whether there is any route.
    """
    kind = library(options)
    searched = kind == "ldap"
    if searched:
        _add_ldap(draft, options)
    else:
        directory = draft.table("[[directory]]", _USERS)
        directory.set("kind", "passwd")
        directory.set("file", "users.passwd")
    _complain_of_library(draft, options, kind, bool(maps))
    for file in maps:
        regex = "posix_regex" in kind or file.path.endswith(".re")
        _add_table(draft, file, regex, keys, "username_from_database" in options)
    if searched:
        route = draft.table("[[route]]")
        route.set("kind", "attribute")
        route.set("name", _ldap_parts(options).attributes[1])
        route.set("pool", "main")
    if default:
        _add_default(draft, options, bool(maps) or searched)
    return bool(maps) or searched or default


def _complain_of_library(draft: Draft, options: Options, kind: str, replaced: bool) -> None:
    """Say what cannot be looked up. Without the map its users would go where those in no map go, to empty mailboxes.

    @param replaced: map files were given, which have the same in them.
    @raise CannotImport: they were not, and the configuration does look users up.
    """
    if kind in ("", "ldap") or (kind in _FILES and replaced):
        return
    options_of_it = [options[name] for name in ("map_library", "map_library_opt") if name in options]
    words = _DATABASES.get(kind, f"{kind!r} is not known here; {_TO_EXPORT}")
    if kind in _FILES:
        words = "the text of the map is not there; name it behind perdition.conf"
    if options_of_it and not replaced:
        raise CannotImport(f"line {options_of_it[0].line}: {options_of_it[0].name}: {words}")
    if not options_of_it:
        words = f"none is named, and {_MAP_FOLDER}/popmap is not there: nobody is looked up"
    draft.remark(options_of_it[0].line if options_of_it else 0, "map_library", words)


def map_faults(file: MapFile, regex: bool) -> tuple[str, ...]:
    """What is wrong with a map file, C{LINE: words} each."""
    try:
        (RegexMap if regex else NameMap).parse(file.text)
    except MapFaults as error:
        return error.faults
    return ()


def _add_table(draft: Draft, file: MapFile, regex: bool, keys: Sequence[str], users: bool) -> None:
    for fault in map_faults(file, regex):
        draft.remark(0, "popmap", f"{file.path}:{fault}. `mailgw check` refuses the file until this is mended")
    if not (regex or users) and re.search(r"^[^#:\n]+:[^#\n]*@", file.text, re.MULTILINE):
        words = (
            f"{file.path} names users beside hosts; mailgw reads them and leaves them out, as Perdition does without"
        )
        draft.remark(0, "popmap", f"{words} username_from_database")
    if regex and re.search(r"^\s*[^#^\s]", file.text, re.MULTILINE):
        words = (
            f"{file.path}: where an expression without ^ matches in the middle of a name, Perdition puts what stands"
        )
        draft.remark(0, "popmap", f"{words} before it in front of the host; here the host is the one of the line")
    route = draft.table("[[route]]")
    route.set("kind", "table")
    route.set("file", file.path)
    if regex:
        route.set("match", "regex")
    if keys:
        route.set("keys", keys, "query_key")
    if users:
        route.set("username", True, "username_from_database")
    route.set("pool", "main")


def _add_default(draft: Draft, options: Options, after_others: bool) -> None:
    route = draft.table("[[route]]", "Whoever is in no map." if after_others else "")
    route.set("kind", "pool")
    route.set("pool", "main")
    if after_others:
        words = "is for users who are in no map. A map that cannot be read is temporary trouble and no reason to send"
        draft.remark(options["outgoing_server"].line, "outgoing_server", f"{words} everybody there")


@dataclass(frozen=True, slots=True)
class _Ldap:
    """A look-up as C{map_library_opt} describes it."""

    uris: tuple[str, ...]
    base: str
    attributes: tuple[str, ...]
    scope: str
    filter: str
    extensions: Mapping[str, str]


def _ldap_parts(options: Options) -> _Ldap:
    text = options["map_library_opt"].value if "map_library_opt" in options else ""
    match = _LDAP_URL.fullmatch(text or _LDAP_DEFAULT)
    if match is None:
        raise CannotImport(f"line {options['map_library_opt'].line}: map_library_opt is no LDAP URL")
    scheme, hosts, base, attributes, scope, searched, extensions = (part or "" for part in match.groups())
    given: dict[str, str] = {}
    for extension in extensions.split(",") if extensions else ():
        name, _, value = extension.lstrip("!").partition("=")
        given[name.lower()] = unquote(value)
    wanted = [name.strip() for name in attributes.split(",")] if attributes else []
    return _Ldap(
        tuple(f"{scheme}://{host}" for host in hosts.split() or ["localhost"]),
        unquote(base),
        tuple(wanted[:3]) + ("username", "mailhost", "port")[len(wanted) :],
        scope,
        unquote(_KEY.sub("{user}", searched)) or "(uid={user})",  # in this order: the %10s is no octet
        given,
    )


def _add_ldap(draft: Draft, options: Options) -> None:
    ldap = _ldap_parts(options)
    line = options["map_library_opt"].line if "map_library_opt" in options else options["map_library"].line
    named = re.search(r"\(([A-Za-z0-9;.-]+)=\{user\}\)", ldap.filter)
    username = ldap.attributes[0] if "username_from_database" in options or named is None else named[1]
    directory = draft.table(
        "[[directory]]",
        "Perdition leaves the password to the backend; mailgw checks it itself, by a bind as the entry found here, "
        "which therefore needs the user's password. Where other entries have it, describe those.",
    )
    directory.set("kind", "ldap")
    directory.set("uri", ldap.uris)
    name, password = ldap.extensions.get("bindname", ""), ldap.extensions.get("x-bindpw", "")
    if name and password:
        directory.set("bind_dn", name)
        directory.set("bind_password", password, 'better in a file of its own: {file = "…"}')
    elif name:
        draft.remark(line, "map_library_opt", "bindname without x-bindpw is an anonymous search, and so it is here")
    directory.set("base", ldap.base)
    directory.set("filter", ldap.filter)
    directory.set("username", username, "the canonical name: backends are told this one")
    directory.set("attributes", [ldap.attributes[1]])
    if ldap.scope not in ("sub", "subtree"):
        words = f"scope {ldap.scope or 'base'!r}: the whole tree below the base is searched, and must find one entry"
        draft.remark(line, "map_library_opt", words)
    words = f"the attribute {ldap.attributes[2]} is not read; a port goes into {ldap.attributes[1]}, as host:port"
    draft.remark(line, "map_library_opt", words)
