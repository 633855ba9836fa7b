"""Measurements: ``python -m tests.bench lifecycle`` and its like. Nothing here is a test."""
