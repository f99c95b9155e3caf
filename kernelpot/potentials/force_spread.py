"""Standard deviations of energies and forces from the exact posterior of a kernel fit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from kernelpot.data.batch import Batch
from kernelpot.features.derivative_kernel import Block, Frames, block
from kernelpot.features.derivative_map import DerivativeMap
from kernelpot.features.feature_map import E0_PRIOR
from kernelpot.features.label_kernel import chunk_length
from kernelpot.potentials.force_state import Factored
from kernelpot.potentials.prediction import Spread


@dataclass(frozen=True, eq=False)
class ForceSpread:
    """Posterior variances: prior less the squared length of L⁻¹ k, E0 included, times the fit's common scale squared.

    One triangular solve of 1 + 4 N columns for each structure of N atoms, at n² operations a column for n labels.

    Attributes
    ----------
    factored
        The factor with the training structures.
    """

    factored: Factored

    def latent(self, batch: Batch) -> Spread:
        """Return the bare posterior's standard deviations for a batch of one structure; stresses have none."""
        maps = [term for term, _ in self.factored.system.terms]
        whole = [self._placed(term.frames_of(batch, np.zeros(1, dtype=np.int64))) for term in maps]
        counted = np.array([np.count_nonzero(batch.numbers == z) for z in maps[0].species], dtype=float)
        own = _sum_blocks(maps, whole, whole)
        rows = [self._rows(maps, whole, counted)]
        prior = [_host(own.value) + E0_PRIOR**2 * counted @ counted, np.diag(_host(own.d_d)[:, 0])]
        places = _places(batch.numbers, maps[0].species)
        for a, k in places:
            alone = [_environment(frames, a, k) for frames in whole]
            one = np.zeros(len(counted))
            one[a] = 1.0
            rows.append(self._rows(maps, alone, one))
            prior.append(_host(_sum_blocks(maps, alone, alone).value) + E0_PRIOR**2)
        half = self.factored.cholesky.half_solve(np.concatenate(rows).T)
        variance = np.concatenate(prior) - np.einsum("nk,nk->k", half, half)
        std = self.factored.scale * np.sqrt(np.maximum(variance, 0.0))
        n = 3 * batch.n_atoms
        return Spread(std[:1], [std[1 : n + 1].reshape(-1, 3)], np.full((1, 6), np.nan), [std[n + 1 :]])

    def _placed(self, frames: Frames) -> Frames:
        where = self.factored.system.terms[0][1][0].x[0]
        return frames if isinstance(where, np.ndarray) else frames.on(str(where.device))

    def _rows(
        self, maps: Sequence[DerivativeMap], left: Sequence[Frames], counted: Float[np.ndarray, " species"]
    ) -> Float[np.ndarray, "rows labels"]:
        """Return the prior covariance of one structure's energy and forces with every label."""
        layout = self.factored.system.layout
        result = np.zeros((1 + left[0].n_coordinates, layout.n_rows))
        groups = [found for _, found in self.factored.system.terms]
        for g in range(len(groups[0])):
            right = [found[g] for found in groups]
            step = chunk_length(list(zip(maps, right, strict=True)), left[0])
            for start in range(0, len(right[0]), step):
                taken = [frames.take(slice(start, start + step)) for frames in right]
                found = _sum_blocks(maps, left, taken)
                value, value_d = _host(found.value), _host(found.value_d)
                d_value, d_d = _host(found.d_value), _host(found.d_d)
                for t, s in enumerate(taken[0].index):
                    if layout.energy[s] >= 0:
                        column = int(layout.energy[s])
                        result[0, column] = value[t] + E0_PRIOR**2 * counted @ self.factored.system.composition[s]
                        result[1:, column] = -d_value[:, t]
                    if layout.forces[s] >= 0:
                        result[0, layout.force_rows(s)] = -value_d[t]
                        result[1:, layout.force_rows(s)] = d_d[:, t]
        return result


def _sum_blocks(maps: Sequence[DerivativeMap], left: Sequence[Frames], right: Sequence[Frames]) -> Block:
    total: Block | None = None
    for term, one, others in zip(maps, left, right, strict=True):
        found = block(term.kernel, one, others).times(term.kernel.amplitude**2)
        total = found if total is None else total.plus(found)
    if total is None:
        raise ValueError("there is no term")
    return total


def _places(numbers: np.ndarray, species: Sequence[int]) -> list[tuple[int, int]]:
    """Return for each atom the place of its species, and its place among the centres of that species."""
    return [(species.index(int(z)), int(np.count_nonzero(numbers[:k] == z))) for k, z in enumerate(numbers)]


def _environment(frames: Frames, species: int, place: int) -> Frames:
    """Return one environment as a structure of its own that nothing moves."""

    def alone(parts: tuple[Any, ...]) -> tuple[Any, ...]:
        chosen = (slice(place, place + 1) if a == species else slice(0, 0) for a in range(len(parts)))
        return tuple(part[:, c] for part, c in zip(parts, chosen, strict=True))

    return Frames(frames.index, alone(frames.x), tuple(j[:, :, :0] for j in alone(frames.j)))


def _host(array: Any) -> np.ndarray:
    result: np.ndarray = array if isinstance(array, np.ndarray) else array.cpu().numpy()
    return result
