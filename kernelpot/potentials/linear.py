"""Bayesian linear models on descriptor vectors: the sparse GP's frame without a kernel."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from kernelpot.data.noise import Noise
from kernelpot.descriptors.pairs import TwoBody
from kernelpot.descriptors.protocol import Descriptor
from kernelpot.kernels import Linear
from kernelpot.potentials.baselines import Baseline
from kernelpot.potentials.sparse_gp import SparseGP
from kernelpot.potentials.terms import Term


class LinearModel(SparseGP):
    """Bayesian linear regression of energies, forces and stresses on descriptor vectors.

    The local energy is w·x with w ~ N(0, I) times the amplitude: on power spectra a three-body model (Bartók et al.
    (2013)), on pair functions a two-body one. Everything else is as in `SparseGP`: noises by cross-validation,
    uncertainty, design, conditioning, files (`kernelpot.load` returns a `SparseGP` with the same terms).

    Parameters
    ----------
    descriptor
        Such as `SOAP` or `TwoBody`, or a list of them, whose energies add up.
    amplitude
        Prior standard deviation of a typical local energy, eV.
    normalise
        Take unit vectors.
    noise, seed, baseline
        As in `SparseGP`.

    Raises
    ------
    ParameterError
        A parameter breaks its rule.
    """

    def __init__(
        self,
        descriptor: Descriptor | Sequence[Descriptor],
        *,
        amplitude: float = 1.0,
        normalise: bool = False,
        noise: Noise | str | None = None,
        seed: int = 0,
        baseline: Baseline | None = None,
    ) -> None:
        kernel = Linear(amplitude, normalise)
        given = list(descriptor) if isinstance(descriptor, Iterable) else [descriptor]
        terms = [Term(one) if isinstance(one, TwoBody) else Term(one, kernel) for one in given]
        super().__init__(terms, n_inducing=1, noise=noise, seed=seed, baseline=baseline)
