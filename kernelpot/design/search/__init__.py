"""Searches for a good set of blocks."""
