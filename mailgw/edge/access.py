"""How we log in on a backend: the pool's C{login}, put together with the user and what the user presented."""

from __future__ import annotations

from mailgw.errors import BackendFailed
from mailgw.model import Access, Failure, Login
from mailgw.settings import Pool


def access_to(pool: Pool, username: str, login: Login | None) -> Access | None:
    """The account to log in with, or C{None} for a pool where nobody does.

    @param username: the canonical name.
    @param login: what the client presented; needed for C{login = "own"} only.
    @raise BackendFailed: the pool wants a password that nobody has.
    """
    match pool.login:
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
