"""The outer search: cutoff, width, sizes and kernel by successive halving on left-out errors."""

from kernelpot.tuning.candidates import default_model, default_space, potential_space
from kernelpot.tuning.halving import Trial
from kernelpot.tuning.search import TuneResult, potential, tune

__all__ = ["Trial", "TuneResult", "default_model", "default_space", "potential", "potential_space", "tune"]
