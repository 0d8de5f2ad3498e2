"""Clients that have got some way already."""

from __future__ import annotations

import base64

from mailgw.delivery.reception import MX, SUBMISSION
from tests.delivery.doubles import Client, World

LOGIN = b"EHLO c.example\r\nAUTH PLAIN " + base64.b64encode(b"\0zoe@d\0secret") + b"\r\n"
MAIL = b"MAIL FROM:<a@x> SIZE=10 BODY=8BITMIME\r\n"


def mx(world: World) -> Client:
    """A client of the mx listener, EHLO said."""
    client = world.client(MX, "mx")
    client.say(b"EHLO c.example\r\n")
    return client


def submission(world: World) -> Client:
    """A client of the submission listener, zoe logged in."""
    client = world.client(SUBMISSION, "submission")
    assert client.codes(LOGIN)[-1] == 235
    return client
