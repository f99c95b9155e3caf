"""The demonstration: its made-up pool, the job, the report."""

from __future__ import annotations

import re

import numpy as np
import pytest

import kernelpot as kp
from kernelpot.demo import DemoPlan, label, run, structures
from kernelpot.demo.pool import SHARES, heat
from kernelpot.demo.story import errors, write_report
from kernelpot.errors import ParameterError


@pytest.fixture(scope="module")
def pool():
    return structures(60, seed=3)


@pytest.fixture(scope="module")
def outcome():
    plan = DemoPlan(
        n_pool=40,
        n_test=20,
        n_chosen=12,
        n_random=2,
        n_inducing=200,
        md_steps=60,
        descriptor=kp.SOAP(cutoff=4.5, n_max=4, l_max=3, sigma=0.6),
    )
    return run(plan)


def test_same_seed_gives_the_same_pool(pool):
    again = structures(60, seed=3)
    for one, two in zip(pool, again, strict=True):
        assert str(one.symbols) == str(two.symbols)
        np.testing.assert_array_equal(one.positions, two.positions)
        np.testing.assert_array_equal(one.cell.array, two.cell.array)


def test_other_seeds_share_no_structure(pool):
    other = structures(60, seed=4)
    seen = {atoms.positions.tobytes() for atoms in pool}
    # Only structures that are not displaced could coincide, and every one is.
    assert not seen & {atoms.positions.tobytes() for atoms in other}


def test_pool_has_every_kind_and_small_cells(pool):
    kinds = [atoms.info["config_type"] for atoms in pool]
    assert set(kinds) == set(SHARES)
    assert all(4 <= len(atoms) <= 16 for atoms in pool)
    assert {*"CuAu"} <= {letter for atoms in pool for letter in str(atoms.symbols)}
    assert all(atoms.calc is None for atoms in pool)


@pytest.mark.parametrize("n", [6, 7, 25])
def test_pool_has_the_size_that_was_asked_for(n):
    assert len(structures(n, seed=1)) == n


def test_pool_needs_one_of_each_kind():
    with pytest.raises(ParameterError, match="`n` must be at least 6"):
        structures(5)


def test_labels_are_emt_and_leave_the_pool_alone(pool):
    labelled = label(pool[:2] + pool[-2:])
    assert all(atoms.calc is None for atoms in pool)
    for atoms in labelled:
        assert atoms.get_forces().sum(axis=0) == pytest.approx(0.0, abs=1e-10)
        assert 0.1 > atoms.get_potential_energy() / len(atoms) - 0.5 > -0.6


def test_heat_gives_the_temperature_and_no_net_momentum():
    atoms = structures(6, seed=0)[-1].repeat(3)
    heat(atoms, 700, np.random.default_rng(0))
    assert atoms.get_temperature() == pytest.approx(700, rel=0.1)
    np.testing.assert_allclose(atoms.get_momenta().sum(axis=0), 0.0, atol=1e-10)


def test_every_arm_labels_the_same_number(outcome):
    assert [len(set(arm.indices)) for arm in outcome.arms] == [12] * 5
    assert all(len(arm.curve) == 13 for arm in outcome.arms)
    assert len(outcome.random) == 2


def test_the_design_leaves_least_unknown(outcome):
    ends = [arm.curve[-1] for arm in outcome.arms]
    assert ends[0] == min(ends)


def test_potential_is_better_than_the_spread_of_the_labels(outcome):
    for kind, rows in (("energy", outcome.chosen.energy), ("forces", outcome.chosen.forces)):
        assert outcome.chosen.score(kind)["rmse"] < 0.7 * rows[0].std()
        assert np.all(rows[2] > 0)


def test_dynamics_keeps_its_energy(outcome):
    assert abs(outcome.dynamics.drift) < 1.0
    assert np.ptp(outcome.dynamics.total) < np.ptp(outcome.dynamics.potential)


def test_report_stands_alone(outcome, tmp_path):
    path = tmp_path / "report.html"
    write_report(outcome, path)
    text = path.read_text(encoding="utf-8")
    assert len(text) < 3_000_000
    assert text.count("<svg") == text.count('role="img" aria-label="') == 9
    assert not re.search(r'(?:src|href)="(?!#|data:)', text)
    assert "<script" not in text
    assert "nan" not in re.sub(r"base64,[A-Za-z0-9+/=\s]+", "", re.sub(r"<svg.*?</svg>", "", text, flags=re.DOTALL))
    for words in ("A map of the pool", "random, median", "meV/Å", "Energy along the run"):
        assert words in text


def test_errors_list_every_arm(outcome):
    names = [name for name, _ in errors(outcome)]
    assert names[0] == "kernelpot"
    assert "k-means on mean SOAP" in names
    assert names[-3:] == ["random, mean", "random, median", "random, worst"]
