"""Labels of energies and forces as one linear system, with the exact posterior that its solution gives."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float, Int
from scipy.linalg import cho_solve, lapack

from kernelpot.data.batch import Batch
from kernelpot.data.labels import Labels
from kernelpot.data.noise import Noise
from kernelpot.errors import ParameterError
from kernelpot.features.feature_map import E0_ABOUT
from kernelpot.features.force_kernel import Block, DerivativeMap, Frames, block
from kernelpot.features.label_kernel import Layout, Terms, TrainingForm, chunk_length, fill_lower, group_by_composition
from kernelpot.features.vectors import gather_pairs
from kernelpot.inference.exact import host, in_folds
from kernelpot.inference.left_out import LeftOut
from kernelpot.linalg.dense import BLOCK, Cholesky, Triangle, factorise
from kernelpot.linalg.devices import computing
from kernelpot.linalg.factor import triangle
from kernelpot.potentials.prediction import Mean, Spread
from kernelpot.potentials.training import composition_of, e0_rows, least_squares_e0, unknown_constants
from kernelpot.progress import say

if TYPE_CHECKING:
    from ase import Atoms


@dataclass(frozen=True, eq=False)
class ForceState:
    """The mean of the posterior, collapsed on training environments."""

    forms: tuple[TrainingForm, ...]  # One for each term of the local energy
    species: tuple[int, ...]  # Atomic numbers, sorted
    e0: Float[np.ndarray, " species"]  # Energy constant of each species, eV
    noise: Noise  # Of the labels
    n_labels: Mapping[str, int]  # Labels of each kind behind it

    @property
    def reach(self) -> float:
        """Distance up to which a batch needs neighbour pairs, Å."""
        return max(form.map.descriptor.cutoff for form in self.forms)

    def mean(self, batch: Batch) -> Mean:
        """Return energies, forces and stresses of a batch."""
        found = [form.local_and_pairs(batch) for form in self.forms]
        local, pairs = (sum(parts[1:], start=parts[0]) for parts in zip(*found, strict=True))
        local = local + self.e0[np.searchsorted(self.species, batch.numbers)]
        forces, stress = gather_pairs(batch, pairs)
        return Mean(batch.sum_per_structure(local), local, forces, stress)


@dataclass(frozen=True, eq=False)
class LabelSystem:
    """Which labels are rows, what stands in them, and their prior covariance."""

    maps: Sequence[DerivativeMap]  # Terms of the local energy
    structures: Sequence[Atoms]  # structures, labels: In one order
    labels: Labels
    groups: list[list[int]]  # Places of structures, those of one composition together
    layout: Layout  # Places of the labels
    composition: Float[np.ndarray, "structures species"]  # Atoms of each species in each structure
    e0: Float[np.ndarray, " species"]  # Energy constant of each species by least squares, which targets lack, eV
    targets: Float[np.ndarray, " rows"]  # Labels less these constants
    device: str | None  # None: NumPy; else PyTorch's name of the device for kernel blocks and factorisation

    @property
    def e0_std(self) -> float:
        """How far energy constants may move about their least squares, eV."""
        return E0_ABOUT * float(np.sqrt(sum(term.kernel.amplitude**2 for term in self.maps)))

    @cached_property
    def unknown(self) -> Float[np.ndarray, "species k"]:
        """What `unknown_constants` says of the labelled energies."""
        return unknown_constants(triangle(self.composition[self.layout.energy >= 0]), self.e0_std)

    @classmethod
    def of(
        cls,
        maps: Sequence[DerivativeMap],
        structures: Sequence[Atoms],
        labels: Labels,
        kinds: Collection[str],
        device: str | None = None,
    ) -> LabelSystem:
        """Give rows to the labels of these kinds that are there."""
        if labels.factors or any(f is not None and not np.isfinite(f).all() for f in labels.forces):
            raise ParameterError(
                "ForceRidge takes all forces of a structure, and all labels alike; found masks, sigmas or "
                "weights. Delete them (atoms.info, atoms.arrays), or fit a SparseGP, which uses them."
            )
        species = maps[0].species
        groups = group_by_composition([atoms.numbers for atoms in structures], species)
        order = np.concatenate([np.asarray(group) for group in groups])
        energy, forces = (labels.present(kind) & (kind in kinds) for kind in ("energy", "forces"))
        layout = Layout.of(order, energy, forces, 3 * labels.n_atoms)
        composition = composition_of(structures, species)
        e0 = least_squares_e0(e0_rows(labels, composition))
        targets = np.empty(layout.n_rows)
        targets[layout.energy[energy]] = (labels.energy - composition @ e0)[energy]
        for s in np.flatnonzero(forces):
            targets[layout.force_rows(int(s))] = np.asarray(labels.forces[s]).ravel()
        return cls(maps, structures, labels, groups, layout, composition, e0, targets, device)

    def require_memory(self, memory_gb: float) -> None:
        """Say how much memory a fit takes; refuse one that takes more than it may."""
        n = self.layout.n_rows
        # Runs of rows hold the lower half; PyTorch factorises into a second matrix.
        matrix = 4.0 * n * (n + BLOCK) if self.device is None else 16.0 * n**2
        derivatives = 0.0
        for term in self.maps:
            width = dict(zip(term.species, (columns.shape[1] for columns in term.columns), strict=True))
            widths = self.composition @ np.array([width.get(z, 0) for z in self.maps[0].species], dtype=float)
            derivatives += 8.0 * float(widths @ (3 * self.labels.n_atoms + 1))
        total = (matrix + derivatives) / 1e9
        plan = f"{n:,} labels: {matrix / 1e9:.3g} GB for their covariance, {derivatives / 1e9:.3g} GB for derivatives"
        say(f"fit: {plan}")
        if total > memory_gb:
            raise ParameterError(
                f"the fit takes {total:.3g} GB ({plan}), more than `memory_gb` = {memory_gb:g}; raise it where the "
                "machine has more, or fit fewer structures (`kernelpot.design.select` chooses them), or use SparseGP."
            )

    @cached_property
    def terms(self) -> Terms:
        """Maps with the structures' derivatives, on the device where one is named."""
        terms = [(term, [term.frames([self.structures[k] for k in g], g) for g in self.groups]) for term in self.maps]
        if self.device is None:
            return terms
        return [(term, [frames.on(self.device) for frames in found]) for term, found in terms]

    def variance(self, noise: Noise) -> Float[np.ndarray, " rows"]:
        """Return the variance of the noise of every row."""
        result = np.empty(self.layout.n_rows)
        here = self.layout.energy >= 0
        if here.any():
            result[self.layout.energy[here]] = (self.composition[here].sum(axis=1) * noise.sigma("energy")) ** 2
        if self.layout.n_rows > self.layout.n_energies:
            result[self.layout.n_energies :] = noise.sigma("forces") ** 2
        return result

    def fill(self, matrix: Any) -> None:
        """Write the lower triangle of the prior covariance into zeros: a `Triangle`, or a tensor on the device."""
        fill_lower(matrix, self.terms, self.layout)
        here = self.layout.energy >= 0
        counted = np.empty((self.layout.n_energies, self.composition.shape[1]))
        counted[self.layout.energy[here]] = self.e0_std * self.composition[here]
        constants = counted @ counted.T
        if isinstance(matrix, Triangle):
            matrix.add_corner(constants)
            return
        import torch

        matrix[: len(constants), : len(constants)] += torch.as_tensor(constants, device=matrix.device)

    # ---- leaving out

    @cached_property
    def prior(self) -> Float[np.ndarray, "rows rows"]:
        """Prior covariance of the labels, whole: for as few as can be left out."""
        prior = np.zeros((self.layout.n_rows, self.layout.n_rows))
        self.fill(Triangle.within(prior))
        return np.tril(prior) + np.tril(prior, -1).T

    @cached_property
    def structure(self) -> Int[np.ndarray, " rows"]:
        """Structure that each row belongs to."""
        found = np.empty(self.layout.n_rows, dtype=np.int64)
        for s in range(len(self.structures)):
            if self.layout.energy[s] >= 0:
                found[self.layout.energy[s]] = s
            if self.layout.forces[s] >= 0:
                found[self.layout.force_rows(s)] = s
        return found

    def left_out(self, noise: Noise) -> dict[str, LeftOut]:
        """Return errors of the labels of each structure given all others: energies per atom, and force components."""
        lower = self.prior.copy()
        lower[np.diag_indices(len(lower))] += self.variance(noise)
        factorise(lower)
        dual = cho_solve((lower.T, False), self.targets, check_finite=False)
        inverse = lapack.dpotri(lower.T, lower=0, overwrite_c=1)[0].T
        found, n = in_folds(inverse, dual, self.structure), self.layout.n_energies
        atoms = self.labels.n_atoms[self.structure[:n]]
        energies = replace(found.take(slice(n)), error=found.error[:n] / atoms, variance=found.variance[:n] / atoms**2)
        return {"energy": energies, "forces": found.take(slice(n, None))}


@dataclass(frozen=True, eq=False)
class ForcePosterior:
    """The whole posterior: the factor of the labels' covariance with what it takes to see it from elsewhere."""

    system: LabelSystem  # The labels with the training structures' derivatives
    noise: Noise  # Of the labels
    cholesky: Cholesky  # Of the labels' covariance, noise included
    weights: Float[np.ndarray, " rows"]  # That covariance's inverse times the targets

    @classmethod
    def of(cls, system: LabelSystem, noise: Noise) -> ForcePosterior:
        """Condition the prior on the labels."""
        n, variance = system.layout.n_rows, system.variance(noise)
        try:
            if system.device is None:
                matrix = Triangle.zeros(n)
                system.fill(matrix)
                matrix.add_diagonal(variance)
                cholesky = Cholesky.of(matrix)
            else:
                import torch

                with computing(system.device):
                    there = torch.zeros((n, n), dtype=torch.float64, device=system.device)
                    system.fill(there)
                    there.diagonal().add_(torch.as_tensor(variance, device=system.device))
                    cholesky = Cholesky.of(there)
        except np.linalg.LinAlgError as error:
            raise ParameterError(
                f"the covariance of the labels is singular to round-off ({error}): the noise ({noise}) is too small "
                "for the amplitude; raise `noise`, or lower the kernel's amplitude."
            ) from None
        return cls(system, noise, cholesky, cholesky.solve(system.targets))

    @property
    def scale(self) -> float:
        """√(yᵀK⁻¹y / n): by what number amplitude and noises together reach the largest marginal likelihood.

        It leaves the mean as it is (Rasmussen and Williams (2006), eq. 5.8, in closed form for a common factor).
        """
        y = self.system.targets
        return float(np.sqrt(y @ self.weights / len(y)))

    def collapsed(self) -> ForceState:
        """Return the mean as a function of environments.

        Where energies are no labels, the energy is integrated from forces, and its constants follow by least squares
        from the energies that are there.
        """
        system, layout = self.system, self.system.layout
        forms = tuple(
            TrainingForm.from_weights(term, found, layout, self.weights, system.device) for term, found in system.terms
        )
        here = layout.energy >= 0
        e0 = system.e0 + system.e0_std**2 * system.composition[here].T @ self.weights[layout.energy[here]]
        n_labels = {"energy": layout.n_energies, "forces": layout.n_rows - layout.n_energies}
        state = ForceState(
            forms, system.maps[0].species, e0, self.noise, {kind: n for kind, n in n_labels.items() if n}
        )
        if self.noise.energy is not None:
            return state
        flat = replace(state, e0=np.zeros(len(state.species)))
        known = np.flatnonzero(system.labels.present("energy"))
        if not len(known):
            return flat
        parts = [flat.mean(Batch.from_structures([system.structures[k]], flat.reach)) for k in known.tolist()]
        predicted = np.concatenate([part.energy for part in parts])
        left = replace(system.labels.take(known), energy=system.labels.energy[known] - predicted)
        return replace(state, e0=least_squares_e0(e0_rows(left, system.composition[known])))

    def spread(self, batch: Batch) -> Spread:
        """Return standard deviations for a batch of one structure; stresses have none.

        Variances are the prior's less the squared length of L⁻¹ k, E0 included, times `scale` squared: one triangular
        solve of 1 + 4 N columns for N atoms, at n² operations a column for n labels.
        """
        maps = self.system.maps
        whole = [self._placed(term.frames_of(batch, np.zeros(1, dtype=np.int64))) for term in maps]
        counted = np.array([np.count_nonzero(batch.numbers == z) for z in maps[0].species], dtype=float)
        own = _sum_blocks(maps, whole, whole)
        rows = [self._rows(whole, counted)]
        prior = [host(own.value) + self.system.e0_std**2 * counted @ counted, np.diag(host(own.d_d)[:, 0])]
        for k, z in enumerate(batch.numbers):
            # Each atom's environment as a structure of its own that nothing moves.
            a, place = maps[0].species.index(int(z)), int(np.count_nonzero(batch.numbers[:k] == z))
            alone = [_environment(frames, a, place) for frames in whole]
            rows.append(self._rows(alone, np.eye(len(counted))[a]))
            prior.append(host(_sum_blocks(maps, alone, alone).value) + self.system.e0_std**2)
        half = self.cholesky.half_solve(np.concatenate(rows).T)
        variance = np.concatenate(prior) - np.einsum("nk,nk->k", half, half)
        variance[0] += np.sum((counted @ self.system.unknown) ** 2)
        std = self.scale * np.sqrt(np.maximum(variance, 0.0))
        n = 3 * batch.n_atoms
        return Spread(std[:1], [std[1 : n + 1].reshape(-1, 3)], np.full((1, 6), np.nan), [std[n + 1 :]])

    def _placed(self, frames: Frames) -> Frames:
        return frames if self.system.device is None else frames.on(self.system.device)

    def _rows(self, left: Sequence[Frames], counted: Float[np.ndarray, " species"]) -> Float[np.ndarray, "rows labels"]:
        """Return the prior covariance of one structure's energy and forces with every label."""
        maps, layout = self.system.maps, self.system.layout
        result = np.zeros((1 + left[0].n_coordinates, layout.n_rows))
        for right in zip(*(found for _, found in self.system.terms), strict=True):
            step = chunk_length(list(zip(maps, right, strict=True)), left[0])
            for start in range(0, len(right[0]), step):
                taken = [frames.take(slice(start, start + step)) for frames in right]
                found = _sum_blocks(maps, left, taken)
                value, value_d = host(found.value), host(found.value_d)
                d_value, d_d = host(found.d_value), host(found.d_d)
                for t, s in enumerate(taken[0].index):
                    if layout.energy[s] >= 0:
                        column = int(layout.energy[s])
                        result[0, column] = value[t] + self.system.e0_std**2 * counted @ self.system.composition[s]
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


def _environment(frames: Frames, species: int, place: int) -> Frames:
    def alone(parts: tuple[Any, ...]) -> tuple[Any, ...]:
        chosen = (slice(place, place + 1) if a == species else slice(0, 0) for a in range(len(parts)))
        return tuple(part[:, c] for part, c in zip(parts, chosen, strict=True))

    return Frames(frames.index, alone(frames.x), tuple(j[:, :, :0] for j in alone(frames.j)))
