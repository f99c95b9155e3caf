"""Approximate marginal likelihood of classes, for the search of a kernel's hyper-parameters."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from kernelpot.errors import DataError
from kernelpot.inference.covariance import Covariance
from kernelpot.inference.evidence import NoiseModel, penalised, pull_back, split_assign
from kernelpot.inference.laplace import Mode, find_mode


class LaplaceEvidence:
    """Minus the sum of Laplace's log marginal likelihoods, one for each column of labels, minus the log prior of θ."""

    def __init__(self, covariance: Covariance, labels: Float[np.ndarray, "n C"]) -> None:
        self.covariance, self.labels = covariance, labels
        self.parameters = covariance.parameters
        self.noise = NoiseModel(fixed=0.0)

    def __call__(self, theta: Float[np.ndarray, " p"]) -> tuple[float, Float[np.ndarray, " p"]]:
        """Return value and gradient."""
        split_assign(self, theta)
        kernel = matrix(self.covariance)
        found = modes(kernel, self.labels)
        summed = torch.as_tensor(
            sum(mode.cotangent(kernel) for mode in found), device=self.covariance.items.trend.device
        )

        def cotangent(rows: slice, cols: slice) -> Tensor:
            return -summed[rows, cols]

        gradient = pull_back(self.covariance, cotangent)
        return penalised(self, theta, -sum(mode.evidence for mode in found), gradient, 0.0)


def modes(kernel: Float[np.ndarray, "n n"], labels: Float[np.ndarray, "n C"]) -> list[Mode]:
    """Find the mode of every column of labels."""
    return [find_mode(kernel, column) for column in labels.T]


def matrix(covariance: Covariance) -> Float[np.ndarray, "n n"]:
    """Return the covariance for NumPy."""
    found: np.ndarray = covariance.full().cpu().numpy()
    if not np.isfinite(found).all():
        raise DataError("the kernel matrix is not finite; check for features or structures whose kernel overflows.")
    return found
