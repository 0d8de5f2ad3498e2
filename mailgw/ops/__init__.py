"""Operating the gateway: counting sessions, probing listeners."""
