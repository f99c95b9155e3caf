"""Screen a pool for one property: choose what to compute, fit kernel ridge regression, look at the most promising."""

from __future__ import annotations

import numpy as np

import kernelpot as kp
from kernelpot.demo import label, structures


def bulk_energy(chosen):
    """Energy per atom, eV: the property, which a DFT calculation would give."""
    return np.array([atoms.get_potential_energy() / len(atoms) for atoms in label(chosen)])


def main() -> None:
    pool = structures(120, seed=1)
    kernel = kp.StructureKernel(
        kp.SOAP(cutoff=5.0, n_max=5, l_max=3), kp.DotProduct(2), combine="average", normalise=True
    )
    kernel = kernel.prepared(pool)
    described = kernel.encode(pool)  # once, for all that follows

    # Without any label: whose values would tell the most about the whole pool?
    model = kp.KernelRidge(kernel, alpha=1e-6)
    space = model.prepare(described)
    choice = kp.design.select(space.information(described), n=30, criterion="IV")
    chosen = [pool[k] for k in choice.indices]

    model = kp.KernelRidge(kernel, alpha=[1e-8, 1e-6, 1e-4]).fit(chosen, bulk_energy(chosen))
    left_out = np.abs(model.left_out().error).mean()
    predicted, std = model.predict(described), model.std(described)
    print(
        f"30 of 120 structures computed, alpha {model.alpha_:g}; left out one by one, errors are {left_out:.3f} eV/atom"
    )

    rest = np.setdiff1d(np.arange(len(pool)), choice.indices)
    errors = predicted[rest] - bulk_energy([pool[k] for k in rest])  # only an example can afford to check
    print(f"the other 90: errors {np.abs(errors).mean():.3f} eV/atom, predicted {std[rest].mean():.3f}")

    for k in rest[np.argsort(predicted[rest])][:5]:
        print(f"low: number {k}, {pool[k].symbols}, {predicted[k]:.3f} ± {std[k]:.3f} eV/atom")


if __name__ == "__main__":
    main()
