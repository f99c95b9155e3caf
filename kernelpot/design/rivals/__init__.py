"""Ways to choose without a criterion, to be compared with."""

from __future__ import annotations

from collections.abc import Mapping

from kernelpot.design.rivals.vectors import Rival, fps, kmeans, maximin, random, stratified
from kernelpot.design.rivals.volume import cur, entropy, kdpp, kdpp_greedy, maxvol, maxvol_environments, quests

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
