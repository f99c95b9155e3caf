"""Arguments of a wrong type are refused by their name, not by whatever they trip over."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import pytest

import kernelpot as kp
from kernelpot.design import Information, assess, branch_and_bound, certify, select
from kernelpot.design.bounds.branch import Optimum
from kernelpot.design.criteria import Compound, D
from kernelpot.errors import DataError, ParameterError, SpeciesError
from tests import structures as make
from tests.design.pools import pool
from tests.potentials import small_soap

RAGGED = [[1, 2], [3]]
HUGE = 99999999999999999999

SHARED = [
    *({"seed": value} for value in ("a", None, 1.5, True, -1, HUGE)),
    *({"costs": value, "budget": 9.0} for value in (["x"] * 8, np.full(8, 1j), RAGGED, "x", {"a": 1.0})),
    *({"budget": value} for value in ("x", 1j, True, [1.0], HUGE**20)),
    *({"quotas": value} for value in ("g0", ["g0"], 1)),
    *({"quotas": {"g0": value}} for value in (HUGE, (0, HUGE), (1, 2, 3), "x", None, True, [RAGGED, 1])),
    *({"quotas": {"g0": 1}, "quota_groups": value} for value in (1, "g0", np.array(1))),
    *(
        {name: value}
        for name in ("forced", "forbidden")
        for value in (RAGGED, np.arange(8) < 1, [1.0], ["a"], 1, {1}, [HUGE], [np.nan])
    ),
    *({"target": value} for value in ("x", RAGGED, {"a": 1}, 1, [None] * 6)),
    *({"target": pool().take([]), "criterion": name} for name in ("balanced", "IV", "V", "G")),
    *({"target": pool(heights=(0,)), "criterion": name} for name in ("balanced", "IV", "V", "G")),
    *({"target": RAGGED, "criterion": name} for name in ("c", "L", "Ds", "V", "G")),
    {"target": np.ones(6) > 0, "criterion": "Ds"},
    *({"criterion": {"D": value, "IV": 1.0}} for value in ("x", None, -1.0, np.nan, [1.0])),
    *({"criterion": value} for value in (1, None, ["IV"], {1: 1.0}, {})),
    *({"existing": value} for value in (1, "x", [1])),
]
"""What `select` and `branch_and_bound` both take."""


@pytest.mark.parametrize("settings", SHARED, ids=repr)
@pytest.mark.parametrize("call", [select, branch_and_bound])
def test_requests_for_a_design(call, settings):
    with pytest.raises(ParameterError, match=r"`|criteri"):
        call(pool(), 2, **settings)


@pytest.mark.parametrize(
    "settings",
    [one for one in SHARED if not {"seed"} & set(one) and one not in ({"criterion": None},)],
    ids=repr,
)
def test_requests_for_a_certificate(settings):
    with pytest.raises(ParameterError):
        certify(pool(), [0, 1], **settings)


@pytest.mark.parametrize(
    "call",
    [
        lambda info: select(None, 1),
        lambda info: branch_and_bound(None, 1),
        lambda info: certify(None, [0]),
        lambda info: assess(None),
        lambda info: select(info, "x"),
        lambda info: select(info, True),
        lambda info: select(info, HUGE),
        lambda info: select(info, 2, method=["greedy"]),
        lambda info: select(info, 2, method="exchange", start_from=RAGGED),
        lambda info: select(info, 2, method="exchange", start_from=[0.0, 1.0]),
        lambda info: select(info, 2, method="exchange", start_from=np.arange(8) < 2),
        *(
            lambda info, value=value: certify(info, value)
            for value in ("x", None, 1, [np.nan], [0.5], np.arange(8) < 2, RAGGED, {0, 1})
        ),
        *(lambda info, value=value: certify(info, [0], steps=value) for value in ("x", None, 1.5, True)),
        *(lambda info, value=value: certify(info, [0], tolerance=value) for value in ("x", None, np.nan, 1j)),
        *(lambda info, value=value: branch_and_bound(info, 2, seconds=value) for value in ("x", None, np.nan)),
        *(lambda info, value=value: branch_and_bound(info, 2, nodes=value) for value in ("x", None, 1.5, np.inf)),
        lambda info: branch_and_bound(info, 2, tolerance="x"),
        *(
            lambda info, name=name, value=value: assess(info, pool=pool(seed=1), **{name: value})
            for name in ("next", "swaps", "redundant", "tolerances", "seed")
            for value in ("x", None, 1j, [[1], [2, 3]])
        ),
        lambda info: assess(info, next=1.5),
        lambda info: assess(info, pool=pool(seed=1), costs=["x"] * 8),
        lambda info: assess(info, target="x"),
    ],
)
def test_other_requests(call):
    with pytest.raises(ParameterError, match=r"`|method"):
        call(pool())


def _rows(*blocks, **settings):
    return Information.from_blocks(blocks, **{"n_atoms": [1] * len(blocks), **settings})


GOOD = (np.ones((2, 3)), [0, 1], [1.0, 1.0])


@pytest.mark.parametrize(
    "call",
    [
        *(lambda info, value=value: Information.from_rows(value) for value in ("x", None, RAGGED, [[1j]], 1.0)),
        *(lambda info, value=value: Information.from_rows(np.eye(2), sigma=value) for value in ("x", None, HUGE**20)),
        *(lambda info, value=value: Information.from_rows(np.eye(2), prior=value) for value in ("x", None, [1.0])),
        lambda info: Information.from_blocks(1, n_atoms=[1]),
        lambda info: _rows(1),
        lambda info: _rows((np.ones((2, 3)), [0, 1])),
        lambda info: _rows((np.ones((2, 3)), [0], [1.0, 1.0])),
        lambda info: _rows((np.ones((2, 3)), [0, 1], [1.0])),
        lambda info: _rows((np.ones((2, 3)), [0.5, 1], [1.0, 1.0])),
        lambda info: _rows((np.ones((2, 3)), "energy", [1.0, 1.0])),
        lambda info: _rows((np.ones(3), [0, 1, 1], [1.0] * 3)),
        lambda info: _rows((RAGGED, [0, 1], [1.0, 1.0])),
        lambda info: _rows(GOOD, (np.ones((1, 4)), [0], [1.0])),
        lambda info: _rows(GOOD, n_atoms="x"),
        lambda info: _rows(GOOD, n_atoms=[1.5]),
        lambda info: _rows(GOOD, groups=1),
        lambda info: _rows(GOOD, groups="g"),
        lambda info: _rows(GOOD, means="x"),
        lambda info: _rows(GOOD, truncate="x"),
        lambda info: _rows(GOOD, description=1),
        lambda info: replace(info, rows="x"),
        lambda info: replace(info, groups=None),
        *(
            lambda info, value=value: info.take(value)
            for value in ([True, False], np.arange(8) < 2, [0.0, 1.0], ["a"], "a", None, 1.5, True, RAGGED, {0})
        ),
        lambda info: info.append(1),
        *(lambda info, value=value: info.target(value) for value in (1, "energy", ["energy"], {"energy": "x"})),
        lambda info: info.target({"energy": None}),
        lambda info: info.block("x"),
        lambda info: info.block(True),
        *(lambda info, value=value: info.truncated(value) for value in ("x", None, 1j, np.nan)),
    ],
)
def test_information(call):
    with pytest.raises(ParameterError, match=r"`|block"):
        call(pool())


def test_what_resembles_a_wrong_type_but_is_none():
    info = pool()
    assert len(info.take([])) == len(info.take(np.empty(0))) == 0
    assert len(info.take(3)) == len(info.take(np.array([-1]))) == 1
    assert info.block(np.int64(-1)).shape[1] == info.d
    assert len(_rows((np.ones((2, 3)), np.array([0.0, 1.0]), [1, 1]))) == 1
    assert isinstance(branch_and_bound(info, 1, seconds=np.inf), Optimum)
    assert len(select(info, np.array(2), seed=np.uint32(1), forced=range(1), budget=np.float64(1e9))) == 2
    assert len(select(info, 2, target=info.take([0]), quota_groups=np.array(["a"] * 8), quotas={"a": (0, 2)})) == 2


def test_weights_of_a_compound_may_be_large():
    kappa = Compound([D(), D()], [1e308, 1e308], 6).kappa
    assert kappa.tolist() == [0.5, 0.5]


@pytest.mark.parametrize("scale", [1e13, 1e200])
def test_rows_beyond_what_round_off_bears_are_refused(scale):
    rows = np.ones((2, 3))
    rows[1] *= scale
    with pytest.raises(DataError, match=r"structure 1 has rows of up to .* the noise is too small"):
        Information.from_rows(rows)
    with pytest.raises(DataError, match="structure 0 has rows of up to"):
        _rows((rows, [0, 1], [1.0, 1.0]), truncate=0.1)
    assert len(Information.from_rows(rows / scale)) == 2


@cache
def crystals():
    return [make.copper_gold(500 + k) for k in range(8)]


@cache
def space():
    return kp.SparseGP(small_soap(), n_inducing=12).prepare(crystals())


@pytest.mark.parametrize(
    "settings",
    [
        {"noise": 0.1},
        {"noise": "x"},
        *({"amplitude": value} for value in ("x", [1.0], True, 1j)),
        *({"truncate": value} for value in ("x", 2, None)),
        *({"masks": value} for value in (1, [1] * 8, [RAGGED] * 8)),
    ],
    ids=repr,
)
def test_information_of_structures(settings):
    with pytest.raises(ParameterError, match=r"`|mask"):
        space().information(crystals(), **settings)


@pytest.mark.parametrize("element", [29, None, ["Cu"], "Xx"])
def test_weights_of_an_element(element):
    with pytest.raises(SpeciesError, match="such as 'Cu'"):
        space().weights_of(element)


@pytest.mark.parametrize(
    "settings",
    [
        *({"n": value} for value in ("x", 5, [4.5], [np.nan], np.nan, [True], RAGGED)),
        *({"path": value} for value in (None, ["a"], [0.5, 1.5, 2.5, 3.5], np.arange(4) < 2)),
    ],
    ids=repr,
)
def test_forecasts(settings):
    pilot = [atoms.copy() for atoms in crystals()[:4]]
    for k, atoms in enumerate(pilot):
        atoms.info["energy"] = -3.0 * len(atoms) + 0.01 * k
        atoms.arrays["forces"] = np.zeros((len(atoms), 3))
    with pytest.raises(ParameterError, match=r"`n`|`path`"):
        kp.forecast(space(), pilot, pool=crystals()[4:], **{"n": [5, 6], **settings})
