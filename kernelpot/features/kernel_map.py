"""The feature map of one kernel: its rows, its energy and what its inducing environments cannot see."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple, Self

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.linalg import block_diag

from kernelpot.archive import NO_ARRAYS
from kernelpot.data.batch import Batch, over_batches
from kernelpot.descriptors.pairs import TwoBody
from kernelpot.descriptors.protocol import Descriptor, Environments
from kernelpot.descriptors.soap.definition import SOAP
from kernelpot.features.feature_map import Rows, Single
from kernelpot.features.prior import energy_covariance, force_covariance, prior, stress_covariance
from kernelpot.features.vectors import DescribedBatch, SpeciesRows, rows_of
from kernelpot.kernels import DotKernel, DotProduct, Linear, centre_coupling
from kernelpot.record import Named, Record

if TYPE_CHECKING:
    from ase import Atoms

SAME = 1e-9
"""One minus the dot product of two unit vectors below which they are one environment."""

TOLERANCE = 1e-10
"""Eigenvalues below this share of the largest are dropped."""

SCRATCH_BYTES = 12_000_000
"""Rough size of one chunk's product of derivatives with inducing environments, so that it stays in cache."""


class Partners(NamedTuple):
    """The inducing environments that environments of one species are compared with."""

    columns: slice  # Their raw columns
    inducing: Float[np.ndarray, "m f"]
    kappa: Float[np.ndarray, " m"] | None  # Coupling of the centres' elements; None: 1

    def times(self, values: Any) -> Any:
        """Multiply kernel values, their slopes or weights with the coupling."""
        return values if self.kappa is None else self.kappa * values


@dataclass(frozen=True, eq=False)
class KernelMap(Single, Record):
    """φ(x) = diag(λ)^(-1/2) Uᵀ k(Z, x), with K_ZZ = U diag(λ) Uᵀ, in one block for each centre species.

    Where the kernel couples the elements of centres (`coupling`), all are one block.

    The kernel is taken at amplitude 1; whoever uses the features multiplies by the amplitude. K_ZZ is whitened so that
    the prior on weights is I.
    """

    descriptor: Annotated[Descriptor, Named("descriptor")]  # with its species set
    kernel: Annotated[DotKernel, Named("kernel")]  # between species times `coupling`
    inducing: tuple[Float[np.ndarray, "m f"], ...]  # unit vectors, one array per species
    # U diag(λ)^(-1/2): of each species, or with coupling those rows of one matrix that belong to each species
    whitening: tuple[Float[np.ndarray, "m d"], ...]

    @classmethod
    def from_inducing(
        cls,
        descriptor: Descriptor,
        kernel: DotKernel,
        inducing: tuple[Float[np.ndarray, "m f"], ...],
        tolerance: float = TOLERANCE,
    ) -> Self:
        """Diagonalise K_ZZ of each block; eigenvalues below tolerance · λ_max are dropped."""
        bare, whitening = cls(descriptor, kernel, inducing, ()), []
        for span in bare.spans:
            eigenvalues, vectors = np.linalg.eigh(bare.between(span))
            kept = eigenvalues > tolerance * eigenvalues[-1]
            # One memory order, as of arrays from a file: products then agree to the last bit.
            whitening.append(np.ascontiguousarray(vectors[:, kept] / np.sqrt(eigenvalues[kept])))
        if bare.coupling is not None:
            whitening = np.split(whitening[0], np.cumsum(list(map(len, inducing)))[:-1])
        return cls(descriptor, kernel, inducing, tuple(whitening))

    @property
    def n_inducing(self) -> int:
        """Inducing environments of all species, M."""
        return sum(len(z) for z in self.inducing)

    @property
    def species(self) -> tuple[int, ...]:
        """Atomic numbers, in the order of the blocks."""
        return self.descriptor.species or ()

    @property
    def has_constant(self) -> bool:
        """Dot products of unit vectors of one species are all of one size."""
        return True

    @property
    def n_weights(self) -> int:
        """Whitened features, d, without the E0 columns."""
        return sum(w.shape[1] for _, w in self.blocks)

    @cached_property
    def coupling(self) -> Float[np.ndarray, "species species"] | None:
        """κ between the elements of centres; None for the identity."""
        return centre_coupling(self.kernel, self.species)

    @cached_property
    def slices(self) -> list[slice]:
        """Raw columns of the inducing environments of each species."""
        return [slice(a, b) for a, b in pairwise(np.cumsum([0, *map(len, self.inducing)]).tolist())]

    @property
    def spans(self) -> list[slice]:
        """Raw columns of what is whitened together."""
        return self.slices if self.coupling is None else [slice(0, self.n_inducing)]

    @cached_property
    def blocks(self) -> list[tuple[slice, Float[np.ndarray, "m d"]]]:
        """The same, each with its matrix."""
        parts = self.whitening if self.coupling is None else [np.concatenate(self.whitening)]
        return list(zip(self.spans, parts, strict=True))

    @cached_property
    def partners(self) -> list[Partners]:
        """What the environments of each species are compared with: their own, or with coupling all."""
        if self.coupling is None:
            return [Partners(here, z, None) for here, z in zip(self.slices, self.inducing, strict=True)]
        every, sizes = np.concatenate(self.inducing), list(map(len, self.inducing))
        return [Partners(slice(0, len(every)), every, np.repeat(kappa, sizes)) for kappa in self.coupling]

    def describe(self, batch: Batch) -> DescribedBatch:
        """Describe and normalise the environments of a batch."""
        return self.describe_again(batch, self.descriptor.environments(batch))

    def describe_again(self, batch: Batch, environments: Environments) -> DescribedBatch:
        """Normalise environments that another map of the same descriptor has described."""
        return DescribedBatch.of(batch, environments, self.species)

    def dots(self, described: DescribedBatch) -> list[tuple[Int[np.ndarray, " a"], Float[np.ndarray, "a m"]]]:
        """Return, for each species, its atoms and their dot products with the inducing environments it sees."""
        result = []
        for a, partners in enumerate(self.partners):
            atoms = np.flatnonzero(described.species == a)
            whole = len(atoms) == len(described.x)
            result.append((atoms, (described.x if whole else described.x[atoms]) @ partners.inducing.T))
        return result

    def whiten(self, rows: Float[np.ndarray, "rows m"]) -> Float[np.ndarray, "rows d"]:
        """Turn rows over kernel values into rows over whitened features."""
        return np.concatenate([rows[:, columns] @ w for columns, w in self.blocks], axis=1)

    def unwhiten(self, weights: Float[np.ndarray, "d ..."]) -> Float[np.ndarray, "m ..."]:
        """Turn weights of whitened features, or columns of them, into weights of kernel values."""
        parts, start = [], 0
        for _, w in self.blocks:
            parts.append(w @ weights[start : start + w.shape[1]])
            start += w.shape[1]
        return np.concatenate(parts)

    @property
    def n_columns(self) -> int:
        """Raw columns: one for each inducing environment."""
        return self.n_inducing

    @property
    def cutoff(self) -> float:
        """Reach of the descriptor, Å."""
        return self.descriptor.cutoff

    def rows(self, described: DescribedBatch, kinds: Collection[str]) -> Rows:
        """Return the rows of a batch."""
        parts = [
            SpeciesRows(
                atoms, seen.columns, seen.times(self.kernel.value(dots)), seen.times(self.kernel.slope(dots)),
                seen.inducing, dots, squares,
            )
            for (atoms, dots), seen, squares in zip(
                self.dots(described), self.partners, self._squares(described), strict=True
            )
        ]  # fmt: skip
        batch = described.batch
        widest = self.n_inducing + described.x.shape[1]
        per_atom = 3 * (len(batch.first) / max(batch.n_atoms, 1) + 3) * widest * 8
        return rows_of(described, kinds, parts, max(1, int(SCRATCH_BYTES / per_atom)))

    def energies_and_pairs(
        self, form: EnergyForm, batch: Batch, described: DescribedBatch | None = None
    ) -> tuple[Float[np.ndarray, " atoms"], Float[np.ndarray, "pairs 3"]]:
        """Return every atom's energy, eV, with the derivative of their sum by each pair vector, eV/Å."""
        if isinstance(self.descriptor, SOAP):
            return self.descriptor.energies_and_pairs(batch, form.of_species)
        return super().energies_and_pairs(form, batch, described)

    def _squares(self, described: DescribedBatch) -> list[list[np.ndarray] | None]:
        """Return the inducing environments as derivatives by way of the density take them, where that costs less."""
        batch, widest = described.batch, max(len(seen.inducing) for seen in self.partners)
        # Images of one atom are moved together.
        neighbours = min(len(batch.first), int(np.sum(batch.sizes**2))) / max(batch.n_atoms, 1)
        if isinstance(self.descriptor, SOAP) and self.descriptor.products_pay(widest, neighbours):
            return list(self.squares)
        return [None] * len(self.inducing)

    @cached_property
    def squares(self) -> list[list[np.ndarray]]:
        """What SOAP makes of the inducing environments that each species sees."""
        if not isinstance(self.descriptor, SOAP):
            return []
        if self.coupling is not None:
            return [self.descriptor.squares(self.partners[0].inducing)] * len(self.inducing)
        return [self.descriptor.squares(z) for z in self.inducing]

    def form(self, weights: Float[np.ndarray, " m"], *, collapse: bool = True) -> EnergyForm:
        """Return the energy with these weights of kernel values."""
        power = self.kernel.form
        alphas = tuple(seen.times(weights[seen.columns]) for seen in self.partners)
        inducing = tuple(seen.inducing for seen in self.partners)
        forms: list[list[np.ndarray] | None] = []
        for z, alpha in zip(inducing, alphas, strict=True):
            if not collapse or power is None or z.shape[1] >= 2 * len(z):
                forms.append(None)
            else:
                forms.append((z.T @ alpha)[:, None] if power == 1 else (z.T * alpha) @ z)
        return EnergyForm(self.kernel, inducing, alphas, tuple(forms))

    def drawn_form(self, weights: Float[np.ndarray, " m"], rng: np.random.Generator, scale: float) -> EnergyForm:
        """Return Σ_m α_m k(x, z_m) + scale · r(x), with r a draw of covariance k(x, y) - φ(x)ᵀφ(y).

        A prior draw is f(x) = a·x for zeta 1 and xᵀAx for zeta 2, with independent standard normal entries, as
        E[(xᵀAx)(yᵀAy)] = (x·y)². Its part outside the inducing environments is r(x) = f(x) - k(x, Z) K_ZZ⁻¹ f(Z),
        pathwise (Matheron's rule; Wilson et al. (2020)), and collapses to one vector or matrix together with the
        weights. Other kernels add nothing. With κ = VᵀV between species f_a = Σ_r V_ra g_r for independent g_r.
        """
        power = self.kernel.form
        if power is None or scale == 0.0:
            return self.form(weights)
        drawn = []
        for z in self.inducing:
            f = z.shape[1]
            one = rng.standard_normal((f,) if power == 1 else (f * f,))
            drawn.append(one if power == 1 else 0.5 * (one.reshape(f, f) + one.reshape(f, f).T))
        if self.coupling is not None:
            eigenvalues, vectors = np.linalg.eigh(self.coupling)
            shares = vectors * np.sqrt(np.maximum(eigenvalues, 0.0))
            drawn = list(np.einsum("ar,r...->a...", shares, np.array(drawn)))
        found = np.concatenate(
            [
                z @ one if power == 1 else np.einsum("mf,mf->m", z @ one, z)
                for z, one in zip(self.inducing, drawn, strict=True)
            ]
        )
        weights = weights - scale * np.concatenate([w @ (w.T @ found[block]) for block, w in self.blocks])
        form, forms = self.form(weights), []
        for z, alpha, one in zip(form.inducing, form.weights, drawn, strict=True):
            forms.append((scale * one + z.T @ alpha)[:, None] if power == 1 else scale * one + (z.T * alpha) @ z)
        return replace(form, collapsed=tuple(forms))

    def local_values(
        self, described: DescribedBatch
    ) -> Iterator[tuple[Int[np.ndarray, " a"], slice, Float[np.ndarray, "a columns"]]]:
        """Yield the atoms of each species, its columns, and their kernel values."""
        for (atoms, dots), seen in zip(self.dots(described), self.partners, strict=True):
            yield atoms, seen.columns, seen.times(self.kernel.value(dots))

    def local_prior(self, described: DescribedBatch) -> Float[np.ndarray, " atoms"]:
        """k(x, x) = 1 of unit vectors."""
        return np.ones(described.batch.n_atoms)

    def residual(
        self, described: DescribedBatch, kind: str, white: Float[np.ndarray, "rows d"]
    ) -> Float[np.ndarray, " rows"]:
        """Prior variance under the full kernel minus the squared features."""
        n_atoms = len(white) // 3 if kind == "forces" else None
        whole = prior(self.kernel, described, kind, self.coupling, n_atoms)
        return np.maximum(whole - np.einsum("rd,rd->r", white, white), 0.0)

    def energy_residual(
        self,
        left: DescribedBatch,
        right: DescribedBatch,
        white: tuple[Float[np.ndarray, "left d"], Float[np.ndarray, "right d"]],
    ) -> Float[np.ndarray, "left right"]:
        """Prior covariance under the full kernel minus the features' products."""
        return energy_covariance(self.kernel, left, right, self.coupling) - white[0] @ white[1].T

    def block_residual(
        self, described: DescribedBatch, kind: str, number: int, white: Float[np.ndarray, "c d"]
    ) -> Float[np.ndarray, "c c"]:
        """Prior covariance of an atom's force, or a structure's stress, minus the features' products."""
        of_kind = {"forces": force_covariance, "stress": stress_covariance}[kind]
        return of_kind(self.kernel, described, number, self.coupling) - white @ white.T

    def weights_of(self, number: int) -> Bool[np.ndarray, " d"]:
        """Tell which features belong to environments centred on an element.

        With coupling every feature belongs to several, and is an element's if more than half of it is.
        """
        if self.coupling is not None:
            owner = np.repeat(self.species, list(map(len, self.inducing)))
            squares = self.blocks[0][1] ** 2
            share: np.ndarray = squares[owner == number].sum(axis=0) / squares.sum(axis=0)
            return share > 0.5
        return np.repeat(self.species, [w.shape[1] for w in self.whitening]) == number

    def folds_of_inducing(
        self, structures: Sequence[Atoms], fold: Int[np.ndarray, " structures"]
    ) -> list[Bool[np.ndarray, "m folds"]]:
        """Tell, for each species, which folds of structures hold each inducing environment."""
        result = [np.zeros((len(z), int(fold.max()) + 1), dtype=bool) for z in self.inducing]

        def same(batch: Batch, start: int) -> list[tuple[Int[np.ndarray, " n"], Int[np.ndarray, " n"]]]:
            found = []
            described = self.describe(batch)
            for a, z in enumerate(self.inducing):
                atoms = np.flatnonzero(described.species == a)
                place, inducing = np.nonzero(described.x[atoms] @ z.T > 1.0 - SAME)
                found.append((inducing, fold[start + batch.structure[atoms[place]]]))
            return found

        for found in over_batches(same, structures, self.cutoff):
            for own, (inducing, where) in zip(result, found, strict=True):
                own[inducing, where] = True
        return result

    def without_fold(
        self, own: Sequence[Bool[np.ndarray, "m folds"]], fold: int
    ) -> tuple[KernelMap, Float[np.ndarray, "d e"]]:
        """Return the map without inducing environments that only this fold holds, with its features in the old ones."""
        bases = []
        lonely = [mine[:, fold] & (mine.sum(axis=1) == 1) for mine in own]
        # An element that would lose all of its environments keeps them.
        lonely = [alone & ~alone.all() for alone in lonely]
        if self.coupling is not None:
            lonely = [np.concatenate(lonely)]
        for (block, whitening), alone in zip(self.blocks, lonely, strict=True):
            if not alone.any():
                bases.append(np.eye(whitening.shape[1]))
                continue
            features = self.between(block)[~alone] @ whitening
            eigenvalues, vectors = np.linalg.eigh(features.T @ features)
            bases.append(vectors[:, eigenvalues > TOLERANCE * eigenvalues[-1]])
        pairs = zip(self.whitening, bases if self.coupling is None else bases * len(self.whitening), strict=True)
        return replace(self, whitening=tuple(np.ascontiguousarray(w @ v) for w, v in pairs)), block_diag(*bases)

    def between(self, block: slice) -> Float[np.ndarray, "m m"]:
        """Return K_ZZ of one of the spans."""
        rows = [
            seen.times(self.kernel.value(z @ seen.inducing.T))
            for here, z, seen in zip(self.slices, self.inducing, self.partners, strict=True)
            if block.start <= here.start and here.stop <= block.stop
        ]
        return np.concatenate(rows)

    def verify(self) -> None:
        """Refuse arrays that are not those of the descriptor's species, and kernels that take no unit vectors."""
        if isinstance(self.descriptor, TwoBody) or isinstance(self.kernel, Linear):
            raise ValueError("pair energies and linear terms have feature maps of their own")
        descriptor: Any = self.descriptor
        wide = [z.shape[1] for z in self.inducing]
        if not wide or wide != [descriptor.n_features] * len(self.species):
            raise ValueError(f"inducing environments must have {len(self.species)} species, as the descriptor does")
        if self.coupling is not None and len({w.shape[1] for w in self.whitening}) > 1:
            raise ValueError("the whitening of coupled species must have one width")

    def settings(self) -> dict[str, Any]:
        """Return the settings as JSON values; the amplitude is the model's."""
        settings = super().settings()
        kernel = settings.pop("kernel")
        # A power alone, so that files and checksums of before stay as they are.
        if isinstance(self.kernel, DotProduct) and self.kernel.centres is None:
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


@dataclass(frozen=True, eq=False)
class EnergyForm:
    """E_i = Σ_m α_m k(x_i, z_m), evaluated by the cheaper of two paths; in arrays of NumPy or in tensors.

    Dot products of zeta 1 and 2 collapse to x·v and xᵀAx, at F and F² operations whatever the number of inducing
    environments; otherwise, or where F ≥ 2M, two products with Z are cheaper.
    """

    kernel: DotKernel
    inducing: tuple[Float[Any, "m f"], ...]
    weights: tuple[Float[Any, " m"], ...]  # α of each species, eV
    collapsed: tuple[Float[Any, "f k"] | None, ...]  # v (F, 1) or A (F, F), or None where the path over M is taken

    @property
    def paths(self) -> tuple[str, ...]:
        """Say for each species which path is taken: "collapsed" or "inducing"."""
        return tuple("inducing" if form is None else "collapsed" for form in self.collapsed)

    def of_species(self, a: int, x: Float[Any, "a f"]) -> tuple[Any, Any]:
        """Return the energies of environments of one species, eV, with their gradients in the unit vectors."""
        form, kernel = self.collapsed[a], self.kernel
        if form is None:
            z, alpha = self.inducing[a], self.weights[a]
            dots = x @ z.T
            return kernel.value(dots) @ alpha, (kernel.slope(dots) * alpha) @ z
        if kernel.form == 1:
            return x @ form[:, 0], 0.0 * x + form[:, 0]
        half = x @ form
        return (half * x).sum(1), 2.0 * half

    def evaluate(self, described: DescribedBatch) -> tuple[Float[np.ndarray, " atoms"], Float[np.ndarray, "atoms f"]]:
        """Return every atom's energy, eV, with its gradient in the unit vector."""
        energy = np.zeros(len(described.x))
        gradient = np.zeros_like(described.x)
        for a in range(len(self.inducing)):
            atoms = np.flatnonzero(described.species == a)
            if len(atoms) == len(described.x):
                return self.of_species(a, described.x)
            energy[atoms], gradient[atoms] = self.of_species(a, described.x[atoms])
        return energy, gradient

    def local_and_pairs(
        self, described: DescribedBatch
    ) -> tuple[Float[np.ndarray, " atoms"], Float[np.ndarray, "pairs 3"]]:
        """Return every atom's energy, eV, with the derivative of their sum by each pair vector, eV/Å."""
        local, gradient = self.evaluate(described)
        return local, described.pull(gradient)
