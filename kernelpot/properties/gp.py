"""Exact Gaussian processes of one property, or of several that share a kernel."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float
from sklearn.base import BaseEstimator, RegressorMixin, clone

from kernelpot.archive import LARGEST, Archive
from kernelpot.errors import ParameterError
from kernelpot.inference.covariance import Items, covariance_of
from kernelpot.inference.dense import Conditioned
from kernelpot.inference.evidence import NoiseModel
from kernelpot.inference.targets import FREEDOM, Targets, Trend
from kernelpot.inference.train import Plan, check_switches, train
from kernelpot.linalg.devices import check_device
from kernelpot.properties.gp_design import space_of, space_without_labels
from kernelpot.properties.gp_files import read_gp, write_gp
from kernelpot.properties.gp_inputs import features, items, structure_kernels, targets
from kernelpot.properties.gp_scaling import Scaling
from kernelpot.properties.inputs import UnfittedError
from kernelpot.rules import MOST_SEED, shown, whole
from kernelpot.structures.kernel_protocol import Kernel
from kernelpot.structures.structure_kernel import extensive

if TYPE_CHECKING:
    import gpytorch

    from kernelpot.properties.property_rows import PropertySpace

SOLVERS = ("cholesky", "cg")


class GP(RegressorMixin, BaseEstimator):
    """Gaussian process regression whose hyper-parameters maximise the marginal likelihood.

    The exact process of a property (`SparseGP`, a potential with forces, is not its sparse form).
    Of rows of features by any kernel of GPyTorch, or of structures by kernels between them. Weak priors keep small sets
    from running away: normal in the logarithms, lengths about the distance of typical points (width √3), amplitudes
    about the spread of the targets (width 2), the noise about 3 % of it (width of the variance 3).

    Parameters
    ----------
    kernel
        Of features: "rbf", "matern12", "matern32", "matern52", "rq", "linear" or several joined by "+", each with its
        amplitude; or a `gpytorch.kernels.Kernel`, which is copied, put into a `ScaleKernel` where it holds none, and
        learned from the values it has. Of structures: a kernel between them (`matrix`, `diagonal`), or a list of those,
        of which each gets an amplitude; its own settings stay.
    ard
        A length for every feature, in kernels by name.
    noise
        Standard deviation of a label in units of y; None: found with the kernel, relative to each output's spread.
    mean
        "constant", "zero", or "composition": linear in the numbers of atoms of each element. Coefficients have normal
        priors about their least-squares estimate, three times what the estimate leaves of y. "auto": "composition"
        where all kernels are plain sums over the environments of structures, else "constant".
    normalise
        Divide features by their spread after taking off their mean, and targets by what the mean leaves of them.
    n_inducing
        So many inducing items instead of an exact process (Titsias (2009)).
    solver
        "cholesky", or "cg": conjugate gradients of GPyTorch with a pivoted Cholesky preconditioner (Gardner et al.
        (2018)), for kernel matrices whose factor takes too long; hyper-parameters are then those of `n_warm` items.
    optimise
        False keeps the hyper-parameters of `kernel`, and 3 % noise where none is given.
    starts
        Points that the search starts from.
    n_warm
        Items that the search begins with, drawn at random; few steps with all of them follow.
    full_steps
        Most evaluations of the marginal likelihood of all items, where there are more than `n_warm`.
    device
        None or "cpu", "cuda", "cuda:1".
    seed
        Of the subset and of the starts.
    """

    def __init__(
        self,
        kernel: str | gpytorch.kernels.Kernel | Kernel | Sequence[Kernel] = "matern52",
        *,
        ard: bool = True,
        noise: float | None = None,
        mean: str = "auto",
        normalise: bool = True,
        n_inducing: int | None = None,
        solver: str = "cholesky",
        optimise: bool = True,
        starts: int = 2,
        n_warm: int = 1500,
        full_steps: int = 12,
        device: str | None = None,
        seed: int = 0,
    ) -> None:
        self.kernel = kernel
        self.ard = ard
        self.noise = noise
        self.mean = mean
        self.normalise = normalise
        self.n_inducing = n_inducing
        self.solver = solver
        self.optimise = optimise
        self.starts = starts
        self.n_warm = n_warm
        self.full_steps = full_steps
        self.device = device
        self.seed = seed

    def fit(self, X: Any, y: Any) -> GP:
        """Fit features (n, F), or structures as a list or as `encode` made them, to targets (n,) or (n, outputs).

        Raises
        ------
        ParameterError
            A parameter breaks its rule.
        DataError
            X or y is empty, not finite, or of a wrong shape; the kernel matrix is not positive definite.
        """
        plan = self._plan()
        kernels = structure_kernels(self.kernel)
        values: Any = items(X, kernels, least=2) if kernels else features(self, X, reset=True, least=2)
        labels, self._single = targets(y, len(values))
        kind = self.mean
        if isinstance(kind, str) and kind == "auto":
            kind = "composition" if kernels and all(map(extensive, kernels)) else "constant"
        trend = Trend.of(kind, values)
        columns = trend.columns(values)
        self._targets = Targets.of(trend, columns, labels, normalise=self.normalise)
        z = self._targets.standardised(columns, labels)
        noise = NoiseModel(self._fixed_noise(), float(np.mean(np.square(z))) or 1.0)
        self._freedom = FREEDOM * float(np.sqrt(noise.unit))
        self._scaling = None if kernels else Scaling.of(values, normalise=self.normalise)
        prior = covariance_of(
            self.kernel, kernels, self._items(values, columns), ard=self.ard, device=self._place, unit=noise.unit
        )
        outcome = train(plan, prior, torch.as_tensor(z, device=self._place), noise)
        self.posterior_: Conditioned = outcome.posterior
        self._prior, self._noise = outcome.posterior.prior, outcome.noise
        self._z = z
        self.n_evaluations_ = outcome.evaluations
        self._columns = columns
        self._evidence: float | None = None
        return self

    def predict(self, X: Any) -> Float[np.ndarray, "m *T"]:
        """Return the means, of shape (m,) or (m, outputs)."""
        new, columns = self._new(X)
        return self._shaped(self._targets.restored(columns, self.posterior_.mean(new)))

    def latent_std(self, X: Any) -> Float[np.ndarray, "m *T"]:
        """Return the standard deviation of the function itself, without the noise of a label."""
        new, _ = self._new(X)
        return self._scaled(self.posterior_.variance(new))

    def std(self, X: Any) -> Float[np.ndarray, "m *T"]:
        """Return the standard deviation of a label."""
        new, _ = self._new(X)
        return self._scaled(self.posterior_.variance(new) + self._noise)

    def sample(self, X: Any, n: int = 1, *, seed: int = 0) -> Float[np.ndarray, "n m *T"]:
        """Draw functions from the posterior at X.

        Raises
        ------
        ParameterError
            `n` is not a whole number, at least 1.
        """
        if isinstance(n, bool) or not isinstance(n, int | np.integer) or n < 1:
            raise ParameterError(f"`n` must be a whole number of draws, at least 1, got {n!r}.")
        seed = whole(seed, "seed", most=MOST_SEED)
        new, columns = self._new(X)
        covariance = self.posterior_.covariance(new)
        values, vectors = np.linalg.eigh(0.5 * (covariance + covariance.T))
        root = vectors * np.sqrt(np.clip(values, 0.0, None))
        mean = self.posterior_.mean(new)
        normal = np.random.default_rng(seed).standard_normal((n, *mean.shape))
        drawn = self._targets.restored(columns, mean + np.einsum("ij,njt->nit", root, normal))
        return drawn[..., 0] if self._single else drawn

    def loo(self) -> tuple[Float[np.ndarray, "n *T"], Float[np.ndarray, "n *T"]]:
        """Return mean and standard deviation of every training label given all others, in closed form.

        Hyper-parameters, and what targets and features are divided by, stay those of all labels.

        Raises
        ------
        ParameterError
            The process is not exact, or has no factor.
        """
        self._check_fitted()
        left = self.posterior_.left_out()
        mean = self._targets.restored(self._columns, self._z - left.error)
        return self._shaped(mean), self._scaled(left.variance)

    def prepare(self, X: Any, *, n_inducing: int | None = None) -> PropertySpace:
        """Return the space of this process on a pool, whose `information` the design room chooses by.

        A fitted process has the hyper-parameters of its fit; one that is not, the centres of their priors, so that a
        first choice needs no label. Choosing needs no label in either case.

        Parameters
        ----------
        X
            The pool: structures or features.
        n_inducing
            So many of its items make the space; None: all, for which variances are exact.

        Raises
        ------
        ParameterError
            A parameter breaks its rule, or a kernel between structures is not one of kernelpot's.
        DataError
            The pool is unusable.
        """
        if hasattr(self, "posterior_"):
            return space_of(
                self._prior, lambda rows: self._new(rows)[0], X, noise=self._noise**0.5, n_inducing=n_inducing,
                seed=self.seed,
            )  # fmt: skip
        plain = clone(self).set_params(optimise=False, n_inducing=None, solver="cholesky", mean="constant")
        return space_without_labels(plain, X, (-1.0, 1.0), n_inducing=n_inducing)

    # ---- files

    def save(self, path: str | Path) -> None:
        """Write the fitted process to one file (safetensors with a JSON header; it holds no code).

        A kernel by name is in the file. Of another kernel only its hyper-parameters are: it is given again to read it.

        Raises
        ------
        NotFittedError
            The process was never fitted.
        ModelFileError
            The file cannot be written.
        """
        self._check_fitted()
        write_gp(self, path)

    @classmethod
    def _from_archive(cls, archive: Archive, *, kernel: Any = None) -> GP:
        """Return the process that `save` wrote."""
        return read_gp(cls, archive, kernel)

    # ---- what the fit found

    @property
    def kernel_(self) -> Any:
        """The kernel with its hyper-parameters, of scaled features, or a list of (variance, structure kernel)."""
        self._check_fitted()
        return self._prior.described

    @property
    def log_marginal_likelihood_(self) -> float:
        """Of the training targets in their own units, all outputs together; with inducing items a lower bound."""
        self._check_fitted()
        if self._evidence is None:
            scales = len(self._columns) * float(np.log(self._targets.scale).sum())
            self._evidence = self.posterior_.log_evidence() - scales
        return self._evidence

    @property
    def noise_(self) -> Any:
        """Standard deviation of a label: one number, or one for each output."""
        self._check_fitted()
        found = np.sqrt(self._noise) * self._targets.scale
        return float(found[0]) if self._single else found

    # ---- inside

    def __sklearn_tags__(self) -> Any:
        """Tell scikit-learn that several outputs are welcome."""
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags

    @property
    def _place(self) -> str:
        return self.device or "cpu"

    def _plan(self) -> Plan:
        check_device(self.device)
        check_switches(ard=self.ard, normalise=self.normalise)
        return Plan(self.n_inducing, self.solver, self.optimise, self.starts, self.n_warm, self.full_steps, self.seed)

    def _fixed_noise(self) -> float | None:
        """Return the variance of given noise in units of the standardised targets."""
        if self.noise is None:
            return None
        real = isinstance(self.noise, int | float | np.number) and not isinstance(self.noise, bool)
        if not real or not 0.0 < self.noise <= LARGEST:
            raise ParameterError(
                f"`noise` must be a positive standard deviation in units of y, up to {LARGEST:g}, got "
                f"{shown(self.noise)}."
            )
        scale = self._targets.scale
        if np.ptp(scale) > 0.0:
            raise ParameterError(
                f"`noise` is one number for {len(scale)} outputs of different spread; leave it None, or set "
                "normalise=False and give outputs of one unit."
            )
        return float((self.noise / scale[0]) ** 2)

    def _items(self, values: Any, columns: Float[np.ndarray, "n q"]) -> Items:
        if self._scaling is not None:
            values = torch.as_tensor(self._scaling.apply(values), device=self._place)
        return Items(values, torch.as_tensor(self._freedom * columns, device=self._place))

    def _new(self, X: Any) -> tuple[Items, Float[np.ndarray, "m q"]]:
        self._check_fitted()
        values: Any = (
            features(self, X, reset=False) if self._scaling is not None else items(X, structure_kernels(self.kernel))
        )
        columns = self._targets.trend.columns(values)
        return self._items(values, columns), columns

    def _check_fitted(self) -> None:
        if not hasattr(self, "posterior_"):
            raise UnfittedError("this GP is not fitted yet; call fit(X, y) first.")

    def _shaped(self, values: Float[np.ndarray, "m T"]) -> Float[np.ndarray, "m *T"]:
        return values[:, 0] if self._single else values

    def _scaled(self, variance: Float[np.ndarray, " m"]) -> Float[np.ndarray, "m *T"]:
        return self._shaped(np.sqrt(variance)[:, None] * self._targets.scale)


def read_process(archive: Archive, kernel: Any = None) -> GP:
    """Return the process of a file, for `kernelpot.load`."""
    return GP._from_archive(archive, kernel=kernel)
