"""What the demonstration is asked for, next to what it found."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from kernelpot.data.noise import Noise
from kernelpot.descriptors.soap.definition import SOAP
from kernelpot.kernels import DotProduct

CHOSEN = "kernelpot"
"""Name of the arm that the design chose."""


@dataclass(frozen=True)
class Plan:
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


@dataclass(frozen=True)
class Arm:
    """One way to choose, and what a potential fitted to its choice is worth on the held-out structures.

    Attributes
    ----------
    name
        How the structures were chosen.
    indices
        The structures, as numbers in the pool.
    curve
        Criterion after each pick: mean predicted variance over the pool, without labels.
    energy
        Held-out energies per atom, eV/atom: rows reference, predicted, std (NaN for rivals, as it takes longer).
    forces
        Held-out force components, eV/Å: rows reference, predicted, std (NaN for rivals).
    """

    name: str
    indices: Int[np.ndarray, " chosen"]
    curve: Float[np.ndarray, chosen_plus_1]
    energy: Float[np.ndarray, "3 structures"]
    forces: Float[np.ndarray, "3 components"]

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
    """A run at constant energy under the fitted potential.

    Attributes
    ----------
    formula
        What moved.
    times
        Times, ps.
    total, potential
        Energies relative to the start, meV/atom.
    temperature
        Instantaneous temperature, K.
    force_rmse
        Error of the forces against EMT along the run, eV/Å.
    """

    formula: str
    times: Float[np.ndarray, " frames"]
    total: Float[np.ndarray, " frames"]
    potential: Float[np.ndarray, " frames"]
    temperature: Float[np.ndarray, " frames"]
    force_rmse: float

    @property
    def drift(self) -> float:
        """Change of the total energy over the run by a straight line, meV/atom."""
        slope = np.polyfit(self.times, self.total, 1)[0]
        return float(slope * (self.times[-1] - self.times[0]))


@dataclass(frozen=True)
class Outcome:
    """Everything that the report shows.

    Attributes
    ----------
    plan
        What was asked for.
    kinds
        Kind of each structure of the pool.
    means
        Mean descriptor of each structure of the pool.
    arms
        The design's arm first, then the rivals: k-means, farthest points, random ones.
    dynamics
        The molecular dynamics under the potential of the first arm.
    model
        Settings of that potential after the fit, as text.
    seconds
        Time of each stage, s.
    """

    plan: Plan
    kinds: tuple[str, ...]
    means: Float[np.ndarray, "structures components"]
    arms: tuple[Arm, ...]
    dynamics: Dynamics
    model: Mapping[str, str]
    seconds: Mapping[str, float]

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
