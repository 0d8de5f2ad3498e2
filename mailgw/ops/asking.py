"""Asking: the live commands as an administrator sees them, tables included.

What they do in the running gateway is in L{mailgw.ops.live}; here is only the end that types and reads.
"""

from __future__ import annotations

from collections.abc import Iterable

from mailgw.ops.control import Row
from mailgw.ops.probe import aligned

_HEAD = ("ID", "USER", "PROTOCOL", "CLIENT", "TLS", "BACKEND", "AGE", "IN", "OUT")
_UNITS = ((86400, "d"), (3600, "h"), (60, "m"), (1, "s"))


def sessions_table(rows: Iterable[Row]) -> str:
    """C{mailgw who}: a line for each session."""
    lines = [
        (
            row["id"],
            row["user"],
            row["protocol"],
            row["client"],
            "yes" if row["tls"] else "no",
            row["backend"],
            duration(row["age"]),
            size(row["in"]),
            size(row["out"]),
        )
        for row in rows
    ]
    return aligned([_HEAD, *lines])


def counts_table(row: Row) -> str:
    """C{mailgw stats}: a line for each count, what is of one protocol together."""
    return aligned([(name, str(value)) for name, value in sorted(row.items(), key=lambda item: ("." in item[0], item))])


def duration(seconds: float) -> str:
    """Two units at most, such as C{2d3h}, C{5m} or C{0s}."""
    left = int(seconds)
    parts: list[str] = []
    for length, unit in _UNITS:
        if left >= length and len(parts) < 2:
            parts.append(f"{left // length}{unit}")
            left %= length
        elif parts:
            break
    return "".join(parts) or "0s"


def size(octets: int) -> str:
    """With a unit of 1024 octets, its square or its cube: C{512}, C{3.4K}, C{12M}."""
    number = float(octets)
    for unit in ("", "K", "M"):
        if number < 1000:
            return f"{number:.1f}{unit}" if unit and number < 10 else f"{number:.0f}{unit}"
        number /= 1024
    return f"{number:.1f}G"
