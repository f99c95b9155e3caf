"""The terms that a model's local energy is the sum of, before and after they have seen structures."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from jaxtyping import Int

from kernelpot.data.labels import Labels
from kernelpot.data.stream import canonical_order, sizes_of, species_of, taken
from kernelpot.descriptors.pairs import TwoBody
from kernelpot.descriptors.protocol import Descriptor
from kernelpot.descriptors.radial import Compressed
from kernelpot.descriptors.soap.definition import SOAP
from kernelpot.elements.channels import ALIKE, HYDROGEN, ElementChannels
from kernelpot.errors import ParameterError
from kernelpot.features.feature_map import FeatureMap
from kernelpot.features.inducing import choose_inducing, given_inducing, mean_vectors
from kernelpot.features.kernel_map import KernelMap
from kernelpot.features.linear_map import LinearMap
from kernelpot.features.sum_map import SumMap
from kernelpot.features.two_body_map import TwoBodyMap
from kernelpot.kernels import DotProduct, Gaussian, Linear
from kernelpot.linalg.subsets import alike, equal_vectors, folds
from kernelpot.potentials.noise_search import left_out_in
from kernelpot.potentials.training import composition_of
from kernelpot.progress import say, shown
from kernelpot.record import Named, Record, Whole
from kernelpot.run import one_blas
from kernelpot.units import MILLI

if TYPE_CHECKING:
    from ase import Atoms


@dataclass(frozen=True)
class Term(Record):
    """One term of a local energy: a descriptor with a kernel, and its share of the inducing environments.

    Parameters
    ----------
    descriptor
        Such as `SOAP`, `ACSF`, or `TwoBody`, which is a term by itself.
    kernel
        Of two unit vectors; its amplitude is the term's prior standard deviation of a local energy, eV (of a pair
        energy for `TwoBody`, which carries its own and takes no kernel). None: `DotProduct(2)`. `Linear` makes the term
        linear in the descriptor, without inducing environments.
    n_inducing
        Inducing environments of this term; None: an equal share of what the model has left.

    Raises
    ------
    ParameterError
        A `TwoBody` was given a kernel or inducing environments, or a parameter breaks its rule.
    """

    descriptor: Annotated[Descriptor, Named("descriptor")]
    kernel: Annotated[DotProduct | Gaussian | Linear | None, Named("kernel")] = None
    n_inducing: Annotated[int | None, Whole(1)] = None

    def check(self) -> None:
        """Refuse a kernel or inducing environments that the descriptor has no use for."""
        if not hasattr(self.descriptor, "environments"):
            raise ParameterError(f"a term needs a descriptor such as SOAP() or TwoBody(), got {self.descriptor!r}.")
        if not isinstance(self.kernel, DotProduct | Gaussian | Linear | None):
            raise ParameterError(
                f"`kernel` must be a kernel such as DotProduct(2), Gaussian(0.5) or Linear(), got {self.kernel!r}."
            )
        if isinstance(self.descriptor, TwoBody):
            if self.kernel is not None or self.n_inducing is not None:
                raise ParameterError(
                    "TwoBody takes no kernel and no inducing environments; give it alone, TwoBody(amplitude=...)."
                )
        elif isinstance(self.kernel, Linear) and self.n_inducing is not None:
            raise ParameterError("a Linear term takes no inducing environments; leave `n_inducing` out.")
        elif self.kernel is None:
            object.__setattr__(self, "kernel", DotProduct(2))

    @property
    def amplitude(self) -> float:
        """Prior standard deviation, eV."""
        return self.descriptor.amplitude if isinstance(self.descriptor, TwoBody) else self._kernel.amplitude

    def with_amplitude(self, amplitude: float) -> Term:
        """Return the same term with another prior standard deviation, eV."""
        if isinstance(self.descriptor, TwoBody):
            return replace(self, descriptor=replace(self.descriptor, amplitude=amplitude))
        return replace(self, kernel=replace(self._kernel, amplitude=amplitude))

    @property
    def _kernel(self) -> DotProduct | Gaussian | Linear:
        return self.kernel or DotProduct(2)

    def features(
        self,
        structures: Sequence[Atoms],
        *,
        n_inducing: int,
        environments: Sequence[tuple[int, int]] | None,
        method: str,
        seed: int,
        tolerance: float,
    ) -> FeatureMap:
        """Return the feature map of this term, its inducing environments chosen from the structures."""
        descriptor, kernel = self.descriptor, self._kernel
        if descriptor.species is None:
            descriptor = descriptor.with_species(species_of(structures))
        if self.finds_coupling and isinstance(kernel, DotProduct | Gaussian) and len(descriptor.species or ()) > 1:
            species: tuple[int, ...] = descriptor.species or ()
            kernel = replace(kernel, centres=kernel.centres or ElementChannels.similar(species).for_species(species))
        if isinstance(descriptor, TwoBody):
            return TwoBodyMap(descriptor)
        if isinstance(kernel, Linear):
            return LinearMap.from_structures(descriptor, structures, normalise=kernel.normalise)
        if environments is not None:
            z = given_inducing(descriptor, structures, environments)
        else:
            z = choose_inducing(descriptor, structures, n_inducing, method=method, seed=seed, kernel=kernel)
        return KernelMap.from_inducing(descriptor, kernel, z, tolerance)

    @property
    def finds_coupling(self) -> bool:
        """Whether how much its elements learn from each other is to be found."""
        return isinstance(self.descriptor, SOAP) and self.descriptor.finds_channels

    @property
    def soap(self) -> SOAP:
        """The descriptor of a term whose coupling is found."""
        if not isinstance(self.descriptor, SOAP):
            raise TypeError("only SOAP finds its channels")
        return self.descriptor

    def coupled(self, species: tuple[int, ...], setting: Setting) -> Term:
        """Return the term with a coupling of the elements as given."""
        kernel = self._kernel
        channels = setting.channels(species, self.soap.most_channels(len(species)))
        descriptor = replace(self.soap, channels=channels, species=None).with_species(species)
        if isinstance(kernel, DotProduct | Gaussian) and kernel.centres is None:
            kernel = replace(kernel, centres=setting.centre_channels(species))
        return replace(self, descriptor=descriptor, kernel=kernel)


def terms_of(descriptor: Any, kernel: DotProduct | Gaussian | Linear | None) -> tuple[Term, ...]:
    """Return the terms that the first arguments of a model stand for."""
    if isinstance(descriptor, Term) or not isinstance(descriptor, Iterable):
        if isinstance(descriptor, Term) and kernel is not None:
            raise ParameterError("a Term has its own kernel; leave `kernel` out.")
        return (descriptor if isinstance(descriptor, Term) else Term(descriptor, kernel),)
    given = list(descriptor)
    if not given:
        raise ParameterError("a model needs at least one descriptor, got an empty list; SOAP() is usual.")
    result = []
    for item in given:
        if isinstance(item, Term):
            result.append(item)
        else:
            result.append(Term(item) if isinstance(item, TwoBody) else Term(item, kernel))
    return tuple(result)


def leading(terms: Sequence[Term]) -> Term:
    """Return the term that structures are compared by: the first with a kernel, else the first."""
    return next((term for term in terms if term.kernel is not None), terms[0])


def build(
    terms: Sequence[Term],
    structures: Sequence[Atoms],
    *,
    n_inducing: int,
    environments: Sequence[tuple[int, int]] | None,
    method: str,
    seed: int,
    tolerance: float,
) -> FeatureMap:
    """Return the feature map of all terms, on one set of species.

    Amplitudes are taken in units of the first term's, which is the model's.
    """
    rest = n_inducing - sum(term.n_inducing or 0 for term in terms)
    sharing = [term for term in terms if isinstance(term.kernel, DotProduct | Gaussian) and term.n_inducing is None]
    if sharing and rest < len(sharing):
        raise ParameterError(
            f"`n_inducing` must leave at least one inducing environment for each of {len(sharing)} terms, "
            f"got {n_inducing} in all; 500 to 2000 is usual."
        )
    share = {id(term): rest // len(sharing) + (k < rest % len(sharing)) for k, term in enumerate(sharing)}
    maps = [
        term.features(
            structures, n_inducing=term.n_inducing or share.get(id(term), 0), environments=environments,
            method=method, seed=seed, tolerance=tolerance,
        )
        for term in terms
    ]  # fmt: skip
    if len(maps) == 1:
        return maps[0]
    return SumMap(tuple(maps), tuple(term.amplitude / terms[0].amplitude for term in terms))


# ---- how much elements learn from each other


@dataclass(frozen=True)
class Setting:
    """A coupling of the elements; widths are of `ElementChannels.similar`."""

    width: float | None  # Of neighbours; None: elements are apart
    hydrogen: float = 1.0  # Weight of its density
    centres: float | None = None  # Width of the coupling of centres; None: apart
    n: int | None = None  # Channels; None: as many as may be

    def channels(self, species: tuple[int, ...], most: int) -> ElementChannels:
        """Return the channels of neighbours."""
        n = most if self.n is None else self.n
        if self.width is not None:
            return ElementChannels.similar(species, n, width=self.width, hydrogen=self.hydrogen)
        return ElementChannels.weighted({"H": self.hydrogen})

    def centre_channels(self, species: tuple[int, ...]) -> ElementChannels | None:
        """Return those of centres."""
        return None if self.centres is None else ElementChannels.similar(species, width=self.centres, hydrogen=1.0)

    def __str__(self) -> str:
        """Return the setting for people."""
        near = "neighbours apart" if self.width is None else f"neighbours of width {self.width:g}"
        near += "" if self.n is None else f" in {self.n} channel{'s' * (self.n > 1)}"
        far = "centres apart" if self.centres is None else f"centres of width {self.centres:g}"
        return ", ".join([near, *([f"hydrogen {self.hydrogen:g}"] if self.hydrogen != 1.0 else []), far])


@dataclass(frozen=True)
class Tried:
    """A coupling of the elements with what a small model that has it says of left-out labels."""

    setting: Setting
    loss: float  # Σ_kind log RMSE, the mean of both
    frames: Mapping[str, float]  # RMSE of left-out frames: eV/atom, eV/Å
    compositions: Mapping[str, float]  # RMSE of left-out compositions; empty where there are too few of them

    def __str__(self) -> str:
        """Return setting and errors for people."""
        left = [("frames", self.frames), ("compositions", self.compositions)]
        errors = [
            f"{what} {' ; '.join(f'{1e3 * rmse[kind]:.3g} {MILLI[kind]}' for kind in rmse)}"
            for what, rmse in left
            if rmse
        ]
        return f"{self.setting}: left-out {', '.join(errors)}"


RUNNERS_UP = 3
"""Settings that were not taken, as many as a summary shows."""


def told_of(tried: Sequence[Tried]) -> list[str]:
    """Return the lines of a summary on couplings that were tried, the one that was taken first."""
    return [f"{'  not taken' if k else 'coupling':<20}{one}" for k, one in enumerate(tried[: 1 + RUNNERS_UP])]


SMALL = {"structures": 100, "atoms": 1500, "inducing": 200, "folds": 4}
"""Size of the models that rank couplings: all together cost about as much as one fit."""

FEWEST_TO_ASK = 12
"""Labelled structures below which left-out errors rank nothing."""

MOST_APART = 3
"""Elements up to which channels may be one for each: vectors grow with the square of their number."""

CLEARLY = 0.03
"""Fall of the loss that another setting must bring to be taken: 3 % off the product of the errors."""

LONGER = 0.1
"""Fall of the loss that one more channel must bring."""

WIDTHS = (1.0, 2.5, 6.0, 15.0)
"""Widths that are tried: carbon and oxygen are 1.3 apart, nickel and gold 2.2, hydrogen and all others 5 to 8."""


def find_coupling(
    terms: Sequence[Term],
    structures: Sequence[Atoms],
    labels: Labels,
    *,
    kinds: Sequence[str],
    seed: int,
    given_folds: Int[np.ndarray, " structures"] | None = None,
) -> tuple[tuple[Term, ...], tuple[Tried, ...]]:
    """Return the terms with the coupling of their elements, and what was tried, the best first.

    One coordinate after the other, from what is taken without labels: width of neighbours, weight of hydrogen, width of
    centres, width of neighbours again, number of channels. Each is judged by a small model of the first such term on
    some of the structures: the mean of its losses on left-out frames and on left-out compositions, so that what
    is better among known compositions only is not taken. Frames are left out in the folds that are given, if any.
    """
    unsettled = next((term for term in terms if term.finds_coupling), None)
    if unsettled is None:
        return tuple(terms), ()
    species = unsettled.soap.species or species_of(structures)
    asked = some_of_each(structures, labels, seed) if len(species) > 1 else []
    some = taken(structures, asked)
    # Elements that none of the structures asked has, as of frames without labels, have no say.
    present = species_of(some) if some else ()
    if len(asked) < FEWEST_TO_ASK or len(present) < 2:
        return tuple(terms), ()
    with one_blas(), shown(enabled=False):
        fold = None if given_folds is None else np.unique(given_folds[asked], return_inverse=True)[1] % SMALL["folds"]
        ranking = Ranking.of(unsettled, present, some, labels.take(asked), kinds, seed, fold)
        tried: dict[Setting, Tried] = {}
        start = Setting(ALIKE, HYDROGEN if 1 in species else 1.0, ALIKE)

        def better(best: Setting, by: float = CLEARLY, **choices: Sequence[Any]) -> Setting:
            ((name, values),) = choices.items()
            for setting in [replace(best, **{name: value}) for value in values]:
                if setting not in tried:
                    tried[setting] = ranking.judged(setting)
                if tried[setting].loss < tried[best].loss - by:
                    best = setting
            return best

        tried[start] = ranking.judged(start)
        apart = [None] if len(species) <= MOST_APART else []
        best = better(start, width=[*WIDTHS, *apart])
        best = better(best, hydrogen=[1.0, 0.5, 0.3] if 1 in present else [1.0])
        best = better(best, centres=[*WIDTHS, None])
        if best.width is not None:
            best = better(best, width=[0.6 * best.width, 1.6 * best.width])
            best = better(best, n=[1])
            most = unsettled.soap.most_channels(len(present))
            # Longer vectors cost time in all that follows.
            best = better(best, LONGER, n=[most + 1] if best.n is None and most < len(present) else [])
    order = sorted(tried.values(), key=lambda one: (one.setting != best, one.loss))
    say(f"coupling of elements: {order[0]}; {len(order)} tried")
    return tuple(term.coupled(species, best) if term.finds_coupling else term for term in terms), tuple(order)


def some_of_each(structures: Sequence[Atoms], labels: Labels, seed: int) -> list[int]:
    """Return numbers of some labelled structures, every set of elements and kind in turn, in their own order."""
    sizes = sizes_of(structures)
    order = canonical_order(structures, seed)
    known = order[(labels.present("energy") | labels.present("forces"))[order]]
    groups: dict[Any, list[int]] = {}
    for k in known.tolist():
        atoms = structures[k]
        groups.setdefault((tuple(np.unique(atoms.numbers)), str(atoms.info.get("config_type", ""))), []).append(k)
    turns = [k for turn in zip_longest(*groups.values()) for k in turn if k is not None]
    room = np.cumsum(sizes[turns]) <= SMALL["atoms"]
    fit = [k for k, fits in zip(turns, room, strict=True) if fits] or turns[:1]
    # Where structures are large, fewer of them: below the fewest nothing can be asked.
    fit = fit if len(fit) >= FEWEST_TO_ASK else turns[:FEWEST_TO_ASK]
    return sorted(fit[: SMALL["structures"]])


def composition_groups(structures: Sequence[Atoms], species: tuple[int, ...]) -> Int[np.ndarray, " structures"] | None:
    """Return which compositions go together: sets of elements, else parts along their main direction, else kinds.

    None where there are fewer than three, or where an element occurs in one of them alone.
    """
    counts = composition_of(structures, species)
    shares = counts / counts.sum(axis=1, keepdims=True)
    groups = np.unique(shares > 0.0, axis=0, return_inverse=True)[1].ravel()
    if len(np.unique(groups)) < SMALL["folds"]:
        centred = shares - shares.mean(axis=0)
        along = np.round(centred @ np.linalg.svd(centred, full_matrices=False)[2][0], 6)
        levels = np.unique(along)
        cuts = levels[[len(levels) * k // SMALL["folds"] for k in range(1, SMALL["folds"])]]
        groups = np.searchsorted(cuts, along, side="right") if len(levels) >= SMALL["folds"] else groups
    if len(np.unique(groups)) < 3:
        groups = np.unique([str(atoms.info.get("config_type", "")) for atoms in structures], return_inverse=True)[1]
    names, sizes = np.unique(groups, return_counts=True)
    if len(names) < 3:
        return None
    fold_of, filled = {}, np.zeros(min(len(names), SMALL["folds"]))
    for name in names[np.argsort(-sizes, kind="stable")].tolist():
        fold_of[name] = int(np.argmin(filled))
        filled[fold_of[name]] += sizes[names == name][0]
    result = np.array([fold_of[name] for name in groups.tolist()])
    alone = [not (counts[result != fold] > 0.0).any(axis=0).all() for fold in np.unique(result)]
    return None if any(alone) else result


@dataclass(frozen=True, eq=False)
class Ranking:
    """Labelled structures that couplings are judged on, with the folds that they are left out in."""

    term: Term
    species: tuple[int, ...]
    structures: list[Atoms]
    labels: Labels
    kinds: tuple[str, ...]
    ways: tuple[Int[np.ndarray, " structures"], ...]  # Fold of each structure: of frames, then of compositions
    independent: int
    seed: int

    @classmethod
    def of(
        cls,
        term: Term,
        species: tuple[int, ...],
        structures: list[Atoms],
        labels: Labels,
        kinds: Sequence[str],
        seed: int,
        fold: Int[np.ndarray, " structures"] | None,
    ) -> Ranking:
        """Lay out the folds, the same for every coupling."""
        apart = small(replace(term.soap, channels=None, species=None)).with_species(species)
        means = mean_vectors(apart, structures)
        groups = equal_vectors(means, labels.n_atoms)
        n_folds = min(SMALL["folds"], len(np.unique(groups)))
        blocks = alike(means, groups, n_folds)
        if fold is None or fold.max() < 1:
            fold = folds(blocks, n_folds, seed=seed)
        ways = [fold]
        beyond = composition_groups(structures, species)
        ways += [] if beyond is None else [beyond]
        # Stresses follow what energies and forces have settled.
        kept = tuple(kind for kind in kinds if kind != "stress" and labels.present(kind).any()) or tuple(kinds)
        independent = len(np.unique(blocks))
        return cls(term, species, structures, labels, kept, tuple(ways), independent, seed)

    def judged(self, setting: Setting) -> Tried:
        """Fit a small model, and leave out in every way; noises are those of left-out frames."""
        term = self.term.coupled(self.species, setting)
        features = replace(term, descriptor=small(term.soap)).features(
            self.structures, n_inducing=SMALL["inducing"], environments=None, method="fps", seed=self.seed,
            tolerance=1e-10,
        )  # fmt: skip
        every = left_out_in(features, self.structures, self.labels, self.ways, kinds=self.kinds)
        frames = every[0]
        ratio, _ = frames.search("cv", independent=self.independent)
        found = [errors.left_out(ratio) for errors in every]
        rmse = [{kind: float(left[kind].rmse) for kind in frames.leading} for left in found]
        loss = float(np.mean([sum(np.log(value) for value in one.values()) for one in rmse]))
        return Tried(setting, loss, rmse[0], rmse[1] if len(rmse) > 1 else {})


def small(descriptor: SOAP) -> SOAP:
    """Return a descriptor with a resolution that is enough to rank couplings."""
    if isinstance(descriptor.basis, Compressed):
        return descriptor
    return replace(descriptor, n_max=min(descriptor.n_max, 6), l_max=min(descriptor.l_max, 4))


def described(terms: Sequence[Term]) -> list[str]:
    """Return a line of a summary for each term: its descriptor's settings."""
    units = {"cutoff": " Å", "n_max": "", "l_max": "", "sigma": " Å"}
    return [
        f"descriptor          {type(one).__name__}"
        + "".join(f", {name} {getattr(one, name):g}{unit}" for name, unit in units.items() if hasattr(one, name))
        for one in (term.descriptor for term in terms)
    ]
