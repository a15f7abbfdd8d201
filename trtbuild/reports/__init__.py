"""Saying it: pure renderers of results."""
