"""Rivals through `select`, and each against what its paper promises."""

from __future__ import annotations

import importlib.util
import pickle
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import kernelpot as kp
from kernelpot.cli import options, parse
from kernelpot.design import Information, select
from kernelpot.design.problem import SEARCHES
from kernelpot.design.rivals import RIVALS
from kernelpot.design.rivals.averages import allocate
from kernelpot.design.rivals.environments import bandwidth, log_densities
from kernelpot.errors import DataError, ParameterError
from tests import potentials
from tests import structures as make
from tests.datasets import dataset

ON_ENVIRONMENTS = ("maxvol-environments", "entropy", "quests")
HERE = [name for name in RIVALS if name != "quests" or importlib.util.find_spec("quests")]


class Made:
    """Environments of a made-up pool."""

    def __init__(self, vectors, offsets):
        self.vectors, self.offsets, self.calls = vectors, offsets, 0

    def __call__(self):
        self.calls += 1
        return self.vectors, self.offsets


def pool(n=40, F=12, *, seed=0, groups=None, scale=1.0):
    """Structures of 1 to 5 unit environments each, with their means."""
    rng = np.random.default_rng(seed)
    sizes = rng.integers(1, 6, size=n)
    offsets = np.concatenate([[0], np.cumsum(sizes)])
    centre = np.repeat(rng.standard_normal((n, F)), sizes, axis=0)
    vectors = np.ones(F) + 0.5 * centre + 0.2 * rng.standard_normal((offsets[-1], F))
    vectors *= scale / np.linalg.norm(vectors, axis=1, keepdims=True)
    means = np.add.reduceat(vectors, offsets[:-1], axis=0) / sizes[:, None]
    return Information.from_blocks(
        ((rng.standard_normal((3, 6)), np.array([0, 1, 1]), np.ones(3)) for _ in range(n)),
        n_atoms=sizes,
        means=means,
        groups=groups,
        environments=Made(vectors, offsets),
    )


# all of them


def test_the_command_line_offers_all_rivals():
    assert set(options.SEARCHES) == set(SEARCHES)
    assert list(options.RIVALS) == list(RIVALS)
    for name in RIVALS:
        assert parse(["select", "x", "-n", "1", "--method", name]).method == name


@pytest.mark.parametrize("name", HERE)
def test_every_rival_chooses_n_distinct_structures_the_same_under_one_seed(name):
    info = pool()
    for n in (1, 7, 25, 40):
        one, two = (select(info, n, method=name, seed=3).indices for _ in range(2))
        np.testing.assert_array_equal(one, two)
        assert len(set(one.tolist())) == n
    assert len(select(info, 0, method=name)) == 0
    if name in ("random", "stratified", "kdpp"):
        assert len({tuple(select(info, 7, method=name, seed=s).indices) for s in range(5)}) == 5


@pytest.mark.parametrize("name", HERE)
def test_every_rival_avoids_what_exists(name):
    info = pool()
    existing = info.take([3, 8, 30, 31])
    choice = select(info, 36, method=name, existing=existing)
    assert set(choice.indices) == set(range(40)) - {3, 8, 30, 31}


@pytest.mark.parametrize("name", HERE)
def test_every_rival_keeps_to_a_budget(name):
    info = pool()
    costs = np.linspace(1.0, 3.0, 40)
    choice = select(info, None, method=name, costs=costs, budget=12.0)
    assert 11.0 < costs[choice.indices].sum() <= 12.0


@pytest.mark.parametrize("name", HERE)
def test_every_rival_counts_duplicates_once(name):
    info = pool(12)
    double = info.append(info)
    assert len({s % 12 for s in select(double, 12, method=name).indices}) == 12


@pytest.mark.parametrize("method", [*SEARCHES, *HERE])
def test_every_method_takes_what_is_distinct_before_it_repeats(method):
    base = pool(5, seed=3)
    order = np.random.default_rng(0).permutation(40)
    info = base
    for _ in range(7):
        info = info.append(base)
    info, kind = info.take(order), order % 5
    for n in (4, 6, 8, 12):
        choice = select(info, n, method=method)
        assert len(set(kind[choice.indices])) == min(n, 5)
        assert choice.n_repeated == max(n - 5, 0)
        beside = select(info, n, method=method, existing=info.take([0]))
        assert len({*kind[beside.indices], kind[0]}) == min(n + 1, 5)
    twice = np.flatnonzero(kind == 4)[:2].tolist()
    forced = select(info, 5, method=method, forced=twice)
    assert sorted(kind[forced.indices[2:]]) == sorted(set(kind[forced.indices]) - {4})
    assert len(forced) == 5


@pytest.mark.parametrize("name", HERE)
@pytest.mark.parametrize("F", [1, 3, 60])
def test_every_rival_takes_fewer_and_more_directions_than_candidates(name, F):
    info = pool(15, F)
    assert len(set(select(info, 9, method=name).indices)) == 9
    assert len(set(select(info, 9, method=name, existing=pool(5, F, seed=1)).indices)) == 9


@pytest.mark.parametrize("name", HERE)
def test_every_rival_chooses_among_equal_structures(name):
    info = replace(
        pool(6), n_atoms=np.arange(1, 7), means=np.ones((6, 4)), environments=Made(np.ones((6, 4)), np.arange(7))
    )
    assert len(set(select(info, 4, method=name).indices)) == 4
    silent = replace(info, means=np.zeros((6, 4)), environments=Made(np.zeros((6, 4)), np.arange(7)))
    assert len(set(select(silent, 4, method=name).indices)) == 4


@pytest.mark.parametrize("name", HERE)
def test_every_rival_says_what_it_misses(name):
    bare = replace(pool(), means=np.empty((40, 0)), environments=None)
    if name == "random":
        assert len(select(bare, 3, method=name)) == 3
        return
    what = "compares environments" if name in ON_ENVIRONMENTS else "compares mean descriptors"
    with pytest.raises(ParameterError, match=f"method '{name}' {what}"):
        select(bare, 3, method=name)


def test_environments_of_what_exists_are_asked_for_too():
    info = pool()
    with pytest.raises(ParameterError, match="what exists is None"):
        select(info, 3, method="entropy", existing=replace(pool(3, seed=1), environments=None))


def test_bad_environments_are_named():
    info = pool()
    vectors = info.environments.vectors.copy()
    vectors[info.environments.offsets[7]] = np.nan
    with pytest.raises(DataError, match="structure 7 has an environment vector"):
        select(replace(info, environments=Made(vectors, info.environments.offsets)), 3, method="entropy")
    with pytest.raises(ParameterError, match="every structure at least one row"):
        select(replace(info, environments=Made(vectors, np.zeros(41, int))), 3, method="entropy")


def test_rivals_on_means_never_make_environments():
    info = pool()
    for name in set(HERE) - set(ON_ENVIRONMENTS):
        select(info, 5, method=name)
    assert info.environments.calls == 0


def test_a_missing_package_is_named(monkeypatch):
    def refuse(name):
        raise ImportError(f"No module named {name!r}")

    monkeypatch.setattr("importlib.import_module", refuse)
    with pytest.raises(ParameterError, match="needs the package `quests`"):
        select(pool(), 3, method="quests")


# environments of an Information


def test_environments_follow_take_append_only_and_truncation():
    info = pool(9)
    vectors, offsets = info.environments()

    def check(made, chosen):
        found, places = made.environments()
        for t, s in enumerate(chosen):
            np.testing.assert_array_equal(found[places[t] : places[t + 1]], vectors[offsets[s] : offsets[s + 1]])
        assert places[-1] == len(found)

    check(info.take([4, -1, 4]), [4, 8, 4])
    check(info.take([5, 2]).append(info.take([7])), [5, 2, 7])
    check(info.append(info).take([9, 3]), [0, 3])
    check(info.only("energy").truncated(0.1), range(9))
    assert info.append(replace(info, environments=None)).environments is None
    check(replace(info, environments=pickle.loads(pickle.dumps(info.take([1]).environments))), [1])


def test_a_prepared_model_describes_environments_when_asked():
    structures = [make.copper_gold(0), make.isolated("Au"), make.copper_gold(1)]
    space = kp.SparseGP(potentials.small_soap(), n_inducing=10, noise=kp.Noise(energy=0.002, forces=0.1))
    info = space.prepare(structures).information(structures)
    vectors, offsets = info.environments()
    assert vectors.dtype == np.float32
    np.testing.assert_array_equal(np.diff(offsets), [len(atoms) for atoms in structures])
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1.0, rtol=1e-6)
    means = np.add.reduceat(vectors, offsets[:-1], axis=0) / np.diff(offsets)[:, None]
    np.testing.assert_allclose(means, info.means, atol=1e-7)


# stratified


@given(st.lists(st.integers(1, 30), min_size=1, max_size=8), st.data())
def test_shares_are_proportional_with_one_each_where_n_allows(sizes, data):
    sizes = np.array(sizes)
    n = data.draw(st.integers(1, int(sizes.sum())))
    shares = allocate(sizes, n)
    assert shares.sum() == n
    assert (shares <= sizes).all()
    exact = n * sizes / sizes.sum()
    if n >= len(sizes):
        assert (shares >= 1).all()
    if (exact >= 1).all():
        assert np.abs(shares - exact).max() < 1.0


def test_shares_by_largest_remainders():
    np.testing.assert_array_equal(allocate(np.array([47, 16, 15, 12, 6, 3]), 10), [5, 1, 1, 1, 1, 1])
    np.testing.assert_array_equal(allocate(np.array([2, 5, 3]), 1), [0, 1, 0])


def test_stratified_draws_every_group_early_and_all_seeds_differ():
    info = pool(60, groups=["bulk"] * 40 + ["slab"] * 15 + ["vacancy"] * 5)
    choice = select(info, 12, method="stratified")
    names, counts = np.unique(choice.groups, return_counts=True)
    assert dict(zip(names, counts, strict=True)) == {"bulk": 8, "slab": 3, "vacancy": 1}
    assert set(choice.groups[:7]) == {"bulk", "slab", "vacancy"}


def test_without_groups_strata_are_clusters():
    rng = np.random.default_rng(0)
    spots = np.repeat(np.eye(4), [20, 10, 6, 4], axis=0)
    info = replace(pool(), means=spots + 0.01 * rng.standard_normal((40, 4)))
    for seed in range(5):
        chosen = np.argmax(info.means[select(info, 8, method="stratified", seed=seed).indices], axis=1)
        np.testing.assert_array_equal(np.bincount(chosen), [4, 2, 1, 1])


# entropy


def test_log_densities_are_the_plain_sum_and_do_not_underflow():
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((50, 3)), rng.standard_normal((9, 3))
    plain = np.log(np.exp(-np.square(x[:, None] - y).sum(axis=2) / (2 * 0.7**2)).sum(axis=1))
    np.testing.assert_allclose(log_densities(x, y, 0.7), plain, rtol=1e-12)
    np.testing.assert_allclose(log_densities(np.array([[1e3]]), np.zeros((2, 1)), 1.0), [-5e5 + np.log(2)])


def test_entropy_is_greedy_in_the_mean_of_the_formula():
    info = pool(15)
    vectors, offsets = info.environments()
    parts = np.split(vectors, offsets[1:-1])
    h = bandwidth(vectors, 0)

    def kernel(x, y):
        return np.exp(-np.square(x[:, None] - y).sum(axis=2) / (2 * h * h))

    own = [-np.log(kernel(x, x).mean(axis=1)).mean() for x in parts]
    expected = [int(np.argmax(own))]
    while len(expected) < 6:
        reference = np.concatenate([parts[s] for s in expected])
        score = [-np.log(kernel(x, reference).sum(axis=1)).mean() for x in parts]
        expected.append(max(set(range(15)) - set(expected), key=lambda s: score[s]))
    np.testing.assert_array_equal(select(info, 6, method="entropy").indices, expected)
    known = pool(4, seed=9)
    reference = known.environments()[0]
    score = [-np.log(kernel(x, reference).sum(axis=1)).mean() for x in parts]
    assert select(info, 1, method="entropy", existing=known).indices == [np.argmax(score)]


def test_bandwidth_is_the_median_distance_to_the_nearest_other():
    x = np.array([[0.0], [0.0], [1.0], [3.0], [7.0]])
    assert bandwidth(x, 0) == 1.0  # of 1, 1, 1, 2, 4
    assert bandwidth(10.0 * x, 0) == 10.0
    assert bandwidth(np.ones((4, 2)), 0) == 1.0


def test_entropy_does_not_depend_on_the_scale_of_descriptors():
    np.testing.assert_array_equal(
        select(pool(), 9, method="entropy").indices, select(pool(scale=100.0), 9, method="entropy").indices
    )


# MaxVol on environments


def test_structures_that_hold_the_corners_come_first_however_few():
    corners = 10.0 * np.eye(4)
    rng = np.random.default_rng(0)
    inner = 0.1 * rng.standard_normal((60, 4)) + 1.0
    vectors = np.concatenate([inner[:20], corners[:3], inner[20:40], corners[3:], inner[40:]])
    offsets = np.array([0, 10, 25, 44, 64])
    info = replace(pool(4), environments=Made(vectors, offsets))
    assert set(select(info, 2, method="maxvol-environments").indices) == {1, 2}
    # One far environment outranks many that are nearer.
    vectors[5] = [30.0, 0.0, 0.0, 0.0]
    assert select(info, 1, method="maxvol-environments").indices == [0]


# real data


@pytest.mark.slow
def test_rivals_on_silicon():
    pool_ = kp.read(dataset("mlearn/Si_train.xyz.xz"))
    noise = kp.Noise(energy=0.002, forces=0.1)
    space = kp.SparseGP(kp.SOAP(cutoff=5.0, n_max=4, l_max=3, sigma=0.5), n_inducing=50, noise=noise).prepare(pool_)
    info = space.information(pool_)
    smallest = {}
    for name in HERE:
        chosen = select(info, 20, method=name).indices
        assert len(set(chosen.tolist())) == 20
        x = info.means[chosen]
        smallest[name] = (np.linalg.norm(x[:, None] - x, axis=2) + np.diag(np.full(20, np.inf))).min()
    assert smallest["maximin"] == max(smallest.values())
