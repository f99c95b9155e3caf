"""What a posterior tells beyond single standard deviations: covariances, differences, potentials drawn from it.

The functions of a model are methods of `SparseGP`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import TYPE_CHECKING, NoReturn

import numpy as np
from jaxtyping import Float

from kernelpot.data.batch import Batch
from kernelpot.data.noise import KINDS
from kernelpot.data.stream import chunks
from kernelpot.errors import DataError, ParameterError
from kernelpot.features.feature_map import E0_PRIOR, Form
from kernelpot.potentials.calibration import Calibration
from kernelpot.potentials.fitted import Fitted, HasState, accepted
from kernelpot.potentials.prediction import Mean, Prediction
from kernelpot.rules import whole

if TYPE_CHECKING:
    from ase import Atoms

SPREADS = ("calibrated", "latent", "label")


def check_spread(spread: str) -> None:
    """Refuse an unknown name of a spread."""
    if spread not in SPREADS:
        raise ParameterError(
            f'`spread` must be "calibrated" (posterior times calibration factor), "latent" (the bare posterior) or '
            f'"label" (calibrated, plus the noise of a label), got {spread!r}.'
        )


@dataclass(frozen=True, eq=False)
class JointEnergies:
    """Total energies of structures under the posterior, with all that their covariance is made of.

    Attributes
    ----------
    mean
        eV.
    projected
        Rows R⁻¹: their products are the posterior covariance that the weights carry, eV².
    residual
        Covariance that inducing environments cannot see, eV².
    sizes
        Atoms of each structure.
    calibration
        From posterior to label.
    """

    mean: Float[np.ndarray, " s"]
    projected: Float[np.ndarray, "s d"]
    residual: Float[np.ndarray, "s s"]
    sizes: Float[np.ndarray, " s"]
    calibration: Calibration

    @classmethod
    def of(cls, state: Fitted, structures: Sequence[Atoms]) -> JointEnergies:
        """Compute them; N_structures · d² operations, and (Σ atoms)² · F for the residual, halved by symmetry."""
        features = state.features
        described, white, energy_rows, sizes, composition, known = [], [], [], [], [], []
        for start, stop in chunks(structures):
            batch = Batch.from_structures(structures[start:stop], state.reach, start=start)
            part = features.describe(batch)
            counted = batch.counts(features.species)
            white.append(features.whiten(features.rows(part, ()).energy))
            described.append(part)
            energy_rows.append(np.concatenate([state.amplitude * white[-1], E0_PRIOR * counted], axis=1))
            composition.append(counted)
            known.append(np.zeros(len(batch)) if state.baseline is None else state.baseline.evaluate(batch).energy)
            sizes.append(batch.sizes)
        rows = np.concatenate(energy_rows)
        residual = np.zeros((len(rows), len(rows)))
        ends = np.concatenate([[0], np.cumsum([len(w) for w in white])])
        for i in range(len(white)):
            for j in range(i + 1):
                part = features.energy_residual(described[i], described[j], (white[i], white[j]))
                residual[ends[i] : ends[i + 1], ends[j] : ends[j + 1]] = part
                residual[ends[j] : ends[j + 1], ends[i] : ends[i + 1]] = part.T
        mean = rows @ state.posterior.mean + np.concatenate(composition) @ state.e0_centre + np.concatenate(known)
        return cls(
            mean,
            np.concatenate([state.posterior.project(rows), np.concatenate(composition) @ state.unknown], axis=1),
            state.amplitude**2 * _cleared(residual),
            np.concatenate(sizes).astype(float),
            state.calibration,
        )

    def covariance(
        self, coefficients: Float[np.ndarray, "q s"] | None = None, *, spread: str
    ) -> Float[np.ndarray, "q q"]:
        """Return the covariance of sums Σ_s coefficient · E_s, eV²; None means the energies themselves.

        The sums are taken before products, so that a small difference of large energies loses no digits.
        """
        check_spread(spread)
        c = np.eye(len(self.mean)) if coefficients is None else coefficients
        T = c @ self.projected
        result = T @ T.T + c @ self.residual @ c.T
        if spread != "latent":
            result *= self.calibration.scale("energy") ** 2
        if spread == "label":
            noise = self.calibration.label("energy", np.zeros(len(c.T)), self.sizes)
            result += (c * noise**2) @ c.T
        return 0.5 * (result + result.T)


@dataclass(frozen=True)
class EnergyDifference:
    """A sum of total energies, such as E_vac - (N-1)/N E_bulk, with its standard deviation.

    Attributes
    ----------
    value
        Σ coefficient · energy, eV.
    std
        eV; errors that the structures share cancel in it.
    independent_std
        What the standard deviation would be if the structures' errors had nothing in common, eV.
    """

    value: float
    std: float
    independent_std: float

    def __str__(self) -> str:
        """Return the value, its standard deviation, and what independent errors would have given."""
        return f"{self.value:.4f} ± {self.std:.2g} eV (independent errors would give ± {self.independent_std:.2g})"


def energy_covariance(
    model: HasState, structures: Sequence[Atoms], *, spread: str = "calibrated"
) -> Float[np.ndarray, "structures structures"]:
    """Return the covariance of total energies, eV².

    φᵀCφ' plus what inducing environments cannot see of both, 1ᵀ(K - Q)1 between structures.

    Parameters
    ----------
    structures
        Their labels are not looked at.
    spread
        "calibrated": posterior times calibration factor². "latent": the bare posterior, whose diagonal is
        ``predict(...).latent.energy_std**2``. "label": calibrated, plus independent noise of each label, whose
        diagonal is ``predict(...).energy_std**2``.

    Raises
    ------
    NotFittedError
        The model was never fitted.
    SpeciesError
        A structure holds an element that the model has never seen.
    ParameterError
        `spread` is none of these.
    """
    check_spread(spread)
    return JointEnergies.of(*accepted(model, structures)).covariance(spread=spread)


def energy_difference(
    model: HasState,
    structures: Sequence[Atoms],
    coefficients: Sequence[float] | Float[np.ndarray, " structures"],
    *,
    spread: str = "calibrated",
) -> EnergyDifference:
    """Return Σ coefficient · energy with its standard deviation: a barrier, a vacancy energy, a reaction energy.

    Parameters
    ----------
    structures
        Their labels are not looked at.
    coefficients
        One for each: [-1, 1] is E_b - E_a of [a, b]; [1, -63/64] a vacancy's energy of [vacancy, crystal].
    spread
        As in `energy_covariance`.

    Raises
    ------
    NotFittedError
        The model was never fitted.
    ParameterError
        There is not one finite coefficient for each structure.
    """
    state, structures = accepted(model, structures)
    factors = np.asarray(coefficients, dtype=np.float64)
    if factors.shape != (len(structures),) or not np.isfinite(factors).all():
        raise ParameterError(
            f"`coefficients` must hold one finite number for each of {len(structures)} structures, got "
            f"{coefficients!r}; E_b - E_a of [a, b] has [-1, 1]."
        )
    joint = JointEnergies.of(state, structures)
    variance = float(joint.covariance(factors[None], spread=spread)[0, 0])
    alone = factors**2 @ np.diag(joint.covariance(spread=spread))
    return EnergyDifference(float(factors @ joint.mean), float(np.sqrt(max(variance, 0.0))), float(np.sqrt(alone)))


def force_covariance(
    model: HasState, structure: Atoms, atom: int, *, spread: str = "calibrated"
) -> Float[np.ndarray, "3 3"]:
    """Return the covariance of the force on one atom, (eV/Å)².

    Parameters
    ----------
    structure
        Its labels are not looked at.
    atom
        Number of the atom, from 0.
    spread
        As in `energy_covariance`, for forces.

    Raises
    ------
    NotFittedError
        The model was never fitted.
    ParameterError
        There is no such atom.
    """
    state, (structure,) = accepted(model, [structure])
    check_spread(spread)
    atom = whole(atom, "atom", least=-len(structure), most=len(structure) - 1, usual="atoms are counted from 0")
    whole_batch = Batch.from_structures([structure], state.features.cutoff)
    batch, _ = whole_batch.surroundings(np.array([atom % len(structure)]))
    rows = state.features.rows(described := state.features.describe(batch), ("forces",)).forces
    assert rows is not None
    white = state.features.whiten(rows[:3])
    return _block(state, "forces", white, state.features.block_residual(described, "forces", 0, white), spread)


def stress_covariance(model: HasState, structure: Atoms, *, spread: str = "calibrated") -> Float[np.ndarray, "6 6"]:
    """Return the covariance of the stress, (eV/Å³)², ASE's Voigt order.

    Parameters
    ----------
    structure
        With a cell.
    spread
        As in `energy_covariance`, for stresses.

    Raises
    ------
    NotFittedError
        The model was never fitted.
    DataError
        The structure has no volume.
    """
    state, (structure,) = accepted(model, [structure])
    check_spread(spread)
    batch = Batch.from_structures([structure], state.features.cutoff)
    if not np.isfinite(batch.volumes[0]):
        raise DataError(f"{structure.symbols}: a stress needs a cell with three vectors; set `atoms.cell`.")
    rows = state.features.rows(described := state.features.describe(batch), ("stress",)).stress
    assert rows is not None
    white = state.features.whiten(rows)
    return _block(state, "stress", white, state.features.block_residual(described, "stress", 0, white), spread)


def _block(
    state: Fitted, kind: str, white: Float[np.ndarray, "c d"], residual: Float[np.ndarray, "c c"], spread: str
) -> Float[np.ndarray, "c c"]:
    constants = np.zeros((len(white), len(state.features.species)))
    T = state.posterior.project(np.concatenate([state.amplitude * white, constants], axis=1))
    result = T @ T.T + state.amplitude**2 * _cleared(residual)
    if spread != "latent":
        result *= state.calibration.scale(kind) ** 2
    if spread == "label":
        result += state.calibration.label(kind, np.zeros(1)) ** 2 * np.eye(len(result))
    return 0.5 * (result + result.T)


def _cleared(residual: Float[np.ndarray, "n n"]) -> Float[np.ndarray, "n n"]:
    """Take off what round-off has put below zero: the nearest positive semidefinite matrix."""
    eigenvalues, vectors = np.linalg.eigh(0.5 * (residual + residual.T))
    if eigenvalues[0] >= 0.0:
        return residual
    root = vectors * np.sqrt(np.maximum(eigenvalues, 0.0))
    return root @ root.T


@dataclass(frozen=True, eq=False)
class DrawnState(Fitted):
    """A fitted state whose weights are drawn, with a draw of what inducing environments cannot see beside them.

    The second draw is made from `entropy` when it is first used; a `residual_scale` of 0 leaves it out.
    """

    entropy: tuple[int, ...] = ()
    residual_scale: float = 0.0

    @cached_property
    def form(self) -> Form:
        """Energy as a function of what structures are described by."""
        weights = self.amplitude * self.features.unwhiten(self.posterior.mean[: self.features.n_weights])
        rng = np.random.default_rng(self.entropy)
        return self.features.drawn_form(weights, rng, self.residual_scale * self.amplitude)


@dataclass(frozen=True, eq=False)
class SampledModel:
    """One potential drawn from a posterior: weights w = mean + scale · R⁻¹ξ with ξ ~ N(0, I).

    It predicts as the mean of any fitted model does, so that ``Calculator(sample)`` runs molecular dynamics on it; it
    has no standard deviations of its own.

    Attributes
    ----------
    state
        The fitted state whose mean is the draw.
    seed, number
        Number of the draw among those of a seed: both make it again.
    scale
        Of the weights' deviation from the posterior mean.
    """

    state: DrawnState
    seed: int
    number: int
    scale: float

    @property
    def cutoff_(self) -> float:
        """Distance up to which a batch needs neighbour pairs, Å."""
        return self.state.reach

    @property
    def species_(self) -> tuple[int, ...]:
        """Atomic numbers that the model knows."""
        return self.state.features.species

    def mean(self, batch: Batch) -> Mean:
        """Return energies, forces and stresses of a batch under this draw."""
        return self.state.mean(batch)

    def predict(self, structures: Sequence[Atoms], *, uncertainty: bool = False) -> Prediction:
        """Predict energies, forces and stresses under this draw.

        Raises
        ------
        ParameterError
            Standard deviations were asked for: they belong to the model that was drawn from.
        SpeciesError
            A structure holds an element that the model has never seen.
        """
        if uncertainty:
            self._refuse()
        state, structures = accepted(self, structures)
        return state.predict(structures, uncertainty=False)

    def local_energy_std(self, batch: Batch) -> NoReturn:  # noqa: ARG002
        """Refuse: a draw has no standard deviation."""
        self._refuse()

    def extrapolation(self, batch: Batch) -> NoReturn:  # noqa: ARG002
        """Refuse: the grade is that of the model that was drawn from."""
        self._refuse()

    def _refuse(self) -> NoReturn:
        raise ParameterError(
            "a potential drawn from the posterior has no standard deviations or grades; ask the model that it was "
            "drawn from, or take the spread over several draws."
        )

    def __repr__(self) -> str:
        """Say which draw this is."""
        return f"SampledModel(number={self.number}, seed={self.seed}, scale={self.scale:.4g})"


def sample(
    model: HasState, n: int, *, seed: int = 0, scale: float | str = "forces", residual: bool = True
) -> list[SampledModel]:
    """Draw potentials from the posterior: a committee, each member at the cost of a triangular solve.

    With the triangular factor R of the precision and mean = R⁻¹z, a draw of the weights is R⁻¹(z + scale · ξ)
    (Rasmussen and Williams (2006), section A.2, for a factor of the precision in place of the covariance).

    Parameters
    ----------
    n
        How many.
    seed
        Makes the draws repeatable; draw k does not depend on n.
    scale
        Factor of the deviation from the mean: that of the calibration of a kind of label, or a number; 1 is the
        bare posterior. One potential has one scale, so that only that kind is calibrated.
    residual
        Also draw what inducing environments cannot see, exact for dot products of zeta 1 and 2; other kernels have
        no draw of it, and then members agree too well far from their inducing environments. It takes F² numbers (F
        components of the descriptor) for each species and member.

    Raises
    ------
    NotFittedError
        The model was never fitted.
    ParameterError
        A number breaks its rule.
    """
    state = model.state
    n, seed = whole(n, "n", least=1), whole(seed, "seed")
    if isinstance(scale, str):
        if scale not in KINDS:
            raise ParameterError(f"`scale` must be a number or one of {', '.join(KINDS)}, got {scale!r}.")
        factor = state.calibration.scale(scale)
    elif isinstance(scale, bool) or not isinstance(scale, int | float | np.number) or not 0.0 <= scale < np.inf:
        raise ParameterError(f"`scale` must be a number, 0 or more, or a kind of label, got {scale!r}.")
    else:
        factor = float(scale)
    known = {field.name: getattr(state, field.name) for field in fields(Fitted)}
    draws = []
    for number in range(n):
        rng = np.random.default_rng((int(seed), number, 0))
        xi = rng.standard_normal(len(state.posterior.target))
        posterior = replace(state.posterior, target=state.posterior.target + factor * xi)
        e0 = state.e0_centre + factor * state.unknown @ rng.standard_normal(state.unknown.shape[1])
        moved = DrawnState(
            **(known | {"posterior": posterior, "e0_centre": e0}),
            entropy=(int(seed), number, 1),
            residual_scale=factor if residual else 0.0,
        )
        draws.append(SampledModel(moved, int(seed), number, factor))
    return draws
