"""Rows of one split's feature space, made once, and fits to any of its structures from sums of small matrices."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from scipy.linalg import cholesky, solve_triangular

from benchmarks.label_sets import SETS, LabelSet, Split, split

KINDS = ("energy", "forces")
NOISE = {"energy": 0.002, "forces": 0.1}
"""Fixed noises, eV/atom and eV/Å, at amplitude 1 eV."""

_ATOMS = 512


@dataclass(frozen=True, eq=False)
class Rows:
    """Every label of a split as a row over the weights, at amplitude 1 and not divided by noise.

    Attributes
    ----------
    energy
        [features | E0 columns times their prior | energy], per atom; the energies are centred by composition.
    forces
        [features | force component]; E0 does not enter.
    n_atoms, offsets
        Atoms of each structure, and where their force rows begin.
    means
        Mean descriptors.
    n_pool
        The first structures are the pool, the others are held out.
    groups
        Names of the structures' groups.
    """

    energy: np.ndarray
    forces: np.ndarray
    n_atoms: np.ndarray
    means: np.ndarray
    n_pool: int
    groups: tuple[str, ...]

    @cached_property
    def offsets(self) -> np.ndarray:
        """First force row of every structure."""
        return np.concatenate([[0], np.cumsum(3 * self.n_atoms)])

    @property
    def d(self) -> int:
        """Weights: features and E0 columns."""
        return self.energy.shape[1] - 1

    @cached_property
    def n_distinct(self) -> int:
        """Distinct structures of the pool."""
        from kernelpot.linalg.subsets import equal_vectors

        return int(equal_vectors(self.means[: self.n_pool], self.n_atoms[: self.n_pool]).max()) + 1

    @property
    def roots(self) -> np.ndarray:
        """Inverse standard deviations of the prior of all columns, at amplitude 1."""
        from kernelpot.features.feature_map import E0_ABOUT, E0_PRIOR

        return np.append(np.ones(self.d - self.n_e0), np.full(self.n_e0, 1.0 / E0_ABOUT) * E0_PRIOR)

    @property
    def n_e0(self) -> int:
        """E0 columns, one for each species."""
        return self.energy.shape[1] - self.forces.shape[1]

    def force_rows(self, start: int, stop: int) -> np.ndarray:
        """Force rows of structures from start to stop, with their E0 columns (zero)."""
        part = self.forces[self.offsets[start] : self.offsets[stop]]
        return np.concatenate([part[:, :-1], np.zeros((len(part), self.n_e0)), part[:, -1:]], axis=1)

    @cached_property
    def force_grams(self) -> np.ndarray:
        """``[B | y]ᵀ[B | y]`` of the forces of every structure in the pool, without E0 columns."""
        o = self.offsets
        return np.stack([part.T @ part for part in (self.forces[o[s] : o[s + 1]] for s in range(self.n_pool))])

    def gram(self, kind: str, chosen: np.ndarray, baseline: np.ndarray) -> np.ndarray:
        """``[B | y]ᵀ[B | y]`` of one kind of label of some structures, over all columns."""
        if kind == "energy":
            rows = self.energies(chosen, baseline)
            return rows.T @ rows
        features = self.forces.shape[1] - 1
        inner = self.force_grams[chosen].sum(axis=0)
        gram = np.zeros((self.d + 1, self.d + 1))
        places = np.concatenate([np.arange(features), [self.d]])
        gram[np.ix_(places, places)] = inner
        return gram

    def energies(self, chosen: np.ndarray, baseline: np.ndarray) -> np.ndarray:
        """Energy rows with a baseline of each species (eV) taken off the labels."""
        from kernelpot.features.feature_map import E0_PRIOR

        rows = self.energy[chosen].copy()
        rows[:, -1] -= rows[:, self.d - self.n_e0 : self.d] @ baseline / E0_PRIOR
        return rows

    def baseline(self, chosen: np.ndarray) -> np.ndarray:
        """Least-squares energy of each species from the energies of some structures, as a fit takes it."""
        from kernelpot.features.feature_map import E0_PRIOR
        from kernelpot.potentials.training import least_squares_e0

        rows = self.energy[chosen][:, self.d - self.n_e0 :].copy()
        rows[:, :-1] /= E0_PRIOR
        return least_squares_e0(rows)

    def fit(self, chosen: Sequence[int] | np.ndarray, ratio: Mapping[str, float]) -> tuple[np.ndarray, np.ndarray]:
        """Return the posterior mean of the weights and the E0 baseline it stands on.

        Parameters
        ----------
        chosen
            Structures of the pool that are labelled.
        ratio
            Noise over amplitude of each kind.
        """
        chosen = np.asarray(chosen)
        baseline = self.baseline(chosen)
        gram = np.sum([self.gram(kind, chosen, baseline) * ratio[kind] ** -2.0 for kind in KINDS], axis=0)
        return solve(gram, self.roots), baseline

    def errors(self, weights: np.ndarray, baseline: np.ndarray) -> dict[str, dict[str, float]]:
        """RMSE, MAE and largest error of the held-out labels: eV/atom and eV/Å."""
        held = np.arange(self.n_pool, len(self.n_atoms))
        energy = self.energies(held, baseline)
        forces = self.forces[self.offsets[self.n_pool] :]
        features = forces.shape[1] - 1
        return {
            "energy": summary(energy[:, :-1] @ weights - energy[:, -1]),
            "forces": summary(forces[:, :-1] @ weights[:features] - forces[:, -1]),
        }


def solve(gram: np.ndarray, roots: np.ndarray) -> np.ndarray:
    """Posterior mean from the Gram matrix of scaled rows [B | y] under a prior of these inverse standard deviations."""
    precision = gram[:-1, :-1] + np.diag(roots**2)
    factor = cholesky(precision, check_finite=False)
    target = solve_triangular(factor, gram[:-1, -1], trans="T", check_finite=False)
    weights: np.ndarray = solve_triangular(factor, target, check_finite=False)
    return weights


def summary(residual: np.ndarray) -> dict[str, float]:
    """Figures of residuals."""
    size = np.abs(residual)
    return {"rmse": float(np.sqrt(np.mean(size**2))), "mae": float(size.mean()), "worst": float(size.max())}


def make(known: LabelSet, part: Split) -> Rows:
    """Describe every structure of a split in one feature space, fixed from the unlabelled pool."""
    import kernelpot as kp
    from kernelpot.data.labels import resolve
    from kernelpot.data.stream import chunks
    from kernelpot.features.inducing import mean_vectors
    from kernelpot.potentials.training import labelled_rows, whiten_columns

    noise = kp.Noise(**NOISE)
    spec = kp.SparseGP(part.descriptor, kp.DotProduct(zeta=2), n_inducing=known.n_inducing, noise=noise)
    features = spec.prepare(part.structures[: part.n_pool]).features_
    labels = resolve(part.structures, None)
    n_species = len(features.species)
    blocks: dict[str, list[np.ndarray]] = {kind: [] for kind in KINDS}
    for start, stop in chunks(part.structures, _ATOMS):
        rows = labelled_rows(
            features, part.structures[start:stop], labels.take(range(start, stop)), kinds=KINDS,
            e0=np.zeros(n_species),
        )  # fmt: skip
        for kind in KINDS:
            blocks[kind].append(whiten_columns(features, rows[kind]))
    energy = np.concatenate(blocks["energy"])
    # A constant shift by composition, so that sums of squares keep their digits; every fit finds its own baseline.
    share = energy[:, -1 - n_species : -1]
    energy[:, -1] -= share @ np.linalg.lstsq(share, energy[:, -1], rcond=1e-8)[0]
    forces = np.concatenate(blocks["forces"])
    return Rows(
        energy,
        np.delete(forces, np.s_[-1 - n_species : -1], axis=1),
        np.array([len(atoms) for atoms in part.structures]),
        mean_vectors(features.descriptor, part.structures),
        part.n_pool,
        tuple(str(atoms.info.get("config_type", "")) for atoms in part.structures),
    )


def load(name: str, number: int, folder: Path, known: LabelSet | None = None) -> Rows:
    """Take the rows of a split from the folder, or make them and leave them there.

    Parameters
    ----------
    name
        Of the set.
    number
        Of the split.
    folder
        Where rows are kept between runs.
    known
        The set, where it is not that of `SETS`.
    """
    known = known or SETS[name]
    key = hashlib.sha256(json.dumps(asdict(known), sort_keys=True).encode()).hexdigest()[:8]
    place = folder / f"{name}-{number}-{key}"
    if not (place / "done.json").exists():
        rows = make(known, split(known, number))
        place.mkdir(parents=True, exist_ok=True)
        for field in ("energy", "forces", "n_atoms", "means"):
            np.save(place / f"{field}.npy", getattr(rows, field))
        (place / "done.json").write_text(json.dumps({"n_pool": rows.n_pool, "groups": rows.groups}), encoding="utf-8")
        return rows
    rest = json.loads((place / "done.json").read_text(encoding="utf-8"))
    arrays = {field: np.load(place / f"{field}.npy") for field in ("energy", "forces", "n_atoms", "means")}
    return Rows(**arrays, n_pool=rest["n_pool"], groups=tuple(rest["groups"]))
