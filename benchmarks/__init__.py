"""Figures of kernelpot beside its rivals': `python -m benchmarks --help`."""

THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")
"""Variables that must be set before anything numerical is imported."""
