"""C{mailgw import}: reads the configuration of another proxy and prints settings, or writes them to a file.

Knows no option of anybody; which proxy a file belongs to is told by its grammar. What does the work is imported when
it is needed: every C{mailgw} command passes here for the names of the arguments.
"""

from __future__ import annotations

import argparse
import glob
import os
import re
import socket
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mailgw.importing.toml import CannotImport, Imported

if TYPE_CHECKING:
    from mailgw.importing.nginxfile import Source

NGINX = re.compile(r"^[^#\n]*\b(?:mail|http|events|server|stream)\s*\{", re.MULTILINE)
"""Perdition has no braces in these places."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What may stand behind C{mailgw import}."""
    parser.add_argument("file", metavar="FILE", help="perdition.conf or nginx.conf")
    parser.add_argument(
        "maps", metavar="POPMAP", nargs="*", help="Perdition's map files, user:host or (.re) expressions"
    )
    parser.add_argument("-o", "--output", metavar="FILE", help="write there instead of printing; never overwrites")
    parser.add_argument(
        "--protocol",
        metavar="NAME",
        action="append",
        default=[],
        help="Perdition's name of a protocol that this perdition.conf serves, such as IMAP4S; may be repeated",
    )


def run(arguments: argparse.Namespace) -> int:
    """C{mailgw import}.

    @return: the exit status.
    @raise CannotImport: no settings can be made, or a file cannot be read or written.
    """
    try:
        found = imported(arguments.file, arguments.maps, arguments.protocol)
        if arguments.output is None:
            print(found.settings, end="")
            return 0
        # settings hold passwords now and then
        with os.fdopen(os.open(arguments.output, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(found.settings)
    except OSError as error:
        raise CannotImport(f"{error.filename}: {error.strerror}") from None
    for remark in found.remarks:
        print(remark)
    print(f"{arguments.output}: written; look it over, then `mailgw check --config {arguments.output}`")
    return 0


def imported(path: str, maps: Sequence[str] = (), protocols: Sequence[str] = ()) -> Imported:
    """Make settings of a file.

    @raise CannotImport: no settings can be made of it.
    @raise OSError: a file cannot be read.
    """
    from mailgw.importing import nginx, perdition
    from mailgw.importing.nginxfile import Source
    from mailgw.importing.perditionmaps import MapFile, maps_named

    text, folder = read(path), os.path.dirname(os.path.abspath(path))
    try:
        if NGINX.search(text):
            if maps or protocols:
                raise CannotImport("map files and --protocol go with a perdition.conf")
            return nginx.translate(Source(os.path.abspath(path), text), included, hostname=hostname())
        files = maps or [name for name in maps_named(text) if os.path.exists(name)]
        return perdition.translate(
            text,
            [MapFile(os.path.abspath(name), read(name)) for name in files],
            protocols,
            origin=os.path.basename(path),
            folder=folder,
            hostname=hostname(),
            guessed=named_after(path),
            reverse=name_of,
        )
    except CannotImport as error:
        raise CannotImport(f"{path}: {error}") from None


def read(path: str) -> str:
    """A file's text; octets that are no UTF-8 become question marks, they stand in comments at most."""
    return Path(path).read_text("utf-8", "replace")


def included(pattern: str) -> list[Source]:
    """The files that nginx reads for an C{include}.

    @raise OSError: a file that is named without a wildcard cannot be read.
    """
    from mailgw.importing.nginxfile import Source

    names = sorted(glob.glob(pattern)) if glob.has_magic(pattern) else [pattern]
    return [Source(name, read(name)) for name in names]


def named_after(path: str) -> list[str]:
    """The protocol that Perdition reads a file for: C{perdition.imap4s.conf}."""
    found = re.search(r"\bperdition\.([a-z0-9]+)\.conf\Z", os.path.basename(path))
    return [found[1].upper()] if found else []


def name_of(address: str) -> str:
    """An address's host name, C{""} where it has none."""
    try:
        return socket.getnameinfo((address, 0), socket.NI_NAMEREQD)[0]
    except OSError:
        return ""


def hostname() -> str:
    """The machine's name as far as it is one, else C{localhost}."""
    from mailgw.routing.target import split_host

    name = socket.getfqdn()
    try:
        return split_host(name)[0]
    except ValueError:
        print(f"mailgw: the machine's name {name!r} is no host name; localhost is written instead", file=sys.stderr)
        return "localhost"
