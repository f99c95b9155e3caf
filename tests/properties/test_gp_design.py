"""Gaussian processes as spaces to choose in, and their files by way of `kernelpot.load`."""

from __future__ import annotations

import numpy as np
import pytest

import kernelpot as kp
from kernelpot.errors import ModelFileError, ParameterError
from tests import structures as make

KERNEL = kp.StructureKernel(kp.SOAP(cutoff=3.5, n_max=3, l_max=2), kp.Gaussian(0.7))
MOLECULES = [make.ethanol(seed) for seed in range(12)]


def rows(n, seed=0):
    x = np.random.default_rng(seed).normal(size=(n, 3))
    return x, np.sin(x[:, 0]) + 0.1 * x[:, 1]


def after(info, chosen):
    """Posterior variance of every item, in units of the prior, after labels of some."""
    phi = info.rows * info.sigma[:, None]
    precision = np.eye(info.d) + info.rows[chosen].T @ info.rows[chosen]
    return np.einsum("id,id->i", phi @ np.linalg.inv(precision), phi)


def test_variances_of_features_are_those_of_the_process():
    x, y = rows(25)
    model = kp.GP("rbf", search={"n_warm": 50}).fit(x, y)
    new, _ = rows(8, seed=1)
    info = model.prepare(np.concatenate([x, new])).information(np.concatenate([x, new]))
    expected = (model.latent_std(new) / model._targets.scale[0]) ** 2
    np.testing.assert_allclose(after(info, np.arange(25))[25:], expected, rtol=1e-5, atol=1e-9)


def test_variances_of_structures_are_those_of_the_process():
    y = np.array([len(a) + a.positions.std() for a in MOLECULES])
    model = kp.GP(KERNEL, noise=0.05, mean="zero", normalise=False).fit(MOLECULES[:8], y[:8])
    info = model.prepare(MOLECULES).information(MOLECULES)
    expected = model.latent_std(MOLECULES[8:]) ** 2
    np.testing.assert_allclose(after(info, np.arange(8))[8:], expected, rtol=1e-5, atol=1e-9)
    assert (info.n_atoms == 9).all()


def test_a_first_choice_needs_no_label():
    x, _ = rows(40)
    info = kp.GP("matern52").prepare(x).information(x)
    chosen = kp.design.select(info, 8, criterion="IV")
    drawn = [after(info, np.random.default_rng(s).permutation(40)[:8]).mean() for s in range(5)]
    assert after(info, np.array(chosen.indices)).mean() < min(drawn)
    assert len(kp.design.select(kp.GP(KERNEL).prepare(MOLECULES).information(MOLECULES), 3)) == 3


def test_a_kernel_that_cannot_be_added_is_named():
    class Foreign:
        def matrix(self, a, b=None):
            return np.eye(len(a))

        def diagonal(self, a):
            return np.ones(len(a))

        def settings(self):
            return {"name": "Foreign"}

    with pytest.raises(ParameterError, match="`prepare` needs features"):
        kp.GP(Foreign()).prepare(MOLECULES)


@pytest.mark.parametrize("inducing", [None, 6])
def test_load_gives_back_a_process_of_structures(tmp_path, inducing):
    y = np.array([a.positions.std() for a in MOLECULES])
    model = kp.GP(KERNEL, n_inducing=inducing).fit(MOLECULES[:9], y[:9])
    model.save(tmp_path / "gp.kp")
    again = kp.load(tmp_path / "gp.kp")
    np.testing.assert_allclose(again.predict(MOLECULES[9:]), model.predict(MOLECULES[9:]), rtol=1e-9)
    np.testing.assert_allclose(again.std(MOLECULES[9:]), model.std(MOLECULES[9:]), rtol=1e-9)


def test_load_gives_back_a_process_of_features(tmp_path):
    x, y = rows(20)
    model = kp.GP("matern32+linear").fit(x, y)
    model.save(tmp_path / "gp.kp")
    again = kp.load(tmp_path / "gp.kp")
    np.testing.assert_allclose(again.predict(x), model.predict(x), rtol=1e-9)
    with pytest.raises(ModelFileError, match="leave `kernel` out"):
        kp.load(tmp_path / "gp.kp", kernel="rbf")
    kp.KernelRidge("rbf").fit(x, y).save(tmp_path / "ridge.kp")
    with pytest.raises(ParameterError, match="only a GP or a Classifier takes a `kernel`"):
        kp.load(tmp_path / "ridge.kp", kernel="rbf")


def test_structures_encoded_once_are_compared_like_new_ones():
    y = np.array([a.positions.std() for a in MOLECULES])
    model = kp.GP(KERNEL, mean="constant").fit(MOLECULES[:9], y[:9])
    np.testing.assert_allclose(model.predict(MOLECULES[:9]), model.predict([a.copy() for a in MOLECULES[:9]]))


def test_classifiers_choose_what_to_label():
    x, y = rows(40)
    for model in (kp.Classifier("rbf"), kp.Classifier("rbf").fit(x[:15], y[:15] > 0)):
        space = model.prepare(x)
        info = space.information(x)
        assert (info.sigma == 2.0).all()
        chosen = kp.design.select(info, 8, criterion="IV")
        drawn = [after(info, np.random.default_rng(s).permutation(40)[:8]).mean() for s in range(5)]
        assert after(info, np.array(chosen.indices)).mean() < min(drawn)
    prior = np.einsum("id,id->i", space.features(x), space.features(x))
    np.testing.assert_allclose(prior, space.kernel.diagonal(x), rtol=1e-6)
    assert len(kp.design.select(kp.Classifier(KERNEL).prepare(MOLECULES).information(MOLECULES), 3)) == 3
