"""The feature map of one kernel: its rows, its energy and what its inducing environments cannot see."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from jaxtyping import Bool, Float, Int

from kernelpot.archive import NO_ARRAYS
from kernelpot.descriptors.pairs import TwoBody
from kernelpot.features.covariance import energy_covariance, force_covariance, stress_covariance
from kernelpot.features.drawing import drawn_form
from kernelpot.features.feature_map import Rows
from kernelpot.features.gradients import EnergyForm
from kernelpot.features.kernel_space import Described, KernelSpace
from kernelpot.features.residual import prior
from kernelpot.features.rows import make_rows
from kernelpot.features.single import Single
from kernelpot.kernels import DotProduct, Linear
from kernelpot.record import Record


@dataclass(frozen=True, eq=False)
class KernelMap(KernelSpace, Single, Record):
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

    def verify(self) -> None:
        """Refuse arrays that are not those of the descriptor's species, and kernels that take no unit vectors."""
        if isinstance(self.descriptor, TwoBody) or isinstance(self.kernel, Linear):
            raise ValueError("pair energies and linear terms have feature maps of their own")
        descriptor: Any = self.descriptor
        wide = [z.shape[1] for z in self.inducing]
        if not wide or wide != [descriptor.n_features] * len(self.species):
            raise ValueError(f"inducing environments must have {len(self.species)} species, as the descriptor does")

    def settings(self) -> dict[str, Any]:
        """Return the settings as JSON values; the amplitude is the model's."""
        settings = super().settings()
        kernel = settings.pop("kernel")
        # A power alone, so that files and checksums of before stay as they are.
        if isinstance(self.kernel, DotProduct):
            return {**settings, "zeta": kernel["zeta"]}
        return {**settings, "kernel": {**kernel, "amplitude": 1.0}}

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any], arrays: Mapping[str, np.ndarray] = NO_ARRAYS) -> Self:
        """Make the map that settings and arrays describe."""
        power = {"name": "DotProduct", "zeta": settings.get("zeta"), "amplitude": 1.0}
        return super().from_settings({"kernel": power, **settings}, arrays)

    def shares(self) -> str:
        """Say how many inducing environments each element has."""
        from ase.data import chemical_symbols

        return ", ".join(f"{chemical_symbols[z]} {len(x)}" for z, x in zip(self.species, self.inducing, strict=True))
