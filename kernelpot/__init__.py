"""Choose which atomic structures deserve a DFT calculation, then fit a kernel potential that knows its error.

Names load lazily, so that ``import kernelpot`` stays fast.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from kernelpot.doors import Former, door

if TYPE_CHECKING:
    from kernelpot import design as design
    from kernelpot import elements as elements
    from kernelpot import goals as goals
    from kernelpot import gpytorch as gpytorch
    from kernelpot import pools as pools
    from kernelpot import potentials as potentials
    from kernelpot import properties as properties
    from kernelpot import report as report
    from kernelpot.calculator import Calculator as Calculator
    from kernelpot.data.noise import Noise as Noise
    from kernelpot.data.read import read as read
    from kernelpot.descriptors.acsf.definition import ACSF as ACSF
    from kernelpot.descriptors.pairs import TwoBody as TwoBody
    from kernelpot.descriptors.soap.definition import SOAP as SOAP
    from kernelpot.judgement.forecast import forecast as forecast
    from kernelpot.judgement.intervals import reliability as reliability
    from kernelpot.judgement.labelled import check_labels as check_labels
    from kernelpot.judgement.scores import evaluate as evaluate
    from kernelpot.judgement.unlabelled import screen as screen
    from kernelpot.kernels import DotProduct as DotProduct
    from kernelpot.kernels import Gaussian as Gaussian
    from kernelpot.potentials.baselines.zbl import ZBL as ZBL
    from kernelpot.potentials.force.force_ridge import ForceRidge as ForceRidge
    from kernelpot.potentials.load import load as load
    from kernelpot.potentials.sparse_gp import SparseGP as SparseGP
    from kernelpot.potentials.terms import Term as Term
    from kernelpot.properties.classifier import Classifier as Classifier
    from kernelpot.properties.gp import GP as GP
    from kernelpot.properties.ridge import KernelRidge as KernelRidge
    from kernelpot.structures.structure_kernel import StructureKernel as StructureKernel
    from kernelpot.tuning.search import potential as potential
    from kernelpot.tuning.search import tune as tune

__version__ = "0.1.0"

_HOMES = {
    "ACSF": "kernelpot.descriptors.acsf.definition",
    "Calculator": "kernelpot.calculator",
    "Classifier": "kernelpot.properties.classifier",
    "DotProduct": "kernelpot.kernels",
    "ForceRidge": "kernelpot.potentials.force.force_ridge",
    "GP": "kernelpot.properties.gp",
    "Gaussian": "kernelpot.kernels",
    "KernelRidge": "kernelpot.properties.ridge",
    "Noise": "kernelpot.data.noise",
    "SOAP": "kernelpot.descriptors.soap.definition",
    "SparseGP": "kernelpot.potentials.sparse_gp",
    "StructureKernel": "kernelpot.structures.structure_kernel",
    "Term": "kernelpot.potentials.terms",
    "TwoBody": "kernelpot.descriptors.pairs",
    "ZBL": "kernelpot.potentials.baselines.zbl",
    "check_labels": "kernelpot.judgement.labelled",
    "evaluate": "kernelpot.judgement.scores",
    "forecast": "kernelpot.judgement.forecast",
    "load": "kernelpot.potentials.load",
    "potential": "kernelpot.tuning.search",
    "read": "kernelpot.data.read",
    "reliability": "kernelpot.judgement.intervals",
    "screen": "kernelpot.judgement.unlabelled",
    "tune": "kernelpot.tuning.search",
}

_ROOMS = ("design", "elements", "goals", "gpytorch", "pools", "potentials", "properties", "report")

_MOVED = {
    **dict.fromkeys(("CompositionFeatures", "ElementChannels", "ElementalModes"), "kernelpot.elements"),
    **dict.fromkeys(("DScribe", "SiteKernel", "StructureFeatures", "VectorKernel"), "kernelpot.properties"),
    **dict.fromkeys(("Alchemy", "Bootstrap", "CalculatorBaseline", "Linear", "LinearModel"), "kernelpot.potentials"),
    **dict.fromkeys(("Prediction", "StopOnExtrapolation", "default_cutoff"), "kernelpot.potentials"),
    **dict.fromkeys(("plot_modes", "plot_reliability"), "kernelpot.report"),
    "stream": "kernelpot.pools",
}

_FORMER = {
    "kernelpot.curate": "kernelpot.pools",
    "kernelpot.data.cutoffs": "kernelpot.data.geometry",
    "kernelpot.design.dependence": "kernelpot.design.robust",
    "kernelpot.design.screen": "kernelpot.design.advice.screen",
    "kernelpot.properties.information": "kernelpot.properties.property_rows",
}

__all__ = [*_HOMES, *_ROOMS]

__getattr__, __dir__ = door(__name__, _HOMES, rooms=_ROOMS, moved=_MOVED)
sys.meta_path.append(Former(_FORMER))
