"""Settings worth trying, in the order in which they are tried."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.stats import qmc

from kernelpot.data.cutoffs import default_cutoff
from kernelpot.descriptors.protocol import Descriptor
from kernelpot.descriptors.soap import SOAP
from kernelpot.descriptors.two_body import TwoBody
from kernelpot.errors import ParameterError
from kernelpot.kernels import DotProduct
from kernelpot.models.baselines.protocol import Baseline
from kernelpot.models.sparse_gp import SparseGP
from kernelpot.models.terms import Term
from kernelpot.tuning.trial import Settings, key_of

if TYPE_CHECKING:
    from ase import Atoms

PAIR_REACH = 5.0
"""Least cutoff of a pair term tried, Å: pairs are cheap, and SOAP may end before them."""

SOAP_SETTINGS = ("cutoff", "n_max", "l_max", "sigma", "fade", "scaling")
"""Settings of `SOAP` that are plain values."""

Space = Mapping[str | tuple[str, ...], Sequence[Any]]
"""Values of each setting; a tuple of names is set together, to tuples of values."""

FACTORS = (1.0, 0.8, 0.9, 1.1, 1.2)
"""Cutoffs tried, over the default of the data."""

SIGMAS = (0.5, 0.3, 0.4, 0.6, 0.7)
"""Widths of an atom's density tried, Å."""

SIZES = ((8, 6), (6, 4), (10, 8))
"""n_max and l_max tried."""

ZETAS = (2, 3, 4)
"""Powers of the kernel tried."""


def default_space(structures: Sequence[Atoms]) -> dict[str | tuple[str, ...], Sequence[Any]]:
    """Return the settings that `tune` tries where none are given; the first of each is the default.

    Parameters
    ----------
    structures
        Their distances give the cutoffs, by `kernelpot.default_cutoff`.
    """
    middle = default_cutoff(structures)
    cutoffs = [round(20.0 * factor * middle) / 20.0 for factor in FACTORS]
    pairs = (None, max(middle, PAIR_REACH))
    return {"cutoff": cutoffs, ("n_max", "l_max"): SIZES, "sigma": SIGMAS, "zeta": ZETAS, "two_body": pairs}


def candidates(space: Space, *, seed: int) -> list[dict[str, Any]]:
    """Return all combinations of a space: first the first of each value, then spread evenly.

    The order is that of a scrambled Halton sequence, in which every value stands about equally often in every stretch
    (Halton (1960); for the search of parameters: Bergstra and Bengio (2012)).

    Parameters
    ----------
    space
        Values of each setting.
    seed
        Makes the order repeatable.

    Raises
    ------
    ParameterError
        The space is empty, a setting has no value, or a tuple of names no tuple of as many values.
    """
    if not space:
        raise ParameterError("`space` must hold at least one setting, got none; leave it out for the default.")
    axes = [_axis(name, values) for name, values in space.items()]
    named = [name for axis in axes for name in axis[0]]
    if len(set(named)) < len(named):
        raise ParameterError(f"`space` must name every setting once, got {', '.join(named)}.")
    sizes = np.array([len(axis) for axis in axes])
    # Two points for each combination reach nearly all; what they miss comes last.
    points = qmc.Halton(d=len(axes), scramble=True, seed=seed).random(2 * int(np.prod(sizes)))
    # The smallest bases of the sequence spread best in few points: they go to the axes of fewest values.
    points = points[:, np.argsort(np.argsort(sizes, kind="stable"))]
    order = [(0,) * len(axes), *map(tuple, (points * sizes).astype(int).tolist()), *np.ndindex(*sizes)]
    chosen = (dict(itertools.chain.from_iterable(axes[k][i].items() for k, i in enumerate(place))) for place in order)
    return list({key_of(settings): settings for settings in chosen}.values())


def default_model(settings: Settings, *, seed: int = 0, baseline: Baseline | None = None) -> SparseGP:
    """Make the model of one candidate: SOAP, a dot product, noises by cross-validation.

    Parameters
    ----------
    settings
        Those of `SOAP` that are plain values, with zeta, n_inducing, and two_body: the cutoff of a `TwoBody` term, Å;
        None for no such term.
    seed
        Of the model.
    baseline
        What to learn the difference from.

    Raises
    ------
    ParameterError
        A setting is unknown, or breaks its rule.
    """
    given = dict(settings)
    zeta, n_inducing, two_body = given.pop("zeta", 2), given.pop("n_inducing"), given.pop("two_body", None)
    unknown = sorted(set(given) - set(SOAP_SETTINGS))
    if unknown:
        raise ParameterError(
            f"`space` must name settings among {', '.join(SOAP_SETTINGS)}, zeta, two_body and n_inducing, got "
            f"{', '.join(unknown)}; give `build` to make models of others."
        )
    soap = SOAP(**given)
    terms: list[Descriptor | Term] = [soap] if two_body is None else [TwoBody(cutoff=two_body), soap]
    return SparseGP(terms, DotProduct(zeta), n_inducing=n_inducing, noise="cv", seed=seed, baseline=baseline)


def _axis(name: str | tuple[str, ...], values: Sequence[Any]) -> list[dict[str, Any]]:
    """Return the choices of one axis."""
    names = (name,) if isinstance(name, str) else tuple(name)
    if isinstance(values, str) or not hasattr(values, "__len__") or len(values) == 0:
        raise ParameterError(f"`space` must list at least one value of {' and '.join(names)}, got {values!r}.")
    try:
        json.dumps([_plain(value) for value in values])
    except TypeError:
        raise ParameterError(
            f"`space` must list plain numbers, names or tuples of them for {' and '.join(names)}, got {values!r}; give "
            "`build` to make objects of them."
        ) from None
    rows = [(value,) if isinstance(name, str) else tuple(np.atleast_1d(value).tolist()) for value in values]
    wrong = [row for row in rows if len(row) != len(names)]
    if wrong:
        raise ParameterError(f"`space` must set {' and '.join(names)} together, got {wrong[0]!r}.")
    return [dict(zip(names, map(_plain, row), strict=True)) for row in rows]


def _plain(value: Any) -> Any:
    """Turn NumPy's numbers into Python's, which JSON knows."""
    return value.item() if isinstance(value, np.generic) else value
