"""Tests of L{mailgw.importing}."""
