"""Logins, relays, endings and slow clients once more, on our own transport instead of Twisted's.

The tests are those of the modules named here, which are not imported by their classes: trial would run these twice.
"""

from __future__ import annotations

from tests import test_drain, test_gateway, test_kit_forwarded, test_kit_logins
from tests.edge import test_dialer, test_listeners, test_relay, test_relay_tls, test_slowloris
from tests.streams import OnStreams


class ImapTests(OnStreams, test_kit_logins.ImapTests):
    """Logins by IMAP."""


class Pop3Tests(OnStreams, test_kit_logins.Pop3Tests):
    """Logins by POP3."""


class ManageSieveTests(OnStreams, test_kit_logins.ManageSieveTests):
    """Logins by ManageSieve."""


class MasterTests(OnStreams, test_kit_logins.MasterTests):
    """Logins of a master user."""


class SharedPoolTests(OnStreams, test_kit_logins.SharedPoolTests):
    """Another member where one is not there."""


class StarttlsTests(OnStreams, test_kit_logins.StarttlsTests):
    """TLS to the backend."""


class ClientTlsTests(OnStreams, test_kit_logins.ClientTlsTests):
    """TLS to the client."""


class DeadlineTests(OnStreams, test_kit_logins.DeadlineTests):
    """Whoever takes too long."""


class DrainTests(OnStreams, test_drain.DrainTests):
    """The end of the gateway."""


class ReloadTests(OnStreams, test_gateway.ReloadTests):
    """Other settings."""


class ListenerTlsTests(OnStreams, test_listeners.TlsTests):
    """Where TLS goes."""


class ListenerRenewTests(OnStreams, test_listeners.RenewTests):
    """Other answers on the same port."""


class SlowTests(OnStreams, test_slowloris.DeadlineTests):
    """Strangers who trickle."""


class UnreadTests(OnStreams, test_slowloris.UnreadTests):
    """Clients that do not read."""


class DialogueTests(OnStreams, test_dialer.DialogueTests):
    """Conversations with backends."""


class DialerStarttlsTests(OnStreams, test_dialer.StarttlsTests):
    """STARTTLS with backends."""


class DialerImplicitTests(OnStreams, test_dialer.ImplicitTests):
    """TLS with backends from the first octet on."""


class DialerConnectTests(OnStreams, test_dialer.ConnectTests):
    """Until there is a connection."""


class ForwardedTests(OnStreams, test_kit_forwarded.ForwardedTests):
    """Clients that others bring."""


class DialerProxyTests(OnStreams, test_dialer.ProxyTests):
    """Backends that want a PROXY header."""


class HoldingTests(OnStreams, test_dialer.HoldingTests):
    """A connection that waits to be taken over."""


class RelayBytesTests(OnStreams, test_relay.BytesTests):
    """What goes through."""


class RelayBackpressureTests(OnStreams, test_relay.BackpressureTests):
    """A side that cannot be written."""


class RelayEndingTests(OnStreams, test_relay.EndingTests):
    """One side goes away."""


class RelayHalfCloseTests(OnStreams, test_relay.HalfCloseTests):
    """One direction ends."""


class RelaySweepTests(OnStreams, test_relay.SweepTests):
    """Idle relays."""


class RelayTlsTests(OnStreams, test_relay_tls.BothTests):
    """TLS on both sides of a relay."""


class RelayClientTlsTests(OnStreams, test_relay_tls.ClientTests):
    """TLS on the client's side of a relay."""
