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


_BACKENDS = ("POOL", "MEMBER", "PROTOCOL", "ADDRESS", "HEALTH", "STATE", "SESSIONS", "WEIGHT")


def backends_table(rows: Iterable[Row]) -> str:
    """C{mailgw backend}: a line for each service of each member; what checks found wrong is the last column."""
    lines = [
        (
            row["pool"],
            row["name"],
            row["protocol"],
            f"[{row['host']}]:{row['port']}" if ":" in row["host"] else f"{row['host']}:{row['port']}",
            row["health"],
            row["admin"],
            str(row["sessions"]),
            str(row["weight"]),
            row.get("reason") or "",
        )
        for row in rows
    ]
    return aligned([(*_BACKENDS, "REASON" if any(line[-1] for line in lines) else ""), *lines])


def route_table(row: Row) -> str:
    """C{mailgw route}: a line for each thing that decided, in the order of the decision."""
    lines = [("user", row["user"]), ("protocol", row["protocol"])]
    for asked in row["directories"]:
        query = f"{asked['query']}: " if asked["query"] else ""
        lines.append((asked["directory"], f"{query}{asked['answer']}"))
    if row["username"] is not None:
        lines += [("canonical", row["username"]), ("groups", ", ".join(row["groups"]) or "-")]
        lines += [(f"  {name}", ", ".join(values)) for name, values in sorted(row["attributes"].items())]
        lines.append(("override", row["override"] or "-"))
        if row["hold"]:
            lines.append(("hold", f"new logins wait, at most {float(row['hold']):g} s: the user is being moved"))
    lines += [("rule " + step["rule"], step["answer"]) for step in row["rules"]]
    if row["pool"]:
        lines.append(("pool", row["pool"]))
    if row["cache"]:
        lines.append(("cached", counted(row["cache"]) or "-"))
    text = aligned(lines)
    if row["members"]:
        text += "\n\n" + backends_table(row["members"])
    return f"{text}\n\n{'refused: ' + row['refused'] if row['refused'] else 'goes to ' + row['backend']}"


def counted(counts: Row) -> str:
    """Such as C{1 login, 0 routes}; what could not be counted is left out."""
    known = [(count, what.removesuffix("s")) for what, count in counts.items() if count is not None]
    return ", ".join(f"{count} {what}{'' if count == 1 else 's'}" for count, what in known)


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
