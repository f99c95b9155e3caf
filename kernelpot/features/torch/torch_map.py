"""A feature map whose rows and energies are computed by PyTorch, on a CPU or a GPU."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, cast

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from kernelpot.data.batch import Batch
from kernelpot.descriptors.acsf.definition import ACSF
from kernelpot.descriptors.acsf.torch import AcsfEngine
from kernelpot.descriptors.grid import DescriptorEngine, DeviceBatch
from kernelpot.descriptors.protocol import Descriptor, species_places
from kernelpot.descriptors.soap.definition import SOAP
from kernelpot.descriptors.soap.torch import SoapEngine
from kernelpot.errors import ParameterError
from kernelpot.features.feature_map import FeatureMap, Rows
from kernelpot.features.kernel_map import KernelMap
from kernelpot.features.linear_map import LinearMap
from kernelpot.features.sum_map import SumMap
from kernelpot.features.torch.described import DeviceRows, EnvironmentEngine, EnvironmentState
from kernelpot.features.torch.term_engines import (
    DeviceForm,
    KernelEngine,
    LinearEngine,
    PairEngine,
    PairForm,
    PairState,
)
from kernelpot.features.two_body_map import TwoBodyMap
from kernelpot.linalg.devices import computing, pieces, working_bytes
from kernelpot.run import count

Engine = KernelEngine | LinearEngine | PairEngine
State = EnvironmentState | PairState


@dataclass(frozen=True, eq=False)
class TorchDescribed:
    """A batch as the engines of all terms describe it."""

    batch: Batch  # structures with their pairs
    species: Int[np.ndarray, " atoms"]  # place of every atom's element among the map's species
    parts: tuple[State, ...]  # what each term's engine needs, in the precision of energies and forces
    features: TorchMap

    @cached_property
    def exact(self) -> tuple[State, ...]:
        """The same in float64; made when first asked for."""
        features = self.features
        if features.engines is features.rough:
            return self.parts
        with computing(features.device):
            return _describe(features.engines, self.batch, self.species, features.device)

    @cached_property
    def on_host(self) -> Any:
        """The same batch as the map in compiled loops describes it; made when first asked for."""
        return self.features.host.describe(self.batch)


@dataclass(frozen=True, eq=False)
class TorchForm:
    """The sum of the terms' energies."""

    forms: tuple[DeviceForm | PairForm, ...]
    paths: tuple[str, ...]
    device: str

    def local_and_pairs(
        self, described: TorchDescribed
    ) -> tuple[Float[np.ndarray, " atoms"], Float[np.ndarray, "pairs 3"]]:
        """Return every atom's energy, eV, with the derivative of their sum by each pair vector, eV/Å."""
        with computing(self.device):
            found = [
                form.local_and_pairs(part)  # type: ignore[arg-type]
                for form, part in zip(self.forms, described.parts, strict=True)
            ]
            local, pairs = (sum(parts[1:], start=parts[0]) for parts in zip(*found, strict=True))
            return local.cpu().numpy(), pairs.cpu().numpy()


@dataclass(frozen=True, eq=False)
class TorchMap:
    """A feature map in NumPy's arrays whose work is done by PyTorch on a device.

    Whitening of rows that are asked for as arrays stays on the host; files hold the host's map, never a device.
    """

    host: FeatureMap  # the map in compiled loops
    device: str  # PyTorch's name of the device
    precision: str  # one of `kernelpot.linalg.devices.PRECISIONS`
    engines: tuple[Engine, ...]  # one for each term in float64, which other maps with the same terms share
    rough: tuple[Engine, ...]  # the same in the precision of energies and forces

    @classmethod
    def make(cls, host: FeatureMap, device: str, precision: str = "float64") -> TorchMap:
        """Put a map on a device."""
        terms = host.terms if isinstance(host, SumMap) else (host,)
        engines = tuple(_engine(term, device, torch.float64) for term in terms)
        rough = engines
        if precision != "float64":
            rough = tuple(_engine(term, device, torch.float32) for term in terms)
        return cls(host, device, precision, engines, rough)

    # ---- what the host knows

    @property
    def species(self) -> tuple[int, ...]:
        """Atomic numbers, sorted."""
        return self.host.species

    @property
    def cutoff(self) -> float:
        """Reach, Å."""
        return self.host.cutoff

    @property
    def descriptor(self) -> Descriptor:
        """The descriptor that structures are compared by, in compiled loops."""
        return self.host.descriptor

    @property
    def n_columns(self) -> int:
        """Raw columns, m."""
        return self.host.n_columns

    @property
    def n_inducing(self) -> int:
        """Inducing environments, M."""
        return self.host.n_inducing

    @property
    def has_constant(self) -> bool:
        """Whether the kernel of some term carries a constant energy of each species."""
        return self.host.has_constant

    @property
    def n_weights(self) -> int:
        """Features, d, without the E0 columns."""
        return self.host.n_weights

    @property
    def widths(self) -> tuple[int, ...]:
        """Features of each term."""
        return self.host.widths

    @property
    def scales(self) -> tuple[float, ...]:
        """Prior standard deviation of each term, in units of the amplitude."""
        return self.host.scales

    def rescaled(self, scales: Sequence[float]) -> TorchMap:
        """Return the same terms with other prior standard deviations; what is on the device is shared."""
        return replace(self, host=self.host.rescaled(scales))

    def whiten(self, rows: Float[np.ndarray, "rows m"]) -> Float[np.ndarray, "rows d"]:
        """Turn rows over raw columns into rows over features."""
        return self.host.whiten(rows)

    def unwhiten(self, weights: Float[np.ndarray, "d ..."]) -> Float[np.ndarray, "m ..."]:
        """Turn weights of features, or columns of them, into weights of raw columns."""
        return self.host.unwhiten(weights)

    def local_prior(self, described: TorchDescribed) -> Float[np.ndarray, " atoms"]:
        """Return the prior variance of every atom's energy."""
        total = np.zeros(described.batch.n_atoms)
        with computing(self.device):
            for engine, part, scale in zip(self.engines, described.exact, self.scales, strict=True):
                total += scale**2 * engine.local_prior(part).cpu().numpy()  # type: ignore[arg-type]
        return total

    def residual(
        self, described: TorchDescribed, kind: str, white: Float[np.ndarray, "rows d"]
    ) -> Float[np.ndarray, " rows"]:
        """Return the prior variance of every label of a kind that its whitened row does not carry."""
        return self.host.residual(described.on_host, kind, white)

    def energy_residual(
        self,
        left: TorchDescribed,
        right: TorchDescribed,
        white: tuple[Float[np.ndarray, "left d"], Float[np.ndarray, "right d"]],
    ) -> Float[np.ndarray, "left right"]:
        """Return the prior covariance of two batches' total energies that their whitened rows do not carry."""
        return self.host.energy_residual(left.on_host, right.on_host, white)

    def block_residual(
        self, described: TorchDescribed, kind: str, number: int, white: Float[np.ndarray, "c d"]
    ) -> Float[np.ndarray, "c c"]:
        """Return the prior covariance that whitened rows leave out of an atom's force or of a structure's stress."""
        return self.host.block_residual(described.on_host, kind, number, white)

    def weights_of(self, number: int) -> Bool[np.ndarray, " d"]:
        """Tell which features belong to environments of an element."""
        return self.host.weights_of(number)

    def settings(self) -> dict[str, Any]:
        """Return what the arrays do not hold, as JSON values; there is no device in it."""
        return self.host.settings()

    def arrays(self) -> dict[str, np.ndarray]:
        """Return the arrays that make the map, by name."""
        return self.host.arrays()

    def shares(self) -> str:
        """Describe for people how many raw columns belong to what."""
        return self.host.shares()

    # ---- what the device does

    def describe(self, batch: Batch) -> TorchDescribed:
        """Describe a batch on the device; terms that share a descriptor share the work."""
        species = species_places(self.species, batch.numbers, "model")
        with computing(self.device):
            return TorchDescribed(batch, species, _describe(self.rough, batch, species, self.device), self)

    def rows(self, described: TorchDescribed, kinds: Collection[str]) -> Rows:
        """Return the rows of a batch; energies come whatever is asked for."""
        batch, wanted = described.batch, {"forces", "stress"} & set(kinds)
        with computing(self.device):
            exact = self.precision != "float32"
            _, rows = self.device_rows(described, derivatives=bool(wanted), stress="stress" in wanted, exact=exact)
            energy = rows.energy.cpu().numpy()
            forces = stress = None
            if rows.forces is not None and "forces" in wanted:
                forces = rows.forces.transpose(0, 1).reshape(-1, self.n_columns).cpu().numpy()
            if rows.virial is not None:
                volumes = torch.as_tensor(batch.volumes, device=self.device)[:, None, None]
                stress = (rows.virial / volumes).reshape(-1, self.n_columns).cpu().numpy()
        return Rows(energy, forces, stress)

    def device_rows(
        self, described: TorchDescribed, *, derivatives: bool, stress: bool, exact: bool = True
    ) -> tuple[tuple[State, ...], DeviceRows]:
        """Return the rows of a batch on the device, with what the engines made them from; `exact`: in float64."""
        parts, engines = (described.exact, self.engines) if exact else (described.parts, self.rough)
        rows = DeviceRows.empty(parts[0].there, self.n_columns, derivatives=derivatives, stress=stress)
        for engine, part, columns in zip(engines, parts, self.columns, strict=True):
            engine.add_rows(part, rows.columns(columns))  # type: ignore[arg-type]
        return parts, rows

    def variances(
        self,
        projection: Float[np.ndarray, "m_plus_species d"],
        shrinkage: Float[np.ndarray, "m_plus_species d"],
        amplitude: float,
    ) -> TorchVariances:
        """Return what computes posterior variances on the device; the matrices are those of `Uncertainty`."""
        return TorchVariances.make(self, projection, shrinkage, amplitude)

    def form(self, weights: Float[np.ndarray, " m"], *, collapse: bool = True) -> TorchForm:
        """Return the energy with these weights of raw columns, eV."""
        parts = zip(self.rough, self.columns, strict=True)
        return self._form([engine.features.form(weights[columns], collapse=collapse) for engine, columns in parts])

    def energies_and_pairs(
        self, form: TorchForm, batch: Batch, described: TorchDescribed | None = None
    ) -> tuple[Float[np.ndarray, " atoms"], Float[np.ndarray, "pairs 3"]]:
        """Return every atom's energy, eV, with the derivative of their sum by each pair vector, eV/Å."""
        return form.local_and_pairs(self.describe(batch) if described is None else described)

    def drawn_form(self, weights: Float[np.ndarray, " m"], rng: np.random.Generator, scale: float) -> TorchForm:
        """Return `form` plus scale times an energy drawn from the prior that the features leave out, eV."""
        parts = zip(self.rough, self.columns, self.scales, strict=True)
        return self._form(
            [engine.features.drawn_form(weights[columns], rng, scale * own) for engine, columns, own in parts]
        )

    def _form(self, forms: Sequence[Any]) -> TorchForm:
        there = tuple(engine.placed(form) for engine, form in zip(self.rough, forms, strict=True))
        return TorchForm(there, tuple(path for form in forms for path in form.paths), self.device)

    def local_values(
        self, described: TorchDescribed
    ) -> Iterator[tuple[Int[np.ndarray, " a"], slice, Float[np.ndarray, "a columns"]]]:
        """Yield atoms, raw columns and the atoms' values there; everything else is zero."""
        for engine, part, columns in zip(self.engines, described.exact, self.columns, strict=True):
            with computing(self.device):
                found = [(atoms, here, there.cpu().numpy()) for atoms, here, there in engine.values(part)]  # type: ignore[arg-type]
            for atoms, here, values in found:
                yield atoms, slice(columns.start + here.start, columns.start + here.stop), values

    @cached_property
    def columns(self) -> list[slice]:
        """Raw columns of each term."""
        ends = np.cumsum([engine.features.n_columns for engine in self.engines]).tolist()
        return [slice(a, b) for a, b in zip([0, *ends[:-1]], ends, strict=True)]


@dataclass(frozen=True, eq=False)
class TorchVariances:
    """What `Uncertainty` computes, on the device of its feature map."""

    features: TorchMap
    # P with |Pᵀ[row; E0 counts]|² the posterior variance of a label less its residual
    projection: Float[Tensor, "m_plus_species d"]
    # V with |Vᵀ[k; e]|² what a local energy's variance lost to the data
    shrinkage: Float[Tensor, "m_plus_species d"]
    amplitude: float  # eV

    @classmethod
    def make(
        cls,
        features: TorchMap,
        projection: Float[np.ndarray, "m_plus_species d"],
        shrinkage: Float[np.ndarray, "m_plus_species d"],
        amplitude: float,
    ) -> TorchVariances:
        """Put the matrices on the device."""
        there = [torch.as_tensor(matrix, device=features.device) for matrix in (projection, shrinkage)]
        return cls(features, there[0], there[1], amplitude)

    def local_seen(self, described: TorchDescribed) -> Float[np.ndarray, " atoms"]:
        """Return what the data took off the prior variance of every atom's energy."""
        features = self.features
        with computing(features.device):
            seen = self.shrinkage[features.n_columns + described.exact[0].there.elements]
            for engine, part, columns in zip(features.engines, described.exact, features.columns, strict=True):
                for atoms, here, values in engine.values(part):  # type: ignore[arg-type]
                    mine = torch.as_tensor(atoms, device=features.device)
                    seen.index_add_(0, mine, values @ self.shrinkage[columns][here])
            return seen.square().sum(1).cpu().numpy()

    def labelled(
        self, described: TorchDescribed
    ) -> tuple[Float[np.ndarray, " structures"], Float[np.ndarray, "atoms 3"], Float[np.ndarray, "structures 6"]]:
        """Return the variances of total energies (eV²), force components and stress components."""
        features, batch = self.features, described.batch
        with computing(features.device):
            parts, rows = features.device_rows(described, derivatives=True, stress=True)
            composition = torch.as_tensor(batch.counts(features.species), device=features.device)
            energy = self._seen(rows.energy, composition)
            forces = self._seen(_given(rows.forces).flatten(0, 1)).view(3, -1)
            virial = self._seen(_given(rows.virial).flatten(0, 1)).view(-1, 6)
            terms = zip(features.engines, parts, features.columns, features.scales, strict=True)
            for engine, part, columns, scale in terms:
                if not isinstance(engine, KernelEngine) or not isinstance(part, EnvironmentState):
                    continue
                environments, kernel = engine.environments, engine.features.kernel
                kappa = engine.features.coupling
                for total, block, prior in (
                    (energy, rows.energy, environments.energy_prior(part, kernel, kappa)),
                    (forces, _given(rows.forces), environments.forces_prior(part, kernel, kappa)),
                    (virial, _given(rows.virial), environments.stress_prior(part, kernel, kappa)),
                ):
                    carried = engine.carried(block.flatten(0, -2)[:, columns]).view(prior.shape)
                    total += (self.amplitude * scale) ** 2 * (prior - carried).clamp_(min=0.0)
            volumes = torch.as_tensor(batch.volumes, device=features.device)[:, None]
            stress = virial / volumes**2
            return energy.cpu().numpy(), forces.T.contiguous().cpu().numpy(), stress.cpu().numpy()

    def _seen(
        self, rows: Float[Tensor, "rows m"], composition: Float[Tensor, "rows species"] | None = None
    ) -> Float[Tensor, " rows"]:
        m = self.features.n_columns
        result = torch.empty(len(rows), dtype=torch.float64, device=rows.device)
        budget = working_bytes(self.features.device, count())
        for start, stop in pieces(len(rows), 16.0 * self.projection.shape[1], budget):
            projected = rows[start:stop] @ self.projection[:m]
            if composition is not None:
                projected += composition[start:stop] @ self.projection[m:]
            result[start:stop] = projected.square().sum(1)
        return result


def _given(rows: Tensor | None) -> Tensor:
    if rows is None:
        raise ValueError("these rows were not asked for")
    return rows


def _engine(term: FeatureMap, device: str, dtype: torch.dtype) -> Engine:
    if isinstance(term, TwoBodyMap):
        return PairEngine(term, device)
    if isinstance(term.descriptor, SOAP | ACSF):
        environments = EnvironmentEngine(_descriptor_engine(term.descriptor, device, dtype))
        if isinstance(term, KernelMap):
            return KernelEngine(term, environments)
        if isinstance(term, LinearMap):
            return LinearEngine(term, environments)
    name = type(term.descriptor).__name__
    raise ParameterError(
        f"a term of {name} has no engine for PyTorch yet; leave `device` None, or take SOAP, ACSF or TwoBody."
    )


def _descriptor_engine(descriptor: SOAP | ACSF, device: str, dtype: torch.dtype) -> DescriptorEngine:
    if isinstance(descriptor, SOAP):
        return SoapEngine(descriptor, device, dtype)
    return AcsfEngine(descriptor, device, dtype)


def _describe(
    engines: Sequence[Engine], batch: Batch, species: Int[np.ndarray, " atoms"], device: str
) -> tuple[State, ...]:
    there = DeviceBatch(batch, device, species)
    seen: list[tuple[Descriptor, State]] = []
    parts = []
    for engine in engines:
        known = [part for descriptor, part in seen if descriptor == engine.features.descriptor]
        part = known[0] if known else engine.describe(there)
        seen.append((engine.features.descriptor, part))
        parts.append(part)
    return cast(tuple[State, ...], tuple(parts))
