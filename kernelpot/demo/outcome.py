"""Choose, label, fit, compare with chance, move atoms: the demonstration from end to end."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from ase import Atoms, units
from ase.build import bulk
from ase.md.verlet import VelocityVerlet
from jaxtyping import Float, Int

from kernelpot.calculator import Calculator
from kernelpot.data.noise import Noise
from kernelpot.demo.pool import LATTICE, SHARES, heat, label, structures
from kernelpot.descriptors.soap.definition import SOAP
from kernelpot.design import Choice, select
from kernelpot.kernels import DotProduct
from kernelpot.potentials.sparse_gp import SparseGP
from kernelpot.progress import say, shown, track
from kernelpot.rules import MOST_SEED, whole

CHOSEN = "kernelpot"
"""Name of the arm that the design chose."""


@dataclass(frozen=True)
class DemoPlan:
    """How large the demonstration is; the defaults take about a minute on two cores.

    Attributes
    ----------
    n_pool, n_test, n_chosen
        Structures in the pool, held out, and labelled in each arm.
    n_random
        Random arms to compare with, each with a seed of its own.
    n_inducing
        Inducing environments, taken from the unlabelled pool, the same for every arm.
    md_steps, md_step, md_temperature
        Steps, time step (fs) and temperature (K) of the molecular dynamics.
    seed
        Seed of everything random.
    descriptor, kernel
        Of the potential.
    planned
        Noise that the choice reckons with, before any label can tell.
    """

    n_pool: int = 300
    n_test: int = 120
    n_chosen: int = 25
    n_random: int = 7
    n_inducing: int = 400
    md_steps: int = 1000
    md_step: float = 2.0
    md_temperature: float = 500.0
    seed: int = 0
    # EMT depends on a smooth density of near neighbours: a short cutoff and a linear kernel serve it best.
    descriptor: SOAP = field(default_factory=lambda: SOAP(cutoff=4.3, n_max=6, l_max=3, sigma=0.4))
    kernel: DotProduct = field(default_factory=lambda: DotProduct(zeta=1))
    planned: Noise = field(default_factory=lambda: Noise(energy=0.002, forces=0.1))

    def __post_init__(self) -> None:
        """Refuse sizes that do not fit together, before anything is made."""
        whole(self.n_pool, "n_pool", least=len(SHARES), usual="one structure of each kind at least")
        whole(self.n_chosen, "n_chosen", least=2, most=self.n_pool, usual="the pool holds no more")
        whole(self.n_test, "n_test", least=len(SHARES), usual="one structure of each kind at least")

    def spec(self, noise: Noise | str) -> SparseGP:
        """Return the potential before anything is fitted."""
        return SparseGP(self.descriptor, self.kernel, n_inducing=self.n_inducing, noise=noise, seed=self.seed)

    def described(self, model: SparseGP) -> dict[str, str]:
        """Return the settings of a fitted potential as text."""
        soap = self.descriptor
        return {
            "descriptor": (
                f"SOAP, cutoff {soap.cutoff:g} Å, n_max {soap.n_max}, l_max {soap.l_max}, σ {soap.sigma:g} Å"
            ),
            "kernel": f"dot product of normalised environments, ζ = {self.kernel.zeta}",
            "inducing environments": str(model.n_inducing_),
            "noise planned with": str(self.planned),
            "noise found by cross-validation": str(model.noise_),
            "amplitude found by cross-validation": f"{model.amplitude_:.3g} eV",
            "calibration of the stds": ", ".join(f"{kind} × {value:.2f}" for kind, value in model.calibration_.items()),
        }


@dataclass(frozen=True)
class Arm:
    """One way to choose, and what a potential fitted to its choice is worth on the held-out structures."""

    name: str  # How the structures were chosen
    indices: Int[np.ndarray, " chosen"]  # The structures, as numbers in the pool
    # Criterion after each pick: mean predicted variance over the pool, without labels
    curve: Float[np.ndarray, chosen_plus_1]
    # Held-out energies per atom, eV/atom: rows reference, predicted, std (NaN for rivals, as it takes longer)
    energy: Float[np.ndarray, "3 structures"]
    # Held-out force components, eV/Å: rows reference, predicted, std (NaN for rivals)
    forces: Float[np.ndarray, "3 components"]

    @classmethod
    def scored(cls, name: str, choice: Choice, model: SparseGP, test: Sequence[Atoms], *, uncertainty: bool) -> Arm:
        """Score a fitted potential on the held-out structures."""
        prediction = model.predict(test, uncertainty=uncertainty)
        sizes = np.array([len(atoms) for atoms in test])
        energies = np.array([atoms.get_potential_energy() for atoms in test])
        forces = _flat([atoms.get_forces() for atoms in test])
        nothing = np.full(len(test), np.nan), np.full(len(forces), np.nan)
        stds = (prediction.energy_std, _flat(prediction.forces_std)) if uncertainty else nothing
        return cls(
            name,
            np.asarray(choice.indices),
            np.asarray(choice.curve),
            np.stack([energies, prediction.energy, stds[0]]) / sizes,
            np.stack([forces, _flat(prediction.forces), stds[1]]),
        )

    def score(self, kind: str) -> dict[str, float]:
        """Return mae, rmse and worst held-out error, eV/atom or eV/Å, with the coverage of 95 % intervals."""
        reference, predicted, std = self.energy if kind == "energy" else self.forces
        error = np.abs(predicted - reference)
        return {
            "mae": float(error.mean()),
            "rmse": float(np.sqrt((error**2).mean())),
            "worst": float(error.max()),
            "coverage_95": float((error <= 1.959964 * std).mean()) if np.isfinite(std).all() else float("nan"),
        }


@dataclass(frozen=True)
class Dynamics:
    """A run at constant energy under the fitted potential."""

    formula: str  # What moved
    times: Float[np.ndarray, " frames"]  # Times, ps
    total: Float[np.ndarray, " frames"]  # Energies relative to the start, meV/atom
    potential: Float[np.ndarray, " frames"]
    temperature: Float[np.ndarray, " frames"]  # Instantaneous temperature, K
    force_rmse: float  # Error of the forces against EMT along the run, eV/Å

    @classmethod
    def of(cls, model: SparseGP, plan: DemoPlan) -> Dynamics:
        """Move ordered Cu3Au at constant energy, from momenta at twice the temperature that it settles at."""
        atoms = bulk("Cu", "fcc", a=0.75 * LATTICE["Cu"] + 0.25 * LATTICE["Au"], cubic=True)
        atoms.symbols[0] = "Au"
        atoms = atoms.repeat((2, 2, 2))
        heat(atoms, 2 * plan.md_temperature, np.random.default_rng([plan.seed, 7]))
        atoms.calc = Calculator(model)
        md = VelocityVerlet(atoms, timestep=plan.md_step * units.fs)
        every = max(1, plan.md_steps // 200)
        frames, snapshots = [], []
        for step in track(range(0, plan.md_steps + 1, every), "molecular dynamics"):
            if step:
                md.run(every)
            potential, kinetic = atoms.get_potential_energy(), atoms.get_kinetic_energy()
            frames.append((step * plan.md_step / 1000, potential + kinetic, potential, atoms.get_temperature()))
            if step % (20 * every) == 0:
                snapshots.append((atoms.copy(), atoms.get_forces()))
        times, total, potentials, temperature = np.array(frames).T
        truth = np.stack(
            [labelled.get_forces() for labelled in label([frame for frame, _ in snapshots], what="checking")]
        )
        errors = truth - np.stack([forces for _, forces in snapshots])
        scale = 1000 / len(atoms)
        return cls(
            formula=atoms.get_chemical_formula(),
            times=times,
            total=(total - total[0]) * scale,
            potential=(potentials - potentials[0]) * scale,
            temperature=temperature,
            force_rmse=float(np.sqrt((errors**2).mean())),
        )

    @property
    def drift(self) -> float:
        """Change of the total energy over the run by a straight line, meV/atom."""
        slope = np.polyfit(self.times, self.total, 1)[0]
        return float(slope * (self.times[-1] - self.times[0]))


@dataclass(frozen=True)
class Outcome:
    """Everything that the report shows."""

    plan: DemoPlan  # What was asked for
    kinds: tuple[str, ...]  # Kind of each structure of the pool
    means: Float[np.ndarray, "structures components"]  # Mean descriptor of each structure of the pool
    arms: tuple[Arm, ...]  # The design's arm first, then the rivals: k-means, farthest points, random ones
    dynamics: Dynamics  # The molecular dynamics under the potential of the first arm
    model: Mapping[str, str]  # Settings of that potential after the fit, as text
    seconds: Mapping[str, float]  # Time of each stage, s

    @property
    def chosen(self) -> Arm:
        """The design's arm."""
        return self.arms[0]

    @property
    def random(self) -> tuple[Arm, ...]:
        """The random arms."""
        return tuple(arm for arm in self.arms if arm.name.startswith("random"))

    def as_dict(self) -> dict[str, Any]:
        """Return the numbers for JSON: choice, errors of every arm, drift, settings, times."""
        return {
            "n_pool": self.plan.n_pool,
            "n_test": self.plan.n_test,
            "n_chosen": self.plan.n_chosen,
            "seed": self.plan.seed,
            "chosen": self.chosen.indices,
            "arms": {
                arm.name: {
                    "energy": arm.score("energy"),
                    "forces": arm.score("forces"),
                    "criterion": arm.curve[-1],
                }
                for arm in self.arms
            },
            "dynamics": {
                "formula": self.dynamics.formula,
                "ps": float(self.dynamics.times[-1]),
                "drift_meV_per_atom": self.dynamics.drift,
                "force_rmse_eV_per_A": self.dynamics.force_rmse,
            },
            "model": dict(self.model),
            "seconds": dict(self.seconds),
        }


def run(plan: DemoPlan) -> Outcome:
    """Do the whole job."""
    clock = _Clock()
    say(f"1/5 making {plan.n_pool} Cu-Au structures, and {plan.n_test} held-out ones")
    pool = structures(plan.n_pool, seed=plan.seed)
    test = label(structures(plan.n_test, seed=plan.seed + 1), what="labelling the held-out set")
    clock.lap("structures")

    say(f"2/5 choosing {plan.n_chosen} of them without labels")
    planner = plan.spec(plan.planned).prepare(pool)
    space = planner.information(pool)
    choices = {CHOSEN: select(space, plan.n_chosen, seed=plan.seed)}
    for name, method in (("k-means on mean SOAP", "kmeans"), ("farthest points", "fps")):
        choices[name] = select(space, plan.n_chosen, method=method, seed=plan.seed)
    for k in range(plan.n_random):
        seed = (1000 * (plan.seed + 1) + k) % MOST_SEED
        choices[f"random {k + 1}"] = select(space, plan.n_chosen, method="random", seed=seed)
    clock.lap("choosing")

    say("3/5 labelling what each arm chose with EMT, the stand-in for DFT")
    wanted = sorted({int(k) for choice in choices.values() for k in choice.indices})
    labels = dict(zip(wanted, label([pool[k] for k in wanted], what="labelling the choices"), strict=True))
    clock.lap("labelling")

    say(f"4/5 fitting {len(choices)} potentials, comparing them on the held-out structures")
    # `fit` starts from the prior each time, so one prepared model serves every arm.
    model = plan.spec("cv").prepare(pool)
    arms = []
    for name in track([name for name in choices if name != CHOSEN], "fitting rivals"):
        with shown(enabled=False):
            model.fit([labels[int(k)] for k in choices[name].indices])
            arms.append(Arm.scored(name, choices[name], model, test, uncertainty=False))
    model.fit([labels[int(k)] for k in choices[CHOSEN].indices])
    arms.insert(0, Arm.scored(CHOSEN, choices[CHOSEN], model, test, uncertainty=True))
    clock.lap("fitting and scoring")

    say("5/5 moving atoms")
    dynamics = Dynamics.of(model, plan)
    clock.lap("molecular dynamics")
    return Outcome(
        plan=plan,
        kinds=tuple(str(atoms.info["config_type"]) for atoms in pool),
        means=np.asarray(space.means),
        arms=tuple(arms),
        dynamics=dynamics,
        model=plan.described(model),
        seconds=clock.seconds,
    )


class _Clock:
    """Seconds since the last lap, by name."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._last = time.perf_counter()

    def lap(self, name: str) -> None:
        now = time.perf_counter()
        self.seconds[name] = now - self._last
        self._last = now


def _flat(parts: Sequence[np.ndarray]) -> Float[np.ndarray, "components"]:
    return np.concatenate([np.ravel(part) for part in parts])
