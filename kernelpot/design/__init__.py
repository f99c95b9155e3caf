"""Choose structures by what their labels would tell, before any label exists."""

from __future__ import annotations

from kernelpot.design import robust
from kernelpot.design.advice.assess import assess
from kernelpot.design.advice.findings import Curve, expected_errors
from kernelpot.design.advice.text import Assessment
from kernelpot.design.blocks import KINDS, compress
from kernelpot.design.bounds.branch import Optimum
from kernelpot.design.bounds.certificate import Certificate
from kernelpot.design.choice import Choice
from kernelpot.design.criteria import IV, A, Compound, Criterion, D, Ds, E, G, L, V, c
from kernelpot.design.information import Information, duplicates
from kernelpot.design.precision import Precision
from kernelpot.design.problem import Problem, branch_and_bound, certify, pose, select

__all__ = [
    "IV",
    "KINDS",
    "A",
    "Assessment",
    "Certificate",
    "Choice",
    "Compound",
    "Criterion",
    "Curve",
    "D",
    "Ds",
    "E",
    "G",
    "Information",
    "L",
    "Optimum",
    "Precision",
    "Problem",
    "V",
    "assess",
    "branch_and_bound",
    "c",
    "certify",
    "compress",
    "duplicates",
    "expected_errors",
    "pose",
    "robust",
    "select",
]
