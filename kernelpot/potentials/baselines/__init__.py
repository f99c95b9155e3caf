"""Potentials that a model learns the difference from."""
