"""What each command does."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

import kernelpot as kp
from kernelpot.archive import replacing
from kernelpot.cli.common import given_noise, model_of, read, settings_json, shortened, source_of, write_structures
from kernelpot.cli.curation import curate as curate
from kernelpot.cli.options import NOISE_DEFAULTS
from kernelpot.cli.output import check_outputs, show, write_json
from kernelpot.errors import LabelError, ParameterError
from kernelpot.progress import track

if TYPE_CHECKING:
    from ase import Atoms

    from kernelpot.potentials.sparse_gp import SparseGP

CHUNK = 20
"""Structures predicted at a time, so that the progress bar moves."""


def select(args: Namespace) -> None:
    """Choose structures of a pool and write them."""
    from kernelpot.cli.choosing import choose

    choose(args)


def assess(args: Namespace) -> None:
    """Judge a set of structures, with a pool to add from where one is given."""
    from kernelpot.cli.advice import advise

    check_outputs({"--json": args.json}, [*args.train, *args.pool, *args.target])
    train = read(args, args.train)
    spec = model_of(args, kp.Noise(**given_noise(args, NOISE_DEFAULTS)))
    pool = read(args, args.pool) if args.pool else []
    target = read(args, args.target) if args.target else []
    text, content = advise(
        spec, train, pool, target, criterion=args.criterion, n=args.next, swaps=args.swaps, keys=args.keys
    )
    show(text, args.json)
    files = {"train": args.train, "pool": args.pool, "target": args.target}
    settings = settings_json(args) | {"noise": given_noise(args, NOISE_DEFAULTS)}
    write_json(args.json, {"files": files, "settings": settings} | content)


def fit(args: Namespace) -> None:
    """Fit a model, save it, and score it where test files are given."""
    from kernelpot.cli.tuning import check_tuning, settle

    inputs = [*args.train, *args.pool, *args.test]
    check_outputs({"--out": args.out, "--json": args.json, **check_tuning(args)}, inputs)
    train = read(args, args.train)
    test = read(args, args.test) if args.test else []
    if test and not any(atoms.calc is not None and atoms.calc.results for atoms in test):
        raise LabelError(f"--test {' '.join(args.test)}: a test needs labels, found none; name them with --keys")
    noise = _fit_noise(args)
    tuned = settle(args, train)
    model = model_of(args, noise) if tuned is None else tuned.best
    if args.pool:
        model = model.prepare([*read(args, args.pool), *train])
    model.fit(train)
    if args.calibrate:
        model = model.calibrate()
    model.save(args.out)
    scores = kp.evaluate(model, test) if test else None
    show(model.summary(), args.json)
    if scores is not None:
        show(f"\ntest: {len(test)} structures\n{scores}", args.json)
    show(f"\nwrote {args.out}", args.json)
    tested = {"test": scores.as_dict() if scores is not None else None}
    write_json(args.json, _model_json(model, args) | tested | ({"tuning": tuned.as_dict()} if tuned else {}))


def regress(args: Namespace) -> None:
    """Fit a model of one property."""
    from kernelpot.cli import regression

    regression.regress(args)


def evaluate(args: Namespace) -> None:
    """Score a saved model on labelled structures."""
    check_outputs({"--json": args.json}, [args.model, *args.files])
    model = _loaded(args)
    if not isinstance(model, kp.SparseGP | kp.ForceRidge):
        from kernelpot.cli.regression import evaluate_property

        if isinstance(model, kp.Classifier):
            raise ParameterError(
                f"{args.model} holds a Classifier, and `evaluate` scores numbers; `kernelpot predict` writes its "
                "classes, and kp.load(path).score(structures, classes) is their accuracy"
            )
        evaluate_property(args, model)
        return
    structures = read(args, args.files)
    scores = kp.evaluate(model, structures)
    show(f"{args.model} on {len(structures)} structures\n{scores}", args.json)
    write_json(args.json, {"model": args.model, "files": args.files, "scores": scores.as_dict()})


def predict(args: Namespace) -> None:
    """Write structures with predictions and their standard deviations."""
    inputs = [args.model, *args.files]
    check_outputs({"--out": args.out, "--json": args.json}, inputs)
    model = _loaded(args)
    if not isinstance(model, kp.SparseGP | kp.ForceRidge):
        from kernelpot.cli.regression import predict_classes, predict_property

        (predict_classes if isinstance(model, kp.Classifier) else predict_property)(args, model)
        return
    structures = read(args, args.files)
    starts = range(0, len(structures), CHUNK)
    predicted = [
        atoms
        for start in track(starts, "predicting")
        for atoms in _with_predictions(model, structures[start : start + CHUNK])
    ]
    write_structures(args.out, predicted)
    rows = [
        (
            number,
            source_of(atoms, number),
            str(atoms.symbols),
            len(atoms),
            atoms.get_potential_energy(),
            1000 * atoms.info.get("energy_std", np.nan) / len(atoms),
            float(np.abs(atoms.get_forces(apply_constraint=False)).max()),
            float(np.max(atoms.arrays.get("forces_std", np.nan))),
            *_beyond(atoms),
        )
        for number, atoms in enumerate(predicted)
    ]
    head = (
        "#",
        "source",
        "formula",
        "atoms",
        "energy eV",
        "std meV/atom",
        "max |F| eV/Å",
        "max std eV/Å",
        "grade",
        "atoms > 1",
    )
    silent = (
        "" if "energy_std" in predicted[0].info else "no standard deviations: files of a ForceRidge hold means alone\n"
    )
    show(f"{shortened(head, rows)}\n\n{_grades(predicted)}{silent}wrote {args.out}", args.json)
    write_json(
        args.json,
        {
            "model": args.model,
            "out": args.out,
            "structures": [
                {
                    "source": row[1],
                    "formula": row[2],
                    "n_atoms": row[3],
                    "energy_eV": row[4],
                    "energy_std_eV": row[5] * row[3] / 1000,
                    "largest_force_eV_per_A": row[6],
                    "largest_force_std_eV_per_A": row[7],
                    "largest_extrapolation_grade": row[8],
                    "atoms_beyond_training": row[9],
                }
                for row in rows
            ],
        },
    )


def demo(args: Namespace) -> None:
    """Run the demonstration and write its report."""
    check_outputs({"--out": args.out, "--json": args.json})
    from kernelpot.cli.story import summary, write_report
    from kernelpot.demo import Plan, run

    outcome = run(Plan(n_pool=args.pool, n_chosen=args.n, seed=args.seed))
    with replacing(args.out) as temporary:
        write_report(outcome, temporary)
    show(f"{summary(outcome)}\n\nwrote {args.out}; open it in a browser", args.json)
    write_json(args.json, outcome.as_dict())


def _loaded(args: Namespace) -> Any:
    """Read a model that the command line has a use for."""
    model = kp.load(args.model)
    if not isinstance(model, kp.SparseGP | kp.ForceRidge | kp.KernelRidge | kp.Classifier):
        raise ParameterError(f"{args.model} holds a {type(model).__name__}, which is for Python alone")
    of_features = isinstance(model, kp.Classifier) and hasattr(model, "n_features_in_")
    if of_features or (isinstance(model, kp.KernelRidge) and not hasattr(model.kernel_, "descriptor")):
        raise ParameterError(f"{args.model} is a model of features or of several kernels, which is for Python alone")
    return model


def _fit_noise(args: Namespace) -> kp.Noise | str:
    given = {kind for kind in NOISE_DEFAULTS if hasattr(args, f"noise_{kind}")}
    if args.noise is None and not given:
        return "cv"
    if args.noise is None:
        return kp.Noise(**given_noise(args, NOISE_DEFAULTS))
    if given:
        names = ", ".join(f"--noise-{kind}" for kind in sorted(given))
        raise ParameterError(f"`--noise` already says what {names} says; give one or the other")
    if isinstance(args.noise, str):
        return args.noise
    return kp.Noise(**dict(zip(NOISE_DEFAULTS, (*args.noise, None), strict=False)))


def _with_predictions(model: SparseGP | kp.ForceRidge, structures: Sequence[Atoms]) -> list[Atoms]:
    """Copy structures with the predictions as their labels, the standard deviations, where there are any, beside."""
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


def _beyond(atoms: Atoms) -> tuple[float, int]:
    """Return the largest extrapolation grade and how many atoms are beyond 1; NaN and 0 for models without grades."""
    grades = atoms.arrays.get("extrapolation", np.array([np.nan]))
    return float(np.max(grades)), int(np.sum(grades > 1.0))


def _grades(structures: Sequence[Atoms]) -> str:
    """Say how many atoms lie outside what training saw."""
    graded = [atoms.arrays["extrapolation"] for atoms in structures if "extrapolation" in atoms.arrays]
    if not graded:
        return ""
    grades = np.concatenate(graded)
    one, two = int(np.sum(grades > 1.0)), int(np.sum(grades > 2.0))
    return (
        f"extrapolation: {one} of {len(grades)} atoms beyond 1 (the 99th percentile of the training set), {two} beyond "
        f"2, largest grade {grades.max():.2f}\n"
    )


def _model_json(model: SparseGP, args: Namespace) -> dict[str, Any]:
    return {
        "model": args.out,
        "train": args.train,
        "settings": settings_json(args),
        "noise": {kind: model.noise_.sigma(kind) for kind in model.noise_.kinds},
        "amplitude": model.amplitude_,
        "calibration": dict(model.calibration_),
        "cross_validation": dict(model.cross_validation_ or {}),
        "n_inducing": model.n_inducing_,
        "species": [int(z) for z in model.species_],
        "baseline_potential": model.settings()["baseline"],
        "baseline": {str(key): value for key, value in dict(model.baseline_).items()},
    }
