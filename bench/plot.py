"""The plot: for each measure the ratios to the first server, on a logarithmic scale, as SVG.

Written by hand, because nothing needs to be installed for it; readable on light and on dark pages.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from xml.sax.saxutils import escape

from bench.table import Row

COLOURS = {"mailgw": "#d1495b", "nginx64k": "#2e9e5b", "dovecot": "#3d7ea6", "perdition": "#b07d2b"}
LEFT, WIDTH, RIGHT, LINE, TOP = 410, 500, 30, 22, 74
TICKS = (0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20)

_STYLE = """\
text { font: 13px system-ui, sans-serif; fill: #24292f; }
.small { font-size: 11px; fill: #57606a; }
.grid { stroke: #d0d7de; } .one { stroke: #57606a; }
@media (prefers-color-scheme: dark) {
text { fill: #e6edf3; } .small { fill: #8d96a0; } .grid { stroke: #30363d; } .one { stroke: #8d96a0; }
}"""


def place(ratio: float) -> float:
    """@return: the x of a ratio; what is beyond the scale lies at its end."""
    least, greatest = math.log(TICKS[0]), math.log(TICKS[-1])
    share = (math.log(max(ratio, 1e-9)) - least) / (greatest - least)
    return LEFT + WIDTH * min(max(share, 0.0), 1.0)


def draw(table: Sequence[Row], caption: str) -> str:
    """@return: an SVG document of all ratios in the table."""
    shown = [
        entry
        for entry in table
        if entry.beside is not None
        and entry.measure.compare == "ratio"
        and entry.measure.contestants[0].constant is None
    ]
    titles = list(dict.fromkeys(_title(entry) for entry in shown))
    height = TOP + LINE * len(titles) + 40
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {LEFT + WIDTH + RIGHT} {height}" role="img" '
        f'aria-label="What mailgw costs beside others">\n<style>\n{_STYLE}\n</style>\n',
        _text(LEFT, 20, "Times what nginx takes, or who is named: median and range of the rounds"),
        _text(LEFT, height - 8, caption, "small"),
        *_legend(shown),
        *_grid(TOP + LINE * len(titles)),
    ]
    for number, title in enumerate(titles):
        y = TOP + LINE * number + LINE // 2
        parts.append(f'<text x="{LEFT - 12}" y="{y + 4}" text-anchor="end">{escape(title)}</text>\n')
        parts += [_mark(entry, y) for entry in shown if _title(entry) == title]
    return "".join([*parts, "</svg>\n"])


def _title(entry: Row) -> str:
    """@return: what is measured, which kind of mailgw where there are several, and beside whom if it is not nginx."""
    measure, first = entry.measure, entry.measure.contestants[0].name
    kind = entry.contestant.name.partition(", ")[2]
    beside = "" if first == "nginx" or "beside" in measure.title else f", beside {first}"
    return f"{measure.title}{beside}{': ' if kind else ''}{kind}"


def _colour(name: str) -> str:
    return next((colour for start, colour in COLOURS.items() if name.startswith(start)), "#8250df")


def _text(x: float, y: float, text: str, kind: str = "") -> str:
    return f'<text x="{x:g}" y="{y:g}" class="{kind}">{escape(text)}</text>\n'


def _legend(shown: Iterable[Row]) -> Iterable[str]:
    names = {entry.contestant.name.partition(",")[0] for entry in shown}
    x = float(LEFT)
    for name in (name for name in COLOURS if name in names):
        yield f'<circle cx="{x + 5:g}" cy="36" r="5" fill="{COLOURS[name]}"/>\n'
        yield _text(x + 15, 40, name)
        x += 100


def _grid(bottom: float) -> Iterable[str]:
    for tick in TICKS:
        x = place(tick)
        kind = "one" if tick == 1 else "grid"
        yield f'<line x1="{x:.1f}" y1="{TOP - 6}" x2="{x:.1f}" y2="{bottom}" class="{kind}"/>\n'
        yield f'<text x="{x:.1f}" y="{TOP - 12}" text-anchor="middle" class="small">{tick:g}</text>\n'


def _mark(entry: Row, y: float) -> str:
    spread, colour = entry.beside, _colour(entry.contestant.name)
    assert spread is not None
    x = place(spread.median)
    told = f"{entry.contestant.name}: {spread.median:.2f} [{spread.least:.2f}-{spread.greatest:.2f}]"
    return (
        f'<g><title>{escape(told)}</title><line x1="{place(spread.least):.1f}" y1="{y}" '
        f'x2="{place(spread.greatest):.1f}" y2="{y}" stroke="{colour}" stroke-width="3" stroke-opacity="0.45"/>'
        f'<circle cx="{x:.1f}" cy="{y}" r="5" fill="{colour}"/></g>\n'
    )
