from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernelpot.design import IV, A, Choice, Compound, D, Ds, E, G, L, Precision, V, c, certify, select
from kernelpot.design.criteria import MeanVariance
from kernelpot.design.search.engines import TriedGains, gains_for
from kernelpot.design.search.gains import Path
from kernelpot.errors import ParameterError
from tests.design.pools import matrix, pool

seeds = st.integers(0, 10_000)


def points(info, n=4):
    return np.random.default_rng(info.d).standard_normal((n, info.d))


def criteria(info):
    structure = info.structure
    P = points(info)
    return [
        D(),
        A(info.d),
        IV(info.target()),
        V(P),
        c(P[0]),
        L(P[:2]),
        Ds([1, 3], info.d),
        E(np.eye(info.d)),
        E(info.target_root()),
        G(info.rows, structure),
        Compound([D(), IV(info.target())], [0.3, 0.7], info.d),
        Compound([A(info.d), IV(info.target()), c(P[0])], [1, 1, 2], info.d),
        Compound([D(), E(np.eye(info.d)), Ds([0], info.d)], [1, 1, 1], info.d),
        MeanVariance([A(info.d), IV(info.target()), c(P[0])], [1, 3, 2], info.d),
    ]


def plain(criterion, Lambda):
    """Value by the textbook formula, from the information matrix."""
    C = np.linalg.inv(Lambda)
    if isinstance(criterion, D):
        return np.linalg.slogdet(Lambda)[1]
    if isinstance(criterion, Ds):
        return -np.linalg.slogdet(C[np.ix_(criterion._chosen, criterion._chosen)])[1]
    if isinstance(criterion, E):
        w = np.linalg.eigvalsh(criterion.root.T @ C @ criterion.root)
        return (np.maximum(w, 0) ** 16).sum() ** (1 / 16)
    if isinstance(criterion, G):
        v = np.bincount(criterion._structure, weights=np.einsum("ri,ij,rj->r", criterion._rows, C, criterion._rows))
        return (v**16).sum() ** (1 / 16)
    if isinstance(criterion, Compound | MeanVariance):
        total = 0.0
        for k, part in zip(criterion.kappa, criterion.parts, strict=True):
            value = plain(part, Lambda)
            size = {"D": len(C), "Ds": len(getattr(part, "_chosen", ""))}.get(part.name)
            total += k * (value / size if size else -np.log(value))
        return np.exp(-total) if isinstance(criterion, MeanVariance) else total
    return np.trace(criterion.root.T @ C @ criterion.root)


def worst(criterion, Lambda):
    """The value that is reported, by the textbook formula."""
    C = np.linalg.inv(Lambda)
    if isinstance(criterion, E):
        return np.linalg.eigvalsh(criterion.root.T @ C @ criterion.root)[-1]
    if isinstance(criterion, G):
        v = np.einsum("ri,ij,rj->r", criterion._rows, C, criterion._rows)
        return np.bincount(criterion._structure, weights=v).max()
    if isinstance(criterion, Compound | MeanVariance) and any(isinstance(part, E) for part in criterion.parts):
        d, e, s = criterion.parts
        return np.mean([plain(d, Lambda) / len(C), -np.log(worst(e, Lambda)), plain(s, Lambda)])
    return plain(criterion, Lambda)


@given(seeds, st.sampled_from([1.0, 30.0, 1e3]))
def test_gains_equal_differences_of_values(seed, scale):
    info = pool(seed=seed, scale=scale)
    for criterion in criteria(info):
        path = Path(criterion, Precision.prior(info.d))
        gains = gains_for(info, path)
        live = np.ones(len(info), dtype=bool)
        for k, s in enumerate([3, 0, 5]):
            before = criterion.value(path.precision)
            one = criterion.gainer(path.precision)
            # A compound takes the log of what a gain leaves of a variance, which may be a millionth of it.
            share = 1e-3 if isinstance(criterion, Compound | MeanVariance) else 1e-6
            noise = share * gains.values.max() + 1e-8 * scale
            for s_ in range(len(info)):
                rows = info.block(s_)
                difference = criterion.sign * (criterion.value(path.precision.with_rows(rows)) - before)
                assert one(rows) == pytest.approx(difference, rel=1e-5, abs=noise)
                if not isinstance(gains, TriedGains) or np.isfinite(gains.values[s_]):
                    assert gains.values[s_] == pytest.approx(difference, rel=1e-5, abs=noise)
            gains.add(s, live)
            now = matrix(info, [3, 0, 5][: k + 1])
            assert path.values[-1] == pytest.approx(worst(criterion, now), rel=1e-7)
            assert criterion.value(path.precision) == pytest.approx(plain(criterion, now), rel=1e-6, abs=1e-9)


@given(seeds)
def test_gradient_is_the_derivative_in_the_information(seed):
    info = pool(seed=seed, scale=2.0)
    precision = Precision.prior(info.d).with_rows(info.rows)
    Lambda = precision.factor.T @ precision.factor
    rng = np.random.default_rng(seed)
    step = rng.standard_normal((info.d, info.d))
    step = step + step.T
    for criterion in criteria(info):
        slopes = []
        for h in (1e-4, 1e-5, 1e-6):
            slopes.append((plain(criterion, Lambda + h * step) - plain(criterion, Lambda - h * step)) / (2 * h))
        ours = np.vdot(criterion.gradient(precision), step)
        scale = np.linalg.norm(criterion.gradient(precision)) * np.linalg.norm(step)
        assert np.abs(ours - slopes).min() <= 1e-5 * max(abs(ours), 1e-3 * scale) + 1e-8


@given(seeds)
def test_the_first_order_gain_is_an_upper_limit_of_the_gain(seed):
    info = pool(seed=seed, scale=5.0)
    precision = Precision.prior(info.d).with_rows(info.block(0))
    for criterion in criteria(info):
        one, slope = criterion.gainer(precision), criterion.sign * criterion.gradient(precision)
        assert np.linalg.eigvalsh(slope)[0] > -1e-9 * max(np.linalg.eigvalsh(slope)[-1], 1e-300)
        for s in range(len(info)):
            limit = np.trace(info.block(s) @ slope @ info.block(s).T)
            assert -1e-9 <= one(info.block(s)) <= limit * (1 + 1e-7) + 1e-9


@given(seeds)
def test_the_tangent_lies_above_the_utility_everywhere(seed):
    info, other = pool(seed=seed, scale=4.0), pool(seed=seed + 1, scale=0.5)
    here = Precision.prior(info.d).with_rows(info.take([0, 1]).rows)
    for criterion in criteria(info):
        tangent = criterion.tangent(here)
        assert np.vdot(here.factor @ tangent.slope, here.factor) == pytest.approx(1.0, rel=1e-8)
        for rows in (info.rows, info.block(3), other.rows, 30.0 * other.rows, np.zeros((0, info.d))):
            there = Precision.prior(info.d).with_rows(rows)
            N = there.factor.T @ there.factor
            limit = tangent.utility + np.log(np.vdot(tangent.slope, N))
            assert criterion.utility(worst(criterion, N), info.d) <= limit + 1e-8


def test_the_certificate_is_never_passed_by_any_set_of_the_same_size():
    for seed in range(6):
        info = pool(n=7, d=5, seed=seed, scale=3.0)
        for criterion in criteria(info):
            values = [worst(criterion, matrix(info, T)) for T in combinations(range(len(info)), 3)]
            best = max(values) if criterion.larger_is_better else min(values)
            for choice in (select(info, 3, criterion=criterion), [0, 1, 2]):
                found = certify(info, choice, criterion=criterion)
                indices = choice.indices if isinstance(choice, Choice) else choice
                true = criterion.efficiency(worst(criterion, matrix(info, indices)), best, info.d)
                assert found.efficiency <= true + 1e-8
                assert (found.bound >= best - 1e-7) if criterion.larger_is_better else (found.bound <= best + 1e-7)
                assert found.efficiency > 0.3 * true


def test_certificates_are_nearly_tight_where_weights_are_free():
    # With every row repeated many times, whole structures approximate fractions.
    rng = np.random.default_rng(0)
    from kernelpot.design import Information

    rows = np.repeat(rng.standard_normal((12, 3)), 40, axis=0)
    info = Information.from_rows(rows + 1e-3 * rng.standard_normal(rows.shape), prior=1e-3)
    for criterion in [D(), A(3), Ds([0], 3), E(np.eye(3)), G(info.rows, info.structure)]:
        choice = select(info, 60, criterion=criterion, method="exchange", restarts=0)
        assert certify(info, choice, criterion=criterion, steps=2000).efficiency > 0.97


@given(seeds)
def test_greedy_takes_the_best_at_every_step(seed):
    info = pool(n=7, seed=seed, scale=3.0)
    for criterion in criteria(info):
        chosen = []
        for s in select(info, 3, criterion=criterion).indices:
            scores = [criterion.sign * plain(criterion, matrix(info, [*chosen, k])) for k in range(7)]
            left = [k for k in range(7) if k not in chosen]
            now = criterion.sign * plain(criterion, matrix(info, chosen))
            best = max(scores[k] for k in left)
            assert scores[s] - now >= (best - now) * (1 - 1e-5) - 1e-9
            chosen.append(int(s))


def test_criteria_by_name_are_those_by_object():
    info = pool(scale=3.0)
    P = points(info)
    pairs = [
        ("V", P, V(P)),
        ("c", P[0], c(P[0])),
        ("L", P, L(P)),
        ("Ds", [1, 2], Ds([1, 2], info.d)),
        ("E", None, E(np.eye(info.d))),
        ({"D": 1, "IV": 3}, None, Compound([D(), IV(info.target())], [1, 3], info.d)),
    ]
    for name, target, same in pairs:
        ours, other = select(info, 4, criterion=name, target=target), select(info, 4, criterion=same)
        np.testing.assert_array_equal(ours.indices, other.indices)
        np.testing.assert_allclose(ours.curve, other.curve, rtol=1e-8)
        assert certify(info, ours, criterion=name, target=target).efficiency > 0.5
    # The target of G and V may be structures; of each, energies and forces count alike.
    assert select(info, 4, criterion="G", target=info.take([0, 1, 2, 3])).criterion == "G"
    assert select(info, 4, criterion="V", target=info).curve[-1] == pytest.approx(
        np.trace(
            np.linalg.inv(matrix(info, select(info, 4, criterion="V", target=info).indices)) @ info.rows.T @ info.rows
        )
        / len(info.rows)
    )


def test_all_weights_make_ds_equal_to_d():
    info = pool(scale=3.0)
    np.testing.assert_allclose(
        select(info, 5, criterion="Ds", target=list(range(info.d))).curve, select(info, 5, criterion="D").curve
    )


def test_efficiencies_of_a_compound_do_not_depend_on_units():
    info = pool(scale=3.0)
    V1 = info.target()
    one, other = (Compound([D(), IV(scale * V1)], [1, 1], info.d) for scale in (1.0, 1e6))
    np.testing.assert_array_equal(select(info, 4, criterion=one).indices, select(info, 4, criterion=other).indices)


def test_precision_is_exact_where_a_gram_matrix_would_not_be():
    rng = np.random.default_rng(0)
    rotation = np.linalg.qr(rng.standard_normal((30, 30)))[0]
    rows = rng.standard_normal((200, 30)) * np.logspace(6, -2, 30)
    true = Precision.prior(30).with_rows(rows)
    turned = Precision.prior(30).with_rows(rows @ rotation)
    assert turned.logdet == pytest.approx(true.logdet, rel=1e-10)
    # The least eigenvalue of the information is 1 + 0.02, that of its largest is 2e14.
    assert np.linalg.eigvalsh(turned.covariance)[-1] == pytest.approx(np.linalg.eigvalsh(true.covariance)[-1], rel=1e-6)
    assert E(np.eye(30)).shown(turned) == pytest.approx(E(np.eye(30)).shown(true), rel=1e-6)


def test_what_makes_no_criterion_is_refused():
    info = pool()
    with pytest.raises(ParameterError, match="symmetric"):
        IV(np.array([[1.0, 2.0], [0.0, 1.0]]))
    with pytest.raises(ParameterError, match="positive semidefinite"):
        IV(-np.eye(2))
    with pytest.raises(ParameterError, match="finite square"):
        IV(np.full((2, 2), np.nan))
    with pytest.raises(ParameterError, match="needs one H"):
        A(2).gains(np.ones((1, 1, 1)), ())
    with pytest.raises(ParameterError, match="rows of 2 weights"):
        Precision.prior(2).with_rows(np.ones((1, 3)))
    with pytest.raises(ParameterError, match="different weights in"):
        Ds([0, 7], 6)
    with pytest.raises(ParameterError, match="numbers of the weights"):
        Ds([], 6)
    with pytest.raises(ParameterError, match="positive weight"):
        Compound([D()], [0.0], 6)
    with pytest.raises(ParameterError, match="whole number from 1 to 64"):
        E(np.eye(3), power=0)
    with pytest.raises(ParameterError, match="unknown criterion 'X'"):
        select(info, 2, criterion="X")
    with pytest.raises(ParameterError, match="'c' needs a `target`"):
        select(info, 2, criterion="c")
    with pytest.raises(ParameterError, match="about 6 weights"):
        select(info, 2, criterion="c", target=np.ones(5))
    with pytest.raises(ParameterError, match="finite"):
        select(info, 2, criterion="V", target=np.full((3, 6), np.nan))
