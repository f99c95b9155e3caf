"""The outer search: cutoff, width, sizes and kernel by successive halving on left-out errors."""

from kernelpot.tuning.result import TuneResult
from kernelpot.tuning.search import tune
from kernelpot.tuning.space import default_model, default_space
from kernelpot.tuning.trial import Trial

__all__ = ["Trial", "TuneResult", "default_model", "default_space", "tune"]
