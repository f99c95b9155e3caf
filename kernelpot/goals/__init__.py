"""Goals in physics: which structures to label so that elastic constants, defect energies or barriers come out right."""

from __future__ import annotations

from kernelpot.goals.cheapest import Plan, cheapest
from kernelpot.goals.elastic import bulk_modulus, elastic_constants, strained, strained_pairs
from kernelpot.goals.energies import (
    barrier,
    energies,
    energy_difference,
    forces_on,
    surface_energy,
    total_energy,
    vacancy,
    vacancy_energy,
)
from kernelpot.goals.goal import Goal, Quantities

__all__ = [
    "Goal",
    "Plan",
    "Quantities",
    "barrier",
    "bulk_modulus",
    "cheapest",
    "elastic_constants",
    "energies",
    "energy_difference",
    "forces_on",
    "strained",
    "strained_pairs",
    "surface_energy",
    "total_energy",
    "vacancy",
    "vacancy_energy",
]
