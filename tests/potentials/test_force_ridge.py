"""Kernel ridge regression of energies and forces: the exact Gaussian process, its symmetries, its refusals."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest
from ase import Atoms
from ase.build import molecule
from ase.calculators.calculator import PropertyNotImplementedError
from ase.calculators.emt import EMT
from ase.io import read, write
from hypothesis import given, settings
from hypothesis import strategies as st

import kernelpot as kp
from kernelpot.cli import main
from kernelpot.data.batch import Batch
from kernelpot.errors import DataError, LabelError, ModelFileError, NotFittedError, ParameterError, SpeciesError
from kernelpot.features.feature_map import E0_ABOUT
from tests.structures import copper_gold_set, ethanol, isolated, labelled, rotation, shaken, turned

SMALL = kp.SOAP(cutoff=3.5, n_max=3, l_max=2, sigma=0.5, channels=None)
NOISE = kp.Noise(energy=1e-3, forces=1e-2)


def molecules(n=6, seed=0, kinds=("energy", "forces")):
    return labelled([ethanol(50 * seed + k) for k in range(n)], kinds, EMT())


def two_sizes():
    small = [shaken(molecule("H2O"), k, rattle=0.05) for k in range(3)]
    return labelled([ethanol(0), small[0], ethanol(1), small[1], small[2]], ("energy", "forces"), EMT())


def fitted(structures=None, kernel=None, **settings):
    model = kp.ForceRidge(SMALL, kernel or kp.Gaussian(0.5), **({"noise": NOISE} | settings))
    return model.fit(molecules() if structures is None else structures)


@pytest.fixture(scope="module")
def model():
    return fitted(keep_factor=True)


def brute_force(model, train, points):
    """Mean and std of energies of `points` by the exact GP: every covariance by finite differences of energies'."""
    (term,) = (form.map for form in model.fitted_.forms)
    columns = dict(zip(term.species, term.columns, strict=True))

    def described(atoms):
        batch = Batch.from_structures([atoms], term.descriptor.cutoff)
        return [(z, x @ columns[z]) for z, x in zip(batch.numbers, term.describe(batch).x, strict=True)]

    # A force is a difference of energies at two displaced copies.
    h = 1e-3
    functionals = [([(1.0, described(atoms))], len(atoms), atoms) for atoms in train]
    for atoms in train:
        for c in range(3 * len(atoms)):
            parts = []
            for sign in (1, -1):
                copy = atoms.copy()
                copy.positions[c // 3, c % 3] += sign * h
                parts.append((-sign / (2 * h), described(copy)))
            functionals.append((parts, 0, atoms))

    def covariance(one, other):
        total = 0.0
        for weight, left in one:
            for factor, right in other:
                pairs = [float(x @ y) for z, x in left for w, y in right if z == w]
                total += weight * factor * float(term.kernel.value(np.array(pairs)).sum())
        return term.kernel.amplitude**2 * total

    def counted(atoms):
        return np.array([np.count_nonzero(atoms.numbers == z) for z in term.species], dtype=float)

    n = len(functionals)
    matrix = np.array([[covariance(a[0], b[0]) for b in functionals] for a in functionals])
    energies = len(train)
    counts = np.array([counted(atoms) for atoms in train])
    matrix[:energies, :energies] += (E0_ABOUT * model.kernels[0].amplitude) ** 2 * counts @ counts.T
    noise = np.full(n, model.noise.forces)
    noise[:energies] = [model.noise.energy * len(atoms) for atoms in train]
    matrix[np.diag_indices(n)] += noise**2
    y = np.concatenate([[a.get_potential_energy() for a in train], *(a.get_forces().ravel() for a in train)])
    shares = counts / counts.sum(axis=1)[:, None]
    e0 = np.linalg.lstsq(shares, y[:energies] / counts.sum(axis=1), rcond=1e-8)[0]
    y[:energies] -= counts @ e0
    mean, std = [], []
    for atoms in points:
        here = [(1.0, described(atoms))]
        k = np.array([covariance(here, f[0]) for f in functionals])
        k[:energies] += (E0_ABOUT * model.kernels[0].amplitude) ** 2 * counts @ counted(atoms)
        mean.append(k @ np.linalg.solve(matrix, y) + counted(atoms) @ e0)
        prior = covariance(here, here) + (E0_ABOUT * model.kernels[0].amplitude) ** 2 * counted(atoms) @ counted(atoms)
        std.append(np.sqrt(prior - k @ np.linalg.solve(matrix, k)) * np.sqrt(y @ np.linalg.solve(matrix, y) / n))
    return np.array(mean), np.array(std)


def test_it_is_the_exact_gaussian_process():
    train = labelled([shaken(molecule("H2O"), k, rattle=0.1) for k in range(3)], ("energy", "forces"), EMT())
    points = [shaken(molecule("H2O"), 10 + k, rattle=0.1) for k in range(2)]
    found = fitted(train, noise=kp.Noise(energy=0.01, forces=0.1), keep_factor=True)
    mean, std = brute_force(found, train, points)
    prediction = found.predict(points)
    np.testing.assert_allclose(prediction.energy, mean, atol=2e-4)
    np.testing.assert_allclose(prediction.latent.energy_std, std, rtol=2e-3)


def test_energies_alone_are_the_sparse_gp_with_every_environment_inducing():
    train, test = molecules(8, kinds=("energy",)), molecules(4, seed=1)
    noise = kp.Noise(energy=0.01, forces=None)
    ours = kp.ForceRidge(SMALL, kp.DotProduct(2), noise=noise, reduction=0.0).fit(train)
    sparse = kp.SparseGP(SMALL, kp.DotProduct(2), n_inducing=1000, noise=noise, tolerance=1e-14).fit(train)
    one, other = ours.predict(test), sparse.predict(test, uncertainty=False)
    np.testing.assert_allclose(one.energy, other.energy, atol=1e-5)
    np.testing.assert_allclose(np.concatenate(one.forces), np.concatenate(other.forces), atol=1e-4)


@pytest.mark.parametrize("kernel", [kp.Gaussian(0.5), kp.DotProduct(4)], ids=repr)
def test_forces_are_minus_the_derivatives_of_energies(kernel):
    model, atoms = fitted(kernel=kernel), ethanol(77)
    forces = model.predict([atoms]).forces[0]
    for i, c in [(0, 0), (4, 2)]:
        errors = []
        for h in (1e-2, 3e-3, 1e-3):
            energies = []
            for sign in (1, -1):
                copy = atoms.copy()
                copy.positions[i, c] += sign * h
                energies.append(model.predict([copy]).energy[0])
            errors.append(abs(-(energies[0] - energies[1]) / (2 * h) - forces[i, c]))
        assert errors[-1] < 1e-4 * np.abs(forces).max()
        assert errors[-1] < 0.3 * errors[0]


def test_symmetry_functions_serve_too(tmp_path):
    train = molecules(4)
    model = kp.ForceRidge(kp.ACSF(cutoff=4.0), kp.Gaussian(0.5), noise=NOISE).fit(train)
    atoms, h, energies = ethanol(60), 1e-3, []
    for sign in (1, -1):
        copy = atoms.copy()
        copy.positions[1, 2] += sign * h
        energies.append(model.predict([copy]).energy[0])
    found = model.predict([atoms])
    assert -(energies[0] - energies[1]) / (2 * h) == pytest.approx(found.forces[0][1, 2], abs=1e-3)
    model.save(tmp_path / "m.kp")
    assert kp.load(tmp_path / "m.kp").predict([atoms]).energy[0] == found.energy[0]


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 10**6))
def test_predictions_turn_and_permute_with_the_molecule(seed):
    model, atoms = _shared(), ethanol(seed % 1000)
    matrix, order = rotation(seed), np.random.default_rng(seed).permutation(len(atoms))
    plain, other = model.predict([atoms]), model.predict([turned(atoms, matrix)[order]])
    assert other.energy[0] == pytest.approx(plain.energy[0], abs=1e-9)
    np.testing.assert_allclose(other.forces[0], (plain.forces[0] @ matrix.T)[order], atol=1e-8)
    assert np.abs(plain.forces[0].sum(axis=0)).max() < 1e-9
    assert np.abs(np.cross(atoms.positions, plain.forces[0]).sum(axis=0)).max() < 1e-8


_MODELS: dict[str, kp.ForceRidge] = {}


def _shared():
    if not _MODELS:
        _MODELS["one"] = fitted()
    return _MODELS["one"]


def test_labels_come_back_with_little_noise():
    train = molecules(5)
    found = fitted(train, kernel=kp.Gaussian(0.3), noise=kp.Noise(energy=1e-6, forces=1e-4), reduction=0.0)
    prediction = found.predict(train)
    np.testing.assert_allclose(prediction.energy, [a.get_potential_energy() for a in train], atol=1e-4)
    np.testing.assert_allclose(np.array(prediction.forces), [a.get_forces() for a in train], atol=2e-2)


def test_forces_alone_are_integrated_up_to_a_constant_from_the_energies():
    train = molecules(8)
    forces_only = fitted(train, noise=kp.Noise(energy=None, forces=1e-2))
    assert forces_only.fitted_.n_labels == {"forces": 8 * 27}
    energies = np.array([a.get_potential_energy() for a in train])
    predicted = forces_only.predict(train).energy
    assert abs((predicted - energies).mean()) < 1e-9
    assert np.std(predicted - energies) < 0.2 * np.std(energies)
    shifted = [a.copy() for a in train]
    for atoms, old in zip(shifted, train, strict=True):
        atoms.info["energy"] = old.get_potential_energy() + 5.0
        atoms.arrays["forces"] = old.get_forces()
    np.testing.assert_allclose(
        fitted(shifted, noise=kp.Noise(energy=None, forces=1e-2)).predict(train).energy, predicted + 5.0, atol=1e-8
    )
    bare = [a.copy() for a in train]
    for atoms, old in zip(bare, train, strict=True):
        atoms.arrays["forces"] = old.get_forces()
    without = fitted(bare, noise=kp.Noise(energy=None, forces=1e-2))
    assert set(without.e0_.values()) == {0.0}


def test_labels_that_are_missing_have_no_rows():
    whole = two_sizes()
    train = [a.copy() for a in whole]
    for k, (atoms, old) in enumerate(zip(train, whole, strict=True)):
        if k != 1:
            atoms.info["energy"] = old.get_potential_energy()
        if k != 2:
            atoms.arrays["forces"] = old.get_forces()
    found = fitted(train)
    assert found.fitted_.n_labels == {"energy": 4, "forces": 27 + 3 * 9}
    # The labels that are there are fitted all the same, structures of two sizes among each other.
    prediction = found.predict(train)
    errors = [
        np.abs(f - a.get_forces()).max()
        for k, (f, a) in enumerate(zip(prediction.forces, whole, strict=True))
        if k != 2
    ]
    assert max(errors) < 0.5


def test_order_of_structures_does_not_matter():
    train = two_sizes()
    one, other = fitted(train), fitted(train[::-1])
    np.testing.assert_allclose(one.predict(train).energy, other.predict(train).energy, atol=1e-7)


def test_terms_add_up():
    train, test = molecules(6), molecules(3, seed=2)
    twice = kp.ForceRidge(
        [SMALL, SMALL], [kp.Gaussian(0.5, amplitude=0.6), kp.Gaussian(0.5, amplitude=0.8)], noise=NOISE
    )
    one, other = twice.fit(train).predict(test), fitted(train).predict(test)
    np.testing.assert_allclose(one.energy, other.energy, atol=1e-7)
    np.testing.assert_allclose(np.array(one.forces), np.array(other.forces), atol=1e-6)


@pytest.mark.parametrize("kernel", [kp.Gaussian(0.5), kp.DotProduct(3), kp.DotProduct(1)], ids=repr)
def test_tensors_give_the_same_model(kernel):
    train, test = two_sizes(), [ethanol(9)]
    here = fitted(train, kernel=kernel, keep_factor=True)
    there = fitted(train, kernel=kernel, keep_factor=True, device="cpu")
    one, other = here.predict(test), there.predict(test)
    np.testing.assert_allclose(one.energy, other.energy, atol=1e-6)
    np.testing.assert_allclose(one.forces[0], other.forces[0], atol=1e-6)
    np.testing.assert_allclose(one.forces_std[0], other.forces_std[0], rtol=1e-5)


def test_stress_is_the_strain_derivative_of_a_crystal():
    model = fitted(copper_gold_set(4))
    atoms = copper_gold_set(6)[5]
    stress = model.predict([atoms]).stress[0]
    h, strain = 1e-4, np.zeros((3, 3))
    strain[0, 1] = strain[1, 0] = h / 2
    energies = []
    for sign in (1, -1):
        copy = atoms.copy()
        copy.set_cell(atoms.cell.array @ (np.eye(3) + sign * strain), scale_atoms=True)
        energies.append(model.predict([copy]).energy[0])
    assert (energies[0] - energies[1]) / (2 * h) / atoms.get_volume() == pytest.approx(stress[5], rel=1e-4, abs=1e-7)


def test_standard_deviations_shrink_at_training_points(model):
    train, strange = molecules(), shaken(molecule("CH3CH2OH"), 3, rattle=0.3)
    near, far = model.predict(train[:1]), model.predict([strange])
    assert near.latent.energy_std[0] < 0.1 * far.latent.energy_std[0]
    assert near.latent.forces_std[0].max() < far.latent.forces_std[0].max()
    assert (near.forces_std[0] > near.latent.forces_std[0]).all()
    assert far.local_energy_std[0].shape == (9,)
    assert np.isfinite(kp.evaluate(model, train).overall["forces"].coverage_68)


def test_a_model_without_its_factor_gives_means_alone():
    bare = fitted()
    prediction = bare.predict([ethanol(3)])
    assert prediction.latent is None
    with pytest.raises(NotFittedError, match="by a ForceRidge, which has them after a fit with keep_factor=True alone"):
        _ = prediction.energy_std
    with pytest.raises(NotFittedError, match="keep_factor=True"):
        bare.local_energy_std(Batch.from_structures([ethanol(3)], bare.cutoff_))
    scores = kp.evaluate(bare, molecules(2))
    assert np.isnan(scores.overall["energy"].coverage_68)
    assert "in 68%" not in str(scores)


def test_the_command_line_predicts_with_a_file_that_holds_means_alone(tmp_path, capsys):
    model = fitted()
    model.save(tmp_path / "m.kp")
    write(tmp_path / "new.xyz", [ethanol(3)])
    out, said = tmp_path / "out.xyz", tmp_path / "said.json"
    arguments = [str(tmp_path / "m.kp"), str(tmp_path / "new.xyz"), "--out", str(out), "--json", str(said), "--quiet"]
    assert main(["predict", *arguments]) == 0
    assert "no standard deviations" in capsys.readouterr().out
    written = read(out)
    assert written.get_potential_energy() == pytest.approx(model.predict([ethanol(3)]).energy[0])
    assert "energy_std" not in written.info
    assert "forces_std" not in written.arrays
    assert json.loads(said.read_text())["structures"][0]["energy_std_eV"] is None


def test_the_calculator_gives_what_predict_gives(model):
    atoms = ethanol(5)
    expected = model.predict([atoms])
    atoms.calc = kp.Calculator(model)
    assert atoms.get_potential_energy() == pytest.approx(expected.energy[0])
    np.testing.assert_allclose(atoms.get_forces(), expected.forces[0])
    np.testing.assert_allclose(atoms.calc.get_property("forces_std", atoms), expected.forces_std[0])
    np.testing.assert_allclose(atoms.calc.get_property("energies_std", atoms), expected.local_energy_std[0])
    with pytest.raises(PropertyNotImplementedError, match="a ForceRidge has no extrapolation grades"):
        atoms.calc.get_property("extrapolation", atoms)
    with pytest.raises(ParameterError, match=r"with extrapolation grades, .* found Calculator of ForceRidge"):
        kp.potentials.StopOnExtrapolation(SimpleNamespace(atoms=atoms))
    with pytest.raises(PropertyNotImplementedError):
        atoms.get_stress()


def test_files_give_the_same_model(tmp_path):
    model = fitted(two_sizes())
    model.save(tmp_path / "m.kp")
    again = kp.load(tmp_path / "m.kp")
    assert isinstance(again, kp.ForceRidge)
    one, other = model.predict([ethanol(4)]), again.predict([ethanol(4)])
    assert one.energy[0] == other.energy[0]
    np.testing.assert_array_equal(one.forces[0], other.forces[0])
    assert again.settings() == model.settings()
    placed = kp.load(tmp_path / "m.kp", device="cpu").predict([ethanol(4)])
    assert placed.energy[0] == pytest.approx(one.energy[0], abs=1e-9)
    with pytest.raises(ParameterError, match="takes no `baseline`"):
        kp.load(tmp_path / "m.kp", baseline=kp.ZBL())


@pytest.mark.parametrize(
    "harm",
    [
        lambda header, arrays: arrays.pop("points_0_0"),
        lambda header, arrays: arrays.update(e0=np.array([np.nan])),
        lambda header, arrays: arrays.update(columns_0_0=arrays["columns_0_0"][:-1]),
        lambda header, arrays: header["fit"].update(species=[8, 1]),
        lambda header, arrays: header["fit"]["terms"][0]["kernel"].update(name="Linear"),
        lambda header, arrays: arrays["points_0_0"].fill(1e300),
        lambda header, arrays: header["model"].update(descriptors=[]),
        lambda header, arrays: header.update(version=99),
    ],
)
def test_an_altered_file_is_refused(tmp_path, harm):
    from safetensors import safe_open
    from safetensors.numpy import save_file

    path = tmp_path / "m.kp"
    fitted().save(path)
    with safe_open(str(path), framework="numpy") as file:
        header = {k: v for k, v in json.loads(file.metadata()["kernelpot"]).items() if k != "digest"}
        arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    harm(header, arrays)
    save_file(arrays, str(path), metadata={"kernelpot": json.dumps(header)})
    with pytest.raises(ModelFileError):
        kp.load(path)


def test_a_fit_that_needs_more_memory_is_refused():
    with pytest.raises(ParameterError, match=r"the fit takes .* GB .*more than `memory_gb`"):
        fitted(memory_gb=1e-5)


def test_a_noise_too_small_for_round_off_is_refused():
    with pytest.raises(ParameterError, match="singular to round-off"):
        fitted(molecules(4) + molecules(4), kernel=kp.DotProduct(1), noise=kp.Noise(energy=1e-15, forces=1e-15))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"noise": kp.Noise(stress=0.1)}, '`noise` must be "cv" or a Noise of energies and forces'),
        ({"noise": "loo"}, '`noise` must be "cv" or a Noise'),
        ({"reduction": -1.0}, "`reduction` must lie between"),
        ({"reduction": True}, "`reduction` must lie between"),
        ({"reduction": float("nan")}, "`reduction` must lie between"),
        ({"memory_gb": "much"}, "`memory_gb` must lie between"),
        ({"keep_factor": 1}, "`keep_factor` must be True or False"),
        ({"device": "abacus"}, "`device` must be None"),
        ({"kernel": kp.potentials.Linear()}, "`kernel` must be Gaussian"),
        ({"kernel": 0}, "`kernel` must be Gaussian"),
        ({"kernel": [kp.Gaussian()] * 2}, "one for each of 1 descriptors, got 2"),
    ],
)
def test_wrong_settings_are_refused(settings, message):
    with pytest.raises(ParameterError, match=message):
        kp.ForceRidge(SMALL, **settings)


def test_wrong_descriptors_are_refused():
    for wrong in ("SOAP", [], 3, [SMALL, None], kp.TwoBody(), kp.SOAP):
        with pytest.raises(ParameterError, match="`descriptor`"):
            kp.ForceRidge(wrong)


def test_wrong_structures_are_refused(model):
    with pytest.raises(LabelError, match="found neither"):
        kp.ForceRidge(SMALL).fit([ethanol(0)])
    with pytest.raises(ParameterError, match="at least one structure"):
        kp.ForceRidge(SMALL).fit([])
    for wrong in (None, 5):
        with pytest.raises(ParameterError, match=r"must be a list of ase\.Atoms"):
            kp.ForceRidge(SMALL).fit(wrong)
    broken = molecules(3)
    broken[2].positions[1] = broken[2].positions[0]
    for atoms, old in zip(broken, molecules(3), strict=True):
        atoms.calc, atoms.info["energy"] = None, old.get_potential_energy()
    with pytest.raises(DataError, match=r"structure 2 \(from 0\)"):
        kp.ForceRidge(SMALL).fit(broken)
    with pytest.raises(SpeciesError, match="element Cu was never seen"):
        model.predict([isolated()])
    with pytest.raises(SpeciesError, match="element O"):
        kp.ForceRidge(SMALL.with_species((1, 6))).fit(molecules(2))
    with pytest.raises(NotFittedError, match="never fitted"):
        kp.ForceRidge(SMALL).predict([ethanol(0)])


def test_a_lone_atom_has_an_energy_and_no_force():
    train = [*molecules(3), Atoms("H")]
    train[-1].info["energy"] = -1.0
    train[-1].arrays["forces"] = np.zeros((1, 3))
    found = fitted(train)
    prediction = found.predict(train[-1:])
    assert prediction.energy[0] == pytest.approx(-1.0, abs=0.05)
    np.testing.assert_allclose(prediction.forces[0], 0.0, atol=1e-9)


def test_it_says_what_it_is(model):
    text = repr(model)
    assert text.startswith("ForceRidge(SOAP(cutoff=3.5")
    assert "Gaussian(length=0.5" in text
    assert f"fitted to {6 * 28} labels" in text
    assert model.species_ == (1, 6, 8)
    assert all(0 < n <= SMALL.with_species((1, 6, 8)).n_features for n in model.n_components_[0])
