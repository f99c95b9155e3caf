"""Energies and forces with every label a basis function."""
