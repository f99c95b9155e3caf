"""Models of one property of a structure: kernels between structures, ridge regression, Gaussian processes, classes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kernelpot.doors import door

if TYPE_CHECKING:
    from kernelpot.inference.feature_kernels import SiteKernel as SiteKernel
    from kernelpot.properties.features import StructureFeatures as StructureFeatures
    from kernelpot.structures.dscribe import DScribe as DScribe
    from kernelpot.structures.vector_kernel import VectorKernel as VectorKernel

_HOMES = {
    "DScribe": "kernelpot.structures.dscribe",
    "SiteKernel": "kernelpot.inference.feature_kernels",
    "StructureFeatures": "kernelpot.properties.features",
    "VectorKernel": "kernelpot.structures.vector_kernel",
}

__all__ = [*_HOMES]

__getattr__, __dir__ = door(__name__, _HOMES)
