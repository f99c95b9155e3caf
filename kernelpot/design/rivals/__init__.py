"""Ways to choose without a criterion, to be compared with."""

from __future__ import annotations

from collections.abc import Mapping

from kernelpot.design.rivals.vectors import fps, kmeans, maximin
from kernelpot.design.rivals.vectors import random, stratified
from kernelpot.design.rivals.volume import entropy, quests
from kernelpot.design.rivals.vectors import Rival
from kernelpot.design.rivals.volume import cur, kdpp, kdpp_greedy, maxvol, maxvol_environments

__all__ = ["RIVALS", "Rival"]

RIVALS: Mapping[str, Rival] = {
    "random": random,
    "fps": fps,
    "kmeans": kmeans,
    "stratified": stratified,
    "cur": cur,
    "maxvol": maxvol,
    "maxvol-environments": maxvol_environments,
    "maximin": maximin,
    "kdpp": kdpp,
    "kdpp-greedy": kdpp_greedy,
    "entropy": entropy,
    "quests": quests,
}
"""All of them by the names that `select` takes."""
