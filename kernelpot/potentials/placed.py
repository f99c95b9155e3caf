"""The part of a model that says where it computes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Self

from kernelpot.features.feature_map import FeatureMap
from kernelpot.features.placing import on_device
from kernelpot.linalg.devices import check_device
from kernelpot.potentials.fitted import Fitted
from kernelpot.potentials.left_out import TrainingSet


class Placed:
    """A model in compiled loops on the CPU, or on a device of PyTorch; files never hold which."""

    device: str | None
    precision: str
    features_: FeatureMap | None
    fitted_: Fitted | None
    training_: TrainingSet | None

    _clone: Callable[..., Any]

    def to(self, device: str | None, *, precision: str = "float64") -> Self:
        """Return the same model, prepared or fitted as this one is, computing elsewhere.

        Parameters
        ----------
        device
            None: compiled loops on the CPU. "cpu": PyTorch on the CPU. "cuda" or "cuda:0": PyTorch on a GPU.
        precision
            "float64", or with a device "mixed": energies, forces and stresses from densities in float32; or
            "float32": the rows that a fit is made from, too. Standard deviations are float64 in all.

        Raises
        ------
        ParameterError
            There is no such device, or a term has no engine for PyTorch.
        """
        check_device(device, precision)
        model: Self = self._clone()
        model.device, model.precision, model.training_ = device, precision, self.training_
        if self.fitted_ is not None:
            model.fitted_ = replace(self.fitted_, features=on_device(self.fitted_.features, device, precision))
        if self.features_ is not None:
            # The fitted map where both are one, so that the device holds it once.
            same = self.fitted_ is not None and self.features_ is self.fitted_.features
            model.features_ = (
                model.fitted_.features
                if same and model.fitted_ is not None
                else on_device(self.features_, device, precision)
            )
        return model
