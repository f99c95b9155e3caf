"""Coverage, log score and rank of standard deviations on test sets, after `calibrate` by folds of the training set."""

from __future__ import annotations

from copy import copy
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.harness import Report, Settings
from benchmarks.label_sets import read

if TYPE_CHECKING:
    from ase import Atoms

    import kernelpot as kp
    from kernelpot.judgement.intervals import KindReliability, Measured, Reliability
    from kernelpot.potentials.calibration import Residuals

ENOUGH = 500
"""Test energies below which energies are judged by pooled folds alone."""

POOLED = 5
"""Parts of the left-out errors: each is judged by a calibration to the other four."""

TARGETS = {"68": (68.27, 4.0), "95": (95.0, 2.0)}
"""Coverage, and how far from it a set may be, %; twice the standard error over structures where that is larger."""

FEW = 100
"""Test structures that the model as fitted is judged on."""

RANK = 0.8
"""Least share of its ceiling that the rank correlation should reach."""


@dataclass(frozen=True)
class CalibrationSet:
    """Files of a set, and the descriptor; lengths in Å.

    Attributes
    ----------
    train, test
        Files; without test files the first are split at random.
    other
        Test files of another kind than was trained on, reported apart.
    at_most
        Training structures, drawn at random where there are more.
    n_test
        Structures held out of `train` where there are no test files.
    """

    train: tuple[str, ...]
    test: tuple[str, ...]
    cutoff: float
    n_inducing: int = 400
    n_max: int = 8
    l_max: int = 6
    at_most: int = 100_000
    n_test: int = 400
    scaling: tuple[float, float] | None = None
    other: tuple[str, ...] = ()


def _mlearn(element: str, reach: float, at_most: int) -> CalibrationSet:
    """Descriptor of the accuracy cases, with fewer radial functions."""
    files = f"mlearn/{element}_train", f"mlearn/{element}_test"
    return CalibrationSet(
        files[:1], files[1:], round(1.4 * reach, 2), 300, at_most=at_most, scaling=(round(0.6 * reach, 2), 6.0)
    )


SETS = {
    "Si": _mlearn("Si", 5.0, 110),
    "Ge": _mlearn("Ge", 5.4, 100),
    "Li": _mlearn("Li", 5.5, 120),
    "Ni": _mlearn("Ni", 4.2, 60),
    "ethanol": CalibrationSet(("rmd17/ethanol_train",), ("rmd17/ethanol_test",), 4.0, 400, l_max=5, at_most=400),
    "acac": CalibrationSet(
        ("acac/train_300K",), ("acac/test_300K",), 4.0, 400, l_max=5, at_most=400, other=("acac/test_600K",)
    ),
    "AgPd": CalibrationSet(
        ("agpd/AgPd_bulk_master", "agpd/AgPd_slab_334"), (), 5.0, n_max=6, l_max=5, at_most=400, n_test=300,
        other=("agpd/AgPd_slab_225",),
    ),
}  # fmt: skip


def run(settings: Settings, *, name: str) -> Report:
    """Fit, calibrate by folds, and judge on the test set."""
    import kernelpot as kp

    chosen = SETS[name]
    train, test = _split(chosen, quick=settings.quick)
    other = _named(chosen.other)[:: 20 if settings.quick else 1]
    n_max, l_max, n_inducing = (4, 3, 60) if settings.quick else (chosen.n_max, chosen.l_max, chosen.n_inducing)
    soap = kp.SOAP(cutoff=chosen.cutoff, n_max=n_max, l_max=l_max, scaling=chosen.scaling)
    model = kp.SparseGP(soap, kp.DotProduct(2), n_inducing=n_inducing, noise="cv")
    model.fit(train, keys={"stress": None})
    residuals, calibrated = _calibrated(model)
    before = kp.reliability(model, test[:: 1 + len(test) // FEW], keys={"stress": None})
    after = kp.reliability(calibrated, test, keys={"stress": None})
    report = Report()
    _judge(report, name, after, len(test))
    pooled = _pooled_energies(residuals["energy"])
    _judge_coverage(report, f"{name} energy, {POOLED} pooled folds", pooled, judged=len(train) >= 100)
    scales = calibrated.fitted_.calibration
    shape = scales.shape["forces"]
    report.note(
        f"{len(train)} training structures, {len(test)} test structures, {model.n_inducing_} inducing environments; "
        f"factors {_short(scales.factor)}, floors {_short(scales.noise)}; "
        f"forces: power of the latent std {shape.latent_power:.2f}, of the scarcity {shape.scarcity_power:.2f}, "
        f"of the strangeness {shape.strangeness_power:.2f}, "
        f"95 % interval {shape.quantile(0.95):.2f} std"
    )
    for group, kinds in after.groups.items():
        if "forces" not in kinds:
            continue
        known = kinds["forces"]
        report.add(f"{name} forces, {group}: {RANK} × ceiling - rank", RANK * known.ceiling - known.rank, target=0.0,
                   note=_sentence(known))  # fmt: skip
    for kind, found in before.overall.items():
        report.note(f"as fitted, {kind}: {_sentence(found)}")
    report.details = {"before": before.as_dict(), "after": after.as_dict()}
    if other:
        unseen = kp.reliability(calibrated, other, keys={"stress": None})
        for kind, found in unseen.overall.items():
            report.note(f"{chosen.other[0]}, not of the kind trained on, {kind}: {_sentence(found)}")
        report.note(_in_step(after.overall["forces"], unseen.overall["forces"]))
        report.details["other"] = unseen.as_dict()
    if len({atoms.info.get("config_type", "") for atoms in train}) > 1 and name == "AgPd":
        by_group = model.calibrate(groups=True)
        apart = kp.reliability(by_group, other, keys={"stress": None})
        for kind, found in apart.overall.items():
            report.note(f"calibrated by leaving whole groups out, {chosen.other[0]}, {kind}: {_sentence(found)}")
        report.details["leave_one_group_out"] = apart.as_dict()
    return report


def _split(known: CalibrationSet, *, quick: bool) -> tuple[list[Atoms], list[Atoms]]:
    train, test = _named(known.train), _named(known.test)
    rng = np.random.default_rng(0)
    if not test:
        order = rng.permutation(len(train))
        held, kept = order[: known.n_test], order[known.n_test :]
        train, test = [train[k] for k in np.sort(kept)], [train[k] for k in np.sort(held)]
    if len(train) > known.at_most:
        train = [train[k] for k in np.sort(rng.permutation(len(train))[: known.at_most])]
    return (train[::8], test[::8]) if quick else (train, test)


def _named(files: tuple[str, ...]) -> list[Atoms]:
    """Read files; structures without a group get their file's name where there are several files."""
    found = []
    for file in files:
        for atoms in read((file,)):
            if len(files) > 1:
                atoms.info["config_type"] = file.split("/")[-1]
            found.append(atoms)
    return found


def _judge(report: Report, name: str, found: Reliability, n_test: int) -> None:
    for kind, known in found.overall.items():
        judged = kind == "forces" or n_test >= ENOUGH
        if judged:
            _judge_coverage(report, f"{name} {kind}", {"68": known.coverage_68, "95": known.coverage_95}, judged=True)
        report.add(
            f"{name} {kind}: {RANK} × ceiling - rank", RANK * known.ceiling - known.rank,
            target=0.0 if kind == "forces" else None, note=_sentence(known),
        )  # fmt: skip


def _judge_coverage(report: Report, what: str, found: dict[str, Measured], *, judged: bool) -> None:
    for level, measured in found.items():
        expected, allowed = TARGETS[level]
        value, error = 100.0 * measured.value, 100.0 * measured.error
        report.add(
            f"{what}: {level} % interval, coverage off by", abs(value - expected), "%",
            target=max(allowed, 2.0 * error) if judged else None, note=f"{value:.1f} ± {error:.1f} % inside",
        )  # fmt: skip


def _calibrated(model: kp.SparseGP) -> tuple[dict[str, Residuals], kp.SparseGP]:
    """Do what `model.calibrate()` does, and keep the left-out residuals."""
    from kernelpot.potentials.calibration import calibrated
    from kernelpot.potentials.prediction import residuals_of
    from kernelpot.potentials.resampling import leave_out

    prediction, train, witness = leave_out(model, None, folds=16, groups=False, keys=None)
    result, errors = copy(model), residuals_of(prediction, train.labels, witness)
    result.fitted_ = replace(model.state, calibration=calibrated(model.state.calibration, errors, "conformal"))
    return residuals_of(prediction, train.labels), result


def _pooled_energies(residuals: Residuals) -> dict[str, Measured]:
    """Coverage of left-out energies, each part by the spreading fitted to the other parts."""
    from kernelpot.judgement.intervals import Measured
    from kernelpot.potentials.calibration import fit_spreading

    part = np.random.default_rng(0).permutation(len(residuals.error)) % POOLED
    inside = {level: np.zeros(len(part)) for level in TARGETS}
    for k in range(POOLED):
        mine = part == k
        spreading = fit_spreading(residuals.take(~mine), method="conformal")
        here = residuals.take(mine)
        z = np.abs(here.error) / spreading.std(here)
        for level, (expected, _) in TARGETS.items():
            inside[level][mine] = z <= spreading.shape.quantile(expected / 100.0)
    n = len(part)
    return {level: Measured(float(v.mean()), float(v.std() / np.sqrt(n))) for level, v in inside.items()}


def _in_step(seen: KindReliability, other: KindReliability) -> str:
    std, rmse = ([float(np.sqrt(np.mean(np.square(v)))) for v in values] for values in (
        (seen.bin_std, other.bin_std),
        ([m.value for m in seen.bin_rmse], [m.value for m in other.bin_rmse]),
    ))  # fmt: skip
    ratios = f"root mean square std × {std[1] / std[0]:.2f}, RMSE × {rmse[1] / rmse[0]:.2f}"
    return f"forces, the other set over the test set: {ratios}"


def _sentence(known: KindReliability) -> str:
    return (
        f"{100 * known.coverage_68.value:.1f} ± {100 * known.coverage_68.error:.1f} ; "
        f"{100 * known.coverage_95.value:.1f} ± {100 * known.coverage_95.error:.1f} % inside, "
        f"log score {known.log_score.value:.3f} ± {known.log_score.error:.3f}, "
        f"rank {known.rank:.2f} of {known.ceiling:.2f}"
        + (f", {100 * known.silent:.0f} % zero by symmetry" if known.silent else "")
    )


def _short(table: Any) -> str:
    return ", ".join(f"{kind} {value:.3g}" for kind, value in table.items())
