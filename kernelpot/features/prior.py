"""Prior variances and covariances of labels under the full kernel: what the inducing environments cannot see.

All at amplitude 1. What takes `x` alone serves arrays and tensors alike. `coupling` is κ between the elements of two
centres, which the kernel is multiplied with; None: the identity, environments of one element at a time.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from kernelpot.data.batch import Batch
from kernelpot.features.vectors import DescribedBatch, add_runs, unit_jacobian
from kernelpot.kernels import DotKernel

Coupling = Float[np.ndarray, "a b"] | None

CENTRES = 256
WHOLE = 1024
"""Atoms beyond which the derivatives of all vectors by the strain are not kept at once."""

GROUP_BYTES = 400_000_000
GRAM_BYTES = 200_000_000
"""Most memory for the second moments of structures, where these replace the double sum over atoms."""


# ---- arrays of NumPy, or tensors of PyTorch


def energy_sums(
    kernel: DotKernel, x: Any, batch: Batch, species: Int[np.ndarray, " atoms"], step: int, coupling: Coupling = None
) -> Any:
    """Return 1ᵀK1 of each structure, the prior variance of its total energy.

    Minus the squared features it is the residual variance 1ᵀ(K - Q)1: N equal atoms far from Z give N².
    """
    result = _zeros(x, len(batch))
    for s, atoms, kappa in _by_structure(batch, species, coupling):
        own = x[atoms]
        if kappa is None and kernel.form == 2 and own.shape[1] < len(own):
            result[s] += ((own.T @ own) ** 2).sum()
            continue
        for start in range(0, len(own), step):
            here = slice(start, start + step)
            value = kernel.value(own[here] @ own.T)
            result[s] += (value if kappa is None else value * _like(x, kappa[here])).sum()
    return result


def virial_sums(
    kernel: DotKernel,
    x: Any,
    virial: Any,
    batch: Batch,
    species: Int[np.ndarray, " atoms"],
    step: int,
    coupling: Coupling = None,
) -> Any:
    """Return the prior variance of each structure's ∂E/∂ε, (structures, 6), from ∂x/∂ε of every atom."""
    result = _zeros(x, len(batch), 6)
    for s, atoms, kappa in _by_structure(batch, species, coupling):
        result[s] += mixed(kernel, x[atoms], virial[atoms], step, kappa, diagonal=True)
    return result


def mixed(
    kernel: DotKernel, x: Any, j: Any, step: int, kappa: Coupling = None, others: Any = None, *, diagonal: bool = False
) -> Any:  # fmt: skip
    """Σ_ab κ_ab (k''(x_a·x_b) (j_a^c·x_b)(j_b^d·x_a) + k'(x_a·x_b) j_a^c·j_b^d), j (n, c, f), in blocks of rows a.

    The b are the a, or others, with x and j of their own. Of the matrix over c and d its diagonal alone, where that is
    asked for.
    """
    n, c, f = j.shape
    y, l = (x, j) if others is None else others  # noqa: E741
    result = _zeros(x, c) if diagonal else _zeros(x, c, c)
    flat = l.reshape(len(y), c * f)
    for start in range(0, n, step):
        near, moved = x[start : start + step], j[start : start + step]
        dots = near @ y.T
        weight = 1.0 if kappa is None else _like(x, kappa[start : start + step])
        mean = ((kernel.slope(dots) * weight) @ flat).reshape(-1, c, f)
        result += (moved * mean).sum((0, 2)) if diagonal else (moved @ mean.swapaxes(1, 2)).sum(0)
        if kernel.form != 1:
            seen = (moved.reshape(-1, f) @ y.T).reshape(-1, c, len(y))
            along = seen * (kernel.curvature(dots) * weight)[:, None]
            # back[a, d, b] = x_a·j_b^d: of all rows at once the same numbers again.
            same = others is None and len(near) == n
            back = (seen if same else (l.reshape(-1, f) @ near.T).reshape(len(y), c, -1)).swapaxes(0, 2)
            result += (along * back).sum((0, 2)) if diagonal else (along @ back.swapaxes(1, 2)).sum(0)
    return result


def _zeros(like: Any, *shape: int) -> Any:
    return np.zeros(shape) if isinstance(like, np.ndarray) else like.new_zeros(shape)


def _like(x: Any, weights: Float[np.ndarray, "a b"]) -> Any:
    return weights if isinstance(x, np.ndarray) else x.new_tensor(weights)


def _groups(
    species: Int[np.ndarray, " n"], coupling: Coupling
) -> Iterator[tuple[Int[np.ndarray, " some"], Float[np.ndarray, "some some"] | None]]:
    """Yield the places of what learns from each other, with κ between them: each species, or with coupling all."""
    if coupling is not None:
        yield np.arange(len(species)), coupling[np.ix_(species, species)]
        return
    for a in np.unique(species):
        yield np.flatnonzero(species == a), None


def _by_structure(
    batch: Batch, species: Int[np.ndarray, " atoms"], coupling: Coupling
) -> Iterator[tuple[int, Int[np.ndarray, " some"], Float[np.ndarray, "some some"] | None]]:
    for s, (start, stop) in enumerate(zip(batch.offsets[:-1], batch.offsets[1:], strict=True)):
        for places, kappa in _groups(species[start:stop], coupling):
            yield s, start + places, kappa


# ---- variances of a batch in compiled loops


def prior(
    kernel: DotKernel, described: DescribedBatch, kind: str, coupling: Coupling = None, n_atoms: int | None = None
) -> Float[np.ndarray, " rows"]:
    """Return the prior variance of every label of a kind, flat; of forces those of the first atoms, where so many."""
    if kind == "energy":
        return np.asarray(energy_sums(kernel, described.x, described.batch, described.species, CENTRES, coupling))
    if kind == "forces":
        return forces_prior(kernel, described, coupling, n_atoms).ravel()
    return stress_prior(kernel, described, coupling).ravel()


def forces_prior(
    kernel: DotKernel, described: DescribedBatch, coupling: Coupling = None, n_atoms: int | None = None
) -> Float[np.ndarray, "atoms 3"]:
    """Return the prior variance of every force component, or those of the first atoms.

    The mixed second derivative Σ_ij ∂²k(x_i, x_j)/∂r∂r' at r = r', over the centres i, j that the atom moves:
    k'' (J_i·x_j)(J_j·x_i) + k' J_i·J_j with J_i = ∂x_i/∂r.
    """
    batch = described.batch
    n = batch.n_atoms if n_atoms is None else n_atoms
    result = np.zeros((n, 3))
    per_target = 3 * 8 * described.x.shape[1] * (len(batch.first) / batch.n_atoms + 1)
    group = max(1, int(GROUP_BYTES / per_target))
    start = stop = 0
    while stop < n:
        # Whole structures where they fit: each derivative is then made once, and where it is wanted. Together they stay
        # smaller, as fresh memory costs time.
        start, ends = stop, batch.offsets[batch.offsets > stop]
        together = ends[ends <= stop + group // 4]
        stop = min(n, int(together[-1] if len(together) else min(ends[0], stop + group)))
        rows, centre, target = _rows_of_targets(described, start, stop, whole=n == batch.n_atoms)
        order = np.argsort(target, kind="stable")
        ends = np.searchsorted(target[order], np.arange(start, stop + 1))
        for atom in range(start, stop):
            mine = order[ends[atom - start] : ends[atom - start + 1]]
            for places, kappa in _groups(described.species[centre[mine]], coupling):
                some = mine[places]
                x = described.x[centre[some]]
                result[atom] += mixed(kernel, x, rows[some], CENTRES, kappa, diagonal=True)
    return result


def stress_prior(
    kernel: DotKernel, described: DescribedBatch, coupling: Coupling = None
) -> Float[np.ndarray, "structures 6"]:
    """Return the prior variance of every stress component; NaN where there is no volume."""
    batch = described.batch
    if batch.n_atoms > WHOLE:
        result = np.stack([_large_virial(kernel, described, s, coupling) for s in range(len(batch))])
    else:
        virial = _virial(described, 0, batch.n_atoms)
        result = virial_sums(kernel, described.x, virial, batch, described.species, CENTRES, coupling)
    return result / batch.volumes[:, None] ** 2


def _large_virial(kernel: DotKernel, described: DescribedBatch, s: int, coupling: Coupling) -> Float[np.ndarray, "6"]:
    """Return `virial_sums` of one structure with ∂x/∂ε of a few atoms at a time.

    With A = Σ_a j_a x_aᵀ over the atoms of a species, those of zeta 2 are 2 Σ (A∘Aᵀ + A∘A). Other kernels take a few
    atoms with a few others.
    """
    start, stop = described.batch.offsets[s : s + 2].tolist()
    x, species = described.x, described.species
    n = int(species.max()) + 1
    kappa = np.eye(n) if coupling is None else coupling
    chunks = list(_centre_chunks(start, stop, CENTRES))
    if kernel.form == 2 and 48 * n * x.shape[1] ** 2 < GRAM_BYTES:
        total = np.zeros((n, 6, x.shape[1], x.shape[1]))
        for a, b in chunks:
            j = _virial(described, a, b)
            for t in np.unique(species[a:b]):
                mine = species[a:b] == t
                total[t] += j[mine].transpose(1, 2, 0) @ x[a:b][mine]
        other = np.einsum("st,tcfg->scfg", kappa, total)
        return 2.0 * (np.einsum("scfg,scgf->c", total, other) + np.einsum("scfg,scfg->c", total, other))
    result = np.zeros(6)
    for k, (a, b) in enumerate(chunks):
        j = _virial(described, a, b)
        for c, d in chunks[k:]:
            weight = (1.0 if c == a else 2.0) * kappa[np.ix_(species[a:b], species[c:d])]
            others = (x[c:d], j if c == a else _virial(described, c, d))
            result += mixed(kernel, x[a:b], j, CENTRES, weight, others, diagonal=True)
    return result


def _virial(described: DescribedBatch, start: int, stop: int) -> Float[np.ndarray, "n 6 f"]:
    """Return ∂x/∂ε of some atoms."""
    virial = np.empty((stop - start, 6, described.x.shape[1]))
    for a, b in _centre_chunks(start, stop):
        part = described.environments.displacements(a, b).virial
        unit_jacobian(part, np.arange(b - a), described.x[a:b], described.norm[a:b])
        virial[a - start : b - start] = part
    return virial


def _rows_of_targets(
    described: DescribedBatch, start: int, stop: int, *, whole: bool
) -> tuple[Float[np.ndarray, "rows 3 f"], Int[np.ndarray, " rows"], Int[np.ndarray, " rows"]]:
    """Return the derivatives of all unit vectors that atoms ``start:stop`` move; `whole` structures keep apart."""
    batch = described.batch
    if whole and start in batch.offsets and stop in batch.offsets:
        moved = described.environments.displacements(start, stop)
        unit_jacobian(moved.rows, moved.centre, described.x[start:stop], described.norm[start:stop])
        return moved.rows, moved.centre + start, moved.target
    concerned = np.zeros(batch.n_atoms, dtype=bool)
    concerned[start:stop] = True
    concerned[batch.first[(batch.second >= start) & (batch.second < stop)]] = True
    rows, centres, targets = [], [], []
    for a, b in _centre_chunks(0, batch.n_atoms):
        if not concerned[a:b].any():
            continue
        moved = described.environments.displacements(a, b)
        kept = (moved.target >= start) & (moved.target < stop)
        part = np.ascontiguousarray(moved.rows[kept])
        unit_jacobian(part, moved.centre[kept], described.x[a:b], described.norm[a:b])
        rows.append(part)
        centres.append(moved.centre[kept] + a)
        targets.append(moved.target[kept])
    return np.concatenate(rows), np.concatenate(centres), np.concatenate(targets)


def _centre_chunks(start: int, stop: int, size: int = 64) -> Iterator[tuple[int, int]]:
    for a in range(start, stop, size):
        yield a, min(stop, a + size)


# ---- covariances


def energy_covariance(
    kernel: DotKernel, left: DescribedBatch, right: DescribedBatch, coupling: Coupling = None
) -> Float[np.ndarray, "left right"]:
    """Return 1ᵀK1 between structures: the prior covariance of their total energies.

    Σ_ij k(x_i, y_j) over pairs of one species, or with coupling over all pairs. zeta 2 is Σ (XᵀX)·(YᵀY), F² operations
    an atom and a pair of structures, taken where it is cheaper.
    """
    result = np.zeros((len(left.batch), len(right.batch)))
    pairs = [(a, b) for a in np.unique(left.species) for b in np.unique(right.species)]
    for a, b in pairs:
        kappa = float(a == b) if coupling is None else float(coupling[a, b])
        if kappa == 0.0:
            continue
        i, j = np.flatnonzero(left.species == a), np.flatnonzero(right.species == b)
        s, t = left.batch.structure[i], right.batch.structure[j]
        x, y = left.x[i], right.x[j]
        f, n = x.shape[1], len(np.unique(s)) * len(np.unique(t))
        cheaper = f * (len(x) + len(y) + n) < len(x) * len(y)
        if kernel.form == 2 and cheaper and 8 * f * f * sum(result.shape) < GRAM_BYTES:
            result += kappa * _moments(x, s, len(left.batch)) @ _moments(y, t, len(right.batch)).T
            continue
        for start in range(0, len(x), CENTRES):
            block = slice(start, start + CENTRES)
            columns = np.zeros((len(right.batch), len(x[block])))
            add_runs(columns, t, kappa * kernel.value(y @ x[block].T))
            add_runs(result, s[block], columns.T)
    return result


def force_covariance(
    kernel: DotKernel, described: DescribedBatch, atom: int, coupling: Coupling = None
) -> Float[np.ndarray, "3 3"]:
    """Return the prior covariance of one atom's force; its diagonal is `forces_prior`."""
    batch = described.batch
    near = batch.first[batch.second == atom]
    rows, centres = [], []
    for centre in np.unique(np.append(near, atom)).tolist():
        moved = described.environments.displacements(centre, centre + 1)
        part = np.ascontiguousarray(moved.rows[moved.target == atom])
        here = slice(centre, centre + 1)
        unit_jacobian(part, np.zeros(len(part), dtype=np.int64), described.x[here], described.norm[here])
        rows.append(part)
        centres += [centre] * len(part)
    return _over_species(kernel, described, np.array(centres), np.concatenate(rows), coupling)


def stress_covariance(
    kernel: DotKernel, described: DescribedBatch, structure: int, coupling: Coupling = None
) -> Float[np.ndarray, "6 6"]:
    """Return the prior covariance of one structure's stress; NaN where there is no volume."""
    batch = described.batch
    start, stop = int(batch.offsets[structure]), int(batch.offsets[structure + 1])
    virial = _virial(described, start, stop)
    return _over_species(kernel, described, np.arange(start, stop), virial, coupling) / batch.volumes[structure] ** 2


def _moments(
    x: Float[np.ndarray, "n f"], structure: Int[np.ndarray, " n"], n_structures: int
) -> Float[np.ndarray, "structures f*f"]:
    """Return XᵀX of every structure, flat."""
    ends = np.searchsorted(structure, np.arange(n_structures + 1))
    parts = [x[ends[s] : ends[s + 1]] for s in range(n_structures)]
    return np.stack([(part.T @ part).ravel() for part in parts])


def _over_species(
    kernel: DotKernel,
    described: DescribedBatch,
    centres: Int[np.ndarray, " n"],
    j: Float[np.ndarray, "n c f"],
    coupling: Coupling,
) -> Float[np.ndarray, "c c"]:
    result = np.zeros((j.shape[1], j.shape[1]))
    for mine, kappa in _groups(described.species[centres], coupling):
        result += mixed(kernel, described.x[centres[mine]], j[mine], CENTRES, kappa)
    return result
