"""Settings worth trying, in the order in which they are tried."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.stats import qmc

from kernelpot.data.geometry import default_cutoff
from kernelpot.descriptors.acsf.definition import ACSF
from kernelpot.descriptors.pairs import TwoBody
from kernelpot.descriptors.protocol import Descriptor
from kernelpot.descriptors.soap.definition import SOAP
from kernelpot.errors import ParameterError
from kernelpot.kernels import DotProduct, Gaussian
from kernelpot.potentials.baselines import Baseline
from kernelpot.potentials.sparse_gp import SparseGP
from kernelpot.potentials.terms import Term
from kernelpot.tuning.halving import Settings, key_of

if TYPE_CHECKING:
    from ase import Atoms


PAIR_REACH = 5.0
"""Least cutoff of a pair term tried, Å: pairs are cheap, and other terms may end before them."""

SOAP_SETTINGS = ("cutoff", "n_max", "l_max", "sigma", "fade", "scaling")
"""Settings of `SOAP` that are plain values."""

ACSF_SETTINGS = ("cutoff", "n_radial", "n_angular", "cutoff_function", "centre")
"""Settings of `ACSF.spaced` that are plain values."""

DESCRIPTORS = {"soap": SOAP_SETTINGS, "acsf": ACSF_SETTINGS}
"""Settings of each descriptor by its name in a space."""

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

RADIAL, ANGULAR = (8, 12, 16), (2, 3, 5)
"""Numbers of symmetry functions tried: radial ones, and widths of angular ones."""

LENGTHS = (1.0, 1.5, 2.0, 3.0)
"""Lengths of the Gaussian kernel tried with symmetry functions."""


def default_space(
    structures: Sequence[Atoms], *, descriptor: str = "soap"
) -> dict[str | tuple[str, ...], Sequence[Any]]:
    """Return the settings that `tune` tries where none are given; the first of each is the default.

    Parameters
    ----------
    structures
        Their distances give the cutoffs, by `kernelpot.potentials.default_cutoff`.
    descriptor
        "soap", with powers of the dot product; or "acsf", symmetry functions with lengths of the Gaussian kernel, for
        ``space=default_space(train, descriptor="acsf")``.

    Raises
    ------
    ParameterError
        There is no structure, or no such descriptor.
    DataError
        A structure is unusable.
    """
    _check_descriptor(descriptor)
    middle = default_cutoff(structures)
    cutoffs = [round(20.0 * factor * middle) / 20.0 for factor in FACTORS]
    pairs = (None, max(middle, PAIR_REACH))
    if descriptor == "soap":
        return {"cutoff": cutoffs, ("n_max", "l_max"): SIZES, "sigma": SIGMAS, "zeta": ZETAS, "two_body": pairs}
    return {
        "descriptor": (descriptor,), "cutoff": cutoffs, "n_radial": RADIAL, "n_angular": ANGULAR, "gaussian": LENGTHS,
        "two_body": pairs,
    }  # fmt: skip


def candidates(space: Space, *, seed: int) -> list[dict[str, Any]]:
    """Return all combinations of a space: first the first of each value, then spread evenly.

    The order is that of a scrambled Halton sequence, in which every value stands about equally often in every stretch
    (Halton (1960); for the search of parameters: Bergstra and Bengio (2012)).
    """
    if not space:
        raise ParameterError("`space` must hold at least one setting, got none; leave it out for the default.")
    axes = []
    for name, values in space.items():
        names = (name,) if isinstance(name, str) else tuple(name)
        if isinstance(values, str) or not hasattr(values, "__len__") or len(values) == 0:
            raise ParameterError(f"`space` must list at least one value of {' and '.join(names)}, got {values!r}.")
        # Not through NumPy, which would make one type of what is set together; its numbers become Python's, as JSON
        # needs.
        rows = [(value,) if isinstance(name, str) or np.ndim(value) == 0 else tuple(value) for value in values]
        rows = [tuple(v.item() if isinstance(v, np.generic) else v for v in row) for row in rows]
        try:
            json.dumps(rows)
        except TypeError:
            raise ParameterError(
                f"`space` must list plain numbers, names or tuples of them for {' and '.join(names)}, got {values!r}; "
                "give `build` to make objects of them."
            ) from None
        wrong = [row for row in rows if len(row) != len(names)]
        if wrong:
            raise ParameterError(f"`space` must set {' and '.join(names)} together, got {wrong[0]!r}.")
        axes.append([dict(zip(names, row, strict=True)) for row in rows])
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
    """Make the model of one candidate: a descriptor, a kernel of its vectors, noises by cross-validation.

    Parameters
    ----------
    settings
        Those of `SOAP` that are plain values; with descriptor "acsf" those of `ACSF.spaced`. For either zeta, the power
        of a `DotProduct` (2), or gaussian, the length of a `Gaussian`; n_inducing; and two_body, the cutoff of a
        `TwoBody` term, Å. None stands for no such thing.
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
    name, n_inducing, two_body = given.pop("descriptor", "soap"), given.pop("n_inducing"), given.pop("two_body", None)
    zeta, gaussian = given.pop("zeta", None), given.pop("gaussian", None)
    if gaussian is not None and zeta is not None:
        raise ParameterError(
            f"`space` must set zeta or gaussian, got zeta {zeta} with gaussian {gaussian}; set one, or set both "
            'together with None for the other: {("zeta", "gaussian"): [(2, None), (None, 1.0)]}.'
        )
    _check_descriptor(name)
    unknown = sorted(set(given) - set(DESCRIPTORS[name]))
    if unknown:
        raise ParameterError(
            f"`space` must name settings among {', '.join(DESCRIPTORS[name])}, zeta, gaussian, two_body and n_inducing "
            f"for the descriptor {name!r}, got {', '.join(unknown)}; give `build` to make models of others."
        )
    many = SOAP(**given) if name == "soap" else ACSF.spaced(**given)
    terms: list[Descriptor | Term] = [many] if two_body is None else [TwoBody(cutoff=two_body), many]
    kernel = DotProduct(2 if zeta is None else zeta) if gaussian is None else Gaussian(gaussian)
    return SparseGP(terms, kernel, n_inducing=n_inducing, noise="cv", seed=seed, baseline=baseline)


def _check_descriptor(name: Any) -> None:
    if not isinstance(name, str) or name not in DESCRIPTORS:
        raise ParameterError(
            f'`descriptor` must be "soap" or "acsf", got {name!r}; give `build` to make models of others.'
        )
