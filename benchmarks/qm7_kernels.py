"""Kernels between molecules that the QM7 curves compare, each with the settings it may choose from."""

from __future__ import annotations

import io
import lzma
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.systems import data

if TYPE_CHECKING:
    from ase import Atoms
    from jaxtyping import Float, Int

ELEMENTS = (1, 6, 7, 8, 16)
STORED = ("SOAP sum",)
"""Kernels that Gaussian processes are scored with too."""

Matrix = Callable[[Sequence["Atoms"]], "Float[np.ndarray, 'n n']"]


@dataclass(frozen=True)
class Chosen:
    """A kernel with its settings.

    Attributes
    ----------
    kernel
        Between structures; None of a kernel of features.
    matrix
        From structures to their kernel matrix.
    text
        The settings.
    alpha
        The best by leave-one-out errors.
    """

    kernel: Any
    matrix: Matrix
    text: str
    alpha: float

    def encoded(self, structures: Sequence[Atoms]) -> Any:
        """Describe structures for the kernel."""
        return self.kernel.encode(structures)


@dataclass(frozen=True)
class Recipe:
    """A kind of kernel.

    Attributes
    ----------
    candidates
        Yields (text, kernel between structures or None, function to a kernel matrix).
    largest
        Most training molecules, unless all is asked for.
    splits
        Number of splits.
    intensive
        Learn energies per atom.
    most_test
        Test molecules of a split.
    """

    candidates: Callable[[], Sequence[tuple[str, Any, Matrix]]]
    largest: int = 5000
    splits: int = 5
    intensive: bool = False
    most_test: int | None = None

    def choose(self, structures: Sequence[Atoms], left_out: Callable[[Any], tuple[float, float]]) -> Chosen:
        """Return the candidate with the least leave-one-out error on these structures."""
        found = []
        for text, kernel, matrix in self.candidates():
            error, alpha = left_out(matrix(structures))
            found.append((error, Chosen(kernel, matrix, f"{text}, alpha {alpha:.1e}, left out {error:.2f}", alpha)))
        return min(found, key=lambda pair: pair[0])[1]


@dataclass(frozen=True, eq=False)
class Stored:
    """A kernel matrix that is looked up.

    Attributes
    ----------
    values
        Kernel of the items.
    place
        Row of each item's number.
    """

    values: Float[np.ndarray, "n n"]
    place: dict[int, int]

    @classmethod
    def of(cls, values: Float[np.ndarray, "n n"], numbers: Int[np.ndarray, " n"]) -> Stored:
        """Keep a matrix of the structures of these numbers."""
        return cls(values, {int(k): row for row, k in enumerate(numbers)})

    def rows(self, a: Sequence[int], b: Sequence[int]) -> Float[np.ndarray, "n m"]:
        """Return the kernel of numbers with numbers."""
        return self.values[np.ix_([self.place[int(k)] for k in a], [self.place[int(k)] for k in b])]

    def matrix(self, a: Sequence[Atoms], b: Sequence[Atoms] | None = None) -> Float[np.ndarray, "n m"]:
        """Return the kernel of structures that know their numbers."""
        return self.rows(_numbers(a), _numbers(a if b is None else b))

    def diagonal(self, a: Sequence[Atoms]) -> Float[np.ndarray, " n"]:
        """Return k(a, a)."""
        rows = [self.place[k] for k in _numbers(a)]
        return self.values[rows, rows]

    def settings(self) -> dict[str, Any]:
        """Return its name."""
        return {"name": "Stored"}


def molecules(n: int | None = None) -> tuple[list[Atoms], Float[np.ndarray, " n"]]:
    """Return molecules that know their numbers, and their energies, kcal/mol; the first n of a fixed order."""
    import ase.io

    with lzma.open(data("qm7/qm7_7101.xyz.xz"), "rt") as file:
        text = file.read()
    structures = ase.io.read(io.StringIO(text), ":", format="extxyz")
    order = np.random.default_rng(1).permutation(len(structures))[:n]
    structures = [structures[k] for k in order]
    energies = np.array([atoms.info["e_at_kcal"] for atoms in structures])
    for number, atoms in enumerate(structures):
        atoms.info, atoms.calc = {"row": number}, None
    return structures, energies


def _numbers(structures: Sequence[Atoms]) -> list[int]:
    return [int(atoms.info["row"]) for atoms in structures]


def _soaps() -> dict[str, Any]:
    """SOAPs of the widths and reaches to choose from."""
    import kernelpot as kp

    light = kp.elements.ElementChannels.weighted({"H": 0.5})
    near = kp.SOAP(cutoff=4.0, n_max=8, l_max=5, sigma=0.3, scaling=(2.0, 4.0), channels=light, species=ELEMENTS)
    far = kp.SOAP(cutoff=5.0, n_max=8, l_max=5, sigma=0.3, scaling=(1.5, 4.0), channels=light, species=ELEMENTS)
    return {"SOAP 4 Å, σ 0.3": near.compressed(5), "SOAP 5 Å, σ 0.3": far.compressed(5)}


def _structure_kernels(descriptors: dict[str, Any], kernels: dict[str, Any], **settings: Any) -> list[Any]:
    import kernelpot as kp

    result = []
    for name, descriptor in descriptors.items():
        for text, kernel in kernels.items():
            made = kp.StructureKernel(descriptor, kernel, **settings)
            result.append((f"{name}, {text}", made, made.matrix))
    return result


def _lengths(*lengths: float) -> dict[str, Any]:
    import kernelpot as kp

    return {f"Gaussian {length}": kp.Gaussian(length) for length in lengths}


def _acsf() -> list[Any]:
    """Symmetry functions on elemental modes."""
    import kernelpot as kp

    descriptor = kp.ACSF(cutoff=5.0, species=ELEMENTS, channels=kp.elements.ElementalModes(4))
    return _structure_kernels({"ACSF 5 Å on 4 modes": descriptor}, _lengths(0.5, 1.0, 2.0))


def _average() -> list[Any]:
    import kernelpot as kp

    return _structure_kernels(_soaps(), {"zeta 2": kp.DotProduct(2)}, combine="average", normalise=True)


def _rematch() -> list[Any]:
    import kernelpot as kp

    soap = dict(list(_soaps().items())[:1])
    return _structure_kernels(soap, {"zeta 2": kp.DotProduct(2)}, combine="rematch", normalise=True, gamma=0.5)


def _features(name: str, transform: Callable[[Sequence[Atoms]], Any], kinds: Sequence[str]) -> list[Any]:
    """Kernels of features, over lengths in units of the distance of typical molecules."""
    import kernelpot as kp

    def matrix(kind: str, share: float) -> Matrix:
        def of(structures: Sequence[Atoms]) -> Float[np.ndarray, "n n"]:
            x = transform(structures)
            some = x[np.random.default_rng(0).permutation(len(x))[:200]]
            order = 1 if kind == "laplacian" else 2
            typical = np.median([np.linalg.norm(some[k + 1 :] - some[k], ord=order, axis=1).mean() for k in range(150)])
            return kp.properties.VectorKernel(kind, length=float(share * typical)).matrix(x)

        return of

    return [
        (f"{name}, {kind} {share:g}", None, matrix(kind, share)) for kind in kinds for share in (1.0, 4.0, 16.0, 64.0)
    ]


def _coulomb() -> list[Any]:
    from dscribe.descriptors import CoulombMatrix

    import kernelpot as kp

    features = kp.properties.DScribe(CoulombMatrix(n_atoms_max=23, permutation="sorted_l2"))
    return _features("sorted Coulomb matrix", features.transform, ("laplacian",))


def _mbtr() -> list[Any]:
    from dscribe.descriptors import MBTR

    import kernelpot as kp

    def tensor(function: str, low: float, high: float, n: int, width: float, decay: float) -> Any:
        return kp.properties.DScribe(
            MBTR(
                species=["H", "C", "N", "O", "S"], geometry={"function": function},
                grid={"min": low, "max": high, "n": n, "sigma": width},
                weighting={"function": "exp", "scale": decay, "threshold": 1e-3}, normalization="none",
            )
        )  # fmt: skip

    parts = [tensor("inverse_distance", 0.0, 1.1, 80, 0.02, 0.5), tensor("angle", 0.0, 180.0, 40, 5.0, 0.5)]
    cache: dict[tuple[int, ...], Any] = {}

    def transform(structures: Sequence[Atoms]) -> Any:
        key = tuple(_numbers(structures))
        if key not in cache:
            blocks = [part.transform(structures) for part in parts]
            # Both blocks count alike.
            cache[key] = np.concatenate([b / np.sqrt(np.square(b - b.mean(0)).sum(1).mean()) for b in blocks], axis=1)
        return cache[key]

    return _features("MBTR (inverse distances, angles)", transform, ("rbf", "laplacian"))


def _fchl() -> list[Any]:
    from qmllib.kernels import get_local_symmetric_kernel
    from qmllib.representations import generate_fchl19

    def matrix(sigma: float) -> Matrix:
        def of(structures: Sequence[Atoms]) -> Float[np.ndarray, "n n"]:
            described = [generate_fchl19(a.numbers, a.positions, elements=list(ELEMENTS), pad=23) for a in structures]
            return get_local_symmetric_kernel(np.array(described), [a.numbers for a in structures], sigma)

        return of

    return [(f"FCHL19 of qmllib, width {sigma:g}", None, matrix(sigma)) for sigma in (4.0, 12.0)]


KERNELS = {
    "SOAP sum": Recipe(lambda: _structure_kernels(_soaps(), _lengths(0.5, 0.8))),
    "SOAP average": Recipe(_average, intensive=True),
    "SOAP REMatch": Recipe(_rematch, largest=2500, splits=1, intensive=True, most_test=1000),
    "ACSF on modes, sum": Recipe(_acsf),
    "MBTR": Recipe(_mbtr),
    "Coulomb matrix": Recipe(_coulomb),
    "FCHL19": Recipe(_fchl, largest=300, splits=1, most_test=500),
}
