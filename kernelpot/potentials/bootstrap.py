"""A committee of models fitted to resampled structures: a rival of the posterior for uncertainty."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float

from kernelpot.data.batch import Batch
from kernelpot.data.check import check_species
from kernelpot.data.labels import resolve
from kernelpot.data.stream import structure_list
from kernelpot.errors import NotFittedError, ParameterError
from kernelpot.features.inducing import chunks, mean_vectors
from kernelpot.linalg.factor import Posterior, RowSink
from kernelpot.linalg.subsets import equal_vectors
from kernelpot.potentials.baselines.given import less_baseline
from kernelpot.potentials.fitted import ATOMS_PER_PREDICTION, Fitted
from kernelpot.potentials.prediction import Mean, Prediction, Spread
from kernelpot.potentials.sparse_gp import SparseGP
from kernelpot.potentials.training import ATOMS_PER_BATCH, owners
from kernelpot.progress import track
from kernelpot.run import one_blas, ordered

if TYPE_CHECKING:
    from ase import Atoms


class Bootstrap:
    """Members that differ by which structures they saw; their spread is the standard deviation.

    Structures are drawn with replacement, symmetry-equivalent ones together (Efron and Tibshirani, An Introduction to
    the Bootstrap (1993), chapter 6). All members share the model's inducing environments, noises and amplitudes, and
    one pass over the data: a member costs a factorisation, not a fit. The mean is that of the model itself.

    Parameters
    ----------
    model
        Not fitted, or prepared; `fit` fits it first, which settles noises and amplitudes.
    n_members
        Members, at least 2; 10 to 20 is usual. Memory: one triangle of M² each.
    seed
        Makes the draws repeatable.

    Raises
    ------
    ParameterError
        The number of members is not a whole number of at least 2.
    """

    def __init__(self, model: SparseGP, *, n_members: int = 10, seed: int = 0) -> None:
        whole = isinstance(n_members, int | np.integer) and not isinstance(n_members, bool)
        if not whole or not 2 <= n_members <= 1000:
            raise ParameterError(f"`n_members` must be a whole number from 2 to 1000, got {n_members!r}; 10 is usual.")
        if not isinstance(model, SparseGP):
            raise ParameterError(f"`model` must be a SparseGP or a LinearModel, got {type(model).__name__}.")
        self.model = model
        self.n_members = int(n_members)
        self.seed = int(seed)
        self.members_: list[Fitted] = []

    def fit(self, structures: Sequence[Atoms], *, keys: Mapping[str, str | None] | None = None) -> Bootstrap:
        """Fit the model and the members; parameters, errors as in `SparseGP.fit`."""
        structures = structure_list(structures)
        self.model.fit(structures, keys=keys)
        self.members_ = self._resample(structures, keys)
        return self

    @one_blas()
    def _resample(self, structures: list[Atoms], keys: Mapping[str, str | None] | None) -> list[Fitted]:
        state = self.model.state
        kinds = tuple(state.n_labels)
        labels = less_baseline(state.baseline, structures, resolve(structures, keys), kinds)
        groups = equal_vectors(mean_vectors(state.features.descriptor, structures), labels.n_atoms)
        weights = draws(groups, self.n_members, self.seed)
        d = len(state.posterior.target)
        sinks = [RowSink(d + 1) for _ in range(self.n_members)]

        def rows_of(piece: tuple[int, int]) -> list[tuple[np.ndarray, np.ndarray]]:
            part, here = structures[slice(*piece)], labels.take(list(range(*piece)))
            found = state.rows(part, here)
            return [(block, piece[0] + owners(part, here, kind)) for kind, block in found.items()]

        pieces = list(chunks(structures, ATOMS_PER_BATCH))
        for blocks in ordered(rows_of, track(pieces, "bootstrap")):
            for block, owner in blocks:
                for sink, weight in zip(sinks, weights, strict=True):
                    drawn = weight[owner] > 0.0
                    sink.append(np.sqrt(weight[owner][drawn])[:, None] * block[drawn])
        prior = Posterior.prior(d)
        # A baseline is the same for all members: their spread does not need it.
        return [replace(state, posterior=prior.condition([sink.factor()]), baseline=None) for sink in sinks]

    def predict(self, structures: Sequence[Atoms], *, uncertainty: bool = True) -> Prediction:
        """Predict as the model does; standard deviations are the spread of the members.

        `label` adds the noise of a label to `latent`; neither carries the model's calibration factor.

        Raises
        ------
        NotFittedError
            The committee was never fitted.
        SpeciesError
            A structure holds an element that the model has never seen.
        """
        if not self.members_:
            raise NotFittedError("this committee was never fitted; call fit(structures) first.")
        structures = structure_list(structures)
        mean = self.model.predict(structures, uncertainty=False)
        if not uncertainty:
            return mean
        state = self.model.state
        check_species(structures, state.features.species)

        def part(piece: tuple[int, int]) -> Spread:
            batch = Batch.from_structures(structures[slice(*piece)], state.features.cutoff, start=piece[0])
            described = state.features.describe(batch)
            return spread(batch, [member.mean_described(described) for member in self.members_])

        pieces = list(chunks(structures, ATOMS_PER_PREDICTION))
        latent = Spread.joined(list(ordered(part, track(pieces, "predict"))))
        noise = {kind: state.calibration.noise.get(kind, 0.0) for kind in ("energy", "forces", "stress")}
        sizes = np.array([len(atoms) for atoms in structures])
        label = Spread(
            np.hypot(latent.energy_std, noise["energy"] * sizes),
            [np.hypot(f, noise["forces"]) for f in latent.forces_std],
            np.hypot(latent.stress_std, noise["stress"]),
            latent.local_energy_std,
        )
        return replace(mean, latent=latent, label=label)


def draws(groups: np.ndarray, n: int, seed: int) -> Float[np.ndarray, "n structures"]:
    """Return how often each draw of all groups with replacement holds each structure."""
    rng = np.random.default_rng(seed)
    n_groups = int(groups.max()) + 1
    return np.stack([np.bincount(rng.integers(n_groups, size=n_groups), minlength=n_groups)[groups] for _ in range(n)])


def spread(batch: Batch, means: Sequence[Mean]) -> Spread:
    """Return the standard deviation of members' predictions, one entry per structure."""

    def std(name: str) -> np.ndarray:
        return np.std([getattr(mean, name) for mean in means], axis=0, ddof=1)

    cuts = batch.offsets[1:-1]
    return Spread(std("energy"), np.split(std("forces"), cuts), std("stress"), np.split(std("local_energy"), cuts))
