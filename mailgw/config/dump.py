"""L{Settings} as a TOML text: every default filled in, every secret masked. What C{mailgw dump} prints.

C{load} takes the text again and arrives at the same settings, but for the secrets and what rests on them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import BaseModel, SecretBytes, SecretStr
from pydantic.fields import FieldInfo

from mailgw.config.faults import models_in
from mailgw.settings import DURATION, SIZE, Plug, Settings

MASK = "***"
_TIMES = ((86400.0, "d"), (3600.0, "h"), (60.0, "m"), (1.0, "s"))
_SIZES = ((1 << 30, "G"), (1 << 20, "M"), (1 << 10, "K"))
_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")


def dump(settings: Settings) -> str:
    """Write the settings down, tables in the order of the documentation."""
    blocks: list[str] = []
    for name in type(settings).model_fields:
        value = getattr(settings, name)
        for path, double, table in _tables(name, value):
            blocks.append("\n".join(_block(path, double, table)))
    return "\n\n".join(filter(None, blocks)) + "\n"


def shown(value: Any, field: FieldInfo | None = None) -> str:
    """One value as TOML writes it.

    @param field: its declaration, for the units of a number.
    """
    if isinstance(value, SecretBytes | SecretStr):
        return _string(MASK if value.get_secret_value() else "")
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return _number(value, field)
    if isinstance(value, tuple | list):
        return _list([shown(one, field) for one in value])
    if isinstance(value, BaseModel):
        return "{" + ", ".join(f"{key} = {text}" for key, text in _pairs(value)) + "}"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_key(key)} = {shown(one)}" for key, one in value.items()) + "}"
    return _string(str(value))


def _tables(name: str, value: Any) -> Iterator[tuple[str, bool, Any]]:
    """The tables behind one field of L{Settings}: path, whether in double brackets, contents."""
    if isinstance(value, BaseModel):
        yield name, False, value
        for key, inner in value:
            if _is_table(inner):
                yield from _tables(f"{name}.{key}", inner)
    elif isinstance(value, tuple):
        for one in value:
            yield name, True, one
    elif isinstance(value, Mapping):
        for key, one in value.items():
            yield from _tables(f"{name}.{_key(key)}", one)


def _is_table(value: Any) -> bool:
    """Nested tables get a header of their own; members of a pool stand in its list, as people write them."""
    listed = isinstance(value, tuple) and bool(value) and isinstance(value[0], BaseModel)
    return isinstance(value, BaseModel) or (listed and "host" not in type(value[0]).model_fields)


def _block(path: str, double: bool, table: Any) -> Iterator[str]:
    yield f"[[{path}]]" if double else f"[{path}]"
    if isinstance(table, Plug):
        yield f"kind = {_string(table.kind)}"
        table = table.options
    for key, text in _pairs(table):
        yield f"{key} = {text}"


def _pairs(table: BaseModel) -> Iterator[tuple[str, str]]:
    """The plain keys of a table; those without a value stay away."""
    for key, field in type(table).model_fields.items():
        value = getattr(table, key)
        if not _is_unset(value, field) and not _is_table(value):
            yield field.alias or key, shown(value, field)


def _is_unset(value: Any, field: FieldInfo) -> bool:
    """It has no value, or is an empty secret, or an empty list of tables."""
    empty_secret = isinstance(value, SecretBytes | SecretStr) and not value.get_secret_value()
    no_tables = value == () and any(models_in(field.annotation))
    return value is None or empty_secret or no_tables or (value == "" and field.default == "")


def _number(value: float, field: FieldInfo | None) -> str:
    marks = field.metadata if field else []
    if DURATION in marks:
        return _string(_duration(value))
    if SIZE in marks:
        return _string(_size(int(value)))
    return str(value)


def _duration(seconds: float) -> str:
    """The largest unit that gives a whole number; one minute stays "60s", as people write it."""
    for length, unit in _TIMES:
        if seconds and seconds % length == 0 and (length != 60.0 or seconds > 60):
            return f"{seconds / length:.0f}{unit}"
    return f"{seconds * 1000:.6g}ms" if seconds else "0s"


def _size(octets: int) -> str:
    for length, unit in _SIZES:
        if octets and octets % length == 0:
            return f"{octets // length}{unit}"
    return str(octets)


def _list(texts: list[str]) -> str:
    line = f"[{', '.join(texts)}]"
    return line if len(line) < 100 or len(texts) < 2 else "[\n" + "".join(f"    {text},\n" for text in texts) + "]"


def _key(key: str) -> str:
    return key if _BARE_KEY.fullmatch(key) else _string(key)


def _string(text: str) -> str:
    """A single-quoted string where that spares backslashes, else a basic one; both as TOML 1.0 has them."""
    if "\\" in text and "'" not in text and text.isprintable():
        return f"'{text}'"
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
