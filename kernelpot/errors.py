"""The errors kernelpot raises on purpose.

What was asked for is an argument, and a wrong one a `ParameterError`: settings, lists without a structure, numbers of
structures, weights, folds, names, and what follows from settings alone, such as a kernel matrix that needs more noise.
What it is asked about is data, and unusable data a `DataError`: structures, rows of features, files of either, and what
follows from their values, such as a kernel that overflows. Labels among them are a `LabelError`. A mistake has one
class everywhere.
"""

from __future__ import annotations

from typing import Any


class KernelpotError(Exception):
    """Base of every error that kernelpot raises on purpose; the command line prints it as one line."""


class ParameterError(KernelpotError, ValueError):
    """An argument breaks its rule: the message names it, the rule, what was found and what to do."""


class DataError(KernelpotError, ValueError):
    """A structure, a row of features or a file of them is unusable; the message names which, and the file."""


class LabelError(DataError):
    """Labels (energy, forces, stress, a property, classes) are missing, half missing, not finite or ambiguous."""


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
