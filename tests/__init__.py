"""The tests of mailgw; they mirror its tree."""
