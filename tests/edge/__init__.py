"""Tests of C{mailgw.edge}."""
