"""Settings worth trying, in the order in which they are tried."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.stats import qmc

from kernelpot.data.batch import Batch
from kernelpot.data.geometry import default_cutoff
from kernelpot.data.stream import chunks, species_of
from kernelpot.descriptors.acsf.definition import ACSF
from kernelpot.descriptors.pairs import TwoBody
from kernelpot.descriptors.soap.definition import SOAP
from kernelpot.errors import ParameterError
from kernelpot.kernels import DotProduct, Gaussian
from kernelpot.potentials.baselines import Baseline
from kernelpot.potentials.baselines.zbl import ZBL
from kernelpot.potentials.sparse_gp import SparseGP
from kernelpot.potentials.terms import Setting, Term
from kernelpot.tuning.halving import Settings, key_of

if TYPE_CHECKING:
    from ase import Atoms


PAIR_REACH = 5.0
"""Least cutoff of a pair term tried, Å: pairs are cheap, and other terms may end before them."""

FURTHER = 1.3
"""Reach of a pair term in `potential_space`, over the default cutoff."""

NEAR = 0.43
"""Distance over the cutoff beyond which `near` weighs neighbours down, with power 4."""

FAR = 1.4
"""Cutoff of a second SOAP over that of the first; its weights fall from 0.6 of the first's cutoff on, with power 6."""

CONTACT = 0.9
"""Shortest distance in sums of covalent radii below which the repulsion of nuclei is tried as a baseline."""

SOAP_SETTINGS = ("cutoff", "n_max", "l_max", "sigma", "fade", "scaling")
"""Settings of `SOAP` that are plain values."""

ACSF_SETTINGS = ("cutoff", "n_radial", "n_angular", "cutoff_function", "centre")
"""Settings of `ACSF.spaced` that are plain values."""

DESCRIPTORS = {"soap": SOAP_SETTINGS, "acsf": ACSF_SETTINGS}
"""Settings of each descriptor by its name in a space."""

Coupling = tuple[tuple[int, ...], Setting]
"""Atomic numbers, and how much they learn from each other."""

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


def potential_space(structures: Sequence[Atoms]) -> dict[str | tuple[str, ...], Sequence[Any]]:
    """Return the settings that `kernelpot.potential` tries where none are given; the first of each is the default.

    Those of `default_space`, and longer cutoffs, a pair term that reaches 1.3 times as far, weights of neighbours that
    fall with distance (`near`), a second SOAP of 1.4 times the reach (`far`), shares of inducing environments by what
    each species lacks, and `ZBL` as a baseline where the shortest distance is below 0.9 sums of covalent radii.

    Parameters
    ----------
    structures
        Their distances give the cutoffs, and say whether nuclei come close.

    Raises
    ------
    ParameterError
        There is no structure.
    DataError
        A structure is unusable.
    """
    space = default_space(structures)
    middle = float(space["cutoff"][0])
    further = round(20.0 * max(FURTHER * middle, PAIR_REACH)) / 20.0
    space |= {"cutoff": [*space["cutoff"], round(20.0 * FAR * middle) / 20.0], "sigma": SIGMAS[:-1]}
    # What takes one fit to try comes first.
    first: dict[str | tuple[str, ...], Sequence[Any]] = {"two_body": (None, further), "near": (None, NEAR)}
    if len(species_of(structures)) > 1:
        first["inducing"] = ("fps", "residual")
    if shortest(structures) < CONTACT:
        first["zbl"] = (False, True)
    return {**first, **{name: values for name, values in space.items() if name not in first}, "far": (None, FAR)}


def shortest(structures: Sequence[Atoms]) -> float:
    """Return the shortest distance of two atoms, in sums of their covalent radii."""
    from ase.data import covalent_radii

    least = np.inf
    for start, stop in chunks(structures):
        batch = Batch.from_structures(structures[start:stop], 2.0 * float(covalent_radii[1:97].max()))
        touching = covalent_radii[batch.numbers[batch.first]] + covalent_radii[batch.numbers[batch.second]]
        lengths = np.linalg.norm(batch.vectors, axis=1)
        least = min(least, float((lengths / touching).min(initial=np.inf)))
    return least


def candidates(space: Space, *, seed: int) -> list[dict[str, Any]]:
    """Return all combinations of a space: first the first of each value, then spread evenly.

    The order is that of a scrambled Halton sequence, in which every value stands about equally often in every stretch
    (Halton (1960); for the search of parameters: Bergstra and Bengio (2012)).
    """
    axes = axes_of(space)
    sizes = np.array([len(axis) for axis in axes])
    # Two points for each combination reach nearly all; what they miss comes last.
    points = qmc.Halton(d=len(axes), scramble=True, seed=seed).random(2 * int(np.prod(sizes)))
    # The smallest bases of the sequence spread best in few points: they go to the axes of fewest values.
    points = points[:, np.argsort(np.argsort(sizes, kind="stable"))]
    order = [(0,) * len(axes), *map(tuple, (points * sizes).astype(int).tolist()), *np.ndindex(*sizes)]
    chosen = (dict(itertools.chain.from_iterable(axes[k][i].items() for k, i in enumerate(place))) for place in order)
    return list({key_of(settings): settings for settings in chosen}.values())


def axes_of(space: Space) -> list[list[dict[str, Any]]]:
    """Return the values of each setting, or of those that are set together, after looking at all of them."""
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
    return axes


def default_model(
    settings: Settings, *, seed: int = 0, baseline: Baseline | None = None, coupling: Coupling | None = None
) -> SparseGP:
    """Make the model of one candidate: a descriptor, a kernel of its vectors, noises by cross-validation.

    Parameters
    ----------
    settings
        Those of `SOAP` that are plain values; with descriptor "acsf" those of `ACSF.spaced`. For either zeta, the power
        of a `DotProduct` (2), or gaussian, the length of a `Gaussian`; n_inducing; and two_body, the cutoff of a
        `TwoBody` term, Å. None stands for no such thing. For SOAP also near, the distance over the cutoff beyond which
        weights of neighbours fall with power 4, and far, the cutoff of a second SOAP over that of the first, with
        weights that fall from 0.6 of the first's cutoff on; for both inducing, as in `SparseGP`, and zbl, whether to
        learn the difference from `ZBL`.
    seed
        Of the model.
    baseline
        What to learn the difference from.
    coupling
        Of the elements, as ``(species, setting)``; None: found by `SparseGP.fit`.

    Raises
    ------
    ParameterError
        A setting is unknown, or breaks its rule.
    """
    given = dict(settings)
    name, n_inducing, two_body = given.pop("descriptor", "soap"), given.pop("n_inducing"), given.pop("two_body", None)
    zeta, gaussian = given.pop("zeta", None), given.pop("gaussian", None)
    inducing, zbl = given.pop("inducing", "fps"), given.pop("zbl", False)
    if gaussian is not None and zeta is not None:
        raise ParameterError(
            f"`space` must set zeta or gaussian, got zeta {zeta} with gaussian {gaussian}; set one, or set both "
            'together with None for the other: {("zeta", "gaussian"): [(2, None), (None, 1.0)]}.'
        )
    _check_descriptor(name)
    near, far = (given.pop("near", None), given.pop("far", None)) if name == "soap" else (None, None)
    unknown = sorted(set(given) - set(DESCRIPTORS[name]))
    if unknown:
        raise ParameterError(
            f"`space` must name settings among {', '.join(DESCRIPTORS[name])}, zeta, gaussian, two_body, near, far, "
            f"inducing, zbl and n_inducing for the descriptor {name!r}, got {', '.join(unknown)}; give `build` to make "
            "models of others."
        )
    cutoff = float(given.get("cutoff", SOAP.cutoff))
    if near is not None:
        given["scaling"] = (near * cutoff, 4.0)
    many: list[SOAP | ACSF] = [SOAP(**given) if name == "soap" else ACSF.spaced(**given)]
    if far is not None:
        n_max = given.get("n_max", SOAP.n_max) + 2
        many.append(SOAP(**{**given, "cutoff": far * cutoff, "scaling": (0.6 * cutoff, 6.0), "n_max": n_max}))
    kernel = DotProduct(2 if zeta is None else zeta) if gaussian is None else Gaussian(gaussian)
    terms = [Term(one, kernel) for one in many]
    if coupling is not None:
        terms = [term.coupled(*coupling) if term.finds_coupling else term for term in terms]
    if two_body is not None:
        terms = [Term(TwoBody(cutoff=two_body)), *terms]
    return SparseGP(
        terms, n_inducing=n_inducing, noise="cv", seed=seed, inducing=inducing, baseline=ZBL() if zbl else baseline
    )


def _check_descriptor(name: Any) -> None:
    if not isinstance(name, str) or name not in DESCRIPTORS:
        raise ParameterError(
            f'`descriptor` must be "soap" or "acsf", got {name!r}; give `build` to make models of others.'
        )
