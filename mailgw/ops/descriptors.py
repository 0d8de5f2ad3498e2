"""Which descriptor is what in the processes that a master starts.

Imports nothing of ours: the zygote reads it before anything else.
"""

from __future__ import annotations

BOOT, LOG, ERRORS, REPORTS = 0, 1, 2, 3
"""Descriptors of a zygote: the boot message and commands come in on the first, the others go out."""
TALLY, OUTPUT, FIRST_SOCKET = 4, 5, 6
"""The shared memory of the tally; the master's own output, for logs where that is where it logs, and for all of them
when the master is gone; and the first of the sockets.
"""
