"""Reads mailgw.toml into L{Settings}, or says every fault of it at once, each with file, line and key.

Opens no file but the settings and the secrets they name: certificates, maps and pools' addresses are looked at by
L{mailgw.config.check}. What tables say about each other is judged in L{mailgw.config.rules}.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path as FileSystemPath
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, SecretBytes, ValidationError
from pydantic.fields import FieldInfo

from mailgw import registry
from mailgw.config.faults import Fault, faults_of, models_in, suggest
from mailgw.config.lines import Path
from mailgw.config.rules import faults_between
from mailgw.config.source import Source
from mailgw.errors import SettingsError
from mailgw.settings import Domains, Gateway, Limits, Listener, Local, Names, Plug, Pool, Settings, Table, Tls

Model = TypeVar("Model", bound=BaseModel)
NOT_BUILT = frozenset({"admin", "log"})
"""Tables that the format knows and this version does not build."""
_TABLES: dict[str, type[Table]] = {
    "gateway": Gateway,
    "tls": Tls,
    "names": Names,
    "limits": Limits,
    "domains": Domains,
    "local": Local,
}


@dataclass(frozen=True, slots=True)
class Loaded:
    """Good settings, and where their parts stand.

    @ivar secret_files: every C{{file = …}} of a secret, with the path of its key.
    """

    settings: Settings
    source: Source = field(repr=False)
    secret_files: tuple[tuple[Path, str], ...] = ()


def load(path: str | FileSystemPath, overrides: Sequence[str] = ()) -> Settings:
    """Read and validate the settings.

    @param overrides: C{table.key=value} each, as C{twistd mailgw --set} takes them; C{listener.2.tls=none} reaches
        into an array of tables, counting from 1.
    @raise SettingsError: with every fault.
    """
    return read(path, overrides).settings


def read(path: str | FileSystemPath, overrides: Sequence[str] = ()) -> Loaded:
    """Like L{load}, for those who also want to say where a setting stands.

    @raise SettingsError: with every fault.
    """
    source = Source(path)
    unusable = []
    for setting in overrides:
        try:
            source.override(setting)
        except ValueError as error:
            unusable.append(str(error))
    reading = _Reading(source)
    settings = reading.settings()
    faults = reading.faults + faults_between(source.tables)
    faults.sort(key=lambda fault: source.line(fault[0]))
    if settings is None or faults or unusable:
        raise SettingsError(unusable + [source.tell(*fault) for fault in faults])
    return Loaded(settings, source, tuple(reading.secret_files))


class _Reading:
    """One pass over the tables, which goes on after a fault."""

    def __init__(self, source: Source) -> None:
        self.faults: list[Fault] = []
        self.secret_files: list[tuple[Path, str]] = []
        self._source = source
        self._tables = source.tables

    def settings(self) -> Settings | None:
        """The values, or C{None} and L{faults}."""
        self._unknown_tables()
        values: dict[str, Any] = {
            name: self._validate(model, self._tables[name], (name,))
            for name, model in _TABLES.items()
            if name in self._tables
        }
        values["listener"] = tuple(
            self._validate(Listener, raw, ("listener", index)) for index, raw in self._elements("listener")
        )
        values["pool"] = {name: self._validate(Pool, raw, ("pool", name)) for name, raw in self._pools()}
        values["route"] = routes = self._plugs("route")
        values["directory"] = tuple(_ask_for(_attributes(routes), plug) for plug in self._plugs("directory"))
        return None if self.faults else Settings(**values)

    def _unknown_tables(self) -> None:
        for name in self._tables:
            if name in NOT_BUILT:
                self._fault((name,), f"[{name}] is not built in this version; leave it out")
            elif name not in Settings.model_fields:
                self._fault((name,), "unknown table" + suggest(name, Settings.model_fields))

    def _elements(self, name: str) -> list[tuple[int, Any]]:
        found = self._tables.get(name, [])
        if isinstance(found, list):
            return list(enumerate(found))
        self._fault((name,), f"must be written [[{name}]], in double brackets: there may be several")
        return []

    def _pools(self) -> list[tuple[str, Any]]:
        found = self._tables.get("pool", {})
        if not isinstance(found, dict):
            self._fault(("pool",), "must be written [pool.NAME], one table for each pool")
            return []
        if "" in found:
            self._fault(("pool", ""), "a pool needs a name")
        return list(found.items())

    def _plugs(self, group: str) -> tuple[Plug, ...]:
        """The plugs without a fault, in order; the number in a name counts those of its kind."""
        counts: dict[str, int] = {}
        plugs = []
        for index, raw in self._elements(group):
            path = (group, index)
            kind = self._kind(group, raw, path)
            counts[kind] = counts.get(kind, 0) + 1
            if kind and (options := self._options(group, kind, raw, path)):
                name = f"{kind.rpartition(':')[2]}-{counts[kind]}"
                plugs.append(Plug(kind=kind, name=name, options=options))
        return tuple(plugs)

    def _kind(self, group: str, raw: Any, path: Path) -> str:
        """The kind of a directory or route, C{""} where it is at fault."""
        known = registry.TABLE[group]
        if not isinstance(raw, dict):
            self._fault(path, "must be a table")
        elif "kind" not in raw:
            self._fault((*path, "kind"), f"is missing (known here: {', '.join(sorted(known))})")
        elif not isinstance(kind := raw["kind"], str):
            self._fault((*path, "kind"), "must be a string in quotes")
        elif kind in registry.LATER.get(group, ()):
            self._fault((*path, "kind"), f"{group} of kind {kind!r} is not built in this version")
        elif kind not in known and ":" not in kind:
            self._fault((*path, "kind"), f"no such kind of {group}" + suggest(kind, known))
        else:
            return kind
        return ""

    def _options(self, group: str, kind: str, raw: dict[str, Any], path: Path) -> Table | None:
        try:
            model = registry.load(group, kind).Options
        except LookupError as error:
            self._fault((*path, "kind"), str(error.args[0]))
        except AttributeError:
            self._fault((*path, "kind"), f"{kind} declares no Options; see the documentation on plugs of your own")
        else:
            return self._validate(model, {key: value for key, value in raw.items() if key != "kind"}, path)
        return None

    def _validate(self, model: type[Model], raw: Any, path: Path) -> Model | None:
        if not isinstance(raw, dict):
            self._fault(path, "must be a table")
            return None
        raw = self._placed(model, raw, path)
        try:
            return model.model_validate(raw)
        except ValidationError as error:
            self.faults += [((*path, *inner), words) for inner, words in faults_of(model, raw, error)]
            return None

    def _placed(self, model: type[BaseModel], raw: dict[str, Any], path: Path) -> dict[str, Any]:
        """The table with absolute paths, and with tuples for lists, as frozen values want them."""
        return {key: self._place(model.model_fields.get(key), value, (*path, key)) for key, value in raw.items()}

    def _place(self, declared: FieldInfo | None, value: Any, path: Path) -> Any:
        if declared is None:
            return value
        if (scheme := _scheme(declared)) and isinstance(value, str) and value.startswith(scheme):
            file = value.removeprefix(scheme)
            return scheme + os.path.normpath(os.path.join(self._source.folder, file)) if file else value
        if _is_path(declared):
            return _freeze(value, lambda text: os.path.normpath(os.path.join(self._source.folder, text)))
        if isinstance(value, dict) and _mentions(declared.annotation, SecretBytes):
            return self._place_secret(value, path)
        inner = next(models_in(declared.annotation), None)
        if inner is None:
            return _freeze(value)
        if isinstance(value, list):
            return tuple(
                self._placed(inner, one, (*path, index)) if isinstance(one, dict) else _freeze(one)
                for index, one in enumerate(value)
            )
        return self._placed(inner, value, path) if isinstance(value, dict) else value

    def _place_secret(self, value: dict[str, Any], path: Path) -> dict[str, Any]:
        if not isinstance(name := value.get("file"), str):
            return value
        name = os.path.join(self._source.folder, name)
        self.secret_files.append((path, name))
        return {**value, "file": name}

    def _fault(self, path: Path, words: str) -> None:
        self.faults.append((path, words))


def _attributes(routes: Iterable[Plug]) -> list[str]:
    """The attributes that routes are going to read."""
    needed: list[str] = []
    for plug in routes:
        needed += getattr(plug.options, "attributes_needed", ())
        if plug.kind == "attribute":
            needed.append(getattr(plug.options, "name", ""))
    return [name for name in needed if name]


def _ask_for(attributes: Sequence[str], plug: Plug) -> Plug:
    """The directory, told to fetch these attributes as well, if it fetches any."""
    if "attributes" not in type(plug.options).model_fields:
        return plug
    have: tuple[str, ...] = tuple(getattr(plug.options, "attributes", ()))
    options = plug.options.model_copy(update={"attributes": tuple(dict.fromkeys((*have, *attributes)))})
    return plug.model_copy(update={"options": options})


def _freeze(value: Any, change: Any = lambda text: text) -> Any:
    if isinstance(value, list):
        return tuple(_freeze(one, change) for one in value)
    return change(value) if isinstance(value, str) else value


def _scheme(declared: FieldInfo) -> str:
    """What goes before a path in a value that need not be one, such as C{sqlite:}; C{""} elsewhere."""
    extra = declared.json_schema_extra
    scheme = extra.get("path_behind") if isinstance(extra, Mapping) else None
    return scheme if isinstance(scheme, str) else ""


def _is_path(declared: FieldInfo) -> bool:
    return _marked(declared.json_schema_extra) or any(_marked_inside(part) for part in get_args(declared.annotation))


def _marked(extra: Any) -> bool:
    return isinstance(extra, Mapping) and bool(extra.get("path"))


def _marked_inside(annotation: Any) -> bool:
    metadata = getattr(annotation, "__metadata__", ())
    here = any(isinstance(one, FieldInfo) and _marked(one.json_schema_extra) for one in metadata)
    return here or any(_marked_inside(part) for part in get_args(annotation))


def _mentions(annotation: Any, wanted: type) -> bool:
    return annotation is wanted or any(_mentions(part, wanted) for part in get_args(annotation))
