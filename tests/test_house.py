"""The laws of the house, checked with C{ast}: who imports whom, how long files are, and how things are called.

What ruff and mypy check is not checked again here. C{docs/architecture.md} tells why the laws are what they are.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

ROOT = Path(__file__).resolve().parent.parent
FOUNDATIONS = {"model", "errors", "interfaces", "names", "registry", "settings"}
ROOMS = {"delivery", "edge", "local", "directory", "routing", "ops", "cred"}
TOOLS = {"crew", "memory"}
LEVELS = {
    **dict.fromkeys(FOUNDATIONS, 0),
    **dict.fromkeys(("wire", *TOOLS), 1),
    **dict.fromkeys(ROOMS, 2),
    **dict.fromkeys(("gateway", "config", "importing"), 3),
    **dict.fromkeys(("single", "worker"), 4),
    **dict.fromkeys(("master", "zygote", "clilive"), 5),
    **dict.fromkeys(("tap", "cli"), 6),
}
"""Imports go to a lower number only, or stay in the room; foundations may import one another."""

NEIGHBOURS = {("delivery", "edge")}
"""The exception: delivery uses edge's dialer."""

STRANGERS = {("directory", "wire"), ("routing", "wire")}
"""Lower, and still none of their business."""

SHARED = {("directory", "mailgw.wire.http")}
"""Still theirs: HTTP is what directories speak, not clients."""

IMPURE = (
    *("twisted.internet", "twisted.application", "twisted.logger", "twisted.python.log", "logging"),
    *(
        "time",
        "datetime",
        "socket",
        "ssl",
        "select",
        "selectors",
        "asyncio",
        "threading",
        "subprocess",
        "os",
        "pathlib",
    ),
)
"""What the protocols must not know: the world."""

KEEPERS = {"ldap3": "mailgw/directory/", "twisted.internet.reactor": ("mailgw/tap.py", "mailgw/worker.py")}
"""Modules that only these files may import."""

LONGEST = 500
VAGUE = re.compile(r"(?:^|_)(?:handler|manager|helper|util|processor|base)s?(?:_|$)")


class Import:
    """One name that one file imports, at a line."""

    def __init__(self, file: str, line: int, name: str) -> None:
        self.file, self.line, self.name = file, line, name

    def says(self, fault: str) -> str:
        return f"{self.file}:{self.line}: {fault}"


def python_files(*folders: str) -> Iterator[tuple[str, str]]:
    """@return: the path inside the project, and the text, of every Python file in these folders."""
    for folder in folders:
        for path in sorted((ROOT / folder).rglob("*.py")):
            yield path.relative_to(ROOT).as_posix(), path.read_text()


def imports(file: str, text: str) -> Iterator[Import]:
    """@return: what a file imports; C{from a import b} is C{a.b}."""
    tree = ast.parse(text)
    if file == "mailgw/interfaces.py":  # it names the types of everybody's values, for annotations only
        tree.body = [node for node in tree.body if not isinstance(node, ast.If)]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (Import(file, node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (Import(file, node.lineno, f"{node.module}.{alias.name}") for alias in node.names)


def room(dotted: str) -> str:
    """@return: C{edge} for C{mailgw.edge.tls}."""
    return [*dotted.split("."), ""][1]


def within(name: str, module: str) -> bool:
    return f"{name}.".startswith(f"{module}.")


def law_faults(file: str, text: str) -> list[str]:
    """@return: the imports of a file that go upwards, sideways or into the world."""
    here = room(file.removesuffix(".py").replace("/", "."))
    if here not in LEVELS:
        return [f"{file}: the room {here!r} is not in the law; add it to LEVELS and to docs/architecture.md"]
    faults = []
    for found in imports(file, text):
        there = room(found.name)
        shared = any(here == by and within(found.name, module) for by, module in SHARED)
        if within(found.name, "mailgw") and there and not shared and not may_import(here, there):
            faults.append(found.says(f"{here} must not import {there}"))
        if here == "wire" and any(within(found.name, module) for module in IMPURE):
            faults.append(found.says(f"wire must not import {found.name}"))
        for module, keepers in KEEPERS.items():
            if within(found.name, module) and not file.startswith(keepers):
                faults.append(found.says(f"{found.name} belongs to {keepers}"))
    return faults


def may_import(here: str, there: str) -> bool:
    if here == there or (here, there) in NEIGHBOURS:
        return True
    if (here, there) in STRANGERS:
        return False
    lower = LEVELS.get(there, 9) < LEVELS[here]
    return lower or (here in FOUNDATIONS and there in FOUNDATIONS)


def words(name: str) -> str:
    """@return: C{session_factory} for C{SessionFactory} as for itself."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()


def name_faults(file: str, text: str) -> list[str]:
    """@return: modules, classes and functions whose name says nothing."""
    defined = (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    names = [(node.lineno, node.name) for node in ast.walk(ast.parse(text)) if isinstance(node, defined)]
    names += [(1, part) for part in Path(file).with_suffix("").parts]
    return [f"{file}:{line}: {name}" for line, name in names if VAGUE.search(words(name))]


def is_docstring_only(text: str) -> bool:
    body = ast.parse(text).body
    return len(body) == 1 and isinstance(body[0], ast.Expr) and isinstance(body[0].value, ast.Constant)


class HouseTests(SynchronousTestCase):
    """The whole tree keeps the laws."""

    def test_imports(self) -> None:
        """Imports go down, protocols know nothing of the world, and there is no global reactor."""
        faults = [
            fault
            for file, text in python_files("mailgw")
            if file != "mailgw/__init__.py"
            for fault in law_faults(file, text)
        ]
        self.assertEqual(faults, [])

    def test_length(self) -> None:
        """No file is longer than the hard stop."""
        files = list(python_files("mailgw", "tests", "twisted", "bench"))
        self.assertEqual([file for file, text in files if text.count("\n") > LONGEST], [])
        self.assertGreater(len(files), 20)

    def test_packages_are_empty(self) -> None:
        """An C{__init__.py} holds a docstring, so that importing a package does nothing."""
        packages = [(file, text) for file, text in python_files("mailgw", "tests") if file.endswith("__init__.py")]
        self.assertEqual([file for file, text in packages if not is_docstring_only(text)], [])
        self.assertIn("mailgw/wire/__init__.py", dict(packages))

    def test_names(self) -> None:
        """Things are called after the trade, not manager or helper."""
        faults = [fault for file, text in python_files("mailgw", "tests") for fault in name_faults(file, text)]
        self.assertEqual(faults, [])

    def test_twisted_stays_whole(self) -> None:
        """Our portion of C{twisted} has no C{__init__.py}, which would hide Twisted itself."""
        self.assertEqual(list((ROOT / "twisted").rglob("__init__.py")), [])

    def test_annotations(self) -> None:
        """Every file with code has its annotations evaluated by nobody."""
        wanted = "from __future__ import annotations\n"
        lacking = [
            file
            for file, text in python_files("mailgw", "tests")
            if not file.endswith("__init__.py") and wanted not in text
        ]
        self.assertEqual(lacking, [])


class LawTests(SynchronousTestCase):
    """The checks find what they are there to find."""

    def assertBreaks(self, file: str, text: str) -> None:
        """One line breaks the law exactly once."""
        self.assertEqual(len(law_faults(file, text)), 1, f"{file}: {text}")

    def test_upwards(self) -> None:
        """A room that imports what stands above it, at the top of the file or inside a function."""
        self.assertBreaks("mailgw/wire/imap.py", "from mailgw.edge import session")
        self.assertBreaks("mailgw/edge/session.py", "import mailgw.gateway")
        self.assertBreaks("mailgw/model.py", "def f():\n    from mailgw.wire.events import Send")
        self.assertBreaks("mailgw/edge/session.py", "if TYPE_CHECKING:\n    from mailgw.gateway import House")

    def test_sideways(self) -> None:
        """Rooms of one level do not know each other, but for delivery, which dials."""
        self.assertBreaks("mailgw/routing/router.py", "from mailgw.directory.chain import DirectoryChain")
        self.assertBreaks("mailgw/edge/session.py", "from mailgw.delivery import reception")
        self.assertBreaks("mailgw/directory/ldap.py", "from mailgw.wire import sasl")
        self.assertBreaks("mailgw/routing/http.py", "from mailgw.wire.http import Answer")
        self.assertEqual(law_faults("mailgw/delivery/onward.py", "from mailgw.edge.dialer import Dialer"), [])
        self.assertEqual(law_faults("mailgw/directory/httplink.py", "from mailgw.wire.http import Answer"), [])

    def test_down(self) -> None:
        """What goes down, stays in the room or comes from a foundation is right."""
        text = "from mailgw.wire.imap import IMAP\nfrom mailgw.model import Login\nfrom mailgw.edge import tls\n"
        self.assertEqual(law_faults("mailgw/edge/session.py", text), [])
        self.assertEqual(law_faults("mailgw/config/file.py", "from mailgw import registry, settings"), [])
        self.assertEqual(law_faults("mailgw/routing/sql.py", "from mailgw.crew import Crew"), [])
        self.assertBreaks("mailgw/wire/imap.py", "from mailgw.memory import Memory")

    def test_world(self) -> None:
        """A protocol that reads the clock or the network."""
        for text in (
            "import time",
            "from twisted.internet import defer",
            "from socket import socket",
            "import logging",
        ):
            self.assertBreaks("mailgw/wire/imap.py", text)

    def test_keepers(self) -> None:
        """The global reactor and ldap3 have their places."""
        self.assertBreaks("mailgw/edge/relay.py", "from twisted.internet import reactor")
        self.assertBreaks("mailgw/cred.py", "from ldap3.utils.conv import escape_filter_chars")
        self.assertEqual(law_faults("mailgw/tap.py", "from twisted.internet import reactor"), [])

    def test_unknown_room(self) -> None:
        """A new room has to be put in its place first."""
        self.assertBreaks("mailgw/attic/box.py", "")

    def test_vague_names(self) -> None:
        """Vague words are found in either casing, and inside other words they are not."""
        for text in ("class LoginHandler: pass", "def make_helpers(): pass", "class BaseSession: pass"):
            self.assertEqual(len(name_faults("mailgw/cred.py", text)), 1, text)
        self.assertEqual(len(name_faults("mailgw/edge/utils.py", "")), 1)
        self.assertEqual(name_faults("mailgw/cred.py", "class Database: pass\ndef based(): pass"), [])

    def test_code_in_a_package(self) -> None:
        """Anything beside the docstring is code."""
        self.assertFalse(is_docstring_only('"""Rooms."""\nimport os\n'))
        self.assertTrue(is_docstring_only('"""Rooms."""\n'))
