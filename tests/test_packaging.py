"""What an installation promises: twistd's plugin, the command, the packages, the requirements, the table of plugs.

Does not install anything: C{.ci/packaging} does that, in every way there is.
"""

from __future__ import annotations

import ast
import configparser
import os
import re
import subprocess
import sys
from collections import Counter
from importlib.metadata import packages_distributions

from twisted.application.service import IServiceMaker
from twisted.plugin import getPlugins
from twisted.python.reflect import namedAny
from twisted.scripts.twistd import ServerOptions
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyClass, verifyObject

from mailgw import registry
from mailgw.interfaces import IDirectory, IFrontend, IRoutingRule
from mailgw.settings import Table
from mailgw.wire.protocol import LoginProtocol
from tests.running import tell_skips
from tests.test_house import ROOT, imports, python_files


def metadata() -> configparser.ConfigParser:
    """@return: setup.cfg."""
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg")
    return parser


def canonical(requirement: str) -> str:
    """@return: the name in a requirement, as package indexes compare names (PEP 503)."""
    return re.sub(r"[-_.]+", "-", re.split(r"[\s\[<>=!~;]", requirement)[0]).lower()


class PluginTests(SynchronousTestCase):
    """C{twistd mailgw}."""

    def test_registered_once(self) -> None:
        """Twisted finds one plugin of our name, and what it names can make the service."""
        makers = [plugin for plugin in getPlugins(IServiceMaker) if plugin.tapname == "mailgw"]
        self.assertEqual(len(makers), 1)
        tap = namedAny(makers[0].module)
        self.assertTrue(callable(tap.makeService))
        self.assertTrue(callable(tap.Options))

    def test_listed(self) -> None:
        """twistd's help shows the command."""
        self.assertRegex(str(ServerOptions()), r"(?m)^ +mailgw +A mail gateway")

    def test_no_reactor(self) -> None:
        """What is imported before the settings are read chooses no reactor: C{twistd --reactor} does."""
        program = (
            "import sys, mailgw.tap, mailgw.cli, mailgw.settings; print('twisted.internet.reactor' in sys.modules)"
        )
        done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
        self.assertEqual((done.stdout, done.stderr), ("False\n", ""))


class MetadataTests(SynchronousTestCase):
    """setup.cfg says what is there and what is needed."""

    def test_packages(self) -> None:
        """Every package is listed, and twisted.plugins with them."""
        found = [
            file.removesuffix("/__init__.py").replace("/", ".")
            for file, _ in python_files("mailgw")
            if file.endswith("__init__.py")
        ]
        listed = metadata()["options"]["packages"].split("\n")
        self.assertEqual(
            sorted(line for line in listed if line and line[0] != "#"), sorted([*found, "twisted.plugins"])
        )

    def test_typed(self) -> None:
        """Users' type checkers may read our annotations (PEP 561)."""
        self.assertTrue((ROOT / "mailgw" / "py.typed").is_file())
        self.assertEqual(metadata()["options.package_data"]["mailgw"], "py.typed")

    def test_command(self) -> None:
        """The console script names something that can be called."""
        script = metadata()["options.entry_points"]["console_scripts"].strip()
        name, _, target = script.partition(" = ")
        self.assertEqual(name, "mailgw")
        self.assertTrue(callable(namedAny(target.replace(":", "."))))

    def test_requirements(self) -> None:
        """Whatever the package imports comes from the standard library or from what it requires."""
        lines = metadata()["options"]["install_requires"].split("\n")
        required = {canonical(line) for line in lines if line and line[0] != "#"}
        owners = packages_distributions()
        tops = {found.name.split(".")[0] for file, text in python_files("mailgw") for found in imports(file, text)}
        foreign = tops - sys.stdlib_module_names - {"mailgw", "__future__", *optional_imports()}
        lacking = [name for name in foreign if not required & {canonical(owner) for owner in owners.get(name, [])}]
        self.assertEqual(lacking, [])
        self.assertIn("twisted", foreign)


def optional_imports() -> set[str]:
    """@return: modules imported under C{try}: used where they are installed, and not required."""
    tries = [
        node for _, text in python_files("mailgw") for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Try)
    ]
    found = [node for attempt in tries for node in ast.walk(attempt) if isinstance(node, ast.Import | ast.ImportFrom)]
    names = [node.module or "" for node in found if isinstance(node, ast.ImportFrom)]
    names += [alias.name for node in found if isinstance(node, ast.Import) for alias in node.names]
    return {name.split(".")[0] for name in names}


class RegistryTests(SynchronousTestCase):
    """The table of plugs names what exists, and each plug keeps its interface's contract."""

    def test_protocols(self) -> None:
        """A protocol is a login protocol or a kind of listener of its own, with its two ports."""
        for kind in registry.TABLE["protocol"]:
            plug = registry.load("protocol", kind)
            if not isinstance(plug, LoginProtocol):
                verifyObject(IFrontend, plug)
            self.assertEqual(len(plug.ports), 2, kind)

    def test_directories_and_rules(self) -> None:
        """Each has its interface, the model of its options and a way to be built from them."""
        for group, interface in (("directory", IDirectory), ("route", IRoutingRule)):
            for kind in registry.TABLE[group]:
                plug = registry.load(group, kind)
                self.assertTrue(verifyClass(interface, plug), kind)
                self.assertTrue(issubclass(plug.Options, Table), kind)
                self.assertTrue(callable(plug.from_options), kind)

    def test_later(self) -> None:
        """A kind that is built is no longer announced for later."""
        for group, kinds in registry.LATER.items():
            self.assertEqual(kinds & set(registry.TABLE[group]), frozenset())


class RunTests(SynchronousTestCase):
    """C{./run}, as far as it can be tried without installing."""

    def test_no_python(self) -> None:
        """Without a Python that will do, it says what is needed, and ends."""
        environment = {**os.environ, "PYTHON": "/nonexistent/python3"}
        done = subprocess.run([ROOT / "run", "setup"], env=environment, capture_output=True, text=True, check=False)
        self.assertEqual((done.returncode, done.stdout), (1, ""))
        self.assertIn("Python 3.11 or newer is needed; tried: /nonexistent/python3", done.stderr)

    def test_folder_in_the_way(self) -> None:
        """A folder that is no virtual environment is never removed."""
        folder = self.mktemp()
        os.makedirs(os.path.join(folder, "precious"))
        environment = {**os.environ, "PYTHON": sys.executable, "MAILGW_VENV": os.path.abspath(folder)}
        done = subprocess.run([ROOT / "run", "setup"], env=environment, capture_output=True, text=True, check=False)
        self.assertEqual(done.returncode, 1)
        self.assertIn("is in the way", done.stderr)
        self.assertEqual(os.listdir(folder), ["precious"])

    def test_skips_told(self) -> None:
        """After a run, every reason for skipping is told with its count, the most frequent first."""
        lines = tell_skips(Counter({"no slapd here": 2, "no dovecot here": 5}))
        self.assertEqual(
            [line.strip() for line in lines[:2]], ["5 skipped: no dovecot here", "2 skipped: no slapd here"]
        )
        self.assertEqual(tell_skips(Counter()), [])
