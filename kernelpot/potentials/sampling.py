"""Potentials drawn from the posterior of a fitted model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import TYPE_CHECKING, NoReturn

import numpy as np

from kernelpot.data.batch import Batch
from kernelpot.data.noise import KINDS
from kernelpot.errors import ParameterError
from kernelpot.features.feature_map import Form
from kernelpot.features.inducing import chunks
from kernelpot.potentials.arguments import check_species, structure_list
from kernelpot.potentials.fitted import Fitted, Mean, join
from kernelpot.potentials.prediction import Prediction
from kernelpot.progress import track
from kernelpot.run import ordered

if TYPE_CHECKING:
    from ase import Atoms

ATOMS_PER_PREDICTION = 256


@dataclass(frozen=True, eq=False)
class DrawnState(Fitted):
    """A fitted state whose weights are drawn, with a draw of what inducing environments cannot see beside them.

    Attributes
    ----------
    entropy
        Of the second draw, which is made when it is first used.
    residual_scale
        Its scale; 0 leaves it out.
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
        structures = structure_list(structures)
        check_species(structures, self.species_)

        def part(piece: tuple[int, int]) -> Prediction:
            batch = Batch.from_structures(structures[slice(*piece)], self.cutoff_, start=piece[0])
            return self.state.predict(batch, uncertainty=False)

        return join(list(ordered(part, track(list(chunks(structures, ATOMS_PER_PREDICTION)), "predict"))))

    def local_energy_std(self, batch: Batch) -> NoReturn:  # noqa: ARG002
        """Refuse: a draw has no standard deviation.

        Raises
        ------
        ParameterError
            Always.
        """
        self._refuse()

    def extrapolation(self, batch: Batch) -> NoReturn:  # noqa: ARG002
        """Refuse: the grade is that of the model that was drawn from.

        Raises
        ------
        ParameterError
            Always.
        """
        self._refuse()

    def _refuse(self) -> NoReturn:
        raise ParameterError(
            "a potential drawn from the posterior has no standard deviations or grades; ask the model that it was "
            "drawn from, or take the spread over several draws."
        )

    def __repr__(self) -> str:
        """Say which draw this is."""
        return f"SampledModel(number={self.number}, seed={self.seed}, scale={self.scale:.4g})"


def sample(state: Fitted, n: int, *, seed: int, scale: float | str, residual: bool) -> list[SampledModel]:
    """Draw n potentials; draw k of a seed is the same whatever n is.

    With the triangular factor R of the precision and mean = R⁻¹z, a draw of the weights is R⁻¹(z + scale · ξ)
    (Rasmussen and Williams (2006), section A.2, for a factor of the precision in place of the covariance).

    Raises
    ------
    ParameterError
        A number breaks its rule.
    """
    for name, value, least in (("n", n, 1), ("seed", seed, 0)):
        if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < least:
            raise ParameterError(f"`{name}` must be a whole number, {least} or more, got {value!r}.")
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
    for number in range(int(n)):
        xi = np.random.default_rng((int(seed), number, 0)).standard_normal(len(state.posterior.target))
        posterior = replace(state.posterior, target=state.posterior.target + factor * xi)
        moved = DrawnState(
            **(known | {"posterior": posterior}),
            entropy=(int(seed), number, 1),
            residual_scale=factor if residual else 0.0,
        )
        draws.append(SampledModel(moved, int(seed), number, factor))
    return draws
