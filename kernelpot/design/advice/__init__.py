"""Advice on a set of structures that is already there."""
