"""What ``kernelpot fit``, ``evaluate`` and ``predict`` do, and the demonstration."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any

import numpy as np

import kernelpot as kp
from kernelpot.archive import replacing
from kernelpot.cli.options import Check, Demo, Evaluate, Fit, PotentialOptions, Predict
from kernelpot.cli.printing import (
    cells_of,
    check_outputs,
    facts_of,
    read,
    settled,
    shortened,
    show,
    table,
    write_json,
    write_structures,
)
from kernelpot.cli.regression import evaluate_property, predict_classes, predict_property
from kernelpot.data.stream import species_of
from kernelpot.errors import LabelError, ParameterError
from kernelpot.progress import track

if TYPE_CHECKING:
    from ase import Atoms

    from kernelpot.potentials.sparse_gp import SparseGP
    from kernelpot.tuning import TuneResult
    from kernelpot.tuning.candidates import Space

CHUNK = 20
"""Structures predicted at a time, so that the progress bar moves."""

INDUCING, MOST_INDUCING = 500, 2000
"""Inducing environments that settings are compared with, and the most that the best are given."""

OPTIONS = {"n_radial": "n_max"}
"""Options whose names are not those of the settings."""


def fit(options: Fit) -> None:
    """Fit a model, save it, and score it where test files are given."""
    from kernelpot.tuning.candidates import default_model

    options.check()
    outputs = {"--out": options.out, "--json": options.json} | options.tuning.outputs()
    check_outputs(outputs, [*options.train, *options.pool, *options.test])
    train = read(options, options.train)
    test = read(options, options.test) if options.test else []
    if test and not any(atoms.calc is not None and atoms.calc.results for atoms in test):
        raise LabelError(f"--test {' '.join(options.test)}: a test needs labels, found none; name them with --keys")
    noise, how = options.noises(), "drop" if options.drop_suspects else options.suspects
    if options.tuning.asked and how == "drop":
        # A search is to see none of them either.
        found = kp.check_labels(train)
        show(f"{found}\n", options.json)
        train = [train[k] for k in found.kept]
    settings, tuned = _settled(options, train)
    model = settings.spec(noise, zbl=options.zbl) if tuned is None else tuned.best
    if options.pool:
        pool = [*read(options, options.pool), *train]
        if tuned is not None and set(species_of(pool)) != set(species_of(train)):
            # The coupling that the search found is for the elements of the training set alone.
            zbl = kp.ZBL() if options.zbl else None
            model = default_model(tuned.best_settings, seed=settings.seed, baseline=zbl)
        model = model.prepare(pool)
    model.fit(train, suspects=how)
    if options.calibrate or tuned is not None:
        model = model.calibrate()
    model.told_ = () if tuned is None else tuple(tuned.lines())
    model.save(options.out)
    scores = kp.evaluate(model, test) if test else None
    show(model.summary(), options.json)
    if model.suspects_ is not None and model.suspects_.suspects:
        show(f"\n{model.suspects_}", options.json)
    if scores is not None:
        show(f"\ntest: {len(test)} structures\n{scores}", options.json)
    show(f"\nwrote {options.out}", options.json)
    content = {
        "model": options.out,
        "train": options.train,
        "settings": settings.as_dict(),
        "noise": {kind: model.noise_.sigma(kind) for kind in model.noise_.kinds},
        "amplitude": model.amplitude_,
        "calibration": dict(model.calibration_),
        "cross_validation": dict(model.cross_validation_ or {}),
        "n_inducing": model.n_inducing_,
        "species": [int(z) for z in model.species_],
        "baseline_potential": model.settings()["baseline"],
        "e0": model.e0_,
        # The old name of e0, by atomic number, for one release.
        "baseline": {str(z): e0 for z, e0 in zip(model.species_, model.e0_.values(), strict=True)},
        "suspects": None if model.suspects_ is None else model.suspects_.as_dict() | {"done": how},
        "test": scores.as_dict() if scores is not None else None,
    }
    write_json(options.json, content | ({"tuning": tuned.as_dict()} if tuned else {}))


def _settled(options: Fit, train: Sequence[Atoms]) -> tuple[PotentialOptions, TuneResult | None]:
    """Fill in the settings that the user left open, by a search where one is asked for.

    Raises
    ------
    KeyboardInterrupt
        The user stopped the search; the table of what was tried is written.
    """
    settings, tuning = options.model, options.tuning
    if not tuning.asked:
        return settled(settings, train), None
    from kernelpot.tuning.search import AFTER

    most = settings.n_inducing if "n_inducing" in settings.given else MOST_INDUCING
    result = kp.tune(
        train,
        budget_minutes=tuning.minutes,
        max_fits=tuning.tune_fits,
        objective="groups" if tuning.tune_groups else "both",
        order="descent",
        after=AFTER,
        space=_space(settings, train, zbl=options.zbl),
        n_inducing=min(INDUCING, most),
        max_inducing=most,
        baseline=kp.ZBL() if options.zbl else None,
        seed=settings.seed,
        resume=tuning.tune_resume,
    )
    if tuning.tune_table:
        result.to_csv(tuning.tune_table)
    show(f"{result}\n", options.json)
    if result.interrupted:
        raise KeyboardInterrupt
    best = {OPTIONS.get(name, name): value for name, value in result.best_settings.items()}
    return replace(settings, **{f.name: best[f.name] for f in fields(settings) if f.name in best}), result


def _space(settings: PotentialOptions, train: Sequence[Atoms], *, zbl: bool) -> Space:
    """Return the space of the descriptor, with what the user gave held fast."""
    from kernelpot.tuning.candidates import default_space, potential_space

    given = settings.given
    kernel = "zeta" if settings.gaussian is None else "gaussian"
    space: dict[str | tuple[str, ...], Sequence[object]] = {}
    acsf = settings.descriptor == "acsf"
    full = default_space(train, descriptor="acsf") if acsf else potential_space(train)
    for names, values in full.items():
        options = {name: OPTIONS.get(name, name) for name in ((names,) if isinstance(names, str) else names)}
        if names == "zbl" and zbl:
            continue
        if names in ("zeta", "gaussian") and (settings.gaussian is not None or "zeta" in given):
            space[kernel] = [getattr(settings, kernel)]
        elif any(option in given for option in options.values()):
            # What is set together with a given value stays at its default.
            space |= {name: [getattr(settings, option)] for name, option in options.items()}
        else:
            space[names] = values
    return space


def check(options: Check) -> None:
    """Say which labels do not fit the others."""
    check_outputs({"--out": options.out, "--json": options.json}, [*options.files, *filter(None, [options.model])])
    model: Any = None if options.model is None else _loaded(options.model)
    if model is not None and not isinstance(model, kp.SparseGP):
        raise ParameterError(f"{options.model} must be a potential that `kernelpot fit` wrote, to judge labels by")
    structures = read(options, options.files)
    found = kp.check_labels(structures, model)
    if options.out is not None:
        write_structures(options.out, [structures[k] for k in found.kept])
    wrote = f"\n\nwrote {options.out}: {len(found.kept)} structures" if options.out is not None else ""
    show(f"{found}{wrote}", options.json)
    write_json(options.json, {"files": options.files, "model": options.model, **found.as_dict()})


def evaluate(options: Evaluate) -> None:
    """Score a saved model on labelled structures."""
    check_outputs({"--json": options.json}, [options.model, *options.files])
    model = _loaded(options.model)
    if isinstance(model, kp.Classifier):
        raise ParameterError(
            f"{options.model} holds a Classifier, and `evaluate` scores numbers; `kernelpot predict` writes its "
            "classes, and kp.load(path).score(structures, classes) is their accuracy"
        )
    if isinstance(model, kp.KernelRidge):
        evaluate_property(options, model)
        return
    structures = read(options, options.files)
    scores = kp.evaluate(model, structures)
    show(f"{options.model} on {len(structures)} structures\n{scores}", options.json)
    write_json(options.json, {"model": options.model, "files": options.files, "scores": scores.as_dict()})


def predict(options: Predict) -> None:
    """Write structures with predictions and their standard deviations."""
    check_outputs({"--out": options.out, "--json": options.json}, [options.model, *options.files])
    model = _loaded(options.model)
    if isinstance(model, kp.Classifier):
        predict_classes(options, model)
        return
    if isinstance(model, kp.KernelRidge):
        predict_property(options, model)
        return
    found = _Predictions(model, read(options, options.files))
    write_structures(options.out, found.structures)
    show(f"{found.table()}\n\n{found.remarks()}wrote {options.out}", options.json)
    write_json(options.json, {"model": options.model, "out": options.out, "structures": found.facts})


def demo(options: Demo) -> None:
    """Run the demonstration and write its report."""
    check_outputs({"--out": options.out, "--json": options.json})
    from kernelpot.demo import DemoPlan, run
    from kernelpot.demo.pool import SHARES
    from kernelpot.demo.story import UNITS, errors, write_report

    if options.pool < len(SHARES) or not 2 <= options.n <= options.pool:
        raise ParameterError(
            f"`--pool` must be at least {len(SHARES)} and `-n` from 2 to that, got {options.pool} and {options.n}"
        )
    outcome = run(DemoPlan(n_pool=options.pool, n_chosen=options.n, seed=options.seed))
    with replacing(options.out) as temporary:
        write_report(outcome, temporary)
    head = ["chosen by", *(f"{kind} {error}" for kind in UNITS for error in ("MAE", "RMSE", "worst"))]
    rows = [[name, *(1000 * value for value in values)] for name, values in errors(outcome)]
    moved = outcome.dynamics
    show(
        f"held-out errors, energies in meV/atom, forces in meV/Å ({outcome.plan.n_chosen} labels per arm)\n"
        f"{table(head, rows)}\n\nmolecular dynamics of {moved.formula}, {moved.times[-1]:.1f} ps: total energy drifts "
        f"{moved.drift:+.3f} meV/atom\n\nwrote {options.out}; open it in a browser",
        options.json,
    )
    write_json(options.json, outcome.as_dict())


def _loaded(path: str) -> SparseGP | kp.ForceRidge | kp.KernelRidge | kp.Classifier:
    """Read a model that the command line has a use for."""
    model: Any = kp.load(path)
    if not isinstance(model, kp.SparseGP | kp.ForceRidge | kp.KernelRidge | kp.Classifier):
        raise ParameterError(f"{path} holds a {type(model).__name__}, which is for Python alone")
    of_features = isinstance(model, kp.Classifier) and hasattr(model, "n_features_in_")
    if of_features or (isinstance(model, kp.KernelRidge) and not hasattr(model.kernel_, "descriptor")):
        raise ParameterError(f"{path} is a model of features or of several kernels, which is for Python alone")
    return model


class _Predictions:
    """Structures with predictions as their labels, and what is told of them."""

    def __init__(self, model: SparseGP | kp.ForceRidge, structures: Sequence[Atoms]) -> None:
        self.structures = [
            atoms
            for start in track(range(0, len(structures), CHUNK), "predicting")
            for atoms in self._labelled(model, structures[start : start + CHUNK])
        ]
        self.facts = [
            facts_of(atoms, number)
            | {
                "energy_eV": atoms.get_potential_energy(),
                "energy_std_eV": atoms.info.get("energy_std", np.nan),
                "largest_force_eV_per_A": float(np.abs(atoms.get_forces(apply_constraint=False)).max()),
                "largest_force_std_eV_per_A": float(np.max(atoms.arrays.get("forces_std", np.nan))),
                "largest_extrapolation_grade": float(np.max(atoms.arrays.get("extrapolation", np.nan))),
                "atoms_beyond_training": int(np.sum(atoms.arrays.get("extrapolation", np.zeros(0)) > 1.0)),
            }
            for number, atoms in enumerate(self.structures)
        ]

    def table(self) -> str:
        """Lay out the predictions as a table, shortened where it is long."""
        head = ("#", "source", "formula", "atoms", "energy eV", "std meV/atom", "max |F| eV/Å", "max std eV/Å",
                "max grade", "atoms beyond 1")  # fmt: skip
        rows = [
            (
                k,
                *cells_of(atoms, k),
                one["energy_eV"],
                1000 * one["energy_std_eV"] / one["n_atoms"],
                one["largest_force_eV_per_A"],
                one["largest_force_std_eV_per_A"],
                one["largest_extrapolation_grade"],
                one["atoms_beyond_training"],
            )
            for k, (atoms, one) in enumerate(zip(self.structures, self.facts, strict=True))
        ]
        return shortened(head, rows)

    def remarks(self) -> str:
        """Say how many atoms lie outside what training saw, and whether there are standard deviations."""
        silent = "no standard deviations: files of a ForceRidge hold means alone\n"
        text = "" if "energy_std" in self.structures[0].info else silent
        graded = [atoms.arrays["extrapolation"] for atoms in self.structures if "extrapolation" in atoms.arrays]
        if not graded:
            return text
        grades = np.concatenate(graded)
        one, two = int(np.sum(grades > 1.0)), int(np.sum(grades > 2.0))
        return (
            f"extrapolation grades: {one} of {len(grades)} atoms beyond 1 (the 99th percentile of the training set), "
            f"{two} beyond 2, largest {grades.max():.2f}\n{text}"
        )

    @staticmethod
    def _labelled(model: SparseGP | kp.ForceRidge, structures: Sequence[Atoms]) -> list[Atoms]:
        """Copy structures with the predictions as their labels, and the standard deviations, if any, beside."""
        from ase.calculators.singlepoint import SinglePointCalculator

        prediction = model.predict(structures)
        copies = []
        for s, atoms in enumerate(structures):
            copy = atoms.copy()
            results = {
                "energy": float(prediction.energy[s]),
                "forces": prediction.forces[s],
                "energies": prediction.local_energy[s],
            }
            copy.info["predicted_by"] = "kernelpot"
            spread = prediction.label
            if spread is not None:
                copy.info["energy_std"] = float(spread.energy_std[s])
                copy.arrays["forces_std"] = np.array(spread.forces_std[s])
                copy.arrays["energies_std"] = np.array(spread.local_energy_std[s])
            if prediction.extrapolation is not None:
                copy.arrays["extrapolation"] = np.array(prediction.extrapolation[s])
            if np.isfinite(prediction.stress[s]).all():
                results["stress"] = prediction.stress[s]
                if spread is not None:
                    copy.info["stress_std"] = np.array(spread.stress_std[s])
            copy.calc = SinglePointCalculator(copy, **results)
            copies.append(copy)
        return copies
