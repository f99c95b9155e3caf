"""Small potentials for tests: one descriptor, fitted to a handful of structures."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import kernelpot as kp
from kernelpot.elements import ElementChannels
from tests import structures as make

NOISE = kp.Noise(energy=0.002, forces=0.05, stress=0.005)


def small_soap(cutoff: float = 3.6) -> kp.SOAP:
    """One size of n_max for all tests, as compiled loops are made for each."""
    return kp.SOAP(cutoff=cutoff, n_max=4, l_max=2, sigma=0.6, channels=None)


def model(n_inducing: int = 20, zeta: int = 2, noise: kp.Noise | str = NOISE, **settings: object) -> kp.SparseGP:
    """Return a model that was not fitted."""
    return kp.SparseGP(small_soap(), kp.DotProduct(zeta), n_inducing=n_inducing, noise=noise, **settings)


@cache
def copper() -> kp.SparseGP:
    """One species."""
    return model(12).fit(make.labelled([make.copper(k) for k in range(6)]))


@cache
def copper_gold(zeta: int = 2, n_inducing: int = 20) -> kp.SparseGP:
    """Two species, by EMT; with a surface, so that what lies beyond crystals is known a little."""
    return model(n_inducing, zeta).fit([*make.copper_gold_set(8), *make.labelled([make.slab(1)])])


@cache
def silicon() -> kp.SparseGP:
    """One species in diamond."""
    return model(24).fit(make.silicon_set(6))


@cache
def molecules() -> kp.SparseGP:
    """Carbon, hydrogen and oxygen, without cells."""
    return model(30).fit(make.labelled([make.ethanol(k) for k in range(6)]))


@cache
def four_metals() -> kp.SparseGP:
    """Four species."""
    return model(24).fit(make.labelled([make.four_metals(k) for k in range(8)]))


def mixed_soap() -> kp.SOAP:
    """Two channels for any number of elements, near neighbours first, combinations of six radial functions."""
    return replace(small_soap(), n_max=6, channels=ElementChannels.modes(2), scaling=(2.5, 3.0)).compressed(4)


def symmetry_functions(cutoff: float = 3.6, **settings: object) -> kp.ACSF:
    """A few functions of each kind."""
    return kp.ACSF(cutoff, [[0.5, 0.0], [2.0, 2.5]], [[0.02, 1, 1], [0.1, 4, -1]], [[0.1, 2, 1]], **settings)


@cache
def symmetric_metals() -> kp.SparseGP:
    """Four species in two channels of symmetry functions, scaled, under a Gaussian kernel."""
    train = make.labelled([make.four_metals(k) for k in range(8)])
    acsf = symmetry_functions(channels=ElementChannels.modes(2)).scaled(train)
    return kp.SparseGP(acsf, kp.Gaussian(1.5), n_inducing=24, noise=NOISE).fit(train)


@cache
def symmetric_alloy() -> kp.SparseGP:
    """Two species of symmetry functions as they are, under a dot product."""
    spec = kp.SparseGP(symmetry_functions(), kp.DotProduct(2), n_inducing=20, noise=NOISE)
    return spec.fit([*make.copper_gold_set(8), *make.labelled([make.slab(1)])])


@cache
def mixed_metals() -> kp.SparseGP:
    """Four species in two channels."""
    spec = kp.SparseGP(mixed_soap(), kp.DotProduct(2), n_inducing=24, noise=NOISE)
    return spec.fit(make.labelled([make.four_metals(k) for k in range(8)]))
