"""Successive halving: many candidates at little cost, the best of them at more, every trial kept in a journal."""

from __future__ import annotations

import itertools
import json
import math
import statistics
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from kernelpot.archive import replacing
from kernelpot.errors import DataError, ParameterError
from kernelpot.progress import say
from kernelpot.rules import whole

FORMAT = "kernelpot tune 1"
"""First word of the first line of a journal's file."""

MINUTES = 10.0
"""Time where neither a time nor a number of fits is given."""

ETA = 3
"""One candidate in this many goes on to the next rung."""

MARGIN = 1.2
"""A fit is begun where its predicted time, times this, is left."""

STEP = 0.01
"""Least fall of the loss for which a descent goes on from other settings: what is tried first costs least."""

CHAIN = 0.9
"""Share of the time that lower rungs leave to a last fit at most; where it takes longer, they take all of it."""

SHORTEST = 1e-6
"""Least time of a fit that another is compared with, s."""

Settings = Mapping[str, Any]
"""Settings of a model by name, JSON values."""


def key_of(settings: Settings) -> str:
    """Return settings as one string, equal for equal settings."""
    return json.dumps(dict(settings), sort_keys=True)


@dataclass(frozen=True)
class Trial:
    """A candidate, scored on one rung.

    Attributes
    ----------
    settings
        What was tried.
    rung
        Number of the rung, from 0; higher ones see more structures or have more inducing environments.
    n_structures, n_inducing
        Size of the fit.
    rmse
        Root mean square error of left-out labels of each kind: eV/atom, eV/Å, eV/Å³.
    loss
        Σ_kind log RMSE, the mean over `rmse` and `beyond` where both count; smaller is better, infinite where the fit
        failed.
    seconds
        Time of the fit, and of timing the prediction.
    us_per_atom
        Time of predicting energy, forces and stress, µs per atom, at this number of inducing environments; an estimate.
    failure
        Why the fit failed; empty where it did not.
    beyond
        As `rmse`, of left-out compositions or groups; empty where they were not asked for, or are too few.
    """

    settings: Settings
    rung: int
    n_structures: int
    n_inducing: int
    rmse: Mapping[str, float]
    loss: float
    seconds: float
    us_per_atom: float = math.nan
    failure: str = ""
    beyond: Mapping[str, float] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """Return everything as JSON values; what is not finite becomes None."""
        return asdict(self) | {
            "settings": dict(self.settings),
            "rmse": {kind: float(v) for kind, v in self.rmse.items()},
            "beyond": {kind: float(v) for kind, v in self.beyond.items()},
            "loss": self.loss if math.isfinite(self.loss) else None,
            "us_per_atom": self.us_per_atom if math.isfinite(self.us_per_atom) else None,
        }

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Trial:
        """Make the trial that `as_dict` describes; what describes none raises KeyError, TypeError or ValueError."""
        loss, speed = content["loss"], content["us_per_atom"]
        settings = {
            str(name): tuple(value) if isinstance(value, list) else value
            for name, value in dict(content["settings"]).items()
        }
        return cls(
            settings=settings,
            rung=int(content["rung"]),
            n_structures=int(content["n_structures"]),
            n_inducing=int(content["n_inducing"]),
            rmse={str(kind): float(v) for kind, v in dict(content["rmse"]).items()},
            loss=math.inf if loss is None else float(loss),
            seconds=float(content["seconds"]),
            us_per_atom=math.nan if speed is None else float(speed),
            failure=str(content["failure"]),
            beyond={str(kind): float(v) for kind, v in dict(content.get("beyond", {})).items()},
        )


class Journal:
    """Finished trials, in memory, and in a file of JSON lines where one is named."""

    def __init__(self, path: str | Path | None, search: Mapping[str, Any]) -> None:
        self.path = None if path is None else Path(path)
        self.head = {"format": FORMAT, **search}
        self._known: dict[tuple[str, int], Trial] = {}
        if self.path is not None and self.path.exists() and self.path.stat().st_size > 0:
            for trial in self._read(self.path):
                self._known[key_of(trial.settings), trial.rung] = trial

    def __len__(self) -> int:
        return len(self._known)

    def find(self, settings: Settings, rung: int) -> Trial | None:
        """Return the trial of these settings on this rung, if it was finished before."""
        return self._known.get((key_of(settings), rung))

    def add(self, trial: Trial) -> None:
        """Keep a trial; the file is written anew, whole or not at all."""
        self._known[key_of(trial.settings), trial.rung] = trial
        if self.path is None:
            return
        lines = [self.head, *(known.as_dict() for known in self._known.values())]
        text = "".join(json.dumps(line, allow_nan=False) + "\n" for line in lines)
        with replacing(self.path) as temporary:
            temporary.write_text(text, encoding="utf-8")

    def _read(self, path: Path) -> list[Trial]:
        try:
            first, *rest = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
            known = first["format"]
            trials = [Trial.from_dict(line) for line in rest] if known == FORMAT else []
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(
                f"`resume` must be a file that tune wrote, {path} is not ({error}); name another."
            ) from None
        if known != FORMAT:
            raise DataError(f"`resume` must be a file of this version, {path} is of {known!r}; name another.")
        changed = [name for name, value in self.head.items() if first.get(name) != json.loads(json.dumps(value))]
        if changed:
            raise ParameterError(
                f"`resume` must be of the same search, {path} differs in {', '.join(changed)}; name another file, "
                "or give what it was made with."
            )
        return trials


@dataclass
class Budget:
    """What may be spent: seconds, fits, or both; time is that of the fits themselves."""

    seconds: float = math.inf
    fits: int | None = None
    spent: float = 0.0
    done: int = 0

    @classmethod
    def of(cls, minutes: float | None, fits: int | None) -> Budget:
        """Return what a user gave; `MINUTES` where that is nothing."""
        if minutes is not None and not (math.isfinite(minutes) and minutes > 0):
            raise ParameterError(f"`budget_minutes` must be a positive number of minutes, got {minutes}; 10 is usual.")
        if minutes is None and fits is None:
            minutes = MINUTES
        seconds = math.inf if minutes is None else 60.0 * minutes
        return cls(seconds, None if fits is None else whole(fits, "max_fits", least=1))

    def __str__(self) -> str:
        """Say what is spent of what there is."""
        time = "" if math.isinf(self.seconds) else f" of {self.seconds:.0f}"
        fits = "" if self.fits is None else f" of {self.fits}"
        return f"{self.done}{fits} fits, {self.spent:.0f}{time} s"

    @property
    def limits(self) -> str:
        """What there is to spend, for people."""
        given = {
            f"{self.seconds / 60.0:g} minutes": math.isfinite(self.seconds),
            f"{self.fits} fits": self.fits is not None,
        }
        return " and ".join(text for text, there in given.items() if there)

    def charge(self, trial: Trial) -> None:
        """Count one fit."""
        self.spent += trial.seconds
        self.done += 1

    def allows(self, predicted: float, limit: float) -> bool:
        """Tell whether a fit of this predicted time ends before `limit`, and may be counted."""
        return (self.fits is None or self.done < self.fits) and self.spent + MARGIN * predicted <= limit

    def first(self, n: int, n_rungs: int, eta: int, kept: int, *, stays: bool = False) -> int:
        """Return how many of n candidates the first rung takes, so that a limit of fits, less `kept`, holds for all.

        `stays` says that the first candidate goes on in any case.
        """
        if self.fits is None:
            return n
        limit = self.fits - kept

        def total(first: int) -> int:
            fits, here = 0, first
            for _ in range(n_rungs):
                fits, here = fits + here, min(here, math.ceil(here / eta) + stays)
            return fits

        return max((k for k in range(1, n + 1) if total(k) <= limit), default=1)


@dataclass
class Search:
    """What a search found, rung by rung."""

    costs: Sequence[float]  # Guessed cost of a fit on each rung, in any unit; measured times correct it
    rungs: list[list[Trial]]  # Trials of each rung, in order of time
    # Trials with more inducing environments than the last rung has
    climbed: list[Trial] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)  # What was not tried, for people
    interrupted: bool = False  # Whether the user stopped it

    @property
    def trials(self) -> tuple[Trial, ...]:
        """All trials, in order of time."""
        return tuple([trial for trials in self.rungs for trial in trials] + self.climbed)

    @property
    def best(self) -> Trial:
        """The best trial of the highest rung where any fit was made.

        Candidates come to a rung in order of their rank on the rung below, so that one which time was too short for
        ranked behind all that were tried.
        """
        for trials in reversed(self.rungs):
            good = [trial for trial in trials if not trial.failure]
            if good:
                return min([*good, *(trial for trial in self.climbed if not trial.failure)], key=lambda one: one.loss)
        reason = f"; the first said: {self.trials[0].failure}" if self.trials else ""
        raise ParameterError(f"tune found no settings that could be fitted{reason}")

    def predicted(self, settings: Settings, rung: int) -> float:
        """Predict the seconds of a fit from those of the rung below, or of others on the first rung."""
        if rung == 0:
            return statistics.median([trial.seconds for trial in self.rungs[0]]) if self.rungs[0] else 0.0
        below = {key_of(trial.settings): trial.seconds for trial in self.rungs[rung - 1]}
        ratios = [trial.seconds / max(below[key_of(trial.settings)], SHORTEST) for trial in self.rungs[rung]]
        guess = self.costs[rung] / self.costs[rung - 1]
        return below[key_of(settings)] * (statistics.median(ratios) if ratios else guess)

    def chain(self, rung: int, seconds: float) -> float:
        """Predict the seconds of one fit on each rung above; 0 where most of the time would not do."""
        if not self.rungs[rung]:
            return 0.0
        median = statistics.median([trial.seconds for trial in self.rungs[rung]])
        time = MARGIN * median * sum(self.costs[rung + 1 :]) / self.costs[rung]
        return time if time < CHAIN * seconds else 0.0


@dataclass
class Bench:
    """Where trials are made, kept and charged for."""

    # Fits a candidate on a rung; rungs beyond the last double the inducing environments, once each
    score: Callable[[Settings, int], Trial]
    budget: Budget  # What may be spent
    # Keeps every trial. Those it knows are not made again; their recorded time counts, so that a resumed
    # search makes the decisions that an uninterrupted one makes.
    journal: Journal

    def run(self, settings: Settings, rung: int) -> Trial:
        """Make one trial, or take it from the journal."""
        known = self.journal.find(settings, rung)
        trial = self.score(settings, rung) if known is None else known
        if known is None:
            self.journal.add(trial)
        self.budget.charge(trial)
        what = f"loss {trial.loss:.3f}" if not trial.failure else f"failed: {trial.failure}"
        tried = ", ".join(f"{k} {v:g}" if isinstance(v, float) else f"{k} {v}" for k, v in settings.items())
        say(f"tune: rung {rung}, {tried}: {what}; {self.budget}")
        return trial


@dataclass(frozen=True)
class Descent:
    """Candidates one setting away from the best so far, one setting after the other, until none is new."""

    axes: Sequence[Sequence[Settings]]  # Values of each setting, or of those set together; the default first

    def __len__(self) -> int:
        return math.prod(map(len, self.axes))

    @property
    def default(self) -> Settings:
        """The first value of each setting."""
        return {name: value for axis in self.axes for name, value in axis[0].items()}

    def offered(self, trials: Sequence[Trial]) -> Iterator[Settings]:
        """Yield the default, then its neighbours; `trials` grows with what came of them.

        Coordinate search: what is clearly better is at once what the next are neighbours of.
        """
        known = {key_of(self.default)}
        yield self.default
        while True:
            before = len(known)
            for axis in self.axes:
                for values in axis:
                    best, loss = self.default, math.inf
                    for trial in trials:
                        if not trial.failure and trial.loss < loss - STEP:
                            best, loss = dict(trial.settings), trial.loss
                    settings = {**best, **values}
                    if key_of(settings) not in known:
                        known.add(key_of(settings))
                        yield settings
            if len(known) == before:
                return


def halve(
    candidates: Sequence[Settings] | Descent,
    bench: Bench,
    costs: Sequence[float],
    *,
    eta: int = ETA,
    reserve: float = 0.0,
    kept_fits: int = 0,
) -> Search:
    """Score candidates on rung 0, the best 1/eta of them on rung 1, and so on (Jamieson and Talwalkar (2016), alg. 1).

    Each rung may use the same share of the time, less the share `reserve` of all, and what those before it left over,
    but leaves enough for one fit on each rung above. With a limit of fits alone, the first rung takes as many
    candidates, in their order, as let all rungs end `kept_fits` before it. The first candidate of a `Descent` goes on
    to every rung, to be compared with.
    """
    search, budget = Search(costs, [[] for _ in costs]), bench.budget
    stays = isinstance(candidates, Descent)
    most = budget.first(len(candidates), len(costs), eta, kept_fits, stays=stays)
    offered = candidates.offered(search.rungs[0]) if isinstance(candidates, Descent) else iter(candidates)
    queue: Iterable[Settings] = itertools.islice(offered, most)
    wanted = len(candidates)
    for rung, trials in enumerate(search.rungs):
        # A descent needs many cheap fits: its first rung has a share more.
        share = budget.seconds * (1.0 - reserve) * (rung + 1 + stays) / (len(costs) + stays)
        try:
            for settings in queue:
                limit = min(share, budget.seconds - search.chain(rung, budget.seconds))
                # At least one fit on each rung, if the time for it is there at all.
                if budget.done and not budget.allows(
                    search.predicted(settings, rung), limit if trials else budget.seconds
                ):
                    break
                trials.append(bench.run(settings, rung))
        except KeyboardInterrupt:
            if not budget.done:
                raise
            search.interrupted = True
        left = wanted - len(trials)
        if left and rung == 0:
            search.notes.append(f"{left} of {wanted} candidates were not tried")
        elif left:
            search.notes.append(f"rung {rung}: {left} of the {wanted} that had qualified were not tried")
        ranked = sorted((trial for trial in trials if not trial.failure), key=lambda trial: trial.loss)
        best = [trial.settings for trial in ranked[: math.ceil(len(ranked) / eta)]]
        first = search.rungs[0][0].settings if search.rungs[0] else None
        if stays and first not in best and any(trial.settings == first for trial in ranked):
            best[1:1] = [first] if first is not None else []
        queue, wanted = best, len(best)
        if search.interrupted or not best:
            break
    return search


def climb(search: Search, bench: Bench, factor: float, *, limit: int, gain: float, after: float = 0.0) -> None:
    """Fit the best candidate again with twice the inducing environments, up to `limit`, as long as that pays.

    It pays while the loss falls by `gain`. Nothing is done where the search did not reach its last rung; `factor`
    guesses how the cost grows with each doubling, and `after` is what must still be possible then, in such fits.
    """
    if search.interrupted or not any(not trial.failure for trial in search.rungs[-1]):
        return
    best = search.best
    while best.n_inducing < limit:
        if not bench.budget.allows((1.0 + after) * factor * best.seconds, bench.budget.seconds):
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
