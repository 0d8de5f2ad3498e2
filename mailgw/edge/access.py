"""How we come to a backend: whose client we say that we bring, and how we log in there."""

from __future__ import annotations

from mailgw.edge.client import NO_TLS
from mailgw.errors import BackendFailed
from mailgw.interfaces import ISession
from mailgw.model import Access, Failure, Forward, Login, Route
from mailgw.settings import Pool


def forward_of(session: ISession, username: str, helo: str = "", tls: tuple[str, str, str] = NO_TLS) -> Forward:
    """What a backend is told about the client, as far as it asks; C{tls} as L{ISession.client_tls} tells it.

    @raise BackendFailed: so many gateways have passed this login on that it must be a loop.
    """
    if session.ttl < 0:
        raise BackendFailed(Failure.PROTOCOL, "a loop: the gateways in front have passed this on too often (TTL)")
    return Forward(session.session_id, session.peer, session.secure, session.ttl, username, helo, tls)


def mechanism_of(pool: Pool) -> str:
    """As L{Access} has it."""
    return "" if pool.mechanism == "best" else pool.mechanism.upper()


def access_to(pool: Pool, username: str, login: Login | None, route: Route) -> Access | None:
    """The account to log in with, or C{None} for a pool where nobody does.

    @param username: the canonical name.
    @param login: what the client presented; needed for C{login = "own"} only.
    @param route: may name another user, and for C{login = "own"} another password.
    @raise BackendFailed: the pool wants a password that nobody has.
    """
    username = username if route.username is None else route.username
    mechanism = mechanism_of(pool)
    match pool.login:
        case "own" if route.password is not None:
            return Access(username, route.password, mechanism=mechanism)
        case "own" if login is not None:
            return Access(username, login.password, mechanism=mechanism)
        case "master":
            return Access(f"{username}*{pool.master_user}", pool.master_password.get_secret_value(), "", mechanism)
        case "authzid":
            return Access(pool.master_user, pool.master_password.get_secret_value(), username, mechanism)
        case "none" | "xclient":
            return None
        case _:
            raise BackendFailed(Failure.PROTOCOL, "login = own, and there is no password of the user's own")
