"""Run molecular dynamics on a fitted potential, and ask along the way how sure it is of its forces."""

from __future__ import annotations

import numpy as np
from ase import units
from ase.build import bulk
from ase.md.verlet import VelocityVerlet

import kernelpot as kp
from kernelpot.demo import label, structures
from kernelpot.demo.pool import heat


def main() -> None:
    soap = kp.SOAP(cutoff=5.0, n_max=6, l_max=4, sigma=0.6)
    model = kp.SparseGP(soap, kp.DotProduct(zeta=2), n_inducing=150, noise="cv").fit(label(structures(40, seed=1)))

    atoms = bulk("Cu", "fcc", a=3.7, cubic=True).repeat(2)
    atoms.symbols[::4] = "Au"
    heat(atoms, 1200, np.random.default_rng(0))
    atoms.calc = kp.Calculator(model)
    md = VelocityVerlet(atoms, timestep=2 * units.fs)
    for _ in range(5):
        md.run(20)  # forces alone: no uncertainty is computed here
        std = atoms.calc.get_property("forces_std", atoms)
        total = atoms.get_total_energy() / len(atoms)
        print(
            f"{md.get_time() / units.fs:5.0f} fs  total {total:.5f} eV/atom  force std: mean"
            f" {std.mean():.3f}, worst {std.max():.3f} eV/Å"
        )


if __name__ == "__main__":
    main()
