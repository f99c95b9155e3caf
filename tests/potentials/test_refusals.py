"""Values that no parameter can take, and training sets in which pairs tell nothing."""

from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms

import kernelpot as kp
from kernelpot.errors import ParameterError
from tests import potentials, structures


@pytest.mark.parametrize("descriptor", [kp.SOAP, kp.TwoBody])
@pytest.mark.parametrize("species", ["x", "1", 14, True, (), (0,), (-1,), (14.5,), (1000,), (True,), (None,)])
def test_species_are_atomic_numbers(descriptor: type, species: object) -> None:
    with pytest.raises(ParameterError, match="`species`"):
        descriptor(species=species)


@pytest.mark.parametrize("amplitude", [1e-200, 1e150, 1e200, 10**30, float("nan")])
def test_amplitudes_that_would_overflow(amplitude: float) -> None:
    with pytest.raises(ParameterError, match="`amplitude`"):
        kp.TwoBody(amplitude=amplitude)


@pytest.mark.parametrize("descriptor", [kp.SOAP, kp.TwoBody])
def test_a_huge_whole_number_is_no_cutoff(descriptor: type) -> None:
    with pytest.raises(ParameterError, match="`cutoff`"):
        descriptor(cutoff=10**30)


@pytest.mark.parametrize("tolerance", [None, "x", [], 1j, (3.0,), 0.0, 1.0, float("nan")])
def test_tolerance_is_a_number(tolerance: object) -> None:
    with pytest.raises(ParameterError, match="`tolerance`"):
        kp.SparseGP(potentials.small_soap(), n_inducing=4, tolerance=tolerance)  # type: ignore[arg-type]


@pytest.mark.filterwarnings("error")
def test_pairs_alone_learn_from_isolated_atoms() -> None:
    atoms = structures.labelled([Atoms("Cu")] * 4, ("energy", "forces"))
    model = kp.SparseGP(kp.TwoBody(cutoff=4.0), n_inducing=4, noise=potentials.NOISE).fit(atoms)
    grades = model.predict([Atoms("Cu"), Atoms("Cu2", [[0, 0, 0], [2.5, 0, 0]])]).extrapolation
    assert grades is not None
    assert grades[0][0] == 0.0
    assert np.isfinite(grades[1]).all()
    assert grades[1].min() > 1.0


def test_a_summary_names_a_kind_that_only_condition_brought() -> None:
    first = structures.labelled([structures.copper(k) for k in range(3)], ("energy", "forces"))
    more = structures.labelled([structures.copper(k) for k in range(3, 5)])
    model = potentials.model(5).fit(first).condition(more)
    assert "stress              12 labels" in model.summary()
