"""What makes one information matrix better than another, and the criterion that a name stands for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from kernelpot.design.blocks import KINDS
from kernelpot.design.choice import NOISES
from kernelpot.design.criteria.base import Criterion, Tangent
from kernelpot.design.criteria.compound import Compound, MeanVariance
from kernelpot.design.criteria.linear import IV, A, L, V, c
from kernelpot.design.criteria.volume import D, Ds
from kernelpot.design.criteria.worst import E, G
from kernelpot.design.information import Information, duplicates
from kernelpot.errors import ParameterError
from kernelpot.rules import reals

__all__ = ["IV", "A", "Compound", "Criterion", "D", "Ds", "E", "G", "L", "MeanVariance", "Tangent", "V", "c"]

CRITERIA = ("balanced", "IV", "D", "A", "V", "G", "E", "c", "L", "Ds")
"""Names of the criteria; "I" is another name of "IV"."""

BALANCE = {"energy": 2.0, "forces": 1.0, "stress": 1.0}
"""Weights of the label kinds in "balanced", by trial on eight sets (docs/labels.md)."""

Wanted = str | Mapping[str, float] | Criterion
"""How a user names a criterion: by its name, by names with weights, or by an object."""

Target = Information | Float[np.ndarray, "..."] | Sequence[int]
"""What is to be predicted, as a user gives it."""


def make_criterion(wanted: Wanted, info: Information, target: Target | None) -> Criterion:
    """Make the criterion that a name, or a mapping of names to weights, stands for on a pool."""
    if isinstance(wanted, Criterion):
        return wanted
    if isinstance(wanted, str):
        return _named(wanted, info, target)
    if not isinstance(wanted, Mapping) or not wanted:
        raise ParameterError(
            f"`criterion` must be a name, a mapping of names to weights, or a Criterion; got a {type(wanted).__name__}"
        )
    parts = [_named(name, info, target) for name in wanted]
    return Compound(parts, list(wanted.values()), info.d)


def _named(name: str, info: Information, target: Target | None) -> Criterion:
    """Make the criterion of one name."""
    if name not in (*CRITERIA, "I"):
        raise ParameterError(f"unknown criterion {name!r}; choose from {', '.join(CRITERIA)}")
    if name == "D":
        return D()
    if name == "A":
        return A(info.d)
    if name == "E":
        return E(np.eye(info.d))
    if name == "Ds":
        return Ds(reals(_given(name, target, "the numbers of the weights that matter"), "target"), info.d)
    if name in ("c", "L"):
        rows = np.atleast_2d(reals(_given(name, target, "rows of the functionals"), "target"))
        _check_width(rows.shape[-1], info)
        return c(rows[0]) if name == "c" and len(rows) == 1 else L(rows)
    if target is None:
        return _of_structures(name, distinct(info))
    if isinstance(target, Information):
        if not len(target.rows):
            raise ParameterError(
                f"`target` must hold at least one row to be predicted, got {len(target)} structures without any; "
                "give other structures, or None for the pool"
            )
        _check_width(target.d, info)
        return _of_structures(name, target)
    array = reals(target, "target")
    _check_width(array.shape[-1] if array.ndim else 0, info)
    if name == "G":
        return G(array, np.arange(len(array)))
    return V(array) if name == "V" else IV(array)  # a matrix has no kinds to balance


def distinct(info: Information) -> Information:
    """Keep the first structure of every group of duplicates."""
    return info.take(np.unique(duplicates(info), return_index=True)[1])


def _of_structures(name: str, target: Information) -> Criterion:
    """Make IV, V, G or the balanced criterion of the labels of structures, in units of their noise."""
    if name == "balanced":
        made = balanced({kind: target.only(kind).target_root() for kind in KINDS})
    elif name == "G":
        made = G(target.target_rows(), target.structure)
    else:
        made = V(target.rows) if name == "V" else IV.from_root(target.target_root())
    made.unit = NOISES
    return made


def balanced(roots: Mapping[str, Float[np.ndarray, "d q"]]) -> Criterion:
    """Make the weighted geometric mean of the integrated variances of label kinds, from roots of their second moments.

    ``-Σ_kind κ log tr(V_kind C)`` with κ of `BALANCE`: a kind's gain is weighed by what is left of its variance, so
    that neither units nor noises set an exchange rate between meV/atom and meV/Å. `noise="cv"` judges noises by such a
    sum of logarithms, too. A kind whose rows are all zero has nothing to learn and is left out; where fewer than two
    are left, this is IV.
    """
    told = {kind: root for kind, root in roots.items() if root.any()}
    if len(told) < 2:
        return IV.from_root(next(iter(told.values()), next(iter(roots.values()))))
    parts = [IV.from_root(root, name=f"IV({kind})") for kind, root in told.items()]
    measure = MeanVariance(parts, [BALANCE[kind] for kind in told], len(parts[0].root))
    measure.name = "balanced"
    return measure


def _given(name: str, target: Target | None, what: str) -> Any:
    """Refuse a missing target."""
    if target is None or isinstance(target, Information):
        raise ParameterError(f"criterion {name!r} needs a `target`: {what}")
    return target


def _check_width(width: int, info: Information) -> None:
    """Refuse a target of another feature space."""
    if width != info.d:
        raise ParameterError(f"`target` must speak about {info.d} weights, but does about {width}")
