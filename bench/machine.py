"""On what it was measured: processor, kernel, and the versions of all programs."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from pathlib import Path

from bench.processes import MOST_FILES, program

_VERSIONS = {
    "nginx": ("nginx", "-v"),
    "dovecot": ("dovecot", "--version"),
    "perdition": ("perdition", "--help"),
    "slapd": ("slapd", "-VV"),
    "go": ("go", "version"),
}
_OURS = """
import platform, sys
from importlib.metadata import version
from OpenSSL import SSL
names = ("Twisted", "pyOpenSSL", "cryptography", "ldap3")
print("; ".join([f"Python {platform.python_version()}", *(f"{name} {version(name)}" for name in names),
                 SSL.SSLeay_version(SSL.SSLEAY_VERSION).decode()]))
"""


def describe(python: str, checkout: Path) -> dict[str, str]:
    """@return: name and value, for the JSON and the line above the table."""
    machine = {
        "system": f"{platform.system()} {platform.release()}, {_distribution()}",
        "processor": f"{_processor()}, {os.cpu_count()} cores",
        "descriptors": str(MOST_FILES),
        "load average": " ".join(f"{value:.1f}" for value in os.getloadavg()),
        "mailgw": _output("git", "-C", str(checkout), "describe", "--always", "--dirty") or "not from git",
        "mailgw runs on": _output(python, "-c", _OURS),
    }
    for name, (command, *arguments) in _VERSIONS.items():
        path = program(command)
        machine[name] = _version(_output(path, *arguments, is_good=True)) if path else "not installed"
    return machine


def _output(*command: str, is_good: bool = False) -> str:
    """@param is_good: whatever the exit status is: C{perdition --help} ends with a segmentation fault."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)  # noqa: S603
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return "" if done.returncode and not is_good else (done.stdout + done.stderr).strip()


def _version(text: str) -> str:
    match = re.search(r"\d+\.\d+[\w.]*", text)
    return match[0] if match else "unknown"


def _processor() -> str:
    match = re.search(r"^model name\s*: (.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    return match[1] if match else platform.machine()


def _distribution() -> str:
    try:
        return platform.freedesktop_os_release()["PRETTY_NAME"]
    except (OSError, KeyError):
        return "unknown distribution"
