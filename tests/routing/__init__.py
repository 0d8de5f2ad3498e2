"""Tests of the rules, the router and the pools."""
