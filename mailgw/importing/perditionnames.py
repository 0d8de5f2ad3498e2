"""Makes C{[names]} and the keys of routes of what Perdition does to user names.

Perdition has three states: the look-up of the server, PAM, and the login on the backend. The directory takes the place
of PAM and knows users as the backends do, so that what Perdition does for both others is done for it, too.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence

from mailgw.importing.perditionfile import Option
from mailgw.importing.toml import CannotImport, Draft, Table, listed

_STATES = {
    "servername_lookup": frozenset({"lookup"}),
    "server_lookup": frozenset({"lookup"}),
    "local_authentication": frozenset[str](),
    "local_auth": frozenset[str](),
    "remote_login": frozenset({"backend"}),
    "all": frozenset({"lookup", "backend"}),
}
_ESCAPES = {
    "U": "{user}",
    "u": "{local}",
    "d": "{domain}",
    "i": "{client}",
    "p": "{client_port}",
    "I": "{address}",
    "P": "{port}",
    "\\": "\\",
}
_PAM = (
    "local_authentication has no counterpart for PAM: the directory is asked for the form that lookups and logins have"
)
_CUT = "servername_lookup takes the domain away, so that \\d is empty; left out"


class NameOptions:
    """All that Perdition's options say about names."""

    def __init__(self, options: Iterable[Option], draft: Draft) -> None:
        self._draft = draft
        self._options = list(options)
        self._last = {option.name: option for option in self._options}
        self.delimiter = self._value("domain_delimiter") or "@"
        self.lower, self.strip, self.add = (self._steps(key) for key in ("lower_case", "strip_domain", "add_domain"))

    def _value(self, name: str) -> str:
        return self._last[name].value if name in self._last else ""

    def _remark(self, name: str, words: str) -> None:
        self._draft.remark(self._last[name].line, name, words)

    def _steps(self, name: str) -> frozenset[str]:
        """The states of an option; where it stands several times, all of them count."""
        found: frozenset[str] = frozenset()
        for option in self._options:
            for word in option.value.lower().split(",") if option.name == name else ():
                if word in _STATES:
                    found |= _STATES[word]
                    if word.startswith("local"):
                        self._draft.remark(option.line, name, _PAM)
                elif not (name == "add_domain" and word.isdecimal()):
                    self._draft.remark(option.line, name, f"Perdition has no state {word!r}; left out")
        return found

    def _depth(self) -> int:
        """How many labels of a host's name are none of its domain."""
        words = [word for option in self._options if option.name == "add_domain" for word in option.value.split(",")]
        return int(next((word for word in reversed(words) if word.isdecimal()), "1"))

    # --- [names] -----------------------------------------------------------------------------------------------------

    def write(self, addresses: Sequence[str], reverse: Callable[[str], str], *, maps: bool, ldap: bool) -> None:
        """Write the table.

        @param addresses: where Perdition listens, C{""} for everywhere.
        @param reverse: an address's host name, C{""} where it has none.
        @param maps: users are looked up in map files.
        @param ldap: users are looked up in LDAP, which is the directory then.
        """
        table = self._draft.table("[names]")
        for key, steps in (("lower_case", self.lower), ("strip_domain", self.strip)):
            self._write_steps(table, key, steps, maps, ldap)
        domains = self._domains(addresses, reverse)
        if domains:
            self._write_steps(table, "add_domain", self.add, maps, ldap)
            for key, value in domains.items():
                table.set(key, value, "explicit_domain" if key == "default_domain" else "as their names say today")
        if self.delimiter != "@":
            table.set("domain_delimiter", self.delimiter)
            words = f"in the values of maps the delimiter between user and host stays @, not {self.delimiter}"
            self._remark("domain_delimiter", words)

    def _write_steps(self, table: Table, key: str, steps: frozenset[str], maps: bool, ldap: bool) -> None:
        """One key. With map files the directory has what both others have, without them what the only other has."""
        asked = "lookup" in steps if ldap else ("lookup" in steps or not maps) and "backend" in steps
        places = [*["directory"] * asked, *sorted(steps & {"lookup"} if maps else ()), *sorted(steps & {"backend"})]
        if ldap and steps == {"lookup"}:
            words = "the name that is looked up is the canonical one, and backends are told that one, too"
            self._remark(key, words)
        if places:
            table.set(key, "all" if len(places) == 3 else places)

    def _domains(self, addresses: Sequence[str], reverse: Callable[[str], str]) -> Mapping[str, str | dict[str, str]]:
        """The keys that say what is added; none where nothing is or nobody knows it."""
        explicit = self._value("explicit_domain")
        if not self.add:
            if explicit:
                self._remark("explicit_domain", "is of no use without add_domain; left out")
            return {}
        if explicit:
            return {"default_domain": explicit}
        found = {address: _without(reverse(address), self._depth()) for address in addresses if address}
        unknown = [address for address in addresses if not found.get(address)]
        if unknown:
            named = listed([one or "addresses that bind_address does not name" for one in unknown])
            words = f'no domain is known for {named}: add it to [names.domains], as "192.0.2.1" = "example.com"'
            self._remark("add_domain", words)
        domains = {address: domain for address, domain in found.items() if domain}
        if domains:
            self._remark("add_domain", "the names of addresses were looked up now; the gateway does not ask for them")
        return {"domains": domains} if domains else {}

    # --- keys --------------------------------------------------------------------------------------------------------

    def keys(self, *, maps: bool) -> list[str]:
        """C{query_key} as C{keys} of a route; empty where there is none.

        @raise CannotImport: nobody could be found by it.
        """
        if not self._value("query_key"):
            return []
        if not maps:
            self._remark("query_key", "no counterpart without map files; for LDAP see `filter`, which has {local}, too")
            return []
        keys = [self._key(one) for one in self._value("query_key").split(",") if one]
        if "lookup" in self.strip - self.add and any("{domain}" in key for key in keys):
            self._remark("query_key", _CUT)
            keys = [key for key in keys if "{domain}" not in key]
        if not keys:
            raise CannotImport(f"line {self._last['query_key'].line}: query_key: nobody could be found by it")
        if len(self.delimiter) > 1 and any("{domain}" in key for key in keys):
            words = f"\\d is the domain without the delimiter; Perdition leaves {self.delimiter[1:]!r} in front of it"
            self._remark("query_key", words)
        return list(dict.fromkeys(keys))

    def _key(self, text: str) -> str:
        """One format.

        @raise CannotImport: Perdition has no such escape, or there is a brace in it.
        """
        if "{" in text or "}" in text:
            raise CannotImport(f"line {self._last['query_key'].line}: query_key: a brace cannot stand in a key")
        escapes = _ESCAPES | {"D": self.delimiter}

        def meant(found: re.Match[str]) -> str:
            if found[1] not in escapes:
                words = f"query_key: Perdition has no {found[0]!r}, and finds nobody"
                raise CannotImport(f"line {self._last['query_key'].line}: {words}")
            return escapes[found[1]]

        return re.sub(r"\\(.?)", meant, text)


def _without(host: str, depth: int) -> str:
    """A host's name without its first labels."""
    labels = host.rstrip(".").split(".")
    return ".".join(labels[depth:])
