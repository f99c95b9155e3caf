"""Triangular factors, posteriors, subsets of vectors."""
