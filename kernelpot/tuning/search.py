"""The outer search over settings of descriptor and kernel."""

from __future__ import annotations

import csv
import hashlib
import io
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

import numpy as np
from scipy.linalg import LinAlgError

from kernelpot.archive import replacing
from kernelpot.data.check import validate
from kernelpot.data.labels import Labels, resolve
from kernelpot.data.stream import species_of, structure_list
from kernelpot.descriptors.soap.definition import SOAP
from kernelpot.errors import ParameterError
from kernelpot.potentials.baselines import Baseline
from kernelpot.potentials.baselines.given import as_baseline, less_baseline
from kernelpot.potentials.fitting import fold_numbers, require_labels
from kernelpot.potentials.sparse_gp import SparseGP
from kernelpot.potentials.terms import RUNNERS_UP, Tried, find_coupling, told_of
from kernelpot.progress import say
from kernelpot.tuning.candidates import (
    Coupling,
    Space,
    axes_of,
    candidates,
    default_model,
    default_space,
    potential_space,
)
from kernelpot.tuning.halving import Bench, Budget, Descent, Journal, Settings, Trial, climb, halve, key_of
from kernelpot.tuning.scoring import INDUCING_SHARES, SHARES, FitOptions, HowToFit, Parts, Scorer, telling_kinds

if TYPE_CHECKING:
    from ase import Atoms


UNITS = {"energy": ("meV/atom", "eV_per_atom"), "forces": ("meV/Å", "eV_per_A"), "stress": ("meV/Å³", "eV_per_A3")}

SHOWN = 30
"""Most rows that `str` gives; files hold them all."""


@dataclass(frozen=True, eq=False)
class TuneResult:
    """Every trial of a search, with the settings that came out best.

    Attributes
    ----------
    table
        All trials, in order of time.
    best_trial
        The best of the highest rung that any fit was made on.
    default_trial
        The first candidate on the first rung: what one would have taken without a search.
    objective
        "cv", "groups" or "both".
    kinds
        Kinds of labels that the loss counts.
    notes
        What was not tried, and why.
    interrupted
        Whether the user stopped it.
    coupling
        What was tried for how much elements learn from each other, the best first; empty where nothing was to be found.
    """

    table: tuple[Trial, ...]
    best_trial: Trial
    default_trial: Trial
    objective: str
    kinds: tuple[str, ...]
    notes: tuple[str, ...]
    interrupted: bool
    build: Callable[[Settings], SparseGP] = field(repr=False)
    coupling: tuple[Tried, ...] = ()

    @property
    def best_settings(self) -> dict[str, Any]:
        """Settings of the best trial, with its number of inducing environments."""
        return {**self.best_trial.settings, "n_inducing": self.best_trial.n_inducing}

    @property
    def best(self) -> SparseGP:
        """A new model with the best settings, unfitted: ``result.best.fit(train)``."""
        return self.build(self.best_settings)

    @property
    def seconds(self) -> float:
        """Time of all fits, s."""
        return sum(trial.seconds for trial in self.table)

    def lines(self) -> list[str]:
        """Return what was picked, the runners-up of its rung, the default and the coupling of elements, for `summary`.

        Errors are comparable within a rung, where all were fitted to the same structures.
        """
        best, last = self.best_trial, max(t.rung for t in self.table if not t.failure)
        compared = sorted((t for t in self.table if not t.failure and t.rung == min(last, 2)), key=lambda t: t.loss)
        others = [t for t in compared if key_of(t.settings) != key_of(best.settings)][:RUNNERS_UP]
        default = [t for t in self.table if key_of(t.settings) == key_of(self.default_trial.settings)][-1]
        lines = [f"settings            {self._told(best)}", *(f"  not taken         {self._told(t)}" for t in others)]
        if default not in others and default is not best:
            lines.append(f"  default           {self._told(default)}")
        lines += told_of(self.coupling)
        failed = sum(bool(t.failure) for t in self.table)
        fits = f"{len(self.table)} fits" + (f", {failed} failed" if failed else "")
        stopped = ["interrupted"] if self.interrupted else []
        return [*lines, f"search              {'; '.join([f'{fits}, {self.seconds:.0f} s', *self.notes, *stopped])}"]

    def _told(self, trial: Trial) -> str:
        """Say settings and left-out errors of one trial in a line."""
        chosen = ", ".join(
            f"{name} {_short(value)}" for name, value in trial.settings.items() if value not in (None, False)
        )
        kinds = [kind for kind in UNITS if kind in trial.rmse]
        left = [("groups" if self.objective == "groups" else "frames", trial.rmse), ("compositions", trial.beyond)]
        errors = [
            f"{what} {' ; '.join(f'{1e3 * one[k]:.3g} {UNITS[k][0]}' for k in kinds)}" for what, one in left if one
        ]
        size = f"M {trial.n_inducing}, {trial.n_structures} structures"
        return f"{chosen}; {size}: left-out {', '.join(errors)}; {trial.us_per_atom:.0f} µs/atom"

    def as_dict(self) -> dict[str, Any]:
        """Return everything as JSON values."""
        return {
            "best_settings": self.best_settings,
            "best": self.best_trial.as_dict(),
            "default": self.default_trial.as_dict(),
            "objective": self.objective,
            "kinds": list(self.kinds),
            "seconds": self.seconds,
            "interrupted": self.interrupted,
            "notes": list(self.notes),
            "coupling": [str(tried) for tried in self.coupling],
            "table": [trial.as_dict() for trial in self.table],
        }

    def to_csv(self, path: str | Path) -> None:
        """Write the table, one trial a line, whole or not at all; units stand in the head."""
        names = self._setting_names()
        kinds = self._kinds_shown()
        head = ["rung", "n_structures", "n_inducing", *names]
        head += [f"rmse_{kind}_{UNITS[kind][1]}" for kind in kinds]
        further = kinds if any(t.beyond for t in self.table) else []
        head += [f"beyond_{kind}_{UNITS[kind][1]}" for kind in further]
        head += ["loss", "seconds", "prediction_us_per_atom", "failure"]
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(head)
        for t in self.table:
            numbers = [t.rmse.get(kind, "") for kind in kinds] + [t.beyond.get(kind, "") for kind in further]
            numbers += [v if math.isfinite(v) else "" for v in (t.loss,)]
            speed = t.us_per_atom if math.isfinite(t.us_per_atom) else ""
            given = [t.settings.get(name, "") for name in names]
            writer.writerow(
                [t.rung, t.n_structures, t.n_inducing, *given, *numbers, round(t.seconds, 3), speed, t.failure]
            )
        with replacing(path) as temporary:
            temporary.write_text(text.getvalue(), encoding="utf-8")

    def __str__(self) -> str:
        """Return a table for people, the highest rung first, the best of each rung on top."""
        names, kinds = self._setting_names(), self._kinds_shown()
        head = ["rung", "structures", "M", *names, *(f"{kind} {UNITS[kind][0]}" for kind in kinds)]
        further = kinds if any(t.beyond for t in self.table) else []
        head += [*(f"beyond {UNITS[kind][0]}" for kind in further), "loss", "fit s", "µs/atom"]
        ordered = sorted(self.table, key=lambda t: (-t.rung, t.loss))
        rows = []
        for t in ordered[:SHOWN]:
            errors = [f"{1e3 * t.rmse[kind]:.2f}" if kind in t.rmse else "" for kind in kinds]
            errors += [f"{1e3 * t.beyond[kind]:.2f}" if kind in t.beyond else "" for kind in further]
            end = ["failed" if t.failure else f"{t.loss:.3f}", f"{t.seconds:.1f}"]
            end.append(f"{t.us_per_atom:.0f}" if math.isfinite(t.us_per_atom) else "")
            given = [_short(t.settings.get(name, "")) for name in names]
            rows.append([str(t.rung), str(t.n_structures), str(t.n_inducing), *given, *errors, *end])
        widths = [max(len(text) for text in column) for column in zip(head, *rows, strict=True)]
        lines = ["  ".join(f"{text:>{w}}" for text, w in zip(row, widths, strict=True)) for row in [head, *rows]]
        if len(ordered) > SHOWN:
            lines.append(f"… and {len(ordered) - SHOWN} more")
        how = {"cv": "left-out folds", "groups": "left-out groups (config_type)"}.get(
            self.objective, "left-out folds, and beyond: of left-out compositions or groups"
        )
        lines.append(f"errors are RMSE of {how}; loss is the sum of their logarithms over {', '.join(self.kinds)}")
        chosen = ", ".join(f"{name} {_short(value)}" for name, value in self.best_settings.items())
        lines.append(f"best: {chosen}")
        lines += [f"note: {note}" for note in self.notes]
        if self.interrupted:
            lines.append("note: interrupted; the best is that of what was tried")
        return "\n".join(lines)

    def _setting_names(self) -> list[str]:
        return list(dict.fromkeys(name for t in self.table for name in t.settings if name != "n_inducing"))

    def _kinds_shown(self) -> list[str]:
        return [kind for kind in UNITS if any(kind in t.rmse for t in self.table)]


def _short(value: object) -> str:
    if value is None:
        return "none"
    return f"{value:g}" if isinstance(value, float) else str(value)


CLIMB_SHARE = 0.3
"""Share of the time that is kept for more inducing environments."""

FITS_PER_CLIMB = 5
"""One fit in so many is kept for more inducing environments, where fits are counted."""

AFTER = 3.0
"""Fits like the last that a fit of everything and its calibration cost."""

AFTER_SHARE = 0.2
"""Share of the time that is kept for them."""

MINUTES = 5.0
"""Time of `potential` where neither a time nor a number of fits is given."""

CLIMB_COST = 2.5
"""Guessed growth of a fit's time when inducing environments double."""

WORTH = 0.02
"""Least fall of the loss for which inducing environments double again: 2 % off the product of the errors."""


def tune(
    train: Sequence[Atoms],
    *,
    budget_minutes: float | None = None,
    max_fits: int | None = None,
    space: Space | None = None,
    build: Callable[[Settings], SparseGP] | None = None,
    baseline: Baseline | None = None,
    keys: Mapping[str, str | None] | None = None,
    seed: int = 0,
    resume: str | Path | None = None,
    **options: Unpack[FitOptions],
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
    space
        Values of each setting; names may be tuples, ``{"cutoff": [4.5, 5.0], ("n_max", "l_max"): [(8, 6), (6, 4)]}``.
        None: `kernelpot.tuning.default_space`, cutoffs about `default_cutoff`, n_max and l_max, sigma, zeta, with and
        without a pair term: 450 combinations. ``default_space(train, descriptor="acsf")`` are symmetry functions with
        the Gaussian kernel: 360. Also understood: all that `kernelpot.tuning.default_model` takes.
    build
        Makes an unfitted model of a candidate's settings and `n_inducing`. None: `kernelpot.tuning.default_model`.
    baseline
        What the models learn the difference from, as in `SparseGP`; not with `build`, which has its own.
    keys
        Names of labels, as in `kernelpot.read`.
    seed
        Makes candidates, subsets, folds and models repeatable.
    resume
        A file of JSON lines that every trial is added to. A search that finds it goes on from it.
    **options
        How candidates are fitted and scored. `objective`, "cv" (default): folds are left out, the most alike together;
        "groups": each `config_type` is left out in turn, which asks how a model does on families that it has not seen;
        "both": the mean of "cv" and of left-out compositions, or groups where these do not differ, if there are three.
        `n_folds`, 8: folds for "cv". `folds`: what each structure is left out with instead, a number or a name.
        `n_inducing`, 500: inducing environments of the last rung. `max_inducing`, 2000: most that the best settings are
        tried with. `order`, "even" (default): candidates spread over the space; "descent": one setting after the other
        about the best so far. `after`, 0: fits like the last that time is kept for.

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
    unknown = sorted(set(options) - set(FitOptions.__annotations__))
    if unknown:
        raise TypeError(f"tune() got an unexpected keyword argument {unknown[0]!r}")
    budget, how = Budget.of(budget_minutes, max_fits), HowToFit(keys, seed, **options)
    structures = structure_list(train)
    validate(structures)
    labels = resolve(structures, keys)
    require_labels(labels, "cv")
    if how.folds is not None:
        fold_numbers(how.folds, len(structures))
    space = default_space(structures) if space is None else space
    descent = Descent(axes_of(space))
    queue = descent if how.order == "descent" else candidates(space, seed=seed)
    default = descent.default
    parts = Parts.of(structures, SOAP(n_max=4, l_max=3), n_folds=how.n_folds, seed=seed)
    if len(parts.order) < 2:
        raise ParameterError("`train` must hold at least two different structures to leave one out, got one.")
    if build is None:
        start = time.perf_counter()
        coupling, tried = coupling_of(default, structures, labels, seed=seed, baseline=baseline)
        budget.spent += time.perf_counter() - start
        make: Callable[[Settings], SparseGP] = partial(default_model, seed=seed, baseline=baseline, coupling=coupling)
    else:
        make, coupling, tried = build, None, ()
    scorer = Scorer(structures, parts, telling_kinds(labels), make, how)
    named = "default" if build is None else getattr(build, "__qualname__", type(build).__name__)
    difference = as_baseline(baseline)
    journal = Journal(
        resume,
        {
            "data": _digest(structures, labels),
            "build": named,
            "baseline": None if difference is None else difference.settings(),
            "objective": how.objective,
            "n_inducing": how.n_inducing,
            "n_folds": how.n_folds,
            "seed": how.seed,
            "shares": [list(SHARES), list(INDUCING_SHARES)],
            **({} if coupling is None else {"coupling": str(coupling[1])}),
            **({"order": how.order} if how.order != "even" else {}),
            **({} if how.folds is None else {"folds": np.asarray(how.folds).tolist()}),
        },
    )
    scorer.warm_up(default)
    sizes = ", ".join(str(len(members)) for members, _ in scorer.rungs)
    say(
        f"tune: {len(queue)} candidates, rungs of {sizes} structures, {budget.limits}; scored by "
        f"{', '.join(scorer.kinds)}"
    )
    bench = Bench(scorer, budget, journal)
    climbs = math.ceil(math.log2(how.max_inducing / how.n_inducing))
    kept = 0 if max_fits is None else min(climbs, max_fits // FITS_PER_CLIMB)
    reserve = 1.0 - (1.0 - CLIMB_SHARE * (climbs > 0)) * (1.0 - AFTER_SHARE * (how.after > 0.0))
    search = halve(queue, bench, scorer.costs, reserve=reserve, kept_fits=kept)
    most = min(how.max_inducing, sum(map(len, structures)))
    climb(search, bench, CLIMB_COST, limit=most, gain=WORTH, after=how.after)
    return TuneResult(
        table=search.trials,
        best_trial=search.best,
        default_trial=search.trials[0],
        objective=how.objective,
        kinds=scorer.kinds,
        notes=tuple(search.notes),
        interrupted=search.interrupted,
        build=make,
        coupling=tuple(tried),
    )


def potential(
    train: Sequence[Atoms],
    *,
    budget_minutes: float | None = None,
    max_fits: int | None = None,
    space: Space | None = None,
    baseline: Baseline | str | None = "auto",
    keys: Mapping[str, str | None] | None = None,
    seed: int = 0,
    resume: str | Path | None = None,
    **options: Unpack[FitOptions],
) -> SparseGP:
    """Return a fitted, calibrated potential whose terms, cutoff, resolution and environments its left-out errors chose.

    The coupling of the elements is found first, once (`SOAP`, ``channels="auto"``). Then settings are tried one after
    the other about the best so far, from ``SOAP(cutoff=default_cutoff(train))`` on, and sifted on three rungs as `tune`
    does. The loss is the mean of Σ_kind log RMSE of left-out frames and of left-out compositions, or `config_type`s
    where compositions do not differ; where there are fewer than three of these, of frames alone. `tune` is the same
    search, whose best is not fitted yet: its long form. See docs/tune.md.

    Parameters
    ----------
    train
        Structures with labels; frames of one trajectory in order.
    budget_minutes
        Time for everything, about; None: 5, or no limit where `max_fits` is given.
    max_fits
        Number of fits of the search at most. On its own it makes the model exactly repeatable.
    space
        Values of each setting, as in `tune`; None: `kernelpot.tuning.potential_space`.
    baseline
        What the model learns the difference from. "auto": `ZBL` is tried where atoms come closer than 0.9 sums of their
        covalent radii, and nothing else; not with a `space` of one's own.
    keys
        Names of labels, as in `kernelpot.read`.
    seed
        Makes everything but the clock repeatable.
    resume
        A file that every trial is added to; the same call goes on from it.
    **options
        As in `tune`; `objective` is "both" and `order` "descent" where not given. `folds` names what each structure is
        left out with, in place of folds of its own.

    Returns
    -------
    SparseGP
        Fitted to all of `train` and calibrated by folds. `summary()` says what was picked and what was not, each with
        its left-out errors; so do files. Ctrl-C ends the search; the best so far is fitted.

    Raises
    ------
    ParameterError
        An argument breaks its rule, there are fewer than two different structures, or no candidate could be fitted.
    LabelError
        Labels are missing or broken.
    DataError
        A structure or the file to resume from is unusable.
    """
    if isinstance(baseline, str) and baseline != "auto":
        raise ParameterError(f'`baseline` must be "auto", None or a baseline such as ZBL(), got {baseline!r}.')
    structures = structure_list(train)
    chosen: Any = {"objective": "both", "order": "descent", "after": AFTER} | dict(options)
    if space is None:
        validate(structures)
        space = potential_space(structures)
        if baseline != "auto":
            space.pop("zbl", None)
    result = tune(
        structures, budget_minutes=MINUTES if budget_minutes is None and max_fits is None else budget_minutes,
        max_fits=max_fits, space=space, baseline=None if isinstance(baseline, str) else baseline, keys=keys, seed=seed,
        resume=resume, **chosen,
    )  # fmt: skip
    say(f"potential: fit and calibration, about {AFTER * result.best_trial.seconds:.0f} s")
    model = result.best.fit(structures, keys=keys).calibrate(keys=keys)
    model.told_ = tuple(result.lines())
    return model


def coupling_of(
    default: Settings, structures: Sequence[Atoms], labels: Labels, *, seed: int, baseline: Baseline | None
) -> tuple[Coupling | None, tuple[Tried, ...]]:
    """Find once how much elements learn from each other, for all candidates; None where nothing is to be found."""
    try:
        model = default_model({"n_inducing": 50, **default}, seed=seed, baseline=baseline)
        kinds = telling_kinds(labels)
        less = less_baseline(model.baseline, structures, labels, kinds)
        _, tried = find_coupling(model.terms, structures, less, kinds=kinds, seed=seed)
    except (ParameterError, LinAlgError):
        return None, ()  # The trials say what is wrong.
    return ((species_of(structures), tried[0].setting), tried) if tried else (None, ())


def _digest(structures: Sequence[Atoms], labels: Labels) -> str:
    """Return a name of structures, labels and groups: trials of other data are not comparable."""
    digest = hashlib.blake2b(digest_size=16)
    for atoms, forces in zip(structures, labels.forces, strict=True):
        for array in (atoms.numbers, atoms.positions, atoms.cell.array, atoms.pbc):
            digest.update(np.ascontiguousarray(array).tobytes())
        digest.update(b"-" if forces is None else np.ascontiguousarray(forces).tobytes())
        digest.update(str(atoms.info.get("config_type", "")).encode())
    digest.update(np.ascontiguousarray(labels.energy).tobytes() + np.ascontiguousarray(labels.stress).tobytes())
    return digest.hexdigest()
