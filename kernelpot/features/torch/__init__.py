"""Feature maps on devices of PyTorch, which is imported only where a device is asked for."""

from __future__ import annotations

from kernelpot.features.feature_map import FeatureMap
from kernelpot.linalg.devices import check_device


def on_device(features: FeatureMap, device: str | None, precision: str = "float64") -> FeatureMap:
    """Return the map, wherever it is, on a device of PyTorch, or in compiled loops where the device is None.

    Precision "mixed" has energies and forces from densities in float32, "float32" the rows of a fit from these too.
    """
    check_device(device, precision)
    host: FeatureMap = getattr(features, "host", features)
    if device is None:
        return host
    from kernelpot.features.torch.torch_map import TorchMap

    return TorchMap.make(host, device, precision)


def device_of(features: FeatureMap) -> str | None:
    """Return the device of a map; None where it is in compiled loops."""
    device: str | None = getattr(features, "device", None)
    return device
