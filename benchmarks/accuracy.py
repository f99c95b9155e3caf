"""Test errors on mlearn (Zuo et al. 2020), published split, noises by cross-validation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.child import Stopwatch, measure
from benchmarks.harness import Report, Settings
from benchmarks.published import MLEARN
from benchmarks.systems import data, mlearn

if TYPE_CHECKING:
    from ase import Atoms

    from kernelpot.descriptors.protocol import Descriptor


@dataclass(frozen=True)
class Potential:
    """Settings of one element's potential: pairs, SOAP as it stands, and SOAP of longer reach with distance weights.

    Attributes
    ----------
    reach
        Cutoff without distance weights, Å.
    n_inducing
        Of both SOAP terms together.
    n_max, l_max, n_max_far
        Sizes of the two descriptors.
    """

    reach: float
    n_inducing: int = 2000
    n_max: int = 8
    l_max: int = 6
    n_max_far: int = 10

    def terms(self) -> list[Any]:
        """Return the terms."""
        import kernelpot as kp

        far, size = round(1.4 * self.reach, 2), {"l_max": self.l_max, "sigma": 0.5}
        return [
            kp.SOAP(cutoff=self.reach, n_max=self.n_max, **size),
            kp.SOAP(cutoff=far, n_max=self.n_max_far, scaling=(round(0.6 * self.reach, 2), 6.0), **size),
            kp.TwoBody(cutoff=far, length=0.6),
        ]


REACH = {"Si": 5.0, "Ge": 5.4, "Li": 5.5, "Ni": 4.2}
"""Best cutoff without distance weights, by cross-validation on the training sets, Å."""

POTENTIALS = {element: Potential(reach) for element, reach in REACH.items()}
"""The one place where accuracy settings stand: one recipe, found by cross-validation on training sets."""

SHARE = 0.95
"""Of the better of GAP and MTP: what a test MAE has to reach."""

ROUNDING = 5.0
"""Published forces are rounded to 10 meV/Å: the unrounded figure is guessed to be this much smaller."""

TARGETS = {
    element: (
        SHARE * min(MLEARN[element][name][0] for name in ("GAP", "MTP")),
        SHARE * (min(MLEARN[element][name][1] for name in ("GAP", "MTP")) - ROUNDING),
    )
    for element in REACH
}
"""Largest test MAE, meV/atom and meV/Å."""

QUICK = Potential(reach=3.5, n_inducing=60, n_max=4, l_max=3, n_max_far=4)


def run(settings: Settings, *, element: str) -> Report:
    """Fit one element, compare with the published potentials."""
    report = Report()
    data(f"mlearn/{element}_train.xyz.xz")
    outcome = measure(
        "benchmarks.accuracy:fit_and_score", threads=settings.threads, element=element, quick=settings.quick
    )
    found = outcome.known
    report.details = found | {"peak_mib": outcome.peak}
    rivals = MLEARN[element]
    for kind, place, unit in (("energy", 0, "meV/atom"), ("forces", 1, "meV/Å")):
        score, clean = found["test"][kind], found["clean"][kind]
        published = {name: errors[place] for name, errors in rivals.items()}
        report.add(
            f"{element} {kind}: test MAE", 1e3 * score["mae"], unit, rivals=published, target=TARGETS[element][place]
        )
        report.add(f"{element} {kind}: test RMSE", 1e3 * score["rmse"], unit)
        report.add(f"{element} {kind}: test MAE without leaked frames", 1e3 * clean["mae"], unit)
        report.add(f"{element} {kind}: test RMSE without leaked frames", 1e3 * clean["rmse"], unit)
        report.note(
            f"{kind}: {100 * score['coverage_68']:.1f} % of labels within 1 std (68.3 expected), "
            f"{100 * score['coverage_95']:.1f} % within 1.96 (95.0)"
        )
    report.note(
        f"{found['potential']}; {found['n_inducing']} inducing environments; noise {found['noise']}, "
        f"amplitudes {', '.join(f'{a:.3g}' for a in found['amplitudes'])} eV; left-out RMSE {found['cross_validation']}"
    )
    report.note(
        f"leaked: {found['n_leaked']} of {found['n_test']} test frames equal a training frame; "
        f"fit {found['fit']['wall_s']:.0f} s wall, {found['fit']['cpu_s']:.0f} s CPU, "
        f"{settings.threads} thread(s), peak {outcome.peak:.0f} MiB"
    )
    report.note(
        "rivals as published; GAP and MTP forces there are rounded to 10 meV/Å: the target takes 5 off before its "
        f"{SHARE}; from the rounded figure it is "
        f"{SHARE * min(rivals[name][1] for name in ('GAP', 'MTP')):.1f} meV/Å"
    )
    return report


def fit_and_score(element: str, *, quick: bool) -> dict[str, Any]:
    """Fit on the training set, score on the test set, in a process of its own."""
    import kernelpot as kp

    train, test = mlearn(element, "train"), mlearn(element, "test")
    potential = QUICK if quick else POTENTIALS[element]
    if quick:
        train, test = train[::8], test[::3]
    model = kp.SparseGP(potential.terms(), n_inducing=potential.n_inducing, noise="cv")
    with Stopwatch() as watch:
        model.fit(train, keys={"stress": None})  # the published tables compare energies and forces
    leaked = _leaked(model.descriptor.with_species(model.species_), train, test)
    clean = [atoms for atoms, known in zip(test, leaked, strict=True) if not known]
    return {
        "potential": repr(model),
        "n_inducing": model.n_inducing_,
        "noise": str(model.noise_),
        "amplitudes": model.amplitudes_,
        "calibration": model.calibration_,
        "cross_validation": {kind: round(v, 6) for kind, v in model.cross_validation_.items()},
        "fit": watch.as_dict(),
        "n_test": len(test),
        "n_leaked": int(leaked.sum()),
        "test": kp.evaluate(model, test).as_dict()["overall"],
        "clean": kp.evaluate(model, clean, uncertainty=False).as_dict()["overall"],
    }


def _leaked(descriptor: Descriptor, train: list[Atoms], test: list[Atoms]) -> np.ndarray:
    """Mark test structures that are the same, up to symmetry, as one of the training set."""
    from kernelpot.features.inducing import mean_vectors
    from kernelpot.linalg.subsets import equal_vectors

    both = train + test
    groups = equal_vectors(mean_vectors(descriptor, both), np.array([len(atoms) for atoms in both]))
    return np.isin(groups[len(train) :], groups[: len(train)])
