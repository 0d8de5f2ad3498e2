"""The tests of C{mailgw.directory}."""
