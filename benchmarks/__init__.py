"""Figures of kernelpot beside its rivals': `python -m benchmarks --help`."""
