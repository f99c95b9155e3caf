"""The outer search over settings of descriptor and kernel."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from kernelpot.data.check import validate
from kernelpot.data.labels import Labels, resolve
from kernelpot.descriptors.soap.definition import SOAP
from kernelpot.errors import ParameterError
from kernelpot.potentials.arguments import structure_list
from kernelpot.potentials.baselines import Baseline
from kernelpot.potentials.baselines.given import as_baseline
from kernelpot.potentials.fitting import require_labels
from kernelpot.potentials.sparse_gp import SparseGP
from kernelpot.progress import say
from kernelpot.tuning.halving import Bench, Budget, climb, halve
from kernelpot.tuning.journal import Journal
from kernelpot.tuning.result import TuneResult
from kernelpot.tuning.scoring import INDUCING_SHARES, SHARES, Scorer, telling_kinds
from kernelpot.tuning.space import Space, candidates, default_model, default_space
from kernelpot.tuning.subsets import Parts
from kernelpot.tuning.trial import Settings

if TYPE_CHECKING:
    from ase import Atoms

MINUTES = 10.0
"""Time where neither a time nor a number of fits is given."""

OBJECTIVES = ("cv", "groups")

CLIMB_SHARE = 0.3
"""Share of the time that is kept for more inducing environments."""

FITS_PER_CLIMB = 5
"""One fit in so many is kept for more inducing environments, where fits are counted."""

CLIMB_COST = 2.5
"""Guessed growth of a fit's time when inducing environments double."""

WORTH = 0.02
"""Least fall of the loss for which inducing environments double again: 2 % off the product of the errors."""


def tune(
    train: Sequence[Atoms],
    *,
    budget_minutes: float | None = None,
    max_fits: int | None = None,
    objective: str = "cv",
    space: Space | None = None,
    build: Callable[[Settings], SparseGP] | None = None,
    baseline: Baseline | None = None,
    n_inducing: int = 500,
    max_inducing: int = 2000,
    n_folds: int = 8,
    keys: Mapping[str, str | None] | None = None,
    seed: int = 0,
    resume: str | Path | None = None,
) -> TuneResult:
    """Search settings of descriptor and kernel by their left-out errors, with successive halving.

    Candidates, the default first, are fitted to a quarter of the structures with half of the inducing environments; the
    best third goes on to half of the structures, the best third of those to all (Jamieson and Talwalkar (2016); Li et
    al. (2018)). The best is then fitted with twice the inducing environments as long as that pays. The score is
    Σ_kind log RMSE of left-out labels, the one that ``noise="cv"`` minimises.

    Parameters
    ----------
    train
        Structures with labels; frames of one trajectory in order.
    budget_minutes
        Time for all fits, resumed ones counted; None: 10, or no limit where `max_fits` is given. Where time ends the
        search depends on the machine; the order of candidates does not.
    max_fits
        Number of fits at most. On its own it makes a search exactly repeatable.
    objective
        "cv": folds of whole runs of frames are left out. "groups": each `config_type` is left out in turn, which asks
        how a model does on families that it has not seen.
    space
        Values of each setting; names may be tuples, ``{"cutoff": [4.5, 5.0], ("n_max", "l_max"): [(8, 6), (6, 4)]}``.
        None: `kernelpot.tuning.default_space`, cutoffs about `default_cutoff`, n_max and l_max, sigma, zeta, with and
        without a pair term: 450 combinations. ``default_space(train, descriptor="acsf")`` are symmetry functions with
        the Gaussian kernel: 360. Also understood: all that `kernelpot.tuning.default_model` takes.
    build
        Makes an unfitted model of a candidate's settings and `n_inducing`. None: `kernelpot.tuning.default_model`.
    baseline
        What the models learn the difference from, as in `SparseGP`; not with `build`, which has its own.
    n_inducing
        Inducing environments of the last rung.
    max_inducing
        Most that the best settings are tried with.
    n_folds
        Folds, for "cv".
    keys
        Names of labels, as in `kernelpot.read`.
    seed
        Makes candidates, subsets, folds and models repeatable.
    resume
        A file of JSON lines that every trial is added to. A search that finds it goes on from it.

    Returns
    -------
    TuneResult
        ``.best`` is an unfitted model, ``.table`` all trials. Ctrl-C ends the search, not the table.

    Raises
    ------
    ParameterError
        An argument breaks its rule, there are fewer than two different structures, or no candidate could be fitted.
    LabelError
        Labels are missing or broken.
    DataError
        A structure or the file to resume from is unusable.
    """
    if build is not None and baseline is not None:
        raise ParameterError("`baseline` is for the default models: let `build` give its models one.")
    budget = _budget(budget_minutes, max_fits)
    _check(objective, n_inducing, max_inducing, n_folds, seed)
    structures = structure_list(train)
    validate(structures)
    labels = resolve(structures, keys)
    require_labels(labels, "cv")
    space = default_space(structures) if space is None else space
    queue: list[Settings] = list(candidates(space, seed=seed))
    parts = Parts.of(structures, SOAP(n_max=4, l_max=3), n_folds=n_folds, seed=seed)
    if len(parts.order) < 2:
        raise ParameterError("`train` must hold at least two different structures to leave one out, got one.")
    make = partial(default_model, seed=seed, baseline=baseline) if build is None else build
    scorer = Scorer(
        structures, parts, telling_kinds(labels), make, n_inducing, max_inducing, objective, n_folds, seed, keys
    )
    journal = Journal(resume, _fingerprint(scorer, labels, build, baseline))
    scorer.warm_up(queue[0])
    say(_plan(scorer, queue, budget))
    bench = Bench(scorer, budget, journal)
    climbs = math.ceil(math.log2(max_inducing / n_inducing))
    kept = 0 if max_fits is None else min(climbs, max_fits // FITS_PER_CLIMB)
    search = halve(queue, bench, scorer.costs, reserve=CLIMB_SHARE if climbs else 0.0, kept_fits=kept)
    climb(search, bench, CLIMB_COST, limit=min(max_inducing, sum(map(len, structures))), gain=WORTH)
    return TuneResult(
        table=search.trials,
        best_trial=search.best,
        default_trial=search.trials[0],
        objective=objective,
        kinds=scorer.kinds,
        notes=tuple(search.notes),
        interrupted=search.interrupted,
        build=make,
    )


def _budget(minutes: float | None, fits: int | None) -> Budget:
    if minutes is not None and not (math.isfinite(minutes) and minutes > 0):
        raise ParameterError(f"`budget_minutes` must be a positive number of minutes, got {minutes}; 10 is usual.")
    if fits is not None and (isinstance(fits, bool) or not isinstance(fits, int | np.integer) or fits < 1):
        raise ParameterError(f"`max_fits` must be a positive whole number, got {fits!r}; 30 to 100 is usual.")
    if minutes is None and fits is None:
        minutes = MINUTES
    return Budget(math.inf if minutes is None else 60.0 * minutes, None if fits is None else int(fits))


def _check(objective: str, n_inducing: int, max_inducing: int, n_folds: int, seed: int) -> None:
    if objective not in OBJECTIVES:
        raise ParameterError(f'`objective` must be "cv" or "groups", got {objective!r}.')
    for name, value, least in (("n_inducing", n_inducing, 1), ("n_folds", n_folds, 2), ("seed", seed, 0)):
        if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < least:
            raise ParameterError(f"`{name}` must be a whole number of at least {least}, got {value!r}.")
    if max_inducing < n_inducing:
        raise ParameterError(f"`max_inducing` must be at least `n_inducing`, {n_inducing}, got {max_inducing}.")


def _fingerprint(
    scorer: Scorer, labels: Labels, build: Callable[[Settings], SparseGP] | None, baseline: Baseline | None
) -> dict[str, Any]:
    """Name what makes trials comparable."""
    digest = hashlib.blake2b(digest_size=16)
    for atoms, forces in zip(scorer.structures, labels.forces, strict=True):
        for array in (atoms.numbers, atoms.positions, atoms.cell.array, atoms.pbc):
            digest.update(np.ascontiguousarray(array).tobytes())
        digest.update(b"-" if forces is None else np.ascontiguousarray(forces).tobytes())
        digest.update(str(atoms.info.get("config_type", "")).encode())
    digest.update(np.ascontiguousarray(labels.energy).tobytes() + np.ascontiguousarray(labels.stress).tobytes())
    difference = as_baseline(baseline)
    return {
        "data": digest.hexdigest(),
        "build": "default" if build is None else getattr(build, "__qualname__", type(build).__name__),
        "baseline": None if difference is None else difference.settings(),
        "objective": scorer.objective,
        "n_inducing": int(scorer.n_inducing),
        "n_folds": int(scorer.n_folds),
        "seed": int(scorer.seed),
        "shares": [list(SHARES), list(INDUCING_SHARES)],
    }


def _plan(scorer: Scorer, queue: Sequence[Settings], budget: Budget) -> str:
    sizes = ", ".join(str(len(members)) for members, _ in scorer.rungs)
    limits = " and ".join(
        text for text, given in (
            (f"{budget.seconds / 60.0:g} minutes", math.isfinite(budget.seconds)),
            (f"{budget.fits} fits", budget.fits is not None),
        ) if given
    )  # fmt: skip
    return f"tune: {len(queue)} candidates, rungs of {sizes} structures, {limits}; scored by {', '.join(scorer.kinds)}"
