"""One choice for several settings: on average, or for the worst of them.

The same pool has one `Information` per setting, such as another power of the kernel, cutoff, noise or amplitude; the
numbers of weights may differ. Settings are compared by log-efficiencies, which have no units: for D the gain of
log det Λ divided by the number of weights, for the others the fall of log φ. Averages over settings are the compound
criteria of Läuter (1974); the worst case is standardised maximin (Dette 1997), here against greedy's own choices.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, Float, Int

from kernelpot.design.available import Available
from kernelpot.design.criteria import Criterion
from kernelpot.design.information import Information
from kernelpot.design.problem import pose
from kernelpot.design.problem import select as choose
from kernelpot.design.search.gains import Gains, Path, first_of_best
from kernelpot.design.search.greedy import follow
from kernelpot.design.task import Task
from kernelpot.errors import ParameterError
from kernelpot.progress import track
from kernelpot.run import one_blas

COMBINE = ("mean", "worst")

Infos = Mapping[str, Information]

_MEAN = 1e-6


@dataclass(frozen=True, eq=False)
class RobustChoice:
    """A choice made for several settings at once.

    Attributes
    ----------
    indices
        Structure numbers, in order of choice.
    criterion, combine
        What was improved, and how the settings were combined.
    curves
        Raw value of the criterion under each setting, before and after every pick.
    own_curves
        The same along the choice that greedy makes for that setting alone.
    efficiencies
        Of the whole choice under each setting, relative to greedy's own: the ratio of geometric mean eigenvalues for
        D, of the criterion's values for the others. Above 1 where greedy's own choice was not the best.
    """

    indices: Int[np.ndarray, " n"]
    criterion: str
    combine: str
    curves: Mapping[str, Float[np.ndarray, " n+1"]]
    own_curves: Mapping[str, Float[np.ndarray, " n+1"]]
    efficiencies: Mapping[str, float]

    def __len__(self) -> int:
        """Return the number of chosen structures."""
        return len(self.indices)

    @property
    def worst(self) -> float:
        """Efficiency under the setting that is served worst."""
        return min(self.efficiencies.values())

    def __str__(self) -> str:
        """Return a table for people: one line per setting."""
        width = max(len("setting"), *(len(name) for name in self.curves))
        lines = [
            f"{len(self)} structures by {self.criterion} for {len(self.curves)} settings together ({self.combine}); "
            "efficiency is relative to greedy's choice for that setting alone",
            f"{'setting':<{width}}{'before':>13}{'after':>13}{'own choice':>13}{'efficiency':>12}",
        ]
        lines += [
            f"{name:<{width}}{curve[0]:>13.6g}{curve[-1]:>13.6g}{self.own_curves[name][-1]:>13.6g}"
            f"{self.efficiencies[name]:>12.3f}"
            for name, curve in self.curves.items()
        ]
        return "\n".join(lines)


@one_blas()
def select(
    infos: Infos,
    n: int,
    *,
    criterion: str | Mapping[str, Criterion] = "IV",
    combine: str = "mean",
    existing: Infos | None = None,
    weights: Mapping[str, float] | None = None,
    seed: int = 0,
) -> RobustChoice:
    """Choose structures that serve several settings, by greedy. No label is looked at.

    "mean" takes the structure with the largest mean gain of log-efficiency. "worst" takes the one after which the
    worst-served setting stands best, compared with its own greedy choice of the same size, and returns that choice or
    the one by the mean, whichever serves its worst setting better. Each is a heuristic: for "mean" with D the sum is
    submodular and greedy reaches 1 - 1/e of the best gain (Nemhauser, Wolsey and Fisher 1978); a minimum is not
    submodular, and greedy has no guarantee.

    Time is the sum over settings of twice an exact greedy choice (not the lazy one).

    Parameters
    ----------
    infos
        The same pool under each setting, by name.
    n
        Number of structures.
    criterion
        A name that needs no target or takes the pool as its target, such as "IV", "D" or "E"; or an object for each
        setting, by its name.
    combine
        "mean" or "worst".
    existing
        What is labelled already, for each setting.
    weights
        Of each setting in the mean; equal where none are given.
    seed
        Seed of the order that breaks ties.

    Returns
    -------
    RobustChoice
        With every setting's curve, and its efficiency relative to its own choice.

    Raises
    ------
    ParameterError
        The pools differ in length, names do not agree, n exceeds the pool, or a name is unknown.
    """
    if combine not in COMBINE:
        raise ParameterError(f"`combine` must be one of {', '.join(COMBINE)}, got {combine!r}")
    share = _shares(infos, weights)
    tasks = _sized(infos, n, criterion, existing, seed)
    own = {name: _together({name: task}, "mean", {name: 1.0}, {})[1][name] for name, task in tasks.items()}
    own_gained = {name: _log_efficiency(tasks[name], curve) for name, curve in own.items()}
    found = []
    for way in dict.fromkeys(("mean", combine)):
        indices, curves = _together(tasks, way, share, own_gained)
        efficiencies = {
            name: float(np.exp(_log_efficiency(tasks[name], curve)[-1] - own_gained[name][-1]))
            for name, curve in curves.items()
        }
        measure = tasks[next(iter(tasks))].criterion
        chosen = np.array(indices, dtype=np.int64)
        found.append(RobustChoice(chosen, measure.name, combine, curves, own, efficiencies))
    return max(found, key=lambda choice: choice.worst) if combine == "worst" else found[0]


@dataclass(frozen=True, eq=False)
class Sensitivity:
    """How much the choice depends on the settings it is made under.

    Attributes
    ----------
    names
        Settings.
    criterion
        What every choice was made by.
    choices
        Structure numbers that each setting's own greedy choice holds.
    overlap
        Share of the structures of choice i (row) that choice j (column) holds, or duplicates of them.
    efficiency
        Of the choice made under setting i (row), judged under setting j (column), relative to the choice made
        under j.
    by_chance
        Overlap that two random choices have on average.
    """

    names: tuple[str, ...]
    criterion: str
    choices: tuple[Int[np.ndarray, " n"], ...]
    overlap: Float[np.ndarray, "settings settings"]
    efficiency: Float[np.ndarray, "settings settings"]
    by_chance: float

    def __str__(self) -> str:
        """Return both matrices for people."""
        width = max(len(name) for name in self.names)
        column = max(8, width + 2)
        head = " " * width + "".join(f"{name:>{column}}" for name in self.names)

        def matrix(values: Float[np.ndarray, "settings settings"]) -> list[str]:
            rows = ("".join(f"{v:>{column}.3f}" for v in row) for row in values)
            return [f"{name:<{width}}{row}" for name, row in zip(self.names, rows, strict=True)]

        parts = [
            f"choices of {len(self.choices[0])} by {self.criterion}: share of the structures of a row's choice that "
            f"the column's holds too ({self.by_chance:.2f} by chance)",
            head,
        ]
        parts += matrix(self.overlap)
        parts += [
            "",
            "efficiency of a row's choice under the column's setting, relative to the choice made there",
            head,
        ]
        return "\n".join(parts + matrix(self.efficiency))


@one_blas()
def sensitivity(
    infos: Infos,
    n: int,
    *,
    criterion: str = "IV",
    existing: Infos | None = None,
    seed: int = 0,
    method: str = "greedy",
) -> Sensitivity:
    """Choose under each setting, and judge each choice under every other setting.

    Parameters
    ----------
    infos
        The same pool under each setting, by name, such as
        ``{f"amplitude {a:g}": space.information(pool, amplitude=a) for a in (0.1, 1.0, 10.0)}``.
    n
        Number of structures.
    criterion, existing, seed, method
        As in `kernelpot.design.select`; `existing` for each setting.

    Raises
    ------
    ParameterError
        As `select`.
    """
    _shares(infos, None)
    tasks = _sized(infos, n, criterion, existing, seed)
    old = existing or {}
    choices = {
        name: choose(info, n, criterion=criterion, method=method, existing=old.get(name), seed=seed).indices
        for name, info in infos.items()
    }
    names = tuple(infos)
    gained = np.empty((len(names), len(names)))
    for j, name in enumerate(names):
        for i, maker in enumerate(names):
            curve = np.array(follow(tasks[name], choices[maker].tolist()).values)
            gained[i, j] = _log_efficiency(tasks[name], curve)[-1]
    rules = tasks[names[0]].rules
    sets = [set(rules.groups[choices[name]].tolist()) for name in names]
    overlap = np.array([[len(a & b) / max(len(a), 1) for b in sets] for a in sets])
    return Sensitivity(
        names=names,
        criterion=criterion,
        choices=tuple(choices[name] for name in names),
        overlap=overlap,
        efficiency=np.exp(gained - np.diag(gained)),
        by_chance=min(1.0, n / max(rules.distinct, 1)),
    )


def _shares(infos: Infos, weights: Mapping[str, float] | None) -> dict[str, float]:
    """Check the settings, and return the weight of each, of sum 1."""
    if not isinstance(infos, Mapping) or not infos:
        raise ParameterError("`infos` must hold an Information for each setting by its name, such as {'zeta 2': info}")
    for name, info in infos.items():
        if not isinstance(info, Information):
            raise ParameterError(f"`infos` must hold Information, got a {type(info).__name__} for {name!r}")
    sizes = {name: len(info) for name, info in infos.items()}
    if len(set(sizes.values())) > 1:
        raise ParameterError(f"every setting must see the same pool, found {sizes} structures")
    given = dict.fromkeys(infos, 1.0) if weights is None else dict(weights)
    values = np.array(list(given.values()), dtype=np.float64)
    if set(given) != set(infos) or not (np.isfinite(values) & (values >= 0)).all() or not values.sum() > 0:
        raise ParameterError(
            f"`weights` must give every setting ({', '.join(infos)}) a weight of 0 or more, got {given}"
        )
    return {name: given[name] / float(values.sum()) for name in infos}


def _sized(
    infos: Infos, n: int, criterion: str | Mapping[str, Criterion], existing: Infos | None, seed: int
) -> dict[str, Task]:
    """Pose the problem of every setting, with rules that all share: duplicates are those that none can tell apart.

    The target is the pool in each setting's own features.
    """
    old = existing or {}
    if existing is not None and set(existing) != set(infos):
        raise ParameterError(f"`existing` must name the settings {', '.join(infos)}, got {', '.join(existing)}")
    tasks = {}
    for name, info in infos.items():
        if not isinstance(criterion, str) and name not in criterion:
            raise ParameterError(f"`criterion` must hold an object for each setting, found none for {name!r}")
        measure = criterion if isinstance(criterion, str) else criterion[name]
        tasks[name] = pose(info, criterion=measure, existing=old.get(name), seed=seed).sized(n)
    each = [task.rules for task in tasks.values()]
    groups = np.unique(np.stack([rules.groups for rules in each], axis=1), axis=0, return_inverse=True)[1].reshape(-1)
    rules = replace(each[0], groups=groups, taken=np.all([rules.taken for rules in each], axis=0))
    return {name: task.under(rules) for name, task in tasks.items()}


def _log_efficiency(task: Task, curve: Float[np.ndarray, " n+1"]) -> Float[np.ndarray, " n+1"]:
    """Return the log-efficiency gained since the start: Δ log ψ, such as Δ log det Λ / d or log φ_0/φ."""
    utilities = np.array([task.criterion.utility(float(value), task.info.d) for value in curve])
    # Where nothing is left to learn log ψ is infinite from the start.
    with np.errstate(invalid="ignore"):
        return np.where(utilities == utilities[0], 0.0, utilities - utilities[0])


class _Every:
    """Gains of all candidates one by one, for criteria without a closed form of small matrices."""

    def __init__(self, info: Information, path: Path) -> None:
        self._info, self._path = info, path

    @property
    def values(self) -> Float[np.ndarray, " structures"]:
        """Gains now."""
        gain = self._path.criterion.gainer(self._path.precision)
        return np.array([gain(self._info.block(s)) for s in range(len(self._info))])

    def add(self, s: int, live: Bool[np.ndarray, " structures"]) -> None:  # noqa: ARG002 (as in `Gains`)
        """Choose structure s."""
        self._path.add(self._info.block(s))


def _together(
    tasks: Mapping[str, Task], way: str, share: Mapping[str, float], own: Mapping[str, Float[np.ndarray, " n+1"]]
) -> tuple[list[int], dict[str, Float[np.ndarray, " n+1"]]]:
    """Greedy over all settings at once; `own` is what each gains by its own choice."""
    paths = {name: Path(task.criterion, task.start) for name, task in tasks.items()}
    engines = {
        name: (Gains if task.criterion.roots is not None else _Every)(task.info, paths[name])
        for name, task in tasks.items()
    }
    rules = next(iter(tasks.values())).rules
    available = Available(rules)
    for step in track(range(1, rules.n + 1), "choosing"):
        live = available.now()
        if not live.any():
            break
        scores = {
            name: task.criterion.steps(task.criterion.score(paths[name].state), engines[name].values, task.info.d)
            for name, task in tasks.items()
        }
        total = np.sum([share[name] * score for name, score in scores.items()], axis=0)
        if way == "worst":
            after = [
                _log_efficiency(task, np.array(paths[name].values))[-1] + scores[name] - own[name][step]
                for name, task in tasks.items()
            ]
            # Of candidates that serve the worst setting alike, the one that is best on average.
            total = np.min(after, axis=0) + _MEAN * total
            total = total - total[live].max() + 1.0  # ties are told by relative differences: no zero, no sign
        s = first_of_best(np.where(live, total, -np.inf), rules.rank)
        available.choose(s)
        following = available.now()
        for name, task in tasks.items():
            if following.any():
                engines[name].add(s, following)
            else:
                paths[name].add(task.info.block(s))
    for path in paths.values():
        path.anchor()
    return available.indices, {name: np.array(path.values) for name, path in paths.items()}
