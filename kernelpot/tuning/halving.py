"""Successive halving: many candidates at little cost, the best of them at more."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from kernelpot.errors import ParameterError
from kernelpot.progress import say
from kernelpot.tuning.journal import Journal
from kernelpot.tuning.trial import Settings, Trial, key_of

ETA = 3
"""One candidate in this many goes on to the next rung."""

MARGIN = 1.2
"""A fit is begun where its predicted time, times this, is left."""

CHAIN = 0.9
"""Share of the time that lower rungs leave to a last fit at most; where it takes longer, they take all of it."""

SHORTEST = 1e-6
"""Least time of a fit that another is compared with, s."""


@dataclass
class Budget:
    """What may be spent: seconds, fits, or both; time is that of the fits themselves."""

    seconds: float = math.inf
    fits: int | None = None
    spent: float = 0.0
    done: int = 0

    def __str__(self) -> str:
        """Say what is spent of what there is."""
        time = "" if math.isinf(self.seconds) else f" of {self.seconds:.0f}"
        fits = "" if self.fits is None else f" of {self.fits}"
        return f"{self.done}{fits} fits, {self.spent:.0f}{time} s"

    def charge(self, trial: Trial) -> None:
        """Count one fit."""
        self.spent += trial.seconds
        self.done += 1

    def allows(self, predicted: float, limit: float) -> bool:
        """Tell whether a fit of this predicted time ends before `limit`, and may be counted."""
        return (self.fits is None or self.done < self.fits) and self.spent + MARGIN * predicted <= limit


@dataclass
class Search:
    """What a search found, rung by rung.

    Attributes
    ----------
    rungs
        Trials of each rung, in order of time.
    climbed
        Trials with more inducing environments than the last rung has.
    notes
        What was not tried, for people.
    interrupted
        Whether the user stopped it.
    """

    rungs: list[list[Trial]]
    climbed: list[Trial] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    interrupted: bool = False

    @property
    def trials(self) -> tuple[Trial, ...]:
        """All trials, in order of time."""
        return tuple([trial for trials in self.rungs for trial in trials] + self.climbed)

    @property
    def best(self) -> Trial:
        """The best trial of the highest rung where any fit was made.

        Candidates come to a rung in order of their rank on the rung below, so that one which time was too short for
        ranked behind all that were tried.

        Raises
        ------
        ParameterError
            Every fit failed.
        """
        for trials in reversed(self.rungs):
            good = [trial for trial in trials if not trial.failure]
            if good:
                return min([*good, *(trial for trial in self.climbed if not trial.failure)], key=lambda one: one.loss)
        reason = f"; the first said: {self.trials[0].failure}" if self.trials else ""
        raise ParameterError(f"tune found no settings that could be fitted{reason}")


@dataclass
class Bench:
    """Where trials are made, kept and charged for.

    Attributes
    ----------
    score
        Fits a candidate on a rung; rungs beyond the last double the inducing environments, once each.
    budget
        What may be spent.
    journal
        Keeps every trial. Those it knows are not made again; their recorded time counts, so that a resumed search
        makes the decisions that an uninterrupted one makes.
    """

    score: Callable[[Settings, int], Trial]
    budget: Budget
    journal: Journal

    def run(self, settings: Settings, rung: int) -> Trial:
        """Make one trial, or take it from the journal."""
        known = self.journal.find(settings, rung)
        trial = self.score(settings, rung) if known is None else known
        if known is None:
            self.journal.add(trial)
        self.budget.charge(trial)
        what = f"loss {trial.loss:.3f}" if not trial.failure else f"failed: {trial.failure}"
        say(f"tune: rung {rung}, {described(settings)}: {what}; {self.budget}")
        return trial


def halve(
    candidates: Sequence[Settings],
    bench: Bench,
    costs: Sequence[float],
    *,
    eta: int = ETA,
    reserve: float = 0.0,
    kept_fits: int = 0,
) -> Search:
    """Score candidates on rung 0, the best 1/eta of them on rung 1, and so on (Jamieson and Talwalkar (2016), alg. 1).

    Each rung may use the same share of the time, and what those before it left over, but leaves enough for one fit on
    each rung above. With a limit of fits alone, the
    first rung takes as many candidates as let all rungs end within it.

    Parameters
    ----------
    candidates
        In order of trial; where the budget ends, the rest is not tried.
    bench
        Makes the trials; its budget is charged.
    costs
        Guessed cost of a fit on each rung, in any unit; measured times correct it.
    eta
        One candidate in eta goes on.
    reserve, kept_fits
        Share of the time, and number of fits, to leave over.

    Raises
    ------
    KeyboardInterrupt
        The user stopped it before any fit was made.
    """
    search, budget = Search([[] for _ in costs]), bench.budget
    queue = list(candidates[: _first(len(candidates), len(costs), budget, kept_fits, eta)])
    for rung, trials in enumerate(search.rungs):
        share = budget.seconds * (1.0 - reserve) * (rung + 1) / len(costs)
        try:
            for settings in queue:
                limit = min(share, budget.seconds - _chain(trials, rung, costs, budget.seconds))
                predicted = _predicted(settings, rung, search.rungs, costs)
                # At least one fit on each rung, if the time for it is there at all.
                if budget.done and not budget.allows(predicted, limit if trials else budget.seconds):
                    break
                trials.append(bench.run(settings, rung))
        except KeyboardInterrupt:
            if not budget.done:
                raise
            search.interrupted = True
        _note(search, rung, len(queue) if rung else len(candidates))
        ranked = sorted((trial for trial in trials if not trial.failure), key=lambda trial: trial.loss)
        queue = [trial.settings for trial in ranked[: math.ceil(len(ranked) / eta)]]
        if search.interrupted or not queue:
            break
    return search


def climb(search: Search, bench: Bench, factor: float, *, limit: int, gain: float) -> None:
    """Fit the best candidate again with twice the inducing environments, as long as that pays.

    Parameters
    ----------
    search
        A search that ended, and is added to; nothing is done where it did not reach its last rung.
    bench
        Makes the trials; its budget is charged.
    factor
        Guessed growth of the cost with each doubling.
    limit
        Most inducing environments.
    gain
        Least fall of the loss for which one goes on.
    """
    if search.interrupted or not any(not trial.failure for trial in search.rungs[-1]):
        return
    best = search.best
    while best.n_inducing < limit:
        if not bench.budget.allows(factor * best.seconds, bench.budget.seconds):
            search.notes.append(f"more than {best.n_inducing} inducing environments were not tried: the budget ended")
            return
        try:
            trial = bench.run(best.settings, len(search.rungs) + len(search.climbed))
        except KeyboardInterrupt:
            search.interrupted = True
            return
        if trial.failure or trial.n_inducing <= best.n_inducing:
            return
        search.climbed.append(trial)
        if best.loss - trial.loss < gain:
            search.notes.append(f"more than {trial.n_inducing} inducing environments were not tried: the gain is small")
            return
        factor = max(1.5, trial.seconds / max(best.seconds, SHORTEST))
        best = trial


def described(settings: Settings) -> str:
    """Name settings for people."""
    return ", ".join(
        f"{name} {value:g}" if isinstance(value, float) else f"{name} {value}" for name, value in settings.items()
    )


def _first(n: int, n_rungs: int, budget: Budget, kept: int, eta: int) -> int:
    """Return how many candidates the first rung takes, so that a limit of fits holds for all rungs."""
    if budget.fits is None:
        return n
    limit = budget.fits - kept

    def total(first: int) -> int:
        fits, here = 0, first
        for _ in range(n_rungs):
            fits, here = fits + here, math.ceil(here / eta)
        return fits

    return max((k for k in range(1, n + 1) if total(k) <= limit), default=1)


def _chain(trials: Sequence[Trial], rung: int, costs: Sequence[float], seconds: float) -> float:
    """Predict the seconds of one fit on each rung above; 0 where most of the time would not do."""
    if not trials:
        return 0.0
    time = MARGIN * statistics.median([trial.seconds for trial in trials]) * sum(costs[rung + 1 :]) / costs[rung]
    return time if time < CHAIN * seconds else 0.0


def _predicted(settings: Settings, rung: int, rungs: Sequence[Sequence[Trial]], costs: Sequence[float]) -> float:
    """Predict the seconds of a fit from those of the rung below, or of others on the first rung."""
    if rung == 0:
        return statistics.median([trial.seconds for trial in rungs[0]]) if rungs[0] else 0.0
    below = {key_of(trial.settings): trial.seconds for trial in rungs[rung - 1]}
    ratios = [trial.seconds / max(below[key_of(trial.settings)], SHORTEST) for trial in rungs[rung]]
    guess = costs[rung] / costs[rung - 1]
    return below[key_of(settings)] * (statistics.median(ratios) if ratios else guess)


def _note(search: Search, rung: int, wanted: int) -> None:
    """Say what a rung left out."""
    left = wanted - len(search.rungs[rung])
    if left and rung == 0:
        search.notes.append(f"{left} of {wanted} candidates were not tried")
    elif left:
        search.notes.append(f"rung {rung}: {left} of the {wanted} that had qualified were not tried")
