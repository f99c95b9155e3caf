"""Feature maps back from their settings and arrays, checked before anything is computed with them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from kernelpot.archive import LARGEST
from kernelpot.data.check import HEAVIEST
from kernelpot.descriptors.acsf.definition import ACSF
from kernelpot.descriptors.pairs import TwoBody
from kernelpot.descriptors.soap.definition import SOAP
from kernelpot.features.feature_map import FeatureMap
from kernelpot.features.kernel_map import KernelMap
from kernelpot.features.linear_map import LinearMap
from kernelpot.features.sum_map import SumMap
from kernelpot.features.two_body_map import TwoBodyMap
from kernelpot.kernels import DotProduct, Gaussian, Linear
from kernelpot.record import record_of

LARGEST_SCALE = 1e60
"""Of a term's amplitude to the first one's; far beyond what searches reach, and its square is still a number."""


def feature_map_of(settings: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> FeatureMap:
    """Make the feature map that `settings` and `arrays` of another describe.

    Raises
    ------
    KeyError, TypeError, ValueError, ParameterError
        Something is missing, or settings and arrays do not belong together.
    """
    name = settings["name"]
    if name == "SumMap":
        terms = [feature_map_of(term, _prefixed(arrays, f"term_{t}_")) for t, term in enumerate(settings["terms"])]
        scales = tuple(float(scale) for scale in settings["scales"])
        if not terms or len(scales) != len(terms) or len({term.species for term in terms}) != 1:
            raise ValueError("the terms of a sum must have one scale each and the same species")
        if not all(1.0 / LARGEST_SCALE <= scale <= LARGEST_SCALE for scale in scales):
            raise ValueError(f"scales must be positive, and not huge, found {scales}")
        return SumMap(tuple(terms), scales)
    if name == "TwoBodyMap":
        pairs = TwoBody.from_settings(settings["descriptor"])
        check_species_list(settings["descriptor"]["species"])
        return TwoBodyMap(pairs)
    if name not in ("KernelMap", "LinearMap"):
        raise ValueError(f"there is no feature map of the name {name!r}")
    # As written, not as sorted by the descriptor: the arrays stand in this order.
    check_species_list(settings["descriptor"]["species"])
    descriptor: SOAP | ACSF | TwoBody = record_of("descriptor", settings["descriptor"])
    if isinstance(descriptor, TwoBody):
        raise ValueError("pair energies have a feature map of their own")
    if name == "LinearMap":
        check_array("lengths", arrays["lengths"], (len(descriptor.species or ()),))
        if not (arrays["lengths"] > 0.0).all():
            raise ValueError("the lengths of vectors must be positive")
        return LinearMap(descriptor, bool(settings["normalise"]), arrays["lengths"], descriptor.n_features)
    features = KernelMap.from_arrays(descriptor, _kernel_of(settings), dict(arrays))
    _check_arrays(features, descriptor.n_features)
    return features


def _kernel_of(settings: Mapping[str, Any]) -> DotProduct | Gaussian:
    """Make the kernel of unit vectors, at amplitude 1."""
    if "kernel" not in settings:
        return DotProduct(int(settings["zeta"]))
    kernel: DotProduct | Gaussian | Linear = record_of("kernel", settings["kernel"])
    if isinstance(kernel, Linear):
        raise ValueError("a linear term has a feature map of its own")
    return kernel


def _prefixed(arrays: Mapping[str, np.ndarray], prefix: str) -> dict[str, np.ndarray]:
    return {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}


def check_species_list(given: Any) -> tuple[int, ...]:
    """Return the atomic numbers that a header names.

    Raises
    ------
    ValueError
        They are none, or not in rising order.
    """
    species = tuple(int(z) for z in given or ())
    if not species or list(species) != sorted(set(species)) or species[0] < 1 or species[-1] > HEAVIEST:
        raise ValueError(f"the species must be atomic numbers in rising order, found {species}")
    return species


def _check_arrays(features: KernelMap, n_features: int) -> None:
    for a, (z, w) in enumerate(zip(features.inducing, features.whitening, strict=True)):
        check_array(f"inducing_{a}", z, (len(z), n_features))
        check_array(f"whitening_{a}", w, (len(z), w.shape[1] if w.ndim == 2 else 0))


def check_array(name: str, array: np.ndarray, shape: tuple[int, ...]) -> None:
    """Refuse an array whose shape, type or values cannot be right.

    Raises
    ------
    ValueError
        It is not of float64, of another shape, or not finite.
    """
    if array.dtype != np.float64 or array.shape != shape:
        raise ValueError(f"{name} must be float64 of shape {shape}, found {array.dtype} of shape {array.shape}")
    if not (np.abs(array) <= LARGEST).all():
        raise ValueError(f"{name} must hold finite numbers up to {LARGEST:g}")
