"""What the repulsion of nuclei does for a fit: compressed tantalum by group, and the sets its distances come from."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from benchmarks.harness import Report, Settings
from benchmarks.systems import data

if TYPE_CHECKING:
    from ase import Atoms

    from kernelpot.judgement.scores import Scores

N_INDUCING = 200

CHOSEN_ON = {
    "Si": "mlearn/Si_train.xyz.xz",
    "Ge": "mlearn/Ge_train.xyz.xz",
    "Li": "mlearn/Li_train.xyz.xz",
    "Ni": "mlearn/Ni_train.xyz.xz",
    "acac 600 K": "acac/train_600K.xyz.xz",
    "ethanol": "rmd17/ethanol_train.xyz.xz",
    "AgPd": "agpd/AgPd_bulk_master.xyz.xz",
}
"""Training sets that the default distances were chosen on: 80 structures to fit, 100 others to judge."""


def run(settings: Settings) -> Report:
    """Fit with and without, compare held-out errors."""
    report = Report()
    for pairs in (False, True):
        _tantalum(report, settings, pairs=pairs)
    for name, file in CHOSEN_ON.items():
        structures = _read(file)
        order = np.random.default_rng(1).permutation(len(structures))
        n_train, n_test = (20, 10) if settings.quick else (80, 100)
        train, test = ([structures[k] for k in part] for part in (order[:n_train], order[n_train : n_train + n_test]))
        for pairs in (False, True):
            plain, zbl = (_scores(train, test, settings, zbl=on, pairs=pairs) for on in (False, True))
            for kind in ("energy", "forces"):
                what = f"{name}{_with(pairs)} {kind}: RMSE"
                _row(report, what, kind, zbl.overall[kind].rmse, plain.overall[kind].rmse)
        if settings.quick:
            break
    report.note(f"ours: baseline=ZBL(); M = {N_INDUCING}, zeta 2, fits to random structures, errors on others")
    return report


def _tantalum(report: Report, settings: Settings, *, pairs: bool) -> None:
    structures = _read("ta_snap/ta_all.xyz.xz")
    groups = np.array([str(atoms.info["config_type"]) for atoms in structures])
    rng = np.random.default_rng(0)
    half = np.zeros(len(structures), dtype=bool)
    for group in np.unique(groups):
        members = rng.permutation(np.flatnonzero(groups == group))
        half[members[: (len(members) + 1) // 2]] = True
    train, test = ([structures[k] for k in np.flatnonzero(part)] for part in (half, ~half))
    plain, zbl = (_scores(train, test, settings, zbl=on, pairs=pairs) for on in (False, True))
    for kind in ("energy", "forces", "stress"):
        _row(report, f"Ta{_with(pairs)} {kind}: RMSE", kind, zbl.overall[kind].rmse, plain.overall[kind].rmse)
    for group in [] if pairs else zbl.groups:
        for kind in ("energy", "forces"):
            pair = [scores.groups[group][kind].rmse for scores in (zbl, plain)]
            _row(report, f"Ta {group}, {kind}: RMSE", kind, *pair)


def _scores(train: list[Atoms], test: list[Atoms], settings: Settings, *, zbl: bool, pairs: bool) -> Scores:
    import kernelpot as kp

    tantalum = bool((train[0].numbers == 73).all())
    soap = kp.SOAP(cutoff=4.7 if tantalum else 4.5, n_max=6, l_max=4, sigma=0.5)
    model = kp.SparseGP(
        [kp.TwoBody(cutoff=soap.cutoff), soap] if pairs else soap,
        n_inducing=30 if settings.quick else N_INDUCING, noise="cv" if tantalum else kp.Noise(0.002, 0.1),
        baseline=kp.ZBL() if zbl else None,
    )  # fmt: skip
    return kp.evaluate(model.fit(train), test, uncertainty=False)


def _with(pairs: bool) -> str:
    return " with TwoBody," if pairs else ""


def _row(report: Report, what: str, kind: str, ours: float, plain: float) -> None:
    unit = {"energy": "meV/atom", "forces": "meV/Å", "stress": "meV/Å³"}[kind]
    report.add(what, 1e3 * ours, unit, rivals={"no baseline": 1e3 * plain})


def _read(file: str) -> list[Atoms]:
    import kernelpot as kp

    return kp.read(data(file), verbose=False)
