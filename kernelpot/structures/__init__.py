"""Kernels between whole structures, with what they are made of."""
