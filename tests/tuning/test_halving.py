"""Successive halving on made-up objectives, whose best candidate is known."""

from __future__ import annotations

import math

import numpy as np
import pytest

from kernelpot.errors import ParameterError
from kernelpot.tuning.halving import Bench, Budget, Descent, Journal, Trial, climb, halve

COSTS = (1.0, 4.0, 16.0)
CANDIDATES = [{"x": float(x)} for x in np.random.default_rng(0).permutation(27)]


class Made:
    """Loss |x - 13|, blurred on low rungs; a fit takes 1, 4, 16 seconds, as the guesses say."""

    def __init__(self, *, blur=(2.0, 0.5, 0.0), stop_at=None, slow=None):
        self.blur, self.stop_at, self.slow = blur, stop_at, slow
        self.calls = []

    def __call__(self, settings, rung):
        if len(self.calls) == self.stop_at:
            raise KeyboardInterrupt
        self.calls.append((settings["x"], rung))
        x = settings["x"]
        step = min(rung, 2)
        noise = np.random.default_rng([int(x), rung]).uniform(-1, 1) * self.blur[step]
        inducing = 100 * 2 ** max(0, rung - 2)
        loss = abs(x - 13.0) + noise - 0.1 * max(0, rung - 2)
        seconds = COSTS[step] * 3.0 ** max(0, rung - 2) * (self.slow or {}).get(x, 1.0)
        return Trial(settings, rung, 10 * (step + 1), inducing, {"energy": 0.1}, loss, seconds)


def searched(score, *, path=None, seconds=math.inf, fits=None, candidates=CANDIDATES, **options):
    budget = Budget(seconds, fits)
    return halve(candidates, Bench(score, budget, Journal(path, {"data": "made"})), COSTS, **options), budget


def test_the_best_third_goes_on():
    score = Made()
    search, budget = searched(score)
    assert [len(trials) for trials in search.rungs] == [27, 9, 3]
    for below, above in zip(search.rungs, search.rungs[1:], strict=False):
        ranked = sorted(below, key=lambda trial: trial.loss)
        assert [t.settings for t in above] == [t.settings for t in ranked[: len(above)]]
    assert search.best.settings == {"x": 13.0}
    assert search.best.rung == 2
    assert budget.spent == 27 * 1 + 9 * 4 + 3 * 16
    assert search.notes == []


@pytest.mark.parametrize("fits", [1, 2, 5, 13, 20, 39])
def test_a_number_of_fits_is_never_exceeded_and_reaches_the_last_rung(fits):
    score = Made()
    search, budget = searched(score, fits=fits)
    assert len(score.calls) == budget.done <= fits
    if fits >= 3:
        assert search.rungs[-1]
    if fits < 39:
        assert any("candidates were not tried" in note for note in search.notes)


@pytest.mark.parametrize("seconds", [3.0, 10.0, 30.0, 60.0, 100.0])
def test_time_is_never_exceeded_and_shared_by_the_rungs(seconds):
    search, budget = searched(Made(), seconds=seconds)
    assert budget.spent <= seconds
    assert sum(t.seconds for t in search.rungs[0]) <= max(1.0, seconds / 3)
    # The first fit of a rung may go beyond its share.
    first_two = sum(t.seconds for t in search.rungs[0] + search.rungs[1])
    assert first_two <= max(2 * seconds / 3, search.rungs[0][0].seconds * len(search.rungs[0]) + 4.0)
    assert search.best.rung == (2 if seconds >= 30 else 1 if seconds >= 10 else 0)
    left = 27 - len(search.rungs[0])
    assert (f"{left} of 27 candidates were not tried" in search.notes) == (left > 0)


def test_the_first_fit_is_made_whatever_the_time():
    search, budget = searched(Made(), seconds=0.001)
    assert budget.done == 1
    assert search.best.settings == CANDIDATES[0]


def test_reserved_time_is_left_over():
    _, all_of_it = searched(Made(), seconds=120.0)
    _, less = searched(Made(), seconds=120.0, reserve=0.5)
    assert less.spent <= 60.0 < all_of_it.spent


def test_fits_are_left_over_where_they_are_kept():
    search, budget = searched(Made(), fits=20, kept_fits=3)
    assert budget.done <= 17
    assert search.rungs[2]


def test_a_slow_candidate_is_not_begun_where_its_time_is_not_left():
    # The winner takes ten times as long: 10 s, 40 s, then 160 s, which 100 s do not hold.
    search, budget = searched(Made(slow={13.0: 10.0}), seconds=100.0)
    assert budget.spent <= 100.0
    assert all(trial.settings != {"x": 13.0} for trial in search.rungs[2])
    assert any(note.startswith("rung") and "qualified" in note for note in search.notes)


def test_a_resumed_search_equals_an_uninterrupted_one(tmp_path):
    whole, _ = searched(Made(), seconds=80.0)
    path = tmp_path / "trials.jsonl"
    first = Made(stop_at=11)
    part, _ = searched(first, path=path, seconds=80.0)
    assert part.interrupted
    assert len(part.trials) == 11
    second = Made()
    resumed, _ = searched(second, path=path, seconds=80.0)
    assert not resumed.interrupted
    assert resumed.trials == whole.trials
    assert resumed.best == whole.best
    assert len(second.calls) == len(whole.trials) - 11
    third = Made()
    again, _ = searched(third, path=path, seconds=80.0)
    assert third.calls == []
    assert again.trials == whole.trials


def test_an_interruption_keeps_what_is_known():
    search, budget = searched(Made(stop_at=30))
    assert search.interrupted
    assert budget.done == len(search.trials) == 30
    assert search.best.rung == 1
    with pytest.raises(KeyboardInterrupt):
        searched(Made(stop_at=0))


def test_failures_go_no_further_and_all_of_them_are_an_error():
    def fails(settings, rung):
        if settings["x"] < 20 or rung == 1:
            return Trial(settings, rung, 10, 100, {}, math.inf, 1.0, failure="no good")
        return Made()(settings, rung)

    search, _ = searched(fails)
    assert search.best.rung == 0
    assert search.best.settings == {"x": 20.0}
    assert len(search.rungs[1]) == 3
    assert search.rungs[2] == []
    search, _ = searched(lambda s, r: Trial(s, r, 10, 100, {}, math.inf, 1.0, failure="all wrong"))
    with pytest.raises(ParameterError, match="no settings that could be fitted; the first said: all wrong"):
        search.best  # noqa: B018


def climbed(score, *, seconds=math.inf, limit=1600, gain=0.05):
    bench = Bench(score, Budget(seconds, None), Journal(None, {}))
    search = halve(CANDIDATES, bench, COSTS)
    climb(search, bench, 3.0, limit=limit, gain=gain)
    return search, bench.budget


def test_inducing_environments_double_while_it_pays():
    search, _ = climbed(Made())
    assert [trial.n_inducing for trial in search.climbed] == [200, 400, 800, 1600]
    assert search.best.n_inducing == 1600
    search, _ = climbed(Made(), gain=0.2)
    assert [trial.n_inducing for trial in search.climbed] == [200]
    assert search.notes == ["more than 200 inducing environments were not tried: the gain is small"]
    search, budget = climbed(Made(), seconds=27 + 36 + 48 + 3 * 16 + 20)
    assert [trial.n_inducing for trial in search.climbed] == [200]
    assert budget.spent <= 27 + 36 + 48 + 3 * 16 + 20
    assert search.notes == ["more than 200 inducing environments were not tried: the budget ended"]


def test_more_inducing_environments_that_lose_are_not_taken():
    class Worse(Made):
        def __call__(self, settings, rung):
            trial = super().__call__(settings, rung)
            return trial if rung < 3 else Trial(**{**vars(trial), "loss": 5.0})

    search, _ = climbed(Worse())
    assert search.best.n_inducing == 100
    assert len(search.climbed) == 1


def test_an_interruption_while_climbing_keeps_the_climb():
    search, _ = climbed(Made(stop_at=41))
    assert search.interrupted
    assert [trial.n_inducing for trial in search.climbed] == [200, 400]
    assert search.best.n_inducing == 400


AXES = [[{"a": 3}, {"a": 1}, {"a": 0}, {"a": 2}], [{"b": 2, "c": 0}, {"b": 1, "c": 1}, {"b": 0, "c": 5}]]


def separable(settings, rung):
    """A loss whose best is a = 0, b = 0, reached one setting after the other."""
    loss = settings["a"] + 0.5 * settings["b"]
    return Trial(settings, rung, 10, 10, {"energy": 0.1}, loss, COSTS[min(rung, 2)])


def test_a_descent_finds_the_best_of_each_setting_and_keeps_the_default():
    descent = Descent(AXES)
    assert len(descent) == 12
    search = halve(descent, Bench(separable, Budget(), Journal(None, {})), COSTS)
    tried = [trial.settings for trial in search.rungs[0]]
    assert tried[0] == {"a": 3, "b": 2, "c": 0}
    assert search.best.settings == {"a": 0, "b": 0, "c": 5}
    # What is set together stays together, nothing is tried twice, and a sweep is less than all combinations.
    assert all(any(axis.items() <= s.items() for axis in AXES[1]) for s in tried)
    assert len({(s["a"], s["b"]) for s in tried}) == len(tried) < 12
    for trials in search.rungs:
        assert tried[0] in [trial.settings for trial in trials]


@pytest.mark.parametrize("fits", [3, 6, 9, 14, 30])
def test_a_descent_never_exceeds_its_fits(fits):
    budget = Budget(fits=fits)
    search = halve(Descent(AXES), Bench(separable, budget, Journal(None, {})), COSTS)
    assert budget.done <= fits
    assert search.rungs[2]


def test_a_climb_leaves_time_for_what_comes_after():
    def searched_with(after):
        budget = Budget(seconds=100.0)
        search = halve(CANDIDATES[:1], Bench(Made(), budget, Journal(None, {})), COSTS)
        climb(search, Bench(Made(), budget, Journal(None, {})), 2.5, limit=10_000, gain=0.0, after=after)
        return len(search.climbed)

    assert searched_with(0.0) == 1
    assert searched_with(3.0) == 0
