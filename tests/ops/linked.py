"""Two control links that hear each other when the test wants them to."""

from __future__ import annotations

from twisted.internet.error import ConnectionLost
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure

from mailgw.ops.control import ControlLink


class Pipe:
    """Both ends of a link.

    @ivar near: one end; C{far}: the other.
    """

    def __init__(self, near: ControlLink, far: ControlLink) -> None:
        self.near, self.far = near, far
        self._near, self._far = StringTransport(), StringTransport()
        near.makeConnection(self._near)
        far.makeConnection(self._far)

    def carry(self) -> bool:
        """Bring what each end has said to the other, and tell whether there was anything."""
        told, asked = self._near.value(), self._far.value()
        self._near.clear()
        self._far.clear()
        if told:
            self.far.dataReceived(told)
        if asked:
            self.near.dataReceived(asked)
        return bool(told or asked)

    def cut(self) -> None:
        """The connection is lost; what was said and not carried is lost, too."""
        self.near.connectionLost(Failure(ConnectionLost()))
        self.far.connectionLost(Failure(ConnectionLost()))
