from __future__ import annotations

import numpy as np
import pytest

import kernelpot as kp
from kernelpot.demo import label, structures
from kernelpot.errors import NotFittedError, ParameterError, SpeciesError


@pytest.fixture(scope="module")
def pool():
    return structures(6, seed=3)


@pytest.fixture(scope="module")
def space(pool):
    soap = kp.SOAP(cutoff=4.0, n_max=4, l_max=2, sigma=0.6, channels=None)
    return kp.SparseGP(soap, kp.DotProduct(zeta=2), n_inducing=20, noise=kp.Noise(0.002, 0.1)).prepare(pool)


def test_masked_atoms_have_no_force_rows(space, pool):
    masks = [np.arange(len(atoms)) % 2 == 0 for atoms in pool]
    whole, part = space.information(pool, truncate=0.0), space.information(pool, truncate=0.0, masks=masks)
    for s, mask in enumerate(masks):
        assert part.counts[s].tolist() == [1, 3 * mask.sum(), 0]
    rows = space.linear_rows(pool).forces
    for s, mask in enumerate(masks):
        kept = rows[s][np.repeat(mask, 3)] / 0.1
        own = part.only("forces").block(s)
        np.testing.assert_allclose(own.T @ own, kept.T @ kept, atol=1e-8 * np.abs(kept).max() ** 2)
    np.testing.assert_array_equal(part.only("energy").rows, whole.only("energy").rows)
    # The same from an array of the structures; those without it have all forces.
    named = [atoms.copy() for atoms in pool]
    for atoms, mask in zip(named[:-1], masks, strict=False):
        atoms.arrays["free"] = mask
    again = space.information(named, truncate=0.0, masks="free")
    assert again.counts[:-1].tolist() == part.counts[:-1].tolist()
    assert again.counts[-1].tolist() == whole.counts[-1].tolist()


def test_a_fit_to_masked_rows_knows_what_the_mask_left(space, pool):
    masks = [np.zeros(len(atoms), dtype=bool) for atoms in pool]
    none = space.information(pool, truncate=0.0, masks=masks)
    energies = space.information(pool, truncate=0.0).only("energy")
    np.testing.assert_array_equal(none.rows, energies.rows)


def test_wrong_masks_are_refused(space, pool):
    with pytest.raises(ParameterError, match="one mask per structure, 6; got 1"):
        space.information(pool, masks=[np.ones(len(pool[0]), dtype=bool)])
    with pytest.raises(ParameterError, match="mask of structure 0 must hold"):
        space.information(pool, masks=[np.ones(len(atoms)) for atoms in pool])
    with pytest.raises(ParameterError, match="no structure has an array 'fixed'"):
        space.information(pool, masks="fixed")


def test_weights_of_an_element_are_those_its_atoms_use(space, pool):
    copper, gold = space.weights_of("Cu"), space.weights_of("Au")
    d = space.information(pool).d
    assert sorted([*copper, *gold]) == list(range(d))
    pure = [atoms for atoms in structures(40, seed=1) if set(atoms.get_chemical_symbols()) == {"Cu"}]
    if pure:
        assert not space.linear_rows(pure[:1]).energy[0, gold].any()
    choice = kp.design.select(space.information(pool), 2, criterion="Ds", target=copper)
    assert choice.criterion == "Ds"
    with pytest.raises(SpeciesError, match="no such element in the model: Ag"):
        space.weights_of("Ag")
    with pytest.raises(NotFittedError, match="prepare"):
        kp.SparseGP(kp.SOAP(), n_inducing=5).weights_of("Cu")


def test_labels_switch_after_the_blocks_are_built(space, pool):
    labelled = label(pool)
    info = space.information(labelled, truncate=0.0)
    only = kp.SparseGP(space.descriptor, space.kernel, n_inducing=20, noise=kp.Noise(0.002, None))
    only.features_ = space.features_
    np.testing.assert_allclose(info.only("energy").rows, only.information(labelled, truncate=0.0).rows)
