"""Gaussian processes whose kernel is learned, of one property or of several that share a kernel."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, overload

import numpy as np
import torch
from jaxtyping import Float, Int
from sklearn.base import BaseEstimator, RegressorMixin

from kernelpot.archive import LARGEST
from kernelpot.doors import Renamed, old_keywords
from kernelpot.errors import ParameterError
from kernelpot.inference.evidence import NoiseModel
from kernelpot.inference.left_out import LeftOut
from kernelpot.inference.targets import FREEDOM, Targets, Trend
from kernelpot.inference.train import Training, train
from kernelpot.properties.inputs import numbered_folds, targets_of
from kernelpot.properties.learned import LearnedKernel
from kernelpot.rules import MOST_SEED, shown, whole
from kernelpot.structures.composites import ItemKernel
from kernelpot.structures.structure_kernel import extensive

if TYPE_CHECKING:
    import gpytorch


class GP(LearnedKernel, RegressorMixin, BaseEstimator):
    """Gaussian process regression whose hyper-parameters maximise the marginal likelihood.

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
    search
        True, or what is not as usual in a dict: "starts" (2), points that the search for hyper-parameters starts from;
        "n_warm" (1500), items that it begins with, drawn at random, before few steps with all of them; "full_steps"
        (12), most evaluations of the marginal likelihood of all items, where there are more than these. False keeps the
        hyper-parameters of `kernel`, and 3 % noise where none is given.
    device
        None or "cpu", "cuda", "cuda:1".
    seed
        Of the subset and of the starts.

    Attributes
    ----------
    posterior_
        The process given the labels, in units of their own.
    n_evaluations_
        Evaluations of the search, on the first items and on all.
    """

    usual: ClassVar[dict[str, int]] = {"starts": 2, "n_warm": 1500, "full_steps": 12}
    _plain: ClassVar[dict[str, Any]] = {"n_inducing": None, "solver": "cholesky"}
    full_steps = Renamed("search", lambda model: model._searching()["full_steps"])
    loo = Renamed("left_out", lambda model: model._loo)

    @old_keywords
    def __init__(
        self,
        kernel: str | gpytorch.kernels.Kernel | ItemKernel | Sequence[ItemKernel] = "matern52",
        *,
        ard: bool = True,
        noise: float | None = None,
        mean: str = "auto",
        normalise: bool = True,
        n_inducing: int | None = None,
        solver: str = "cholesky",
        search: bool | Mapping[str, int] = True,
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
        self.search = search
        self.device = device
        self.seed = seed

    def fit(self, X: Any, y: Any) -> GP:
        """Fit features (n, F), or structures as a list or as `encode` made them, to targets (n,) or (n, outputs).

        Raises
        ------
        ParameterError
            A parameter breaks its rule; the kernel matrix is not positive definite.
        DataError, LabelError
            X or y is empty, not finite, or of a wrong shape.
        """
        training = self._training()
        kernels, values = self._training_items(X)
        labels, self._single = targets_of(y, len(values))
        self._trend = Trend.of(self.mean, values, extensive=bool(kernels) and all(map(extensive, kernels)))
        self._columns = self._trend.columns(values)
        self._targets = Targets.of(self._trend, self._columns, labels, normalise=self.normalise)
        self._z = self._targets.standardised(self._columns, labels)
        noise = NoiseModel(self._fixed_noise(), float(np.mean(np.square(self._z))) or 1.0)
        self._freedom = FREEDOM * float(np.sqrt(noise.unit))
        prior = self._prior_of(kernels, values, self._columns, noise.unit)
        there = torch.as_tensor(self._z, device=self.device or "cpu")
        self.posterior_, self._noise, self.n_evaluations_ = train(training, prior, there, noise)
        self._prior = self.posterior_.prior
        self._evidence: float | None = None
        return self

    @overload
    def predict(self, X: Any, return_std: Literal[False] = False) -> Float[np.ndarray, "m *T"]: ...

    @overload
    def predict(self, X: Any, return_std: bool) -> Any: ...

    def predict(self, X: Any, return_std: bool = False) -> Any:
        """Return the means, of shape (m,) or (m, outputs); with `return_std` beside what `std` returns."""
        new, columns = self._new(X)
        means = self._shaped(self._targets.restored(columns, self.posterior_.mean(new)))
        return (means, self.std(X)) if return_std else means

    def latent_std(self, X: Any) -> Float[np.ndarray, "m *T"]:
        """Return the standard deviation of the function itself, without the noise of a label."""
        new, _ = self._new(X)
        return self._stds(self.posterior_.variance(new))

    def std(self, X: Any) -> Float[np.ndarray, "m *T"]:
        """Return the standard deviation of a label."""
        new, _ = self._new(X)
        return self._stds(self.posterior_.variance(new) + self._noise)

    def sample(self, X: Any, n: int = 1, *, seed: int = 0) -> Float[np.ndarray, "n m *T"]:
        """Draw functions from the posterior at X.

        Raises
        ------
        ParameterError
            `n` is not a whole number, at least 1.
        """
        n = whole(n, "n", least=1, usual="it is a number of draws")
        seed = whole(seed, "seed", most=MOST_SEED)
        new, columns = self._new(X)
        covariance = self.posterior_.covariance(new)
        values, vectors = np.linalg.eigh(0.5 * (covariance + covariance.T))
        root = vectors * np.sqrt(np.clip(values, 0.0, None))
        mean = self.posterior_.mean(new)
        normal = np.random.default_rng(seed).standard_normal((n, *mean.shape))
        drawn = self._targets.restored(columns, mean + np.einsum("ij,njt->nit", root, normal))
        return drawn[..., 0] if self._single else drawn

    def left_out(self, folds: Sequence[int] | Int[np.ndarray, " n"] | None = None) -> LeftOut:
        """Return the errors of every training label given all others, or those of other folds, in closed form.

        Hyper-parameters, and what targets and features are divided by, stay those of all labels.

        Parameters
        ----------
        folds
            Number of the fold of each training item; None: each item alone.

        Returns
        -------
        LeftOut
            With ``error``, label minus prediction, of the shape of y, and ``variance``, what was expected of its
            square.

        Raises
        ------
        NotFittedError
            The process is not fitted.
        ParameterError
            The process is not exact, or has no factor; or there is not one fold for each item.
        """
        self._require_fitted()
        numbers = None if folds is None else numbered_folds(folds, len(self._columns))
        return self._left(self.posterior_.left_out(numbers), self._targets.scale, self._targets.scale)

    # ---- what the fit found

    @property
    def log_marginal_likelihood_(self) -> float:
        """Of the training targets in their own units, all outputs together; with inducing items a lower bound."""
        self._require_fitted()
        if self._evidence is None:
            scales = len(self._columns) * float(np.log(self._targets.scale).sum())
            self._evidence = self.posterior_.log_evidence() - scales
        return self._evidence

    @property
    def noise_(self) -> Any:
        """Standard deviation of a label: one number, or one for each output."""
        self._require_fitted()
        found = np.sqrt(self._noise) * self._targets.scale
        return float(found[0]) if self._single else found

    # ---- inside

    def __sklearn_tags__(self) -> Any:
        """Tell scikit-learn that several outputs are welcome."""
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags

    def _training(self) -> Training:
        return Training(n_inducing=self.n_inducing, solver=self.solver, seed=self.seed, **self._check())

    def _label_noise(self) -> float:
        return float(self._noise**0.5)

    def _loo(self) -> tuple[Float[np.ndarray, "n *T"], Float[np.ndarray, "n *T"]]:
        """Return mean and standard deviation of every label given all others, as earlier releases did."""
        left = self.left_out()
        labels = self._shaped(self._targets.restored(self._columns, self._z))
        return labels - left.error, np.sqrt(left.variance)

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

    def _stds(self, variance: Float[np.ndarray, " m"]) -> Float[np.ndarray, "m *T"]:
        return self._shaped(np.sqrt(variance)[:, None] * self._targets.scale)

    def _write(self, path: str | Path, label: str | None) -> None:
        from kernelpot.properties.files import write_gp

        write_gp(self, path, label)
