"""What makes one information matrix better than another."""

from __future__ import annotations

from kernelpot.design.criteria.base import Criterion, Tangent
from kernelpot.design.criteria.compound import Compound, MeanVariance
from kernelpot.design.criteria.linear import IV, A, L, V, c
from kernelpot.design.criteria.volume import D, Ds
from kernelpot.design.criteria.worst import E, G

__all__ = ["IV", "A", "Compound", "Criterion", "D", "Ds", "E", "G", "L", "MeanVariance", "Tangent", "V", "c"]
