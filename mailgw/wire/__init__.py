"""The protocols, pure: bytes in, events out. No I/O, no clock, no logging in this room."""
