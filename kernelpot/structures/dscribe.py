"""Any descriptor of DScribe as features of structures or as environment vectors."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, Self

import numpy as np
from ase import Atoms
from jaxtyping import Float
from sklearn.base import BaseEstimator, TransformerMixin

from kernelpot.data.batch import Batch
from kernelpot.data.check import check_structure, place
from kernelpot.descriptors.protocol import ValuesOnly
from kernelpot.errors import DataError, ParameterError
from kernelpot.structures.structure_kernel import as_structures

NAMES = ("CoulombMatrix", "SineMatrix", "EwaldSumMatrix", "MBTR", "LMBTR", "ValleOganov", "SOAP", "ACSF")
NO_CUTOFF = 1.0
"""Of descriptors without one, Å: the batch that goes through needs some."""


class DScribe(TransformerMixin, BaseEstimator):
    """A descriptor of DScribe (Himanen et al., Comput. Phys. Commun. 247, 106949 (2020)).

    One of whole structures (CoulombMatrix, SineMatrix, EwaldSumMatrix, MBTR, ValleOganov, an averaged SOAP) transforms
    lists of structures into rows of features, for pipelines of scikit-learn; one of environments (SOAP, ACSF, LMBTR)
    has none. A `StructureKernel` takes both. There are no derivatives.

    Parameters
    ----------
    descriptor
        Object of one of these classes, dense, with its species.

    Raises
    ------
    ParameterError
        When it is used: it is no such object.
    """

    def __init__(self, descriptor: Any) -> None:
        self.descriptor = descriptor

    def __sklearn_tags__(self) -> Any:
        """Tell scikit-learn that there is nothing to fit, and that X is no array."""
        tags = super().__sklearn_tags__()
        tags.requires_fit = False
        tags.input_tags.two_d_array = False
        tags.no_validation = True
        return tags

    @property
    def per_structure(self) -> bool:
        """Whether a structure has one vector, not each of its atoms one."""
        self._check()
        return type(self.descriptor).__name__ not in ("SOAP", "ACSF", "LMBTR") or self._averaged

    @property
    def _averaged(self) -> bool:
        return getattr(self.descriptor, "average", "off") != "off"

    @property
    def cutoff(self) -> float:
        """Reach of an environment, Å; of descriptors that have none a nominal 1 Å."""
        reach = getattr(self.descriptor, "_r_cut", getattr(self.descriptor, "r_cut", None))
        return float(reach) if reach is not None else NO_CUTOFF

    @property
    def species(self) -> tuple[int, ...]:
        """Atomic numbers it tells apart; of matrices, which take all elements, none."""
        from ase.data import atomic_numbers

        self._check()
        known = getattr(self.descriptor, "species", None)
        found = () if known is None else known
        return tuple(sorted(atomic_numbers[z] if isinstance(z, str) else int(z) for z in found))

    @property
    def n_features(self) -> int:
        """Length of a vector."""
        return int(self.descriptor.get_number_of_features())

    def with_species(self, species: tuple[int, ...]) -> DScribe:
        """Return itself: its species were given when it was made.

        Raises
        ------
        ParameterError
            Others are asked for.
        """
        if self.species and tuple(species) != self.species:
            raise ParameterError(f"this descriptor was made for elements {self.species}, not for {tuple(species)}.")
        return self

    def fit(self, X: Sequence[Atoms], y: Any = None) -> Self:  # noqa: ARG002
        """Check that there are structures; there is nothing to learn.

        Parameters
        ----------
        X
            List of structures.
        y
            Ignored.
        """
        self._check()
        as_structures(X)
        return self

    def transform(self, X: Sequence[Atoms]) -> Float[np.ndarray, "structures f"]:
        """Return one row of features for each structure.

        Parameters
        ----------
        X
            List of structures.

        Raises
        ------
        ParameterError
            The descriptor is one of environments.
        DataError
            A structure is unusable, or DScribe refuses it.
        """
        if not self.per_structure:
            raise ParameterError(
                f"{type(self.descriptor).__name__} describes environments; give it to a StructureKernel, or to "
                "StructureFeatures for their means or sums."
            )
        return np.stack([self._create(atoms, place(atoms, k)).reshape(-1) for k, atoms in enumerate(as_structures(X))])

    def environments(self, batch: Batch) -> ValuesOnly:
        """Describe every atom of a batch.

        Raises
        ------
        ParameterError
            The descriptor is one of whole structures.
        DataError
            DScribe refuses a structure.
        """
        if self.per_structure:
            raise ParameterError(f"{type(self.descriptor).__name__} describes whole structures, not environments.")
        parts = []
        for s, (a, b) in enumerate(zip(batch.offsets[:-1], batch.offsets[1:], strict=True)):
            atoms = Atoms(batch.numbers[a:b], batch.positions[a:b], cell=batch.cells[s], pbc=batch.pbc[s])
            parts.append(self._create(atoms, f"structure {s} of its batch").reshape(b - a, -1))
        return ValuesOnly(np.concatenate(parts), _ONLY_VALUES)

    def settings(self) -> dict[str, Any]:
        """Return class and arguments of the descriptor as JSON values."""
        self._check()
        # A ValleOganov is an MBTR with arguments of its own, which it does not keep.
        name = type(self.descriptor).__name__.replace("ValleOganov", "MBTR")
        names = [p for p in inspect.signature(_class(name).__init__).parameters if p != "self"]
        values = {p: _plain(getattr(self.descriptor, p, getattr(self.descriptor, f"_{p}", None))) for p in names}
        # What was not given is kept as an empty list, which is not taken back.
        given = {p: v for p, v in values.items() if v is not None and v != [] and v != {}}
        return {"name": "DScribe", "class": name, "arguments": given}

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any]) -> DScribe:
        """Make the descriptor that `settings` describes; only classes in `NAMES` are."""
        if settings["class"] not in NAMES:
            raise ValueError(f"there is no descriptor of the name {settings['class']!r}")
        return cls(_class(settings["class"])(**dict(settings["arguments"])))

    def _check(self) -> None:
        name = type(self.descriptor).__name__
        if name not in NAMES or not type(self.descriptor).__module__.startswith("dscribe."):
            raise ParameterError(
                f"`descriptor` must be an object of one of DScribe's {', '.join(NAMES)}, got {self.descriptor!r}."
            )
        if self.descriptor.sparse:
            raise ParameterError("`descriptor` must be dense; make it with sparse=False.")

    def _create(self, atoms: Atoms, where: str) -> Float[np.ndarray, "..."]:
        """Return what DScribe makes of one structure."""
        check_structure(atoms, where)
        _repair()
        try:
            result = np.asarray(self.descriptor.create(atoms), dtype=np.float64)
        except (ValueError, TypeError, RuntimeError, IndexError, KeyError) as error:
            raise DataError(f"{where}: DScribe's {type(self.descriptor).__name__} refuses it: {error}") from None
        if not np.isfinite(result).all():
            raise DataError(f"{where}: DScribe's {type(self.descriptor).__name__} is not finite; set it aside.")
        return result


_ONLY_VALUES = "descriptors of DScribe have no derivatives here; forces need kp.SOAP."


@cache
def _repair() -> None:
    """Give DScribe's `System` a way to be made that ASE understands.

    DScribe 2.1 hands ASE the calculator by position, which ASE 3.29 takes for `info`: of eight descriptors four then
    fail on every structure.
    """
    from dscribe.core import System

    calculator = inspect.signature(Atoms.__init__).parameters["calculator"]
    if calculator.kind is not inspect.Parameter.KEYWORD_ONLY:
        return

    def from_atoms(atoms: Atoms) -> Any:
        """Return a System with everything that a descriptor looks at."""
        return System(
            symbols=atoms.get_chemical_symbols(),
            positions=atoms.get_positions(),
            tags=atoms.get_tags(),
            masses=atoms.get_masses(),
            magmoms=atoms.get_initial_magnetic_moments(),
            charges=atoms.get_initial_charges(),
            cell=atoms.get_cell(),
            pbc=atoms.get_pbc(),
        )

    System.from_atoms = staticmethod(from_atoms)


def _class(name: str) -> Any:
    import dscribe.descriptors

    return getattr(dscribe.descriptors, name)


def _plain(value: Any) -> Any:
    """Return a setting as JSON has it."""
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, np.ndarray | tuple | list):
        return [_plain(v) for v in value]
    return value.item() if isinstance(value, np.generic) else value
