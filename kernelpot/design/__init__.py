"""Choose structures by what their labels would tell, before any label exists."""

from __future__ import annotations

from kernelpot.design.assess import assess
from kernelpot.design.assessment import Assessment
from kernelpot.design.certify import Certificate, certify
from kernelpot.design.choice import Choice
from kernelpot.design.compression import compress
from kernelpot.design.criteria import IV, A, Criterion, D
from kernelpot.design.duplicates import duplicates
from kernelpot.design.expected import Curve, expected_errors
from kernelpot.design.information import KINDS, Information
from kernelpot.design.precision import Precision
from kernelpot.design.select import select

__all__ = [
    "IV",
    "KINDS",
    "A",
    "Assessment",
    "Certificate",
    "Choice",
    "Criterion",
    "Curve",
    "D",
    "Information",
    "Precision",
    "assess",
    "certify",
    "compress",
    "duplicates",
    "expected_errors",
    "select",
]
