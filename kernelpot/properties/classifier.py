"""Gaussian process classification with posterior probabilities, and the option not to answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from jaxtyping import Bool, Float
from sklearn.base import BaseEstimator, ClassifierMixin

from kernelpot.doors import old_keywords
from kernelpot.errors import LabelError, ParameterError
from kernelpot.inference.laplace import Laplace, LaplaceEvidence, averaged
from kernelpot.inference.targets import FREEDOM, Trend
from kernelpot.inference.train import best_of
from kernelpot.linalg.devices import calm
from kernelpot.properties.inputs import labels_of
from kernelpot.properties.learned import LearnedKernel
from kernelpot.rules import real
from kernelpot.structures.composites import ItemKernel

if TYPE_CHECKING:
    import gpytorch

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


class Classifier(LearnedKernel, ClassifierMixin, BaseEstimator):
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
    search
        True, or what is not as usual in a dict: "starts" (2), points that the search for hyper-parameters starts from;
        "n_warm" (500), items that they are searched with, drawn at random where there are more. False keeps the
        hyper-parameters of `kernel`.
    device
        None or "cpu", "cuda", "cuda:1": where kernels of features are computed.
    seed
        Of the subset and of the starts.

    Attributes
    ----------
    classes_
        Sorted.
    posterior_
        The latent functions given the classes.
    n_evaluations_
        Evaluations of the search.
    """

    usual: ClassVar[dict[str, int]] = {"starts": 2, "n_warm": 500}
    _freedom = FREEDOM

    @old_keywords
    def __init__(
        self,
        kernel: str | gpytorch.kernels.Kernel | ItemKernel | Sequence[ItemKernel] = "rbf",
        *,
        reject: float | None = None,
        ard: bool = False,
        mean: str = "constant",
        normalise: bool = True,
        search: bool | Mapping[str, int] = True,
        device: str | None = None,
        seed: int = 0,
    ) -> None:
        self.kernel = kernel
        self.reject = reject
        self.ard = ard
        self.mean = mean
        self.normalise = normalise
        self.search = search
        self.device = device
        self.seed = seed

    def fit(self, X: Any, y: Any) -> Classifier:
        """Fit features (n, F), or structures as a list or as `encode` made them, to classes (n,).

        Raises
        ------
        ParameterError
            A parameter breaks its rule.
        DataError, LabelError
            X or y is empty, not finite, of a wrong shape, or of one class alone.
        """
        search = self._check()
        kernels, values = self._training_items(X)
        self.classes_, numbers = labels_of(y, len(values))
        columns = (numbers[:, None] == np.arange(len(self.classes_))).astype(float)
        columns = columns[:, 1:] if len(self.classes_) == 2 else columns
        self._trend = Trend.of(self.mean, values)
        self._prior = self._prior_of(kernels, values, self._trend.columns(values), UNIT)
        self.n_evaluations_ = self._searched(columns, **search)
        self.posterior_ = Laplace.condition(self._prior, columns)
        return self

    def predict_proba(self, X: Any) -> Float[np.ndarray, "m classes"]:
        """Return posterior probabilities; columns as in `classes_`, rows sum to one."""
        new, _ = self._new(X)
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
        self._require_fitted()
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

    def risk_coverage(self, X: Any, y: Any) -> RiskCoverage:
        """Return how accuracy grows while the least certain answers are refused, one after another."""
        probabilities = self.predict_proba(X)
        truth = np.asarray(y)
        if truth.shape != (len(probabilities),):
            raise LabelError(
                f"`y` must hold one class for each of {len(probabilities)} items, got shape {truth.shape}."
            )
        largest = probabilities.max(axis=1)
        order = np.argsort(-largest, kind="stable")
        right = (self.classes_of(probabilities) == truth)[order]
        count = np.arange(1, len(order) + 1)
        return RiskCoverage(largest[order], count / len(order), np.cumsum(right) / count)

    @property
    def log_marginal_likelihood_(self) -> float:
        """Laplace's approximation, summed over the latent functions."""
        self._require_fitted()
        return self.posterior_.log_evidence()

    # ---- inside

    def _check(self) -> dict[str, Any]:
        _check_theta(self.reject, none=True)
        return super()._check()

    def _label_noise(self) -> float:
        return LABEL_NOISE

    def _searched(self, columns: Float[np.ndarray, "n C"], *, optimise: bool, starts: int, n_warm: int) -> int:
        """Settle the hyper-parameters; return how many evaluations it took."""
        if not optimise:
            return 0
        rng = np.random.default_rng(self.seed)
        some = self._prior
        if len(columns) > n_warm:
            chosen = np.sort(rng.permutation(len(columns))[:n_warm])
            some, columns = some.subset(chosen), columns[chosen]
        with calm(len(columns)):
            found = best_of(LaplaceEvidence(some, columns), starts, rng)
        self._prior.parameters.assign(found.theta)
        return found.evaluations

    def _theta(self, theta: float | None) -> float:
        return _check_theta(self.reject if theta is None else theta, none=False)

    def _write(self, path: str | Path, label: str | None) -> None:
        from kernelpot.properties.files import write_classifier

        write_classifier(self, path, label)


def _check_theta(theta: float | None, *, none: bool) -> float:
    if theta is None and none:
        return 0.0
    real = isinstance(theta, int | float | np.number) and not isinstance(theta, bool)
    if not real or not 0.0 <= float(theta) <= 1.0:  # type: ignore[arg-type]
        raise ParameterError(
            f"`reject` must be a probability from 0 to 1, got {theta!r}; 0.9 keeps the answers that are nine to one."
        )
    return float(theta)  # type: ignore[arg-type]
