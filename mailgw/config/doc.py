"""Writes docs/settings.md out of the models, so that the reference never says anything but what is built.

C{python -m mailgw.config.doc > docs/settings.md}, whenever a model or a plug's Options change; a test compares.
"""

from __future__ import annotations

import re
import types
import typing
from collections.abc import Iterator
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel, SecretBytes
from pydantic.fields import FieldInfo

from mailgw import registry, settings
from mailgw.config.dump import shown
from mailgw.config.faults import models_in
from mailgw.settings import DURATION, SIZE, Domains, Gateway, Limits, Listener, Local, Member, Names, Pool, Tls, TlsName

HEAD = """# Settings

Generated from the code by `python -m mailgw.config.doc`; `mailgw dump` prints what is in force on a machine, and
`mailgw check` says what is wrong, with file, line and key.

The file is TOML: `--config FILE`, else `$MAILGW_CONFIG`, else `/etc/mailgw/mailgw.toml`. An unknown key, a wrong type
or a value out of range stops the start, with every fault listed. `twistd mailgw --set table.key=value` overrides one
setting; elements of arrays of tables count from 1 (`--set listener.2.tls=none`).

- **Durations** are `"500ms"`, `"5s"`, `"2m"`, `"1h"`, `"1d"`; `"0s"` turns a cache, delay or hold off.
- **Sizes** are `"64K"`, `"25M"`, `"1G"`, or a number of bytes.
- **Files**: relative paths start at the folder of the settings file.
- **Secrets** are a string, `{file = "…"}`, `{env = "…"}` or `{credential = "…"}` (systemd's `LoadCredential=`). They
  are never printed.
- **Lists** of strings may be written as one string where there is only one.
"""
_TABLES: tuple[tuple[str, type[BaseModel]], ...] = (
    ("[gateway]", Gateway),
    ("[tls]", Tls),
    ("[[tls.name]]", TlsName),
    ("[[listener]]", Listener),
    ("[names]", Names),
)
_POOL: tuple[tuple[str, type[BaseModel]], ...] = (
    ("[pool.NAME]", Pool),
    ("members = [{…}] of [pool.NAME]", Member),
    ("[pool.NAME.imap]", settings.PoolImap),
    ("[pool.NAME.pop3]", settings.PoolPop3),
    ("[pool.NAME.smtp]", settings.PoolSmtp),
    ("[pool.NAME.managesieve]", settings.PoolManageSieve),
    ("[limits]", Limits),
    ("[domains]", Domains),
    ("[local]", Local),
)
_SAYS_NOTHING = "A table of the settings: unknown keys are faults"


def reference() -> str:
    """The whole page."""
    sections = [HEAD]
    sections += [_section(title, model) for title, model in _TABLES]
    for group in ("directory", "route"):
        for kind in registry.TABLE[group]:
            sections.append(_section(f'[[{group}]] kind = "{kind}"', registry.load(group, kind).Options))
    sections += [_section(title, model) for title, model in _POOL]
    return "\n".join(sections)


def _section(title: str, model: type[BaseModel]) -> str:
    lines = [f"## `{title}`", ""]
    words = _plain(model.__doc__ or "")
    about = re.sub(r"^`[^`]*`(?: of kind [^.:]+)?(?:: |\.|$)", "", words)
    if about and not about.startswith(_SAYS_NOTHING):
        lines += [about[0].upper() + about[1:], ""]
    rows = list(_rows(model))
    if rows:
        lines += ["| key | value | default | meaning |", "|---|---|---|---|", *rows, ""]
    elif not about:
        lines += ["No settings of its own.", ""]
    return "\n".join(lines)


def _rows(model: type[BaseModel]) -> Iterator[str]:
    for key, field in model.model_fields.items():
        if key not in ("imap", "pop3", "smtp", "managesieve", "name") or not any(models_in(field.annotation)):
            meaning = _plain(field.description or "").replace("|", "\\|")
            yield f"| `{key}` | {_value(field)} | {_default(field)} | {meaning} |"


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    default = field.get_default(call_default_factory=True)
    if default is None or default in ("", ()) or (isinstance(default, SecretBytes) and not default):
        return ""
    return f"`{shown(default, field)}`".replace("|", "\\|")


def _value(field: FieldInfo) -> str:
    """What kind of value is wanted, in words."""
    if DURATION in field.metadata:
        return "duration" + _range(field)
    if SIZE in field.metadata:
        return "size"
    return _kind(field.annotation, _is_path(field.json_schema_extra)) + _range(field)


def _kind(annotation: Any, path: bool = False) -> str:
    origin, parts = get_origin(annotation), get_args(annotation)
    if origin is typing.Annotated:
        return _kind(parts[0], any(_is_path(getattr(one, "json_schema_extra", None)) for one in parts[1:]))
    if origin in (typing.Union, types.UnionType):
        kinds = [_kind(part, path) for part in parts if part is not type(None)]
        return " or ".join(dict.fromkeys(kinds))
    if origin is Literal:
        return ", ".join(f'`"{part}"`' for part in parts)
    if origin is tuple:
        element = _kind(parts[0], path)
        if get_origin(parts[0]) is Literal:
            return f"list of {element}"
        return "list of " + {"table": "tables", "file": "files"}.get(element, f"{element}s")
    if origin is dict and not any(models_in(annotation)):
        return f"table of {_kind(parts[1])}s"
    if any(models_in(annotation)):
        return "table"
    names = {str: "file" if path else "string", int: "number", float: "number", bool: "true or false"}
    names[SecretBytes] = "secret"
    return names.get(annotation, "network" if "IPv" in str(annotation) else "string")


def _range(field: FieldInfo) -> str:
    low = next((one.ge for one in field.metadata if hasattr(one, "ge")), None)
    high = next((one.le for one in field.metadata if hasattr(one, "le")), None)
    if low in (None, 0):
        return ""
    return f" {low}–{high}" if high is not None else f", at least {low}"


def _is_path(extra: Any) -> bool:
    return isinstance(extra, dict) and bool(extra.get("path"))


def _plain(text: str) -> str:
    """Epytext as Markdown."""
    text = re.sub(r"[CL]\{((?:[^{}]|\{[^{}]*\})*)\}", r"`\1`", text)
    return " ".join(text.split())


if __name__ == "__main__":
    print(reference(), end="")
