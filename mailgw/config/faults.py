"""What is wrong with a table of the settings, in words: pydantic's errors become faults that name the cure.

No fault quotes a value from the file: it might be a secret under the wrong key. The only values shown are those that
a setting allows.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from mailgw.config.lines import Path

Fault = tuple[Path, str]
"""Where in the settings, and what is wrong there."""

_KINDS = {
    "int": "a whole number",
    "float": "a number",
    "finite_number": "a number",
    "string": "a string in quotes",
    "bytes": "a string in quotes",
    "bool": "true or false",
    "tuple": "a list in [brackets]",
    "list": "a list in [brackets]",
    "dict": "a table",
    "model": "a table",
    "model_attributes": "a table",
}
_GIVEN = ((bool, "true or false"), (int, "a whole number"), (float, "a number"), (str, "a string"), (dict, "a table"))


def faults_of(model: type[BaseModel], raw: Any, error: ValidationError) -> list[Fault]:
    """Say every error of one table.

    @param model: what the table was validated against.
    @param raw: the table as TOML gave it.
    @return: paths are relative to the table; one fault a key, also where several alternatives were tried.
    """
    said: dict[Path, list[str]] = {}
    for detail in error.errors(include_url=False, include_input=False):
        path = _existing(raw, detail)
        said.setdefault(path, []).append(_words(model, raw, path, detail))
    return [(path, _either(words)) for path, words in said.items()]


def suggest(word: str, known: Iterable[str]) -> str:
    """What was probably meant, as the tail of a sentence: C{"; did you mean 'x'?"}, else what is known here."""
    names = sorted(known)
    if close := difflib.get_close_matches(word, names, 1, 0.6):
        return f"; did you mean {close[0]!r}?"
    return f" (known here: {', '.join(names)})" if names else ""


def models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    """Every model that a field's annotation mentions, however deep in unions, tuples and dictionaries."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for part in get_args(annotation):
        yield from models_in(part)


def _existing(raw: Any, detail: ErrorDetails) -> Path:
    """The error's place as far as the file has it: pydantic also counts the alternatives of a union as places."""
    place: Path = ()
    for part in detail["loc"]:
        inside = isinstance(raw, Mapping) and part in raw
        element = isinstance(raw, Sequence) and not isinstance(raw, str) and isinstance(part, int) and part < len(raw)
        if not inside and not element:
            missing = detail["type"] == "missing" and isinstance(raw, Mapping)
            return (*place, part) if missing else place
        raw = raw[part]
        place += (part,)
    return place


def _words(model: type[BaseModel], raw: Any, path: Path, detail: ErrorDetails) -> str:
    kind, context = detail["type"], detail.get("ctx", {})
    if kind == "extra_forbidden":
        return "unknown setting" + suggest(str(path[-1]), _known(model, path[:-1]))
    if kind == "missing":
        return "is missing"
    if kind == "value_error":
        return detail["msg"].removeprefix("Value error, ")
    if kind == "literal_error":
        return f"must be one of {_quoted(context['expected'])}" + _instead(_value(raw, path), context["expected"])
    if kind.startswith(("greater_than", "less_than")):
        return f"must be {_bound(kind)} {next(iter(context.values()))}"
    if wanted := _KINDS.get(kind.removesuffix("_type").removesuffix("_parsing")):
        return f"must be {wanted}, not {_given(_value(raw, path))}"
    return detail["msg"]


def _bound(kind: str) -> str:
    return {
        "greater_than_equal": "at least",
        "greater_than": "more than",
        "less_than_equal": "at most",
        "less_than": "less than",
    }[kind]


def _quoted(expected: str) -> str:
    return expected.replace("'", '"')


def _instead(value: Any, expected: str) -> str:
    if not isinstance(value, str):
        return f", not {_given(value)}"
    names = expected.replace(" or ", ", ").replace("'", "").split(", ")
    close = difflib.get_close_matches(value, names, 1, 0.6)
    return f"; did you mean {close[0]!r}?" if close else ""


def _given(value: Any) -> str:
    return next((words for kind, words in _GIVEN if isinstance(value, kind)), "a list")


def _value(raw: Any, path: Path) -> Any:
    for part in path:
        raw = raw[part]
    return raw


def _either(words: list[str]) -> str:
    """Join what each alternative of a union said: C{must be a whole number or "auto", not a string}."""
    unique = list(dict.fromkeys(words))
    if len(unique) == 1:
        return unique[0]
    literals = [word.removeprefix("must be one of ") for word in unique if word.startswith("must be one of ")]
    others = [word for word in unique if not word.startswith("must be one of ")]
    kinds = [word.removeprefix("must be ").split(", not ")[0] for word in others if ", not " in word]
    if len(literals) + len(kinds) == len(unique):
        return "must be " + " or ".join(kinds + literals)
    return "; or ".join(unique)


def _known(model: type[BaseModel], path: Path) -> set[str]:
    """The keys that the table at a path may hold."""
    models = [model]
    for part in path:
        if isinstance(part, str):
            fields = [one.model_fields[part] for one in models if part in one.model_fields]
            models = [inner for field in fields for inner in models_in(field.annotation)]
    return {field.alias or name for one in models for name, field in one.model_fields.items()}
