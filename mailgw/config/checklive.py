"""C{mailgw check --live}: does each directory answer, and does each backend greet, do TLS and show a good certificate?

Logs in nowhere: directories are asked for a user who is not there, backends only for what they offer.
"""

from __future__ import annotations

import ssl
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

from twisted.internet import defer

from mailgw import registry
from mailgw.config.check import members
from mailgw.errors import MailgwError
from mailgw.interfaces import IDirectory
from mailgw.ops.probe import Finding, Target, blind, probe, trust
from mailgw.settings import Pool, Settings

NOBODY = "mailgw-check@invalid.invalid"
"""An address that no directory has (RFC 2606)."""
PATIENCE = 10.0
"""Seconds for one directory to answer."""


class BareHouse:
    """As much of L{mailgw.interfaces.IHouse} as a directory needs to be built."""

    def __init__(self, settings: Settings, reactor: Any) -> None:
        self.reactor, self.settings, self.pools = reactor, settings, settings.pool


async def ask_directories(settings: Settings, reactor: Any) -> list[tuple[str, str]]:
    """Ask every directory, one after the other.

    @return: for each its name, and what is wrong with it, C{""} where it answered.
    """
    house = BareHouse(settings, reactor)
    said = []
    for plug in settings.directory:
        try:
            directory = registry.load("directory", plug.kind).from_options(plug.name, plug.options, house)
        except (MailgwError, OSError, ValueError) as error:
            said.append((plug.name, str(error)))
            continue
        said.append((plug.name, await _ask(directory, reactor)))
    return said


async def _ask(directory: IDirectory, reactor: Any) -> str:
    directory.start()
    try:
        asked = defer.Deferred.fromCoroutine(directory.lookup(NOBODY)).addTimeout(PATIENCE, reactor)
        await asked
    except defer.TimeoutError:
        return f"no answer within {PATIENCE:g} s"
    except (MailgwError, OSError) as error:
        return str(error)
    finally:
        await directory.stop()
    return ""


def backend_targets(settings: Settings) -> Iterator[tuple[Pool, Target]]:
    """Every service of every member."""
    for name, _, member, protocol, port in members(settings):
        pool = settings.pool[name]
        terms = getattr(pool, protocol)
        service = "lmtp" if getattr(terms, "speak", "") == "lmtp" else protocol
        yield pool, Target(service, member.host, port, terms.tls, pool.tls_name, pool.proxy != "none")


def visit_backends(settings: Settings, now: datetime) -> list[Finding]:
    """Visit every backend, one after the other; as a client that trusts what the pool's settings trust."""
    return [_judged(probe(target, _context(pool), now)) for pool, target in backend_targets(settings)]


def _context(pool: Pool) -> ssl.SSLContext:
    context = trust(ca=pool.ca, system=pool.ca is None) if pool.verify else blind()
    if pool.certificate is not None:
        context.load_cert_chain(pool.certificate, pool.key)
    return context


def _judged(finding: Finding) -> Finding:
    """What a client should complain of is fine for a backend: that it would also take passwords in clear."""
    harmless = finding.fault == "takes passwords without TLS"
    return replace(finding, fault="" if harmless else finding.fault, plaintext=False)


def rows(directories: Sequence[tuple[str, str]], backends: Sequence[Finding]) -> list[tuple[str, ...]]:
    """The results as lines of a table."""
    found: list[tuple[str, ...]] = [
        ("directory", name, "", f"FAILED: {fault}" if fault else "ok") for name, fault in directories
    ]
    for finding in backends:
        tls = f"{finding.version} {finding.certificate}".strip() or finding.tls
        found.append((finding.service, finding.address, tls, f"FAILED: {finding.fault}" if finding.fault else "ok"))
    return found
