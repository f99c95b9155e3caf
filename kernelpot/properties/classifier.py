"""Gaussian process classification with posterior probabilities, and the option not to answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from sklearn.base import BaseEstimator, ClassifierMixin, clone

from kernelpot.archive import Archive
from kernelpot.errors import DataError, ParameterError
from kernelpot.inference.covariance import Covariance, Items, covariance_of
from kernelpot.inference.hyper_search import best_of
from kernelpot.inference.laplace import Laplace, LaplaceEvidence, averaged
from kernelpot.inference.targets import FREEDOM, Trend
from kernelpot.inference.train import check_switches, check_whole
from kernelpot.linalg.devices import calm, check_device
from kernelpot.properties.classifier_files import read_classes, write_classifier
from kernelpot.properties.gp_design import space_of, space_without_labels
from kernelpot.properties.gp_inputs import features, items, labels_of, structure_kernels
from kernelpot.properties.gp_scaling import Scaling
from kernelpot.properties.inputs import UnfittedError, checked_label
from kernelpot.rules import MOST_SEED, real, whole
from kernelpot.structures.kernel_protocol import Kernel

if TYPE_CHECKING:
    import gpytorch

    from kernelpot.properties.property_rows import PropertySpace

UNIT = 4.0
"""Variance of the latent function that the prior of amplitudes is centred on."""


SHOWN = {0.0: "of all", 0.2: "without the least certain fifth", 0.5: "without the less certain half"}
"""Shares of refused answers that a `RiskCoverage` is shown with."""


@dataclass(frozen=True, eq=False, repr=False)
class RiskCoverage:
    """Accuracy of the answers that remain when the least certain are refused.

    Attributes
    ----------
    theta
        Largest posterior probability of the last answer that is given, falling.
    coverage
        Share of answers that are given.
    accuracy
        Share of those that are right.
    """

    theta: Float[np.ndarray, " m"]
    coverage: Float[np.ndarray, " m"]
    accuracy: Float[np.ndarray, " m"]

    def __repr__(self) -> str:
        """Return the number of answers, and the accuracy of all, of four fifths and of half of them."""
        shares = ", ".join(f"{self.refusing(share):.3g} {name}" for share, name in SHOWN.items())
        return f"RiskCoverage({len(self.theta)} answers, accuracy {shares})"

    def refusing(self, share: float) -> float:
        """Return the accuracy after so large a share of the answers is refused.

        Raises
        ------
        ParameterError
            `share` is not from 0 to below 1.
        """
        share = real(share, "share", most=1.0)
        given = max(1, round((1.0 - share) * len(self.accuracy)))
        return float(self.accuracy[given - 1])


LABEL_NOISE = 2.0
"""Standard deviation of a measurement that tells as much about a latent value as a label at even odds."""


class Classifier(ClassifierMixin, BaseEstimator):
    """Gaussian process classifier by Laplace's approximation.

    Of rows of features by any kernel of GPyTorch, or of structures by kernels between them. Two classes have one latent
    function; more have one each against all others, with a common kernel and probabilities divided by their sum.
    Hyper-parameters maximise the approximate marginal likelihood with the weak priors of `kernelpot.GP`.

    Parameters
    ----------
    kernel
        As for `kernelpot.GP`.
    reject
        θ: no answer where the largest posterior probability is below it; None: always an answer.
    ard
        A length for every feature, in kernels by name.
    mean
        "constant", "zero" or "composition": what the latent function has besides the kernel.
    normalise
        Divide features by their spread after taking off their mean.
    optimise
        False keeps the hyper-parameters of `kernel`.
    starts
        Points that the search starts from.
    n_warm
        Items that hyper-parameters are searched with, drawn at random where there are more.
    device
        None or "cpu", "cuda", "cuda:1": where kernels of features are computed.
    seed
        Of the subset and of the starts.
    """

    def __init__(
        self,
        kernel: str | gpytorch.kernels.Kernel | Kernel | Sequence[Kernel] = "rbf",
        *,
        reject: float | None = None,
        ard: bool = False,
        mean: str = "constant",
        normalise: bool = True,
        optimise: bool = True,
        starts: int = 2,
        n_warm: int = 500,
        device: str | None = None,
        seed: int = 0,
    ) -> None:
        self.kernel = kernel
        self.reject = reject
        self.ard = ard
        self.mean = mean
        self.normalise = normalise
        self.optimise = optimise
        self.starts = starts
        self.n_warm = n_warm
        self.device = device
        self.seed = seed

    def fit(self, X: Any, y: Any) -> Classifier:
        """Fit features (n, F), or structures as a list or as `encode` made them, to classes (n,).

        Raises
        ------
        ParameterError
            A parameter breaks its rule.
        DataError
            X or y is empty, not finite, of a wrong shape, or of one class alone.
        """
        self._check_parameters()
        kernels = structure_kernels(self.kernel)
        values: Any = items(X, kernels, least=2) if kernels else features(self, X, reset=True, least=2)
        self.classes_, numbers = labels_of(y, len(values))
        columns = (numbers[:, None] == np.arange(len(self.classes_))).astype(float)
        columns = columns[:, 1:] if len(self.classes_) == 2 else columns
        self._trend = Trend.of(self.mean, values)
        self._scaling = None if kernels else Scaling.of(values, normalise=self.normalise)
        prior = covariance_of(self.kernel, kernels, self._items(values), ard=self.ard, device=self._place, unit=UNIT)
        self.n_evaluations_ = self._search(prior, columns) if self.optimise else 0
        self._prior: Covariance = prior
        self.posterior_ = Laplace.condition(prior, columns)
        return self

    def predict_proba(self, X: Any) -> Float[np.ndarray, "m classes"]:
        """Return posterior probabilities; columns as in `classes_`, rows sum to one."""
        self._check_fitted()
        new = self._items(
            features(self, X, reset=False) if self._scaling is not None else items(X, structure_kernels(self.kernel))
        )
        mean, variance = self.posterior_.moments(new)
        found = np.stack([averaged(*one) for one in zip(mean.T, variance.T, strict=True)], axis=1)
        if found.shape[1] == 1:
            return np.hstack([1.0 - found, found])
        # Where every class is denied to the last digit, all are equal.
        found = np.maximum(found, 1e-300)
        return found / found.sum(axis=1, keepdims=True)

    def predict(self, X: Any) -> np.ndarray:
        """Return the most probable class of every item, whatever `reject` is."""
        return self.classes_of(self.predict_proba(X))

    def classes_of(self, probabilities: Float[np.ndarray, "m classes"]) -> np.ndarray:
        """Return the most probable class of every row of probabilities."""
        self._check_fitted()
        found: np.ndarray = self.classes_[np.argmax(probabilities, axis=1)]
        return found

    def rejected(self, X: Any, theta: float | None = None) -> Bool[np.ndarray, " m"]:
        """Tell where the largest posterior probability is below θ, `reject` where none is given.

        A larger θ rejects what a smaller one does, and more.

        Raises
        ------
        ParameterError
            There is no θ, or it lies outside 0 to 1.
        """
        return self.predict_proba(X).max(axis=1) < self._theta(theta)

    def predict_or_reject(self, X: Any, theta: float | None = None) -> np.ma.MaskedArray:
        """Return classes, masked where they are rejected.

        Raises
        ------
        ParameterError
            There is no θ, or it lies outside 0 to 1.
        """
        probabilities = self.predict_proba(X)
        return np.ma.masked_array(self.classes_of(probabilities), mask=probabilities.max(axis=1) < self._theta(theta))

    def prepare(self, X: Any, *, n_inducing: int | None = None) -> PropertySpace:
        """Return the space of the latent function on a pool, whose `information` the design room chooses by.

        A label tells π(1 - π) ≤ ¼ about the latent value (its Fisher information under the logistic likelihood), so
        that it counts as a measurement with the standard deviation 2. Hyper-parameters are those of the fit, or the
        centres of their priors before one.

        Parameters
        ----------
        X
            The pool: structures or features. No label is looked at.
        n_inducing
            So many of its items make the space; None: all.

        Raises
        ------
        ParameterError
            A parameter breaks its rule, or a kernel between structures is not one of kernelpot's.
        DataError
            The pool is unusable.
        """
        if hasattr(self, "posterior_"):
            return space_of(
                self._prior, lambda rows: self._items(features(self, rows, reset=False)), X, noise=LABEL_NOISE,
                n_inducing=n_inducing, seed=self.seed,
            )  # fmt: skip
        plain = clone(self).set_params(optimise=False, mean="constant")
        return space_without_labels(plain, X, (0, 1), n_inducing=n_inducing)

    def risk_coverage(self, X: Any, y: Any) -> RiskCoverage:
        """Return how accuracy grows while the least certain answers are refused, one after another."""
        probabilities = self.predict_proba(X)
        truth = np.asarray(y)
        if truth.shape != (len(probabilities),):
            raise DataError(f"`y` must hold one class for each of {len(probabilities)} items, got shape {truth.shape}.")
        largest = probabilities.max(axis=1)
        order = np.argsort(-largest, kind="stable")
        right = (self.classes_of(probabilities) == truth)[order]
        count = np.arange(1, len(order) + 1)
        return RiskCoverage(largest[order], count / len(order), np.cumsum(right) / count)

    @property
    def log_marginal_likelihood_(self) -> float:
        """Laplace's approximation, summed over the latent functions."""
        self._check_fitted()
        return self.posterior_.log_evidence()

    @property
    def kernel_(self) -> Any:
        """The kernel with its hyper-parameters, of scaled features, or a list of (variance, structure kernel)."""
        self._check_fitted()
        return self._prior.described

    # ---- files

    def save(self, path: str | Path, *, label: str | None = None) -> None:
        """Write the fitted classifier to one file that `kernelpot.load` reads; it holds no code.

        A kernel by name, or of kernelpot's own between structures, is in the file. Of another only the hyper-parameters
        are: it is given again to read it.

        Parameters
        ----------
        path
            Of the file, which appears whole or not at all.
        label
            Name of the property, which the command line writes; `label_` of the loaded classifier.

        Raises
        ------
        NotFittedError
            The classifier was never fitted.
        ParameterError
            The label is no text.
        ModelFileError
            The file cannot be written.
        """
        self._check_fitted()
        write_classifier(self, path, checked_label(label) or getattr(self, "label_", None))

    # ---- inside

    def _check_parameters(self) -> None:
        check_device(self.device)
        check_whole(starts=(self.starts, 1), n_warm=(self.n_warm, 2))
        whole(self.seed, "seed", most=MOST_SEED)
        check_switches(ard=self.ard, normalise=self.normalise, optimise=self.optimise)
        _check_theta(self.reject, none=True)

    @property
    def _place(self) -> str:
        return self.device or "cpu"

    def _items(self, values: Any) -> Items:
        columns = FREEDOM * self._trend.columns(values)
        if self._scaling is not None:
            values = torch.as_tensor(self._scaling.apply(values), device=self._place)
        return Items(values, torch.as_tensor(columns, device=self._place))

    def _search(self, prior: Covariance, columns: Float[np.ndarray, "n C"]) -> int:
        rng = np.random.default_rng(self.seed)
        some = prior
        if len(columns) > self.n_warm:
            chosen = np.sort(rng.permutation(len(columns))[: self.n_warm])
            some, columns = prior.subset(chosen), columns[chosen]
        with calm(len(columns)):
            found = best_of(LaplaceEvidence(some, columns), self.starts, rng)
        prior.parameters.assign(found.theta)
        return found.evaluations

    def _theta(self, theta: float | None) -> float:
        return _check_theta(self.reject if theta is None else theta, none=False)

    def _check_fitted(self) -> None:
        if not hasattr(self, "posterior_"):
            raise UnfittedError("this Classifier is not fitted yet; call fit(X, y) first.")


def _check_theta(theta: float | None, *, none: bool) -> float:
    if theta is None and none:
        return 0.0
    real = isinstance(theta, int | float | np.number) and not isinstance(theta, bool)
    if not real or not 0.0 <= float(theta) <= 1.0:  # type: ignore[arg-type]
        raise ParameterError(
            f"`reject` must be a probability from 0 to 1, got {theta!r}; 0.9 keeps the answers that are nine to one."
        )
    return float(theta)  # type: ignore[arg-type]


def read_classifier(archive: Archive, kernel: Any = None) -> Classifier:
    """Return the classifier of a file, for `kernelpot.load`."""
    found: Classifier = read_classes(Classifier, archive, kernel)
    return found
