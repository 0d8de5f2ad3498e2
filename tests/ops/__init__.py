"""Tests of what runs the gateway: accounting, probing, workers."""
