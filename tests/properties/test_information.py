"""Property models as information: exact posterior variances, gains, choices that beat random ones."""

from __future__ import annotations

import numpy as np
import pytest

import kernelpot as kp
from kernelpot.errors import DataError, ParameterError
from kernelpot.properties.property_rows import property_space
from tests import structures as make

KERNEL = kp.properties.VectorKernel("rbf", length=1.0)
ALPHA = 1e-2
RNG = np.random.default_rng(0)
POOL = RNG.normal(size=(60, 2))
CRYSTALS = [make.copper_gold(k) for k in range(24)]
SOAP = kp.SOAP(cutoff=3.5, n_max=3, l_max=2, channels=None)


def exact_variance(kernel, labelled, points, alpha=ALPHA):
    k = kernel.matrix(labelled) + alpha * np.eye(len(labelled))
    cross = kernel.matrix(points, labelled)
    return kernel.diagonal(points) - np.einsum("ij,ji->i", cross, np.linalg.solve(k, cross.T))


def posterior(info, chosen):
    rows = info.rows[chosen]
    return np.linalg.inv(np.eye(info.d) + rows.T @ rows)


def test_variances_are_those_of_the_exact_process():
    model = kp.KernelRidge(KERNEL, alpha=ALPHA)
    space = model.prepare(POOL)
    info = space.information(POOL)
    chosen = np.arange(0, 60, 7)
    phi = space.features(POOL)
    found = np.einsum("nd,de,ne->n", phi, posterior(info, chosen), phi)
    np.testing.assert_allclose(found, exact_variance(KERNEL, POOL[chosen], POOL), atol=1e-7)
    np.testing.assert_allclose(info.sigma, 0.1)
    np.testing.assert_array_equal(info.means, POOL)
    fitted = model.fit(POOL[chosen], POOL[chosen, 0])
    np.testing.assert_allclose((fitted.std(POOL) / fitted.amplitude()) ** 2, found + ALPHA, rtol=1e-5)


def test_an_assessment_does_not_speak_of_properties_as_of_energies():
    info = kp.KernelRidge(KERNEL, alpha=ALPHA).prepare(POOL).information(POOL)
    for part in (info, info.take(np.arange(10))):
        with pytest.raises(ParameterError, match="`info` must be of energies, forces or stresses"):
            kp.design.assess(part)


def test_a_bound_that_says_nothing_says_so():
    info = kp.KernelRidge(KERNEL, alpha=1e-12).prepare(POOL).information(POOL)
    choice = kp.design.select(info, 5, criterion="IV")
    certificate = kp.design.certify(info, choice, criterion="IV")
    assert certificate.efficiency < 0.05
    assert "says nothing of the choice" in str(certificate)
    assert "says nothing of the choice" in str(choice)
    plain = kp.KernelRidge(KERNEL, alpha=1.0).prepare(POOL).information(POOL)
    assert "says nothing" not in str(kp.design.select(plain, 5, criterion="IV"))


def test_the_curve_of_d_is_the_log_determinant_of_the_kernel_matrix():
    info = kp.KernelRidge(KERNEL, alpha=ALPHA).prepare(POOL).information(POOL)
    choice = kp.design.select(info, 8, criterion="D")
    for n in range(9):
        k = KERNEL.matrix(POOL[choice.indices[:n]]) if n else np.empty((0, 0))
        expected = np.linalg.slogdet(np.eye(n) + k / ALPHA)[1]
        assert choice.curve[n] == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("combine", ["sum", "average"])
def test_choices_of_structures_leave_less_variance_than_random_ones(combine):
    kernel = kp.StructureKernel(SOAP, kp.Gaussian(0.2), combine=combine, normalise=True)
    model = kp.KernelRidge(kernel, alpha=1e-4)
    encoded = kernel.encode(CRYSTALS)
    info = model.prepare(encoded).information(encoded)
    np.testing.assert_array_equal(info.n_atoms, [len(atoms) for atoms in CRYSTALS])
    prepared = kernel.prepared(encoded)
    chosen = kp.design.select(info, 6, criterion="IV").indices
    mean = exact_variance(prepared, encoded[chosen], encoded, 1e-4).mean()
    drawn = [RNG.choice(24, 6, replace=False) for _ in range(50)]
    assert mean < min(exact_variance(prepared, encoded[some], encoded, 1e-4).mean() for some in drawn)


def test_what_is_labelled_counts_and_groups_go_along():
    kernel = kp.StructureKernel(SOAP, kp.DotProduct(2), normalise=True)
    labelled = [atoms.copy() for atoms in CRYSTALS[:4]]
    for atoms in labelled:
        atoms.info["config_type"] = "bulk"
    pool = CRYSTALS[4:]
    space = kp.KernelRidge(kernel, alpha=1e-3).prepare(CRYSTALS)
    existing = space.information(labelled)
    assert existing.groups == ("bulk",) * 4
    vectors, offsets = existing.environments()
    assert vectors.shape[0] == offsets[-1] == 16
    for method in ("greedy", "fps", "kmeans", "random"):
        choice = kp.design.select(space.information(pool), 5, method=method, existing=existing)
        assert len(choice.indices) == 5
    # A repeat of something labelled is not chosen.
    again = kp.design.select(space.information([*pool, labelled[0]]), 5, existing=existing)
    assert len(pool) not in again.indices


def test_inducing_items_see_less_than_all():
    model = kp.KernelRidge(KERNEL, alpha=ALPHA)
    all_of_it, some = model.prepare(POOL), model.prepare(POOL, n_inducing=15)
    assert some.information(POOL).d <= 15
    seen = (some.features(POOL) ** 2).sum(1)
    assert (seen <= (all_of_it.features(POOL) ** 2).sum(1) + 1e-9).all()
    assert (seen < (all_of_it.features(POOL) ** 2).sum(1) - 1e-6).any()


def test_blocks_of_rows_give_the_same(monkeypatch):
    space = kp.KernelRidge(KERNEL, alpha=ALPHA).prepare(POOL)
    expected = space.features(POOL)
    monkeypatch.setattr("kernelpot.properties.property_rows.ENTRIES", 200)
    np.testing.assert_allclose(space.features(POOL), expected, atol=1e-8)


def test_the_features_of_the_pool_itself_need_no_kernel(monkeypatch):
    kernel = kp.StructureKernel(SOAP, kp.Gaussian(0.2))
    encoded = kernel.encode(CRYSTALS)
    space = kp.KernelRidge(kernel, alpha=1e-4).prepare(encoded)
    expected = space.features(encoded[:])
    monkeypatch.setattr(kp.StructureKernel, "matrix", None)
    np.testing.assert_allclose(space.features(encoded), expected, atol=1e-6)


def test_any_kernel_of_the_protocol_serves():
    class Plain:
        def matrix(self, a, b=None):
            return KERNEL.matrix(a, b)

    space = property_space(Plain(), POOL, noise=0.1)
    np.testing.assert_allclose(space.information(POOL).rows, space.features(POOL) / 0.1)


def test_bad_input_is_named():
    with pytest.raises(ParameterError, match="`alpha`"):
        kp.KernelRidge(KERNEL, alpha=-1.0).prepare(POOL)
    with pytest.raises(ParameterError, match="`n_inducing`"):
        kp.KernelRidge(KERNEL).prepare(POOL, n_inducing=0)
    with pytest.raises(ParameterError, match="precomputed kernel knows nothing"):
        kp.KernelRidge("precomputed").prepare(KERNEL.matrix(POOL))
    with pytest.raises(DataError, match=r"must be ase\.Atoms"):
        kp.KernelRidge(kp.StructureKernel(SOAP)).prepare(POOL)
    with pytest.raises(DataError, match="`X` must hold real numbers"):
        kp.KernelRidge(KERNEL).prepare(CRYSTALS)
