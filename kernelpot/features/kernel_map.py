"""The feature map of one kernel: its rows, its energy and what its inducing environments cannot see."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from kernelpot.descriptors.protocol import Descriptor
from kernelpot.features.covariance import energy_covariance, force_covariance, stress_covariance
from kernelpot.features.drawing import drawn_form
from kernelpot.features.feature_map import Rows
from kernelpot.features.gradients import EnergyForm
from kernelpot.features.kernel_space import Described, KernelSpace
from kernelpot.features.residual import prior
from kernelpot.features.rows import make_rows
from kernelpot.features.single import Single
from kernelpot.kernels import DotProduct, Kernel


@dataclass(frozen=True, eq=False)
class KernelMap(KernelSpace, Single):
    """`KernelSpace` as a feature map: a model of its own, or one term of a sum."""

    @property
    def n_columns(self) -> int:
        """Raw columns: one for each inducing environment."""
        return self.n_inducing

    @property
    def cutoff(self) -> float:
        """Reach of the descriptor, Å."""
        return self.descriptor.cutoff

    def rows(self, described: Described, kinds: Collection[str]) -> Rows:
        """Return the rows of a batch."""
        return make_rows(self, described, kinds)

    def form(self, weights: Float[np.ndarray, " m"], *, collapse: bool = True) -> EnergyForm:
        """Return the energy with these weights of kernel values."""
        return EnergyForm.from_weights(self, weights, collapse=collapse)

    def drawn_form(self, weights: Float[np.ndarray, " m"], rng: np.random.Generator, scale: float) -> EnergyForm:
        """Return the energy with these weights, plus scale times a draw of what inducing environments cannot see."""
        return drawn_form(self, weights, rng, scale)

    def local_values(
        self, described: Described
    ) -> Iterator[tuple[Int[np.ndarray, " a"], slice, Float[np.ndarray, "a columns"]]]:
        """Yield the atoms of each species, its columns, and their kernel values."""
        for a, (atoms, dots) in enumerate(self.dots(described)):
            yield atoms, slice(int(self.starts[a]), int(self.starts[a + 1])), self.kernel.value(dots)

    def local_prior(self, described: Described) -> Float[np.ndarray, " atoms"]:
        """k(x, x) = 1 of unit vectors."""
        return np.ones(described.batch.n_atoms)

    def residual(
        self, described: Described, kind: str, white: Float[np.ndarray, "rows d"]
    ) -> Float[np.ndarray, " rows"]:
        """Prior variance under the full kernel minus the squared features."""
        return np.maximum(prior(self, described, kind) - np.einsum("rd,rd->r", white, white), 0.0)

    def energy_residual(
        self,
        left: Described,
        right: Described,
        white: tuple[Float[np.ndarray, "left d"], Float[np.ndarray, "right d"]],
    ) -> Float[np.ndarray, "left right"]:
        """Prior covariance under the full kernel minus the features' products."""
        return energy_covariance(self, left, right) - white[0] @ white[1].T

    def block_residual(
        self, described: Described, kind: str, number: int, white: Float[np.ndarray, "c d"]
    ) -> Float[np.ndarray, "c c"]:
        """Prior covariance of an atom's force, or a structure's stress, minus the features' products."""
        of_kind = {"forces": force_covariance, "stress": stress_covariance}[kind]
        return of_kind(self, described, number) - white @ white.T

    def weights_of(self, number: int) -> Bool[np.ndarray, " d"]:
        """Tell which features belong to environments centred on an element."""
        return np.repeat(self.species, [w.shape[1] for w in self.whitening]) == number

    def settings(self) -> dict[str, Any]:
        """Return descriptor and kernel as JSON values."""
        settings = {"name": "KernelMap", "descriptor": self.descriptor.settings()}
        # A power alone, so that files and hashes of before stay as they are.
        if isinstance(self.kernel, DotProduct):
            return {**settings, "zeta": int(self.kernel.zeta)}
        return {**settings, "kernel": {**self.kernel.settings(), "amplitude": 1.0}}

    def arrays(self) -> dict[str, np.ndarray]:
        """Return inducing environments and whitening of each species."""
        pairs = zip(self.inducing, self.whitening, strict=True)
        return {f"{name}_{a}": part for a, pair in enumerate(pairs) for name, part in zip(_NAMES, pair, strict=True)}

    @classmethod
    def from_arrays(cls, descriptor: Descriptor, kernel: Kernel, arrays: dict[str, np.ndarray]) -> KernelMap:
        """Make the map that `arrays` describes."""
        number = range(len(descriptor.species or ()))
        return cls(descriptor, kernel, *(tuple(arrays[f"{name}_{a}"] for a in number) for name in _NAMES))

    def shares(self) -> str:
        """Say how many inducing environments each element has."""
        from ase.data import chemical_symbols

        return ", ".join(f"{chemical_symbols[z]} {len(x)}" for z, x in zip(self.species, self.inducing, strict=True))


_NAMES = ("inducing", "whitening")
