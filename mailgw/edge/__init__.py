"""Connections: listeners, TLS, the session of a client, the dialer to a backend and the relay between them."""
