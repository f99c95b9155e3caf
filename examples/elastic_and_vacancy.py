"""The cheapest structures that fix C11, C12, C44 and the vacancy energy of silicon, before any label exists."""

from __future__ import annotations

import numpy as np
from ase import Atoms
from ase.build import bulk

import kernelpot as kp
from kernelpot import goals

LATTICE = 5.43


def pool(n: int, seed: int = 0) -> list[Atoms]:
    """Strained cells, rattled supercells and rattled vacancies, 2 to 63 atoms."""
    rng = np.random.default_rng(seed)
    made = []
    for k in range(n):
        kind = ("strained", "rattled", "vacancy")[k % 3]
        if kind == "strained":
            atoms = bulk("Si", "diamond", a=LATTICE, cubic=bool(k % 2))
            strain = rng.uniform(-0.03, 0.03, (3, 3))
            atoms.set_cell(atoms.cell @ (np.eye(3) + 0.5 * (strain + strain.T)), scale_atoms=True)
        else:
            size = ((1, 1, 1), (2, 1, 1), (2, 2, 1), (2, 2, 2))[rng.integers(4)]
            atoms = bulk("Si", "diamond", a=LATTICE, cubic=True).repeat(size)
            if kind == "vacancy":
                atoms = goals.vacancy(atoms, site=int(rng.integers(len(atoms))))
        atoms.positions += rng.normal(scale=rng.uniform(0.0, 0.08), size=atoms.positions.shape)
        atoms.info["config_type"] = kind
        made.append(atoms)
    return made


def main() -> None:
    candidates = pool(60)
    crystal = bulk("Si", "diamond", a=LATTICE, cubic=True)
    cell = crystal.repeat(2)

    soap = kp.SOAP(cutoff=5.0, n_max=6, l_max=4, sigma=0.5)
    noise = kp.Noise(energy=0.001, forces=0.03, stress=0.001)
    model = kp.SparseGP(soap, kp.DotProduct(zeta=2), n_inducing=120, noise=noise)
    # The goals' own structures are seen when the inducing environments are chosen, so that those can express them.
    space = model.prepare([*candidates, goals.vacancy(cell), *goals.strained_pairs(crystal)[1]])

    goal = goals.elastic_constants(space, crystal, scale=3.0) + goals.vacancy_energy(space, cell, scale=0.03)
    info = space.information(candidates, truncate=1e-6)
    plan = goals.cheapest(info, goal)
    print(plan)
    kinds = [candidates[k].info["config_type"] for k in plan.indices]
    print("of these:", ", ".join(f"{kinds.count(kind)} {kind}" for kind in sorted(set(kinds))), "\n")

    def std(**how: object) -> np.ndarray:
        choice = kp.design.select(info, None, budget=plan.cost, **how)
        return goal.std(info.take(choice.indices))

    print(f"standard deviations at the same cost, {plan.cost:.0f} (the sum of N_atoms³):")
    print(
        goal.table(
            goal=std(criterion=goal.criterion()),
            IV=std(criterion="IV"),
            D=std(criterion="D"),
            random=np.mean([std(method="random", seed=seed) for seed in range(10)], axis=0),
        )
    )


if __name__ == "__main__":
    main()
