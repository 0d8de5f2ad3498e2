"""Real sockets, real twistd, real slapd, Dovecot and Exim; skipped with a reason where those are not installed."""
