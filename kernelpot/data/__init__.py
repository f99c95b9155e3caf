"""Structures and labels as flat arrays."""
