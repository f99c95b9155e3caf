"""The errors kernelpot raises on purpose."""

from __future__ import annotations

from typing import Any


class KernelpotError(Exception):
    """Base of every error that kernelpot raises on purpose; the command line prints it as one line."""


class ParameterError(KernelpotError, ValueError):
    """An argument breaks its rule: the message names it, the rule, what was found and what to do."""


class DataError(KernelpotError, ValueError):
    """A structure or a file of structures is unusable; the message names the file and the structure number."""


class LabelError(DataError):
    """Labels (energy, forces, stress) are missing, half missing, not finite or ambiguous."""


class SpeciesError(DataError):
    """A structure holds an element that the model has never seen."""


class ModelFileError(KernelpotError, ValueError):
    """A model file is damaged, foreign, or of a version this kernelpot cannot read."""


class NotFittedError(KernelpotError, RuntimeError):
    """The model was asked for something that only a fitted (or prepared) model has."""


class StoreError(KernelpotError, ValueError):
    """A folder of chunks is damaged, foreign, of another version, or made with other settings."""


class ExtrapolationError(KernelpotError, RuntimeError):
    """Dynamics met an environment far from the training set; it holds the structure, so that it can be labelled.

    Attributes
    ----------
    atoms
        Copy of the structure, with its grades as ``atoms.arrays["extrapolation"]``.
    grade
        The largest grade.
    atom
        Number of the atom that has it.
    """

    def __init__(self, message: str, atoms: Any, grade: float, atom: int) -> None:
        super().__init__(message)
        self.atoms = atoms
        self.grade = grade
        self.atom = atom
