"""Energies of environments, with forces and stresses by the chain rule over neighbour pairs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float
from numba import njit

from kernelpot.data.batch import Batch
from kernelpot.features.kernel_space import Described, KernelSpace
from kernelpot.features.normalise import unit_vjp


@dataclass(frozen=True, eq=False)
class EnergyForm:
    """E_i = Σ_m α_m k(x_i, z_m), evaluated by the cheaper of two paths.

    Dot products of zeta 1 and 2 collapse to x·v and xᵀAx, at F and F² operations whatever the number of inducing
    environments; otherwise, or where F ≥ 2M, two products with Z are cheaper.

    Attributes
    ----------
    features
        Feature map.
    weights
        α, eV.
    collapsed
        v (F, 1) or A (F, F) of each species, or None where the path over M is taken.
    """

    features: KernelSpace
    weights: Float[np.ndarray, " m"]
    collapsed: tuple[Float[np.ndarray, "f k"] | None, ...]

    @classmethod
    def from_weights(
        cls, features: KernelSpace, weights: Float[np.ndarray, " m"], *, collapse: bool = True
    ) -> EnergyForm:
        """Choose the path for each species and prepare it."""
        power = features.kernel.form
        forms: list[np.ndarray | None] = []
        for a, z in enumerate(features.inducing):
            alpha = weights[features.starts[a] : features.starts[a + 1]]
            if not collapse or power is None or z.shape[1] >= 2 * len(z):
                forms.append(None)
            else:
                forms.append((z.T @ alpha)[:, None] if power == 1 else (z.T * alpha) @ z)
        return cls(features, weights, tuple(forms))

    @property
    def paths(self) -> tuple[str, ...]:
        """Say for each species which path is taken: "collapsed" or "inducing"."""
        return tuple("inducing" if form is None else "collapsed" for form in self.collapsed)

    def evaluate(self, described: Described) -> tuple[Float[np.ndarray, " atoms"], Float[np.ndarray, "atoms f"]]:
        """Return every atom's energy, eV, with its gradient in the unit vector."""
        energy = np.zeros(len(described.x))
        gradient = np.zeros_like(described.x)
        for a in range(len(self.features.inducing)):
            atoms = np.flatnonzero(described.species == a)
            if len(atoms) == len(described.x):
                return self._species(a, described.x)
            energy[atoms], gradient[atoms] = self._species(a, described.x[atoms])
        return energy, gradient

    def local_and_pairs(self, described: Described) -> tuple[Float[np.ndarray, " atoms"], Float[np.ndarray, "pairs 3"]]:
        """Return every atom's energy, eV, with the derivative of their sum by each pair vector, eV/Å."""
        local, gradient = self.evaluate(described)
        return local, described.environments.vjp(unit_vjp(gradient, described.x, described.norm))

    def _species(self, a: int, x: Float[np.ndarray, "a f"]) -> tuple[np.ndarray, np.ndarray]:
        form, kernel = self.collapsed[a], self.features.kernel
        if form is None:
            z = self.features.inducing[a]
            alpha = self.weights[self.features.starts[a] : self.features.starts[a + 1]]
            dots = x @ z.T
            return kernel.value(dots) @ alpha, (kernel.slope(dots) * alpha) @ z
        if kernel.form == 1:
            return x @ form[:, 0], np.broadcast_to(form[:, 0], x.shape).copy()
        half = x @ form
        return np.einsum("if,if->i", half, x), 2.0 * half


def gather_pairs(
    batch: Batch, pairs: Float[np.ndarray, "pairs 3"]
) -> tuple[Float[np.ndarray, "atoms 3"], Float[np.ndarray, "structures 6"]]:
    """Add up dE/d(pair vector) to forces and stresses.

    Force on j: -∂E/∂r_j; stress: (1/V) ∂E/∂ε with symmetric strain, NaN where there is no volume.
    """
    forces = np.zeros((batch.n_atoms, 3))
    virial = np.zeros((len(batch), 6))
    _gather(pairs, batch.vectors, batch.first, batch.second, batch.structure, forces, virial)
    return forces, virial / batch.volumes[:, None]


@njit(cache=True, nogil=True, fastmath={"reassoc", "contract", "arcp", "nsz"})
def _gather(pairs: Any, vectors: Any, first: Any, second: Any, structure: Any, forces: Any, virial: Any) -> Any:
    for p in range(len(first)):
        i, j = first[p], second[p]
        s = structure[i]
        for x in range(3):
            forces[i, x] += pairs[p, x]
            forces[j, x] -= pairs[p, x]
            virial[s, x] += vectors[p, x] * pairs[p, x]
        virial[s, 3] += 0.5 * (vectors[p, 1] * pairs[p, 2] + vectors[p, 2] * pairs[p, 1])
        virial[s, 4] += 0.5 * (vectors[p, 0] * pairs[p, 2] + vectors[p, 2] * pairs[p, 0])
        virial[s, 5] += 0.5 * (vectors[p, 0] * pairs[p, 1] + vectors[p, 1] * pairs[p, 0])
