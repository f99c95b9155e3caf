"""Choices over chunks against the same choices in memory."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kernelpot import progress
from kernelpot.design import IV, Information, duplicates, select
from kernelpot.errors import ParameterError, StoreError
from tests.design.pools import matrix, pool, task

pytest.importorskip("zarr", reason="zarr is not installed (kernelpot[scale])")

from kernelpot.pools import request, rounds, select_chunks, target_root
from kernelpot.pools.stochastic import Samples, Walk, sampled_greedy
from tests.design.test_chunks import store_of

CRITERIA = ("D", "A", "IV", "balanced")


def gain(info, indices):
    return np.linalg.slogdet(matrix(info, indices))[1]


def cramped(store, fits, processes=1):
    """GiB of memory that leave room for a number of average blocks in a part."""
    fixed = 1e3 * 2**30 - request.room(store, 1e3, 0)
    return (fixed + fits * request.weights(store).mean()) / 2**30


@pytest.mark.parametrize("criterion", CRITERIA)
def test_one_part_is_plain_greedy(tmp_path, criterion):
    info = pool(40, 8, seed=3)
    store = store_of(tmp_path / "s", info, chunk=9)
    found = select_chunks(store, 12, criterion=criterion, seed=5)
    plain = select(info, 12, criterion=criterion, seed=5)
    assert found.indices.tolist() == plain.indices.tolist()
    assert np.allclose(found.curve, plain.curve, rtol=1e-9)
    assert found.groups == plain.groups
    assert found.n_parts == 1
    assert found.n_chunks == 5


@pytest.mark.parametrize("mix", ["structures", "chunks"])
def test_many_parts_lose_little_and_never_more_than_guaranteed(tmp_path, mix):
    info = pool(160, 10, seed=1, heights=(2, 3, 4))
    store = store_of(tmp_path / "s", info, chunk=10)
    found = select_chunks(store, 10, criterion="D", mix=mix, memory=cramped(store, 45), seed=2)
    assert found.n_parts >= 3
    plain = select(info, 10, criterion="D")
    ours, best = gain(info, found.indices), gain(info, plain.indices)
    assert ours == pytest.approx(found.curve[-1], rel=1e-9)
    assert ours >= 0.98 * best
    assert "of the best possible" in found.guarantee
    assert len(set(found.indices.tolist())) == 10


@settings(max_examples=4)
@given(st.integers(0, 10**6))
def test_the_better_of_both_rounds_is_returned(tmp_path_factory, seed):
    info = pool(36, 4, seed=seed % 1000, heights=(1, 2, 3))
    store = store_of(tmp_path_factory.mktemp("s") / "s", info, chunk=6)
    found = select_chunks(store, 4, criterion="D", memory=cramped(store, 14), seed=seed)
    best = gain(info, select(info, 4, criterion="D").indices)
    assert gain(info, found.indices) >= (1 - np.exp(-1)) / min(found.n_parts, 4) * best
    singles = []
    for folder in (store.folder / "rounds").rglob("round-0*"):
        results = parts_of(folder)
        singles += [one["curve"][4] for one in results if len(one["curve"]) > 4]
    assert found.n_parts == 1 or found.curve[-1] >= max(singles) - 1e-9


def parts_of(folder):
    from kernelpot.linalg.store import ChunkStore

    results = ChunkStore(folder)
    return [results.read(k) for k in results.numbers()]


def test_rounds_go_on_until_the_union_fits(tmp_path):
    info = pool(120, 5, seed=4, heights=(2, 3))
    store = store_of(tmp_path / "s", info, chunk=10)
    found = select_chunks(store, 3, criterion="D", memory=cramped(store, 8), seed=0)
    levels = {folder.name.split("-")[1] for folder in (store.folder / "rounds").rglob("round-*")}
    assert len(levels) >= 3
    assert gain(info, found.indices) >= 0.9 * gain(info, select(info, 3, criterion="D").indices)


@pytest.mark.parametrize("criterion", CRITERIA)
def test_stochastic_greedy_keeps_its_promise_and_does_not_depend_on_memory(tmp_path, criterion):
    info = pool(120, 8, seed=6, heights=(2, 3, 4))
    store = store_of(tmp_path / "s", info, chunk=13)
    large = select_chunks(store, 10, criterion=criterion, method="stochastic", seed=3)
    small = select_chunks(store, 10, criterion=criterion, method="stochastic", seed=3, memory=cramped(store, 75))
    assert small.n_parts > large.n_parts == 1
    assert small.indices.tolist() == large.indices.tolist()
    assert np.array_equal(small.curve, large.curve)
    assert len(set(large.indices.tolist())) == 10
    if criterion == "D":
        assert gain(info, large.indices) >= 0.9 * gain(info, select(info, 10, criterion="D").indices)


def test_a_sample_of_everything_is_greedy(tmp_path):
    info = pool(25, 6, seed=2)
    store = store_of(tmp_path / "s", info, chunk=4)
    found = select_chunks(store, 8, criterion="D", method="stochastic", epsilon=1e-9)
    plain = select(info, 8, criterion="D")
    assert np.allclose(found.curve, plain.curve, rtol=1e-9)


def test_samples_are_even_and_repeatable():
    assert Samples(1000, 10, 0.1, 0).size == pytest.approx(230.3 * 1000 / 991, abs=1)
    assert Samples(10, 10, 0.05, 0).size == 10
    assert np.array_equal(Samples(100, 5, 0.1, 1).draw(2), Samples(100, 5, 0.1, 1).draw(2))
    many = Samples(50, 10, 0.3, 0)
    counts = np.bincount(np.concatenate([many.draw(k) for k in range(2000)]), minlength=50)
    expected = 2000 * many.size / 50
    assert np.abs(counts - expected).max() < 6 * np.sqrt(expected)
    chosen = np.ones(50, dtype=bool)
    chosen[17] = False
    assert Samples(50, 40, 0.9, 0).live(chosen, 3).tolist() == [17]


def test_every_structure_is_chosen_where_all_are_asked_for(tmp_path):
    info = pool(14, 5, seed=1)
    store = store_of(tmp_path / "s", info, chunk=5)
    for method in ("distributed", "stochastic"):
        found = select_chunks(store, 14, criterion="D", method=method)
        assert sorted(found.indices.tolist()) == list(range(14))
        assert len(select_chunks(store, 0, criterion="D", method=method)) == 0


def test_parts_by_stochastic_greedy(tmp_path):
    info = pool(160, 8, seed=7, heights=(2, 3))
    store = store_of(tmp_path / "s", info, chunk=20)
    found = select_chunks(store, 8, criterion="D", epsilon=0.05, memory=cramped(store, 60))
    assert found.n_parts > 1
    assert gain(info, found.indices) >= 0.95 * gain(info, select(info, 8, criterion="D").indices)
    indices, path = sampled_greedy(task(info, IV(info.target()), n=5), 0.1)
    assert path.values[-1] == pytest.approx(np.trace(info.target() @ np.linalg.inv(matrix(info, indices))))


def interrupt(monkeypatch, module, name, after):
    """Let a function fail like an interruption when it was called so many times."""
    real, calls = getattr(module, name), []

    def stopped(*arguments):
        if len(calls) == after:
            raise KeyboardInterrupt
        calls.append(arguments)
        return real(*arguments)

    monkeypatch.setattr(module, name, stopped)
    return calls, real


@pytest.mark.parametrize(
    ("method", "module", "name"), [("distributed", rounds, "_search"), ("stochastic", Walk, "batch")]
)
def test_a_killed_choice_goes_on_to_the_same_answer(tmp_path, monkeypatch, capsys, method, module, name):
    info = pool(120, 8, seed=9, heights=(2, 3, 4))
    stores = [store_of(tmp_path / k, info, chunk=13, dtype="float32") for k in "ab"]
    settings = {"criterion": "D", "method": method, "memory": cramped(stores[0], 70), "epsilon": None, "seed": 4}
    whole = select_chunks(stores[0], 10, **settings)
    calls, real = interrupt(monkeypatch, module, name, 1)
    with pytest.raises(KeyboardInterrupt):
        select_chunks(stores[1], 10, **settings)
    assert len(calls) == 1
    calls.clear()
    monkeypatch.setattr(module, name, lambda *a: (calls.append(a), real(*a))[1])
    with progress.shown():
        resumed = select_chunks(stores[1], 10, **settings)
    assert "finished before" in capsys.readouterr().err
    assert resumed.indices.tolist() == whole.indices.tolist()
    assert np.array_equal(resumed.curve, whole.curve)
    assert len(calls) >= 1
    calls.clear()
    select_chunks(stores[1], 10, **settings)
    assert calls == []


def test_a_damaged_result_is_worked_out_again(tmp_path):
    info = pool(60, 6, seed=9, heights=(2, 3))
    store = store_of(tmp_path / "s", info, chunk=13)
    first = select_chunks(store, 5, criterion="D", memory=cramped(store, 25))
    for file in (store.folder / "rounds").rglob("zarr.json"):
        file.write_text("{")
    again = select_chunks(store, 5, criterion="D", memory=cramped(store, 25))
    assert again.indices.tolist() == first.indices.tolist()
    assert np.array_equal(again.curve, first.curve)


def test_the_target_is_that_of_the_pool_with_duplicates_once(tmp_path):
    info = pool(31, 6, seed=3, scale=100.0)
    doubled = info.append(info.take([4, 9]))
    store = store_of(tmp_path / "s", doubled, chunk=3)
    heads = doubled.take(np.unique(duplicates(doubled), return_index=True)[1])
    L = target_root(store)
    assert np.allclose(L @ L.T, heads.target(), rtol=1e-10, atol=1e-12 * np.abs(heads.target()).max())
    L = target_root(store, weights={"energy": 3.0, "forces": 0.5})
    wanted = heads.target({"energy": 3.0, "forces": 0.5})
    assert np.allclose(L @ L.T, wanted, rtol=1e-10, atol=1e-12 * np.abs(wanted).max())
    with pytest.raises(ParameterError, match="virial"):
        target_root(store, weights={"virial": 1.0})


def test_an_interrupted_target_goes_on(tmp_path, monkeypatch):
    info = pool(31, 6, seed=3)
    stores = [store_of(tmp_path / k, info, chunk=3) for k in "ab"]
    whole = target_root(stores[0])
    calls, real = interrupt(monkeypatch, rounds, "_reduce", 4)
    with pytest.raises(KeyboardInterrupt):
        target_root(stores[1])
    calls.clear()
    monkeypatch.setattr(rounds, "_reduce", lambda item: (calls.append(item), real(item))[1])
    assert np.array_equal(target_root(stores[1]), whole)
    assert len(calls) == 11 - 4


def test_other_targets_and_criteria_pass_through(tmp_path):
    info, other = pool(30, 6, seed=3), pool(9, 6, seed=8)
    store = store_of(tmp_path / "s", info, chunk=7)
    for target in (other, other.target()):
        found = select_chunks(store, 6, criterion="IV", target=target)
        assert found.indices.tolist() == select(info, 6, criterion="IV", target=target).indices.tolist()
    V = other.target()
    assert select_chunks(store, 6, criterion=IV(V, name="mine")).criterion == "mine"
    with pytest.raises(ParameterError, match="unknown criterion"):
        select_chunks(store, 6, criterion="nonsense")


def test_existing_structures_are_taken_into_account(tmp_path):
    info = pool(40, 7, seed=5, F=30)
    existing = info.take([3, 8]).append(pool(2, 7, seed=77, F=30))
    store = store_of(tmp_path / "s", info, chunk=11)
    found = select_chunks(store, 9, criterion="D", existing=existing)
    plain = select(info, 9, criterion="D", existing=existing)
    assert found.curve[0] == pytest.approx(plain.curve[0])
    assert np.allclose(found.curve, plain.curve)
    assert not set(found.indices.tolist()) & {3, 8}
    assert found.n_distinct == 38
    with pytest.raises(ParameterError, match="5 weights and the store 7"):
        select_chunks(store, 3, existing=pool(2, 5))


@pytest.mark.parametrize("mix", ["structures", "chunks"])
@pytest.mark.parametrize("fits", [3, 20, 70, 1000])
def test_parts_fit_and_hold_every_candidate_once(tmp_path, mix, fits):
    store = store_of(tmp_path / "s", pool(90, 6, heights=(1, 5, 20)), chunk=8)
    room = max(fits * request.weights(store).mean(), request.weights(store).max())
    which = np.arange(0, 90, 1)[1:]
    divided, how = request.divide(store, which, room, mix=mix, seed=1, level=0)
    assert sorted(np.concatenate(divided).tolist()) == which.tolist()
    assert all(request.weights(store)[members].sum() <= room for members in divided)
    assert all((np.diff(members) > 0).all() for members in divided)
    assert (len(divided) == 1) == (request.weights(store)[which].sum() <= room)
    if len(divided) > 1:
        assert how == mix
        other = request.divide(store, which, room, mix=mix, seed=2, level=0)[0]
        assert [m.tolist() for m in other] != [m.tolist() for m in divided]
    if mix == "chunks" and fits == 20:
        owners = [set(store.catalogue.chunk[members].tolist()) for members in divided]
        assert sum(map(len, owners)) == len(set().union(*owners))


def test_memory_that_is_too_small_says_what_is_needed(tmp_path):
    store = store_of(tmp_path / "s", pool(40, 6, heights=(3,)), chunk=8)
    with pytest.raises(ParameterError, match=r"`memory` must be at least 0\.\d\d GiB for 1 process"):
        select_chunks(store, 3, memory=0.01)
    with pytest.raises(ParameterError, match=r"for 8 process"):
        request.room(store, 1.0, 8)
    with pytest.raises(ParameterError, match="`memory` must be a finite number above 0"):
        select_chunks(store, 3, memory=-1.0)
    with pytest.raises(ParameterError, match="sample of one step"):
        select_chunks(store, 3, criterion="D", method="stochastic", memory=cramped(store, 10))
    with pytest.raises(ParameterError, match="fit together"):
        select_chunks(store, 30, criterion="D", memory=cramped(store, 25))
    with pytest.raises(ParameterError, match="`per_part` must be at least"):
        select_chunks(store, 30, criterion="D", memory=cramped(store, 25), per_part=2)


@pytest.mark.parametrize(
    ("request_", "words"),
    [
        ({"n": 41}, "`n` must be between 0 and"),
        ({"n": -1}, "`n` must be a whole number, at least 0"),
        ({"n": 2.5}, "`n` must be a whole number"),
        ({"method": "magic"}, "unknown method"),
        ({"epsilon": 1.0}, "`epsilon`"),
        ({"per_part": 0}, "`per_part`"),
        ({"mix": "shaken"}, "`mix`"),
        ({"seed": -1}, "`seed`"),
        ({"workers": 1.5}, "`workers`"),
    ],
)
def test_bad_requests_are_named(tmp_path, request_, words):
    store = store_of(tmp_path / "s", pool(40, 6), chunk=30)
    with pytest.raises(ParameterError, match=words):
        select_chunks(store, **({"n": 3} | request_))


def test_incomplete_stores_and_other_things_are_refused(tmp_path):
    store = store_of(tmp_path / "s", pool(20, 6), chunk=5)
    store.chunks.remove(2)
    with pytest.raises(StoreError, match="3 of 4 chunks"):
        select_chunks(store, 3)
    with pytest.raises(ParameterError, match="BlockStore"):
        select_chunks(pool(5, 3), 3)


def test_a_chunk_that_was_damaged_since_is_found(tmp_path):
    store = store_of(tmp_path / "s", pool(20, 6, heights=(3,)), chunk=5)
    file = next(p for p in (store.chunks.path(1) / "rows" / "c").rglob("*") if p.is_file())
    file.unlink()
    with pytest.raises(StoreError, match="chunk-000001: the chunk is damaged"):
        select_chunks(store, 3, criterion="D")


def test_the_plan_and_the_answer_are_said(tmp_path, capsys):
    store = store_of(tmp_path / "s", pool(20, 6), chunk=5)
    with progress.shown():
        found = select_chunks(store, 3, criterion="D")
    assert "20 blocks in 1 part(s)" in capsys.readouterr().err
    assert "4 chunks, 1 part; greedy over the whole pool: at least 1 - 1/e" in str(found)
    assert "heuristic" in str(select_chunks(store, 3, criterion="A", method="stochastic"))


@pytest.mark.slow
def test_dask_workers_choose_the_same(tmp_path):
    pytest.importorskip("distributed", reason="dask[distributed] is not installed (kernelpot[scale])")
    info: Information = pool(120, 8, seed=9, heights=(2, 3, 4))
    stores = [store_of(tmp_path / k, info, chunk=13) for k in "ab"]
    here = select_chunks(stores[0], 6, seed=1, mix="chunks", memory=3.0)
    there = select_chunks(stores[1], 6, seed=1, mix="chunks", memory=3.0, workers=2)
    assert here.indices.tolist() == there.indices.tolist()
    assert np.allclose(here.curve, there.curve, rtol=1e-9)


def test_guarantees_are_those_of_the_theorems(tmp_path):
    info = pool(120, 8, seed=9, heights=(2, 3))
    store = store_of(tmp_path / "s", info, chunk=13)
    memory = cramped(store, 70)
    e = np.exp(-1)
    full = select_chunks(store, 6, criterion="D", memory=memory)
    assert full.n_parts == 2
    assert f"{(1 - e) / 2:.3f} of the best possible, {(1 - e) / 2:.3f} in expectation" in full.guarantee
    few = select_chunks(store, 6, criterion="D", memory=memory, per_part=3)
    assert f"{(1 - np.exp(-0.5)) * (1 - np.exp(-2)) / 2:.3f} of the best possible" in few.guarantee
    assert "expectation" not in few.guarantee
    assert "expectation" not in select_chunks(store, 6, criterion="D", memory=memory, mix="chunks").guarantee
    sampled = select_chunks(store, 6, criterion="D", memory=memory, epsilon=0.1)
    assert f"{(1 - e - 0.1) / 2:.3f} of the best possible in expectation" in sampled.guarantee
