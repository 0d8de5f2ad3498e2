"""Tests of the embedded mail store."""
