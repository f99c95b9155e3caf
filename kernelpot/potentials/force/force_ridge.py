"""Kernel ridge regression of energies and forces with every label a basis function."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from kernelpot.data.batch import Batch
from kernelpot.data.check import check_species, validate
from kernelpot.data.labels import Labels, resolve
from kernelpot.data.noise import Noise
from kernelpot.data.stream import chunks, species_of, structure_list
from kernelpot.descriptors.pairs import TwoBody
from kernelpot.descriptors.protocol import Descriptor
from kernelpot.errors import NotFittedError, ParameterError
from kernelpot.features.force_kernel import DerivativeMap
from kernelpot.kernels import DotProduct, Gaussian, refuse_coupled
from kernelpot.linalg.devices import check_device
from kernelpot.potentials.fitting import require_labels
from kernelpot.potentials.force.force_files import write_forces
from kernelpot.potentials.force.force_system import ForcePosterior, ForceState, LabelSystem
from kernelpot.potentials.prediction import Mean, Prediction, join
from kernelpot.progress import say, track
from kernelpot.run import count, ordered

if TYPE_CHECKING:
    from ase import Atoms


ATOMS_PER_PREDICTION = 256

MOST_LABELS = 6000
"""Labels that noises are compared on: an evaluation takes their number cubed."""

FEWEST = 4
"""Structures below which leaving one out says nothing."""

START = {"energy": 0.0, "forces": 1.5}
"""Where the search begins: exponents of ten over `UNIT`."""

UNIT = 1e-4
"""eV/atom and eV/Å."""

STEP = 0.5
"""Of the exponents."""

LIMITS = (-2.0, 5.0)
"""Least and largest exponent: labels of calculations are no smoother than 1e-6."""

TIE = 0.02
"""Scores that are this close are alike, and the larger noises are taken."""

NEIGHBOURS = 8
"""Of a pair of noises, which are compared side by side."""

ROUNDING = 1e-10
"""Errors never count as smaller, so that their logarithms stay finite."""

Exponents = tuple[float, ...]


class ForceRidge:
    """Kernel ridge regression, or the exact Gaussian process, of energies and forces.

    The energy is a sum of local energies with a kernel between environments of one element; energies and forces are
    linear functionals of them, and the covariance of all labels is made whole, second derivatives included (Christensen
    et al., J. Chem. Phys. 150, 064105 (2019); Chmiela et al., Sci. Adv. 3, e1603015 (2017)). No label is approximated,
    so n labels take 4 n² bytes and n³/3 operations: for molecules of tens of atoms, up to a few thousand structures.

    Parameters
    ----------
    descriptor
        Such as `SOAP`; or a list: the local energy is then a sum of one term for each.
    kernel
        Of two unit vectors, `Gaussian` or `DotProduct`; or a list of one for each descriptor. Its amplitude (eV) is the
        prior standard deviation of a local energy.
    noise
        Standard deviations of the labels. A kind without one is no label: ``Noise(energy=None, forces=0.01)`` fits the
        forces alone, and the constant of integration by least squares on the energies that are there. "cv": those with
        the least errors on left-out structures, found on a part of the training set.
    reduction
        Share of the squared lengths of unit vectors and their derivatives that a projection on fewer components may
        lose; 0 keeps all.
    memory_gb
        Most memory for the covariance of the labels and the derivatives, 10⁹ bytes; `fit` refuses what needs more.
    keep_factor
        Keep the factor (4 n² bytes) with the derivatives for standard deviations; files never hold it.
    device
        None: NumPy and compiled loops. "cpu", "cuda" or "cuda:0": kernel blocks, factorisation and predictions by
        PyTorch there; descriptors stay in compiled loops.

    Raises
    ------
    ParameterError
        A parameter breaks its rule.
    """

    def __init__(
        self,
        descriptor: Descriptor | Sequence[Descriptor],
        kernel: DotProduct | Gaussian | Sequence[DotProduct | Gaussian] | None = None,
        *,
        noise: Noise | str | None = None,
        reduction: float = 1e-5,
        memory_gb: float = 16.0,
        keep_factor: bool = False,
        device: str | None = None,
    ) -> None:
        check_device(device)
        self.descriptors, self.kernels = _terms(descriptor, kernel)
        self.noise = _noise(noise)
        self.reduction = _number("reduction", reduction, 0.0, 0.1, "1e-5 is usual, 0 keeps all")
        self.memory_gb = _number("memory_gb", memory_gb, 1e-6, 1e6, "10⁹ bytes; 16 is usual")
        if not isinstance(keep_factor, bool):
            raise ParameterError(f"`keep_factor` must be True or False, got {keep_factor!r}.")
        self.keep_factor = keep_factor
        self.device = device
        self.fitted_: ForceState | None = None
        self.posterior_: ForcePosterior | None = None

    def __repr__(self) -> str:
        """Return the call that makes an equal model, and how many labels it was fitted to, if it was."""
        parts = (self.descriptors[0], self.kernels[0]) if len(self.kernels) == 1 else (self.descriptors, self.kernels)
        described = ", ".join(repr(list(p)) if isinstance(p, tuple) else repr(p) for p in parts)
        state = "" if self.fitted_ is None else f", fitted to {sum(self.fitted_.n_labels.values())} labels"
        where = "" if self.device is None else f", device={self.device!r}"
        kept = ", keep_factor=True" if self.keep_factor else ""
        return (
            f"ForceRidge({described}, noise={self.noise!r}, reduction={self.reduction:g}, "
            f"memory_gb={self.memory_gb:g}{kept}{where}{state})"
        )

    def fit(self, structures: Sequence[Atoms], *, keys: Mapping[str, str | None] | None = None) -> ForceRidge:
        """Fit the labels of structures; every fit starts from the prior.

        Parameters
        ----------
        structures
            With labels: the energies and forces that are there and have a noise are used.
        keys
            Names of labels, as in `kernelpot.read`.

        Returns
        -------
        ForceRidge
            This model.

        Raises
        ------
        DataError
            A structure is unusable.
        LabelError
            There is neither an energy nor a force of a kind with a noise, or labels are broken.
        ParameterError
            The labels need more memory than `memory_gb`, or their covariance is singular to round-off.
        """
        structures = structure_list(structures)
        labels = resolve(structures, keys)
        kinds = [kind for kind in require_labels(labels, self.noise) if kind != "stress"]
        validate(structures)
        species = species_of(structures)
        known = [d if d.species is not None else d.with_species(species) for d in self.descriptors]
        for descriptor in known:
            check_species(structures, descriptor.species or ())
        maps = [
            DerivativeMap.from_structures(descriptor, kernel, list(structures), self.reduction)
            for descriptor, kernel in zip(known, self.kernels, strict=True)
        ]
        system = LabelSystem.of(maps, structures, labels, kinds, self.device)
        system.require_memory(self.memory_gb)
        if isinstance(self.noise, Noise):
            noise = self.noise
        else:
            noise = choose_noise(maps, structures, labels, kinds, memory_gb=self.memory_gb)
        posterior = ForcePosterior.of(system, noise)
        self.fitted_, self.posterior_ = posterior.collapsed(), posterior if self.keep_factor else None
        return self

    def predict(self, structures: Sequence[Atoms], *, uncertainty: bool = True) -> Prediction:
        """Predict energies, forces and stresses.

        Parameters
        ----------
        structures
            Their labels are not looked at.
        uncertainty
            Also standard deviations of energies, forces and local energies, where the model keeps its factor; they take
            n² operations for each number, n the labels of the fit. A model without `keep_factor` gives means alone.

        Raises
        ------
        NotFittedError
            The model was never fitted.
        SpeciesError
            A structure holds an element that the model has never seen.
        """
        state = self._state()
        structures = structure_list(structures)
        check_species(structures, state.species)

        def part(piece: tuple[int, int]) -> Prediction:
            batch = Batch.from_structures(structures[slice(*piece)], state.reach, start=piece[0])
            mean, cuts = state.mean(batch), batch.offsets[1:-1]
            forces, local = np.split(mean.forces, cuts), np.split(mean.local_energy, cuts)
            return Prediction(mean.energy, forces, mean.stress, local)

        pieces = list(chunks(structures, ATOMS_PER_PREDICTION))
        found = join(list(ordered(part, track(pieces, "predict"))))
        posterior = self.posterior_
        if not uncertainty or posterior is None:
            return found
        parts = []
        for k in track(range(len(structures)), "standard deviations"):
            latent = posterior.spread(Batch.from_structures([structures[k]], state.reach))
            energy, forces = (posterior.scale * (getattr(self.noise_, kind) or 0.0) for kind in ("energy", "forces"))
            label = replace(
                latent,
                energy_std=np.hypot(latent.energy_std, energy * len(structures[k])),
                forces_std=[np.hypot(f, forces) for f in latent.forces_std],
            )
            parts.append(replace(found.take([k]), latent=latent, label=label))
        return join(parts)

    def mean(self, batch: Batch) -> Mean:
        """Return the mean predictions for a batch: the fast path for molecular dynamics."""
        return self._state().mean(batch)

    def local_energy_std(self, batch: Batch) -> Float[np.ndarray, " atoms"]:
        """Return the standard deviation of every atom's energy, eV.

        Raises
        ------
        NotFittedError
            The model does not keep its factor.
        """
        if self.posterior_ is None:
            raise NotFittedError(
                "this model keeps no factor of its labels' covariance; fit with keep_factor=True to have standard "
                "deviations."
            )
        spread = self.posterior_.spread
        return np.concatenate([spread(batch.take(s, s + 1)).local_energy_std[0] for s in range(len(batch))])

    @property
    def cutoff_(self) -> float:
        """Distance up to which a batch needs neighbour pairs, Å."""
        return max(descriptor.cutoff for descriptor in self.descriptors)

    @property
    def species_(self) -> tuple[int, ...]:
        """Atomic numbers that the model knows."""
        return self._state().species

    @property
    def e0_(self) -> dict[str, float]:
        """Energy constant of each element, eV."""
        from ase.data import chemical_symbols

        state = self._state()
        return {chemical_symbols[z]: float(e) for z, e in zip(state.species, state.e0, strict=True)}

    @property
    def noise_(self) -> Noise:
        """Noise of the labels behind the fit."""
        return self._state().noise

    @property
    def n_components_(self) -> tuple[tuple[int, ...], ...]:
        """Components that each term projects on, for each species."""
        return tuple(tuple(c.shape[1] for c in form.map.columns) for form in self._state().forms)

    def settings(self) -> dict[str, Any]:
        """Return the settings as JSON values."""
        return {
            "descriptors": [descriptor.settings() for descriptor in self.descriptors],
            "kernels": [kernel.settings() for kernel in self.kernels],
            "noise": self.noise if isinstance(self.noise, str) else self.noise.settings(),
            "reduction": self.reduction,
            "memory_gb": self.memory_gb,
        }

    def save(self, path: str | Path) -> None:
        """Write the fitted model to one file (safetensors with a JSON header; it holds no code, nor the factor).

        Raises
        ------
        NotFittedError
            The model was never fitted.
        ModelFileError
            The file cannot be written; a file that was there stays as it was.
        """
        write_forces(path, self.settings(), self._state())

    def _state(self) -> ForceState:
        if self.fitted_ is None:
            raise NotFittedError("this model was never fitted; call fit(structures) or kernelpot.load(path) first.")
        return self.fitted_


def _terms(
    descriptor: Descriptor | Sequence[Descriptor],
    kernel: DotProduct | Gaussian | Sequence[DotProduct | Gaussian] | None,
) -> tuple[tuple[Descriptor, ...], tuple[DotProduct | Gaussian, ...]]:
    """Return the descriptors, and a kernel for each."""
    descriptors = tuple(descriptor) if isinstance(descriptor, Sequence) else (descriptor,)
    for one in descriptors:
        if isinstance(one, TwoBody | type) or not hasattr(one, "environments"):
            raise ParameterError(
                f"`descriptor` must be one of environments such as SOAP(), or a list of them, got {one!r}."
            )
    if not descriptors:
        raise ParameterError("`descriptor` must hold at least one descriptor, got an empty list.")
    n, given = len(descriptors), DotProduct(4) if kernel is None else kernel
    kernels = tuple(given) if isinstance(given, Sequence) else (given,) * n
    if len(kernels) != n:
        raise ParameterError(f"`kernel` must be one, or one for each of {n} descriptors, got {len(kernels)}.")
    for k in kernels:
        if not isinstance(k, DotProduct | Gaussian):
            raise ParameterError(f"`kernel` must be Gaussian(...) or DotProduct(...), got {k!r}.")
        refuse_coupled(k, "ForceRidge")
    return descriptors, kernels


def _noise(given: Noise | str | None) -> Noise | str:
    if isinstance(given, str) and given == "cv":
        return given
    noise = Noise(energy=1e-4, forces=3e-3) if given is None else given
    if not isinstance(noise, Noise) or noise.stress is not None:
        raise ParameterError(
            f'`noise` must be "cv" or a Noise of energies and forces (stresses are predicted, never fitted), got '
            f"{noise!r}."
        )
    return noise


def _number(name: str, value: float, low: float, high: float, usual: str) -> float:
    real = not isinstance(value, bool) and isinstance(value, int | float | np.number)
    if not real or not low <= value <= high:
        raise ParameterError(f"`{name}` must lie between {low:g} and {high:g} ({usual}), got {value!r}.")
    return float(value)


def choose_noise(
    maps: Sequence[DerivativeMap],
    structures: Sequence[Atoms],
    labels: Labels,
    kinds: Sequence[str],
    *,
    memory_gb: float = 16.0,
    seed: int = 0,
) -> Noise:
    """Return the noises with the least left-out errors of a part of the structures.

    The sum of the logarithms of the kinds' root mean square errors is lowered on a lattice of half powers of ten, from
    usual noises on, until no neighbour is better. Of noises whose errors are alike the largest are taken, as smaller
    ones would make the model surer of itself than the errors warrant.
    """
    sizes = np.zeros(len(labels), dtype=np.int64)
    for kind in kinds:
        sizes += labels.present(kind) * (1 if kind == "energy" else 3 * labels.n_atoms)
    usable = np.flatnonzero(sizes > 0)
    if len(usable) < FEWEST:
        raise ParameterError(
            f'`noise="cv"` needs at least {FEWEST} structures with labels, found {len(usable)}; give a Noise.'
        )
    order = usable[np.random.default_rng(seed).permutation(len(usable))]
    most = int(np.searchsorted(np.cumsum(sizes[order]), most_labels(memory_gb), side="right"))
    part = sorted(order[: max(FEWEST, most)].tolist())
    system = LabelSystem.of(maps, [structures[k] for k in part], labels.take(part), kinds)

    def score(point: Exponents) -> float:
        try:
            found = system.left_out(_at(kinds, point))
        except np.linalg.LinAlgError:
            return np.inf
        return sum(float(np.log(max(float(left.rmse), ROUNDING))) for left in found.values() if len(left))

    best, value, n = descend(score, tuple(START[kind] for kind in kinds), TIE)
    if not np.isfinite(value):
        raise ParameterError(
            f"the covariance of the labels is singular to round-off with every noise up to {_at(kinds, best)}; "
            "lower the kernel's amplitude, or give `noise`."
        )
    noise = _at(kinds, best)
    say(f"cv: noise {noise}, the best of {n} tried by leaving out each of {len(part)} structures")
    return noise


def descend(score: Callable[[Exponents], float], start: Exponents, tie: float = 0.0) -> tuple[Exponents, float, int]:
    """Walk to the lowest neighbour on a lattice until there is none; return place, score, and places looked at.

    Of all places looked at whose score exceeds the lowest by no more than `tie`, that with the largest sum is taken.
    """
    known: dict[Exponents, float] = {start: score(start)}
    here = start
    while True:
        moves = product((-STEP, 0.0, STEP), repeat=len(start))
        places = [tuple(a + b for a, b in zip(here, move, strict=True)) for move in moves]
        new = [p for p in places if p not in known and all(LIMITS[0] <= a <= LIMITS[1] for a in p)]
        known |= zip(new, ordered(score, new), strict=True)
        best = min(known, key=lambda place: known[place])
        if not np.isfinite(known[best]):
            # Where noises are too small for round-off, larger ones are not.
            best = tuple(min(a + STEP, LIMITS[1]) for a in here)
        if best == here:
            break
        here = best
    lowest = known[here]
    if np.isfinite(lowest):
        here = max((place for place in known if known[place] <= lowest + tie), key=lambda p: (sum(p), -known[p]))
    return here, known[here], len(known)


def most_labels(memory_gb: float) -> int:
    """Return how many labels there is time and memory for: the prior, and a factor of every pair at a time.

    The fewest structures that can be compared may take more.
    """
    matrices = 1 + min(count(), NEIGHBOURS)
    return min(MOST_LABELS, int(np.sqrt(memory_gb * 1e9 / (8.0 * matrices))))


def _at(kinds: Sequence[str], point: Exponents) -> Noise:
    given = {kind: UNIT * 10.0**exponent for kind, exponent in zip(kinds, point, strict=True)}
    return Noise(energy=given.get("energy"), forces=given.get("forces"))
