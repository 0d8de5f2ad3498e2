"""Tests of what reads, judges and shows the settings file."""
