"""Structure kernels: brute force over atoms, invariances, positive semidefiniteness, composites, bad input."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.base import clone

import kernelpot as kp
from kernelpot.data.batch import Batch
from kernelpot.errors import DataError, ParameterError, SpeciesError
from kernelpot.properties import DScribe, VectorKernel
from kernelpot.structures.encoded import Encoded
from tests import structures as make

SOAP = kp.SOAP(cutoff=3.5, n_max=3, l_max=2)
MOLECULES = [
    make.ethanol(1),
    make.copper_gold(2),
    make.isolated("Cu"),
    make.slab(3),
    make.ethanol(4),
    make.isolated("O"),
]


def of_unit(k):
    return lambda x, z: k(x @ z / np.linalg.norm(x) / np.linalg.norm(z))


KERNELS = {
    "linear": (kp.DotProduct(1), of_unit(lambda s: s)),
    "quadratic": (kp.DotProduct(2), of_unit(lambda s: s**2)),
    "amplitude": (kp.DotProduct(3, amplitude=2.0), of_unit(lambda s: 4 * s**3)),
    "gaussian": (kp.Gaussian(0.5, 1.5), of_unit(lambda s: 2.25 * np.exp((s - 1) / 0.25))),
    "euclidean": (
        VectorKernel("rbf", length=0.7),
        lambda x, z: np.exp(-((x - z) ** 2).sum() / (2 * 0.49)),
    ),
    "laplacian": (VectorKernel("laplacian", length=2.0), lambda x, z: np.exp(-np.abs(x - z).sum() / 2.0)),
    "plain linear": (VectorKernel("linear", length=2.0), lambda x, z: x @ z / 4.0),
}


def brute_force(structures, k, *, same=True, mean=False):
    species = tuple(sorted({z for atoms in structures for z in atoms.numbers.tolist()}))
    batch = Batch.from_structures(structures, SOAP.cutoff)
    x = SOAP.with_species(species).values(batch)
    result = np.zeros((len(batch), len(batch)))
    for i in range(batch.n_atoms):
        for j in range(batch.n_atoms):
            if not same or batch.numbers[i] == batch.numbers[j]:
                result[batch.structure[i], batch.structure[j]] += k(x[i], x[j])
    return result / np.outer(batch.sizes, batch.sizes) if mean else result


@pytest.mark.parametrize("name", KERNELS)
@pytest.mark.parametrize("between", ["same element", "all elements"])
def test_sums_are_those_of_all_pairs_of_atoms(name, between):
    kernel, k = KERNELS[name]
    found = kp.StructureKernel(SOAP, kernel, between=between).matrix(MOLECULES)
    expected = brute_force(MOLECULES, k, same=between == "same element")
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", ["quadratic", "euclidean"])
def test_averages_are_divided_by_numbers_of_atoms(name):
    kernel, k = KERNELS[name]
    found = kp.StructureKernel(SOAP, kernel, combine="average").matrix(MOLECULES)
    np.testing.assert_allclose(found, brute_force(MOLECULES, k, mean=True), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("combine", ["sum", "average", "rematch"])
def test_normalised_kernels_have_a_diagonal_of_one(combine):
    plain = kp.StructureKernel(SOAP, kp.DotProduct(2, amplitude=3.0), combine=combine)
    kernel = clone(plain).set_params(normalise=True)
    raw, found = plain.matrix(MOLECULES), kernel.matrix(MOLECULES)
    own = np.sqrt(np.diag(raw))
    np.testing.assert_allclose(found, raw / np.outer(own, own), rtol=1e-10, atol=1e-14)
    np.testing.assert_array_equal(np.diag(found), 1.0)
    np.testing.assert_array_equal(kernel.diagonal(MOLECULES), 1.0)
    np.testing.assert_allclose(kernel.matrix(MOLECULES, MOLECULES), found, atol=1e-7 if combine == "rematch" else 1e-12)


@pytest.mark.parametrize("combine", ["sum", "average", "rematch"])
@pytest.mark.parametrize("normalise", [False, True])
def test_halves_blocks_and_diagonals_agree(combine, normalise, monkeypatch):
    kernel = kp.StructureKernel(SOAP, kp.Gaussian(0.4), combine=combine, normalise=normalise)
    encoded = kernel.encode(MOLECULES)
    whole = kernel.matrix(encoded)
    np.testing.assert_array_equal(whole, whole.T)
    # Sinkhorn's iteration stops at 1e-8, from the one side or the other.
    close = {"rtol": 1e-7 if combine == "rematch" else 1e-11, "atol": 1e-12}
    np.testing.assert_allclose(kernel.diagonal(encoded), np.diag(whole), **close)
    np.testing.assert_allclose(kernel.matrix(encoded[:2], encoded[1:]), whole[:2, 1:], **close)
    monkeypatch.setattr("kernelpot.structures.encoded.ATOMS", 1)
    monkeypatch.setattr("kernelpot.structures.encoded.over_tiles.__defaults__", (1,))
    monkeypatch.setattr("kernelpot.structures.rematch.ATOMS", 1)
    np.testing.assert_allclose(kernel.matrix(encoded), whole, **close)


def test_more_threads_give_the_same(monkeypatch):
    kernel = kp.StructureKernel(SOAP, kp.Gaussian(0.4))
    encoded = kernel.encode(MOLECULES)
    expected = kernel.matrix(encoded)
    monkeypatch.setattr("kernelpot.run.count", lambda: 2)
    np.testing.assert_allclose(kernel.matrix(encoded), expected, rtol=1e-13)


@pytest.mark.parametrize("combine", ["sum", "average", "rematch"])
def test_turning_moving_and_renumbering_change_nothing(combine):
    kernel = kp.StructureKernel(SOAP, kp.DotProduct(2), combine=combine)
    changed = []
    for k, atoms in enumerate(MOLECULES):
        new = make.turned(atoms, make.rotation(k))
        new.positions += (1.0, -2.0, 0.5)
        changed.append(new[np.random.default_rng(k).permutation(len(new))])
    np.testing.assert_allclose(kernel.matrix(changed), kernel.matrix(MOLECULES), rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("combine", ["average", "rematch"])
def test_supercells_are_the_same_crystal(combine):
    kernel = kp.StructureKernel(SOAP, kp.DotProduct(2), combine=combine)
    crystals = [make.copper_gold(0), make.copper_gold(1)]
    larger = [atoms.repeat((2, 1, 1)) for atoms in crystals]
    np.testing.assert_allclose(kernel.matrix(larger), kernel.matrix(crystals), rtol=1e-6)


def random_encoded(seed, n=7, f=5):
    rng = np.random.default_rng(seed)
    sizes = rng.integers(1, 6, n)
    offsets = np.concatenate([[0], np.cumsum(sizes)])
    numbers = rng.choice([1, 6, 8], offsets[-1])
    descriptor = kp.SOAP(species=(1, 6, 8))
    return Encoded(descriptor, rng.normal(size=(offsets[-1], f)), numbers, offsets, ("",) * n)


@given(
    st.integers(0, 10**6),
    st.sampled_from(sorted(KERNELS)),
    st.sampled_from(["sum", "average"]),
    st.booleans(),
    st.sampled_from(["same element", "all elements"]),
)
def test_sums_and_averages_are_positive_semidefinite(seed, name, combine, normalise, between):
    encoded = random_encoded(seed)
    kernel = kp.StructureKernel(
        encoded.descriptor, KERNELS[name][0], combine=combine, normalise=normalise, between=between
    )
    matrix = kernel.matrix(encoded)
    eigenvalues = np.linalg.eigvalsh(matrix)
    assert eigenvalues[0] > -1e-12 * max(eigenvalues[-1], 1.0)
    composite = (0.5 * kernel + kernel * kernel).matrix(encoded)
    eigenvalues = np.linalg.eigvalsh(composite)
    assert eigenvalues[0] > -1e-12 * max(eigenvalues[-1], 1.0)


def test_distances():
    kernel = kp.StructureKernel(SOAP, kp.DotProduct(2), normalise=True)
    matrix = kernel.matrix(MOLECULES)
    found = kernel.distance(MOLECULES)
    np.testing.assert_allclose(found, np.sqrt(np.maximum(2.0 - 2.0 * matrix, 0.0)), atol=1e-7)
    np.testing.assert_array_equal(np.diag(found), 0.0)
    np.testing.assert_allclose(kernel.distance(MOLECULES[:2], MOLECULES), found[:2], atol=1e-7)
    raw = kp.StructureKernel(SOAP, kp.DotProduct(1))
    x = raw.encode(MOLECULES)
    unit = x.vectors / np.linalg.norm(x.vectors, axis=1)[:, None]
    sums = np.concatenate(
        [[unit[(x.structure == s) & (x.numbers == z)].sum(0) for s in range(6)] for z in x.descriptor.species], 1
    )
    expected = np.linalg.norm(sums[:, None] - sums, axis=2)
    np.testing.assert_allclose(raw.distance(x), expected, atol=1e-6)


def test_structures_are_described_once():
    kernel = kp.StructureKernel(SOAP)
    encoded = kernel.encode(MOLECULES)
    assert len(encoded) == 6
    assert kernel.encode(encoded) is encoded
    np.testing.assert_array_equal(kernel.matrix(encoded), kernel.matrix(MOLECULES))
    part = encoded[[4, 0]]
    np.testing.assert_array_equal(part.numbers, np.concatenate([MOLECULES[4].numbers, MOLECULES[0].numbers]))
    np.testing.assert_array_equal(part.vectors, np.concatenate([encoded[4].vectors, encoded[0].vectors]))
    np.testing.assert_array_equal(
        encoded[np.array([False, True, False, False, False, False])].vectors, encoded[1].vectors
    )
    np.testing.assert_array_equal(encoded.counts((6, 8)), [[2, 1], [0, 0], [0, 0], [0, 0], [2, 1], [0, 1]])


def test_without_species_those_of_both_sets_are_taken():
    kernel = kp.StructureKernel(SOAP)
    whole = kernel.matrix(MOLECULES)
    np.testing.assert_allclose(kernel.matrix(MOLECULES[:1], MOLECULES[1:]), whole[:1, 1:], rtol=1e-10)
    prepared = kernel.prepared(MOLECULES[:1])
    assert prepared.descriptor.species == (1, 6, 8)
    with pytest.raises(SpeciesError, match="never seen"):
        prepared.matrix(MOLECULES)


def test_an_atom_without_neighbours_counts_where_its_vector_is_zero():
    dscribe = pytest.importorskip("dscribe.descriptors")
    acsf = DScribe(dscribe.ACSF(r_cut=3.0, species=[8, 29], g2_params=[[1.0, 1.0]]))
    alone = [make.isolated("Cu"), make.isolated("O")]
    np.testing.assert_array_equal(kp.StructureKernel(acsf, normalise=True).matrix(alone), 0.0)
    gaussian = kp.StructureKernel(acsf, VectorKernel("rbf", length=1.0)).matrix(alone)
    np.testing.assert_array_equal(np.diag(gaussian), 1.0)


def test_sums_products_and_multiples():
    one = kp.StructureKernel(SOAP, kp.DotProduct(2))
    two = kp.StructureKernel(kp.SOAP(cutoff=2.5, n_max=2, l_max=1), kp.Gaussian(0.5), combine="average")
    a, b = one.matrix(MOLECULES), two.matrix(MOLECULES)
    both = 0.5 * one + two * (one * 2.0)
    np.testing.assert_allclose(both.matrix(MOLECULES), 0.5 * a + b * 2.0 * a, rtol=1e-12)
    np.testing.assert_allclose(both.diagonal(MOLECULES), np.diag(0.5 * a + b * 2.0 * a), rtol=1e-12)
    encoded = both.encode(MOLECULES)
    np.testing.assert_allclose(both.matrix(encoded[:2], encoded[3:]), both.matrix(MOLECULES)[:2, 3:], rtol=1e-11)
    shared = (one + one).encode(MOLECULES)
    assert shared.first is shared.second
    part = shared[1:]
    assert part.first is part.second


def test_parameters_reach_into_kernels_and_descriptors():
    kernel = kp.StructureKernel(SOAP, kp.Gaussian(0.5))
    assert kernel.get_params()["kernel__length"] == 0.5
    kernel.set_params(kernel__length=0.2, descriptor__cutoff=4.0, combine="average")
    assert (kernel.kernel, kernel.descriptor.cutoff, kernel.combine) == (kp.Gaussian(0.2), 4.0, "average")
    kernel.set_params(kernel=kp.DotProduct(2), kernel__zeta=4)
    assert kernel.kernel == kp.DotProduct(4)
    both = kernel + clone(kernel)
    both.set_params(first__kernel__zeta=1)
    assert (both.first.kernel.zeta, both.second.kernel.zeta) == (1, 4)
    with pytest.raises(ParameterError, match="there is no parameter kernel__width"):
        kernel.set_params(kernel__width=1.0)
    with pytest.raises(ParameterError, match="`zeta`"):
        kernel.set_params(kernel__zeta=0.5)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"combine": "mean"}, "`combine` must be one of"),
        ({"combine": np.ones(2)}, "`combine` must be one of"),
        ({"kernel": kp.DotProduct}, "`kernel` must be a kernel of environments"),
        ({"between": "none"}, "`between` must be one of"),
        ({"normalise": 1}, "`normalise` must be True or False"),
        ({"gamma": 0.0}, "`gamma`"),
        ({"gamma": True}, "`gamma`"),
        ({"kernel": "rbf"}, "`kernel` must be a kernel of environments"),
        ({"kernel": VectorKernel("linear"), "combine": "rematch"}, r"needs k\(x, x\) = 1"),
        ({"kernel": VectorKernel("cubic")}, "`kind` must be one of"),
        ({"descriptor": kp.SOAP}, "`descriptor` must describe environments"),
        ({"descriptor": 3}, "`descriptor` must describe environments"),
    ],
)
def test_bad_parameters_are_named(settings, message):
    with pytest.raises(ParameterError, match=message):
        kp.StructureKernel(SOAP).set_params(**settings).matrix(MOLECULES)


def test_bad_structures_are_named():
    kernel = kp.StructureKernel(SOAP)
    with pytest.raises(DataError, match="put it into a list"):
        kernel.matrix(MOLECULES[0])
    with pytest.raises(ParameterError, match="at least one structure"):
        kernel.matrix([])
    with pytest.raises(DataError, match=r"item 1 is a str"):
        kernel.matrix([MOLECULES[0], "Cu"])
    with pytest.raises(DataError, match=r"must be ase\.Atoms"):
        kernel.matrix(np.zeros((3, 2)))
    with pytest.raises(DataError, match=r"must be ase\.Atoms"):
        kernel.matrix(None)
    broken = make.ethanol(0)
    broken.positions[0] = np.nan
    with pytest.raises(DataError, match=r"structure 1 .* must be finite"):
        kernel.matrix([MOLECULES[0], broken])
    other = kp.StructureKernel(kp.SOAP(cutoff=3.0, n_max=3, l_max=2)).encode(MOLECULES)
    with pytest.raises(DataError, match="encoded with another descriptor"):
        kernel.matrix(other)
    with pytest.raises(ParameterError, match="added to another kernel"):
        kernel + 1.0
    with pytest.raises(ParameterError, match="`factor`"):
        -1.0 * kernel
