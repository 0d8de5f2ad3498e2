"""User names in their forms: as the directory is asked, as routes look them up, as backends are told them.

Pure: it asks nobody, and it decides nothing about who a user is. A form never makes a name empty, and what a client
chose never becomes a pattern: values are put into keys once, and nothing in them is looked at again.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Annotated, TypeVar

from pydantic import AfterValidator

from mailgw.model import Origin
from mailgw.settings import Names as Options
from mailgw.settings import Strings

_TOKEN = re.compile(r"\{([^{}]*)\}|([{}])|[^{}]+")
_ASKED_FOR = re.compile(rb"[A-Za-z0-9_](?:[A-Za-z0-9._-]{0,251}[A-Za-z0-9_])?\.?")
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f]")
_MAPPED = "::ffff:"
T = TypeVar("T")


def split(name: str, delimiters: Sequence[str]) -> tuple[str, str]:
    """Cut a name at its last delimiter: local part and domain; without one the local part is the whole name.

    @param delimiters: where two end at the same place, the longer one counts.
    """
    places = [(name.rfind(one) + len(one), len(one)) for one in delimiters if one in name]
    if not places:
        return name, ""
    end, length = max(places)
    return name[: end - length], name[end:]


@lru_cache(256)
def asked_for(octets: bytes | None) -> str:
    """The host name that a TLS client asked for (SNI, RFC 6066 §3), lower case; C{""} for what is none."""
    if octets is None or not _ASKED_FOR.fullmatch(octets):
        return ""
    return octets.decode("ascii").lower().rstrip(".")


@dataclass(frozen=True, slots=True)
class Form:
    """One form of a name: without its domain, with a default one, in lower case, in this order, each if wanted."""

    strip: bool = False
    add: bool = False
    lower: bool = False
    delimiters: Sequence[str] = ("@",)
    default: str = ""
    domains: Mapping[str, str] = field(default_factory=dict)

    @property
    def changes(self) -> bool:
        """False where every name stays as it is."""
        return self.strip or self.add or self.lower

    def __call__(self, name: str, origin: Origin | None) -> str:
        """Bring a name into this form; one with control characters stays as it is, for the directory to refuse it.

        @param origin: whose listener, address or TLS name may have a default domain of its own.
        """
        if _CONTROL.search(name):
            return name
        if self.strip:
            name = split(name, self.delimiters)[0] or name
        if self.add and not any(one in name for one in self.delimiters) and (domain := self.domain(origin)):
            name = f"{name}{self.delimiters[0]}{domain}"
        return name.lower() if self.lower else name

    def domain(self, origin: Origin | None) -> str:
        """The domain for names that have none: by TLS name, by address, by listener, else the default."""
        if not self.domains or origin is None:
            return self.default
        for door in _doors(origin):
            if door in self.domains:
                return self.domains[door]
        return self.default


def _doors(origin: Origin) -> Iterator[str]:
    if origin.sni:
        yield origin.sni
        yield f"*.{origin.sni.partition('.')[2]}"
    yield _address(origin.peer.local_host)
    yield origin.listener


def _address(host: str) -> str:
    """An IPv4 address stays one on a socket that takes both families."""
    return host.removeprefix(_MAPPED) if "." in host else host


class Names:
    """What C{[names]} makes of user names.

    @ivar directory: what a directory is asked for, made of the name that was typed.
    @ivar lookup: what a rule looks up, made of the canonical name.
    @ivar backend: what a backend is told, made of the canonical name or of the one that a rule gave.
    """

    def __init__(self, options: Options) -> None:
        self.delimiters = options.domain_delimiter

        def form(step: str) -> Form:
            return Form(
                step in options.strip_domain,
                step in options.add_domain,
                step in options.lower_case,
                options.domain_delimiter,
                options.default_domain,
                options.domains,
            )

        self.directory, self.lookup, self.backend = form("directory"), form("lookup"), form("backend")


_Value = Callable[[str, tuple[str, str], Origin | None], str]


def _of(part: Callable[[Origin], str]) -> _Value:
    return lambda name, parts, origin: part(origin) if origin is not None else ""


VALUES: dict[str, _Value] = {
    "user": lambda name, parts, origin: name,
    "local": lambda name, parts, origin: parts[0],
    "domain": lambda name, parts, origin: parts[1],
    "client": _of(lambda origin: _address(origin.peer.host)),
    "client_port": _of(lambda origin: str(origin.peer.port or "")),
    "address": _of(lambda origin: _address(origin.peer.local_host)),
    "port": _of(lambda origin: str(origin.peer.local_port or "")),
    "sni": _of(lambda origin: origin.sni),
    "listener": _of(lambda origin: origin.listener),
    "protocol": _of(lambda origin: origin.protocol),
}
"""What may stand in the braces of a key: made of the name that is looked up, its parts and the session."""

USER = "{user}"
"""The key that rules have unless the settings say otherwise."""


def key_parts(template: str) -> tuple[tuple[str, bool], ...]:
    """Take a key apart: texts, each with whether it is a placeholder.

    @raise ValueError: it is empty, or what stands in its braces is unknown.
    """
    parts = []
    for token in _TOKEN.finditer(template):
        if token[2] or (token[1] is not None and token[1] not in VALUES):
            raise ValueError(f"unknown {token[0]!r}; there are {', '.join(f'{{{one}}}' for one in VALUES)}")
        parts.append((token[0], False) if token[1] is None else (token[1], True))
    if not parts:
        raise ValueError("an empty key finds nobody")
    return tuple(parts)


def _keys(templates: tuple[str, ...]) -> tuple[str, ...]:
    if not templates:
        raise ValueError('needs a key, such as "{user}"')
    for template in templates:
        key_parts(template)
    return templates


KeyTemplates = Annotated[Strings, AfterValidator(_keys)]
"""The option C{keys} of a rule."""


class Keys:
    """What a rule looks up for a user, one key after the other."""

    def __init__(self, templates: Sequence[str], options: Options) -> None:
        names = Names(options)
        self._delimiters = names.delimiters
        self._form = names.lookup if names.lookup.changes else None
        self._templates = tuple(key_parts(template) for template in templates)
        self._plain = self._form is None and tuple(templates) == (USER,)

    def first(self, find: Callable[[str], T | None], username: str, origin: Origin | None) -> T | None:
        """What the first key that finds anything finds.

        @param username: the canonical name.
        @param origin: the session, where there is one.
        """
        if self._plain:
            return find(username)
        for key in self.of(username, origin):
            if (found := find(key)) is not None:
                return found
        return None

    def of(self, username: str, origin: Origin | None) -> Sequence[str]:
        """The keys for a user, in order. One with a placeholder that has no value here is left out."""
        name = username if self._form is None else self._form(username, origin)
        parts = split(name, self._delimiters)
        found = (_filled(template, name, parts, origin) for template in self._templates)
        return tuple(dict.fromkeys(key for key in found if key))


def _filled(template: tuple[tuple[str, bool], ...], name: str, parts: tuple[str, str], origin: Origin | None) -> str:
    texts = [VALUES[text](name, parts, origin) if is_placeholder else text for text, is_placeholder in template]
    return "".join(texts) if all(texts) else ""
