"""How we log in on a backend: the pool's C{login}, put together with the user and what the user presented."""

from __future__ import annotations

from mailgw.errors import BackendFailed
from mailgw.model import Access, Failure, Login, Route
from mailgw.settings import Pool


def access_to(pool: Pool, username: str, login: Login | None, route: Route) -> Access | None:
    """The account to log in with, or C{None} for a pool where nobody does.

    @param username: the canonical name.
    @param login: what the client presented; needed for C{login = "own"} only.
    @param route: may name another user, and for C{login = "own"} another password.
    @raise BackendFailed: the pool wants a password that nobody has.
    """
    username = username if route.username is None else route.username
    match pool.login:
        case "own" if route.password is not None:
            return Access(username, route.password)
        case "own" if login is not None:
            return Access(username, login.password)
        case "master":
            return Access(f"{username}*{pool.master_user}", pool.master_password.get_secret_value())
        case "authzid":
            return Access(pool.master_user, pool.master_password.get_secret_value(), username)
        case "none" | "xclient":
            return None
        case _:
            raise BackendFailed(Failure.PROTOCOL, "login = own, and there is no password of the user's own")
