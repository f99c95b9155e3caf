"""Fit a potential to labelled structures, score it, save it, use it."""

from __future__ import annotations

import tempfile
from pathlib import Path

import kernelpot as kp
from kernelpot.demo import label, structures


def main() -> None:
    # Labelled Cu-Au structures. From files: train = kp.read("train.xyz.xz")
    train, test = label(structures(40, seed=1)), label(structures(20, seed=2))

    soap = kp.SOAP(cutoff=5.0, n_max=6, l_max=4, sigma=0.6)
    model = kp.SparseGP(soap, kp.DotProduct(zeta=2), n_inducing=150, noise="cv")
    model.fit(train)
    print(model.summary())
    print(kp.evaluate(model, test))

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "cuau.kp"
        model.save(path)
        model = kp.load(path)

    prediction = model.predict(test[:3])
    for s, atoms in enumerate(test[:3]):
        energy, std = prediction.energy[s] / len(atoms), prediction.energy_std[s] / len(atoms)
        print(
            f"{atoms.symbols!s:12s} {energy:8.4f} ± {std:.4f} eV/atom, largest force std"
            f" {prediction.forces_std[s].max():.3f} eV/Å"
        )


if __name__ == "__main__":
    main()
