"""Choose which atomic structures deserve a DFT calculation, then fit a kernel potential that knows its error.

Names load lazily, so that ``import kernelpot`` stays fast.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kernelpot import design as design
    from kernelpot import goals as goals
    from kernelpot import gpytorch as gpytorch
    from kernelpot.alchemy import Alchemy as Alchemy
    from kernelpot.calculator import Calculator as Calculator
    from kernelpot.calculator import StopOnExtrapolation as StopOnExtrapolation
    from kernelpot.data.geometry import default_cutoff as default_cutoff
    from kernelpot.data.noise import Noise as Noise
    from kernelpot.data.read import read as read
    from kernelpot.data.stream import stream as stream
    from kernelpot.descriptors.acsf.definition import ACSF as ACSF
    from kernelpot.descriptors.channels import ElementChannels as ElementChannels
    from kernelpot.descriptors.pairs import TwoBody as TwoBody
    from kernelpot.descriptors.soap.definition import SOAP as SOAP
    from kernelpot.elements.compositions import CompositionFeatures as CompositionFeatures
    from kernelpot.elements.modes import ElementalModes as ElementalModes
    from kernelpot.judgement.forecast import forecast as forecast
    from kernelpot.judgement.scores import evaluate as evaluate
    from kernelpot.judgement.scores import reliability as reliability
    from kernelpot.judgement.unlabelled import screen as screen
    from kernelpot.kernels import DotProduct as DotProduct
    from kernelpot.kernels import Gaussian as Gaussian
    from kernelpot.kernels import Linear as Linear
    from kernelpot.potentials.baselines.given import CalculatorBaseline as CalculatorBaseline
    from kernelpot.potentials.baselines.zbl import ZBL as ZBL
    from kernelpot.potentials.force.force_ridge import ForceRidge as ForceRidge
    from kernelpot.potentials.load import load as load
    from kernelpot.potentials.prediction import Prediction as Prediction
    from kernelpot.potentials.resampling import Bootstrap as Bootstrap
    from kernelpot.potentials.sparse_gp import LinearModel as LinearModel
    from kernelpot.potentials.sparse_gp import SparseGP as SparseGP
    from kernelpot.potentials.terms import Term as Term
    from kernelpot.properties.classifier import Classifier as Classifier
    from kernelpot.properties.features import StructureFeatures as StructureFeatures
    from kernelpot.properties.gp import GP as GP
    from kernelpot.properties.ridge import KernelRidge as KernelRidge
    from kernelpot.report.plot_modes import plot_modes as plot_modes
    from kernelpot.report.plot_reliability import plot_reliability as plot_reliability
    from kernelpot.structures.dscribe import DScribe as DScribe
    from kernelpot.structures.site_kernel import SiteKernel as SiteKernel
    from kernelpot.structures.structure_kernel import StructureKernel as StructureKernel
    from kernelpot.structures.vector_kernel import VectorKernel as VectorKernel
    from kernelpot.tuning.search import tune as tune

__version__ = "0.1.0"

_HOMES = {
    "ACSF": "kernelpot.descriptors.acsf.definition",
    "Alchemy": "kernelpot.alchemy",
    "Bootstrap": "kernelpot.potentials.resampling",
    "Classifier": "kernelpot.properties.classifier",
    "GP": "kernelpot.properties.gp",
    "ZBL": "kernelpot.potentials.baselines.zbl",
    "Calculator": "kernelpot.calculator",
    "CalculatorBaseline": "kernelpot.potentials.baselines.given",
    "CompositionFeatures": "kernelpot.elements.compositions",
    "DScribe": "kernelpot.structures.dscribe",
    "DotProduct": "kernelpot.kernels",
    "ElementChannels": "kernelpot.descriptors.channels",
    "ElementalModes": "kernelpot.elements.modes",
    "ForceRidge": "kernelpot.potentials.force.force_ridge",
    "Gaussian": "kernelpot.kernels",
    "KernelRidge": "kernelpot.properties.ridge",
    "Linear": "kernelpot.kernels",
    "LinearModel": "kernelpot.potentials.sparse_gp",
    "Noise": "kernelpot.data.noise",
    "Prediction": "kernelpot.potentials.prediction",
    "SOAP": "kernelpot.descriptors.soap.definition",
    "SiteKernel": "kernelpot.structures.site_kernel",
    "SparseGP": "kernelpot.potentials.sparse_gp",
    "StopOnExtrapolation": "kernelpot.calculator",
    "StructureFeatures": "kernelpot.properties.features",
    "StructureKernel": "kernelpot.structures.structure_kernel",
    "Term": "kernelpot.potentials.terms",
    "TwoBody": "kernelpot.descriptors.pairs",
    "VectorKernel": "kernelpot.structures.vector_kernel",
    "default_cutoff": "kernelpot.data.geometry",
    "evaluate": "kernelpot.judgement.scores",
    "forecast": "kernelpot.judgement.forecast",
    "load": "kernelpot.potentials.load",
    "plot_modes": "kernelpot.report.plot_modes",
    "plot_reliability": "kernelpot.report.plot_reliability",
    "read": "kernelpot.data.read",
    "reliability": "kernelpot.judgement.scores",
    "screen": "kernelpot.judgement.unlabelled",
    "stream": "kernelpot.data.stream",
    "tune": "kernelpot.tuning.search",
}

_ROOMS = ("design", "goals", "gpytorch")

__all__ = [*_HOMES, *_ROOMS]


def __getattr__(name: str) -> Any:
    """Import a public name on first use (PEP 562)."""
    if name in _ROOMS:
        return importlib.import_module(f"kernelpot.{name}")
    if name in _HOMES:
        value = getattr(importlib.import_module(_HOMES[name]), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module 'kernelpot' has no attribute {name!r}; public names: {', '.join(__all__)}")


def __dir__() -> list[str]:
    """List the public names."""
    return sorted([*__all__, "__version__"])
