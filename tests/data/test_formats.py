"""Files of other programs: read as what they hold, or refused as what they are."""

from __future__ import annotations

import contextlib
import lzma
import os
import threading

import numpy as np
import pytest
from ase import units
from ase.build import bulk
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import write
from hypothesis import given, settings
from hypothesis import strategies as st

import kernelpot as kp
from kernelpot.data.labels import resolve
from kernelpot.data.xyz import element_of
from kernelpot.errors import DataError, KernelpotError, LabelError, ParameterError
from kernelpot.pools import stream
from tests import potentials
from tests import structures as make

ONE = 'Lattice="4 0 0 0 4 0 0 0 4" Properties=species:S:1:pos:R:3:forces:R:3 energy={} pbc="T T T"\n'
BODY = ONE + "Cu 0 0 0 0.1 0 0\nCu 2 2 0.1 -0.1 0 0\n"


def put(path, text):
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def both_ways(path):
    return [kp.read(path, verbose=False), list(stream(path))]


def test_a_byte_order_mark_is_no_part_of_the_file(tmp_path):
    path = put(tmp_path / "a.xyz", b"\xef\xbb\xbf" + "".join("2\n" + BODY.format(-k) for k in (1, 2)).encode())
    for found in both_ways(path):
        np.testing.assert_array_equal(resolve(found).energy, [-1.0, -2.0])


def test_blank_lines_between_frames_lose_no_frame(tmp_path):
    path = put(tmp_path / "a.xyz", "2\n" + BODY.format(-1) + "\n\n2\n" + BODY.format(-2))
    for found in both_ways(path):
        np.testing.assert_array_equal(resolve(found).energy, [-1.0, -2.0])


@pytest.mark.parametrize("count", ["1" + 12 * "0", "9" * 18, "1000000"])
def test_more_atoms_than_the_file_can_hold_are_refused_at_once(tmp_path, count):
    path = put(tmp_path / "a.xyz", f"{count}\n" + BODY.format(-1))
    for reader in (kp.read, stream):
        with pytest.raises(DataError, match=r"more than the file can hold|must be a structure's number"):
            reader(path)


def test_a_line_without_end_is_not_held(tmp_path, monkeypatch):
    monkeypatch.setattr("kernelpot.data.xyz.LONGEST_LINE", 1000)
    path = put(tmp_path / "a.xyz.xz", lzma.compress(b"2\n" + 5000 * b"x"))
    with pytest.raises(DataError, match="lines below 1000"):
        kp.read(path)


def test_a_column_without_end_is_refused(tmp_path):
    path = put(tmp_path / "a.xyz", "2\n" + BODY.format(-1).replace("forces:R:3", "forces:R:1000000000"))
    with pytest.raises(DataError, match="fewer than 10,000 numbers"):
        kp.read(path)


@pytest.mark.parametrize("word", ["a", "1", "a=", "1.", "x:R:1:", "'"])
def test_long_words_cost_no_more_than_they_are_long(tmp_path, word):
    """Patterns that look back cost the square of a word's length: hours, which no limit of a test would allow."""
    path = put(tmp_path / "a.xyz", "2\n" + BODY.format("-1 note=" + word * (200_000 // len(word))))
    with contextlib.suppress(KernelpotError):
        kp.read(path, verbose=False)


@pytest.mark.parametrize(
    ("label", "symbol"),
    [("Cu1", "Cu"), ("Cu_12", "Cu"), ("Fe3+", "Fe"), ("Fe+3", "Fe"), ("O2-", "O"), ("si", "Si"), ("29", "Cu")],
)
def test_labels_of_other_programs_are_elements(tmp_path, label, symbol):
    path = put(tmp_path / "a.xyz", "2\n" + BODY.format(-1).replace("Cu 0", f"{label} 0"))
    assert kp.read(path, verbose=False)[0].get_chemical_symbols() == [symbol, "Cu"]


@pytest.mark.parametrize("label", ["H_ghost", "X", "Gh", "Cu1a", "Qq", "0", "119"])
def test_labels_that_are_no_element_are_named(tmp_path, label):
    path = put(tmp_path / "a.xyz", "2\n" + BODY.format(-1).replace("Cu 0", f"{label} 0"))
    with pytest.raises(DataError, match=r"must be an element|atomic numbers must be"):
        kp.read(path)


def test_heavy_hydrogen_is_hydrogen():
    with pytest.warns(UserWarning, match="D is read as H"):
        assert element_of("D", "here") == "H"


def test_a_key_stands_once_in_a_header(tmp_path):
    path = put(tmp_path / "a.xyz", "2\n" + BODY.format("-1 energy=-9"))
    with pytest.raises(DataError, match="`energy` stands there as -1 and as -9"):
        kp.read(path)
    assert len(kp.read(put(path, "2\n" + BODY.format("-1 energy=-1")), verbose=False)) == 1


def test_exponents_of_fortran_are_numbers(tmp_path):
    text = BODY.format("-1.5D+01").replace("0.1 0 0", "1.0D-01 0 0")
    (atoms,) = kp.read(put(tmp_path / "a.xyz", "2\n" + text), verbose=False)
    assert resolve([atoms]).energy[0] == -15.0
    assert atoms.get_forces()[0, 0] == 0.1


CFG = """BEGIN_CFG
 Size
    2
 Supercell
    4.0 0.0 0.0
    0.0 4.0 0.0
    0.0 0.0 4.0
 AtomData:  id type       cartes_x      cartes_y      cartes_z           fx          fy          fz
             1    1       0.0   0.0   0.0    0.1  0.0  0.0
             2    0       2.0   2.0   2.1   -0.1  0.0  0.0
 Energy
       -7.4
 {}:  xx          yy          zz          yz          xz          xy
         0.64000     0.32000     0.16000     0.06400     0.03200    0.01600
 Feature   EFS_by       VASP
END_CFG

"""


@pytest.mark.parametrize(("name", "sign"), [("PlusStress", -1.0), ("Stress", 1.0)])
def test_training_sets_of_moment_tensors(tmp_path, name, sign):
    path = put(tmp_path / "train.cfg", 2 * CFG.format(name))
    found = kp.read(path, species=["Au", "Cu"], verbose=False)
    labels = resolve(found)
    assert [str(atoms.symbols) for atoms in found] == ["CuAu", "CuAu"]
    np.testing.assert_allclose(labels.energy, -7.4)
    np.testing.assert_allclose(labels.forces[1][:, 0], [0.1, -0.1])
    np.testing.assert_allclose(labels.stress[0], sign * np.array([0.64, 0.32, 0.16, 0.064, 0.032, 0.016]) / 64.0)
    with pytest.raises(DataError, match=r"MTP's .cfg numbers its elements.*--species"):
        kp.read(path)
    with pytest.raises(DataError, match=r"END_CFG.*cut off"):
        kp.read(put(path, CFG.format(name)[:-12]), species=["Au", "Cu"])


ML_AB = """ 1.0 Version
**************************************************
     The number of configurations
--------------------------------------------------
          1
**************************************************
     Configuration num.      1
==================================================
     System name
--------------------------------------------------
     salt
==================================================
     The number of atom types
--------------------------------------------------
       2
==================================================
     The number of atoms
--------------------------------------------------
          3
**************************************************
     Atom types and atom numbers
--------------------------------------------------
     Na       2
     Cl       1
==================================================
     CTIFOR
--------------------------------------------------
   0.002
==================================================
     Primitive lattice vectors (ang.)
--------------------------------------------------
     5.0  0.0  0.0
     0.0  5.0  0.0
     0.0  0.0  5.0
==================================================
     Atomic positions (ang.)
--------------------------------------------------
     0.0  0.0  0.0
     2.5  2.5  0.0
     2.5  0.0  0.1
==================================================
     Total energy (eV)
--------------------------------------------------
     -12.5
==================================================
     Forces (eV ang.^-1)
--------------------------------------------------
     0.1  0.0  0.0
     0.0  0.2  0.0
    -0.1 -0.2  0.0
==================================================
     Stress (kbar)
--------------------------------------------------
     XX YY ZZ
--------------------------------------------------
     10.0  20.0  30.0
--------------------------------------------------
     XY YZ ZX
--------------------------------------------------
     1.0  2.0  3.0
"""


def test_training_sets_of_vasp(tmp_path):
    (atoms,) = kp.read(put(tmp_path / "ML_AB", ML_AB), verbose=False)
    assert str(atoms.symbols) == "Na2Cl"
    labels = resolve([atoms])
    assert labels.energy[0] == -12.5
    np.testing.assert_allclose(labels.forces[0][2], [-0.1, -0.2, 0.0])
    np.testing.assert_allclose(labels.stress[0], -0.1 * units.GPa * np.array([10, 20, 30, 2, 3, 1]))
    with pytest.raises(DataError, match="ML_AB is not whole"):
        kp.read(put(tmp_path / "ML_AB", ML_AB.replace("     0.1  0.0  0.0\n", "     0.1  0.0\n")))


def test_molecules_of_md17(tmp_path):
    rng = np.random.default_rng(0)
    arrays = {"nuclear_charges": [8, 1, 1], "coords": rng.normal(size=(4, 3, 3)), "energies": np.arange(4.0)}
    arrays["forces"] = rng.normal(size=(4, 3, 3))
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.warns(UserWarning, match="kcal/mol"):
        labels = resolve(kp.read(tmp_path / "a.npz", verbose=False))
    np.testing.assert_allclose(labels.energy, np.arange(4.0) * units.kcal / units.mol)
    np.testing.assert_allclose(labels.forces[2], arrays["forces"][2] * units.kcal / units.mol)
    np.savez(tmp_path / "b.npz", **arrays, e_unit="eV", r_unit="Bohr")
    labels = resolve(kp.read(tmp_path / "b.npz", verbose=False))
    np.testing.assert_allclose(labels.forces[2], arrays["forces"][2] / units.Bohr)
    np.savez(tmp_path / "c.npz", x=[1.0])
    with pytest.raises(DataError, match="nuclear_charges"):
        kp.read(tmp_path / "c.npz")


def test_molecules_of_qm9(tmp_path):
    text = (
        "3\ngdb 3\t799.58812\t437.90386\t282.94545\t1.8511\t6.31\t-0.2928\t0.0687\t0.3615\t19.0002\t0.021375"
        "\t-76.404702\t-76.401867\t-76.400922\t-76.422349\t6.002\t\n"
        "O\t-0.0343604951\t 0.9775395708\t 0.0076015923\t-0.589706\n"
        "H\t 0.0647664923\t 0.0205721989\t 0.0015346341\t 0.294853\n"
        "H\t 0.8717903737\t 1.3007924048\t 6.9*^-3\t 0.294853\n"
        "1671.4615\t3803.6305\t3907.698\nO\tO\nInChI=1S/H2O/h1H2\tInChI=1S/H2O/h1H2\n"
    )
    (atoms,) = kp.read(put(tmp_path / "dsgdb9nsd_000003.xyz", text), verbose=False)
    assert str(atoms.symbols) == "OH2"
    assert atoms.positions[2, 2] == 6.9e-3
    assert atoms.info["gap"] == pytest.approx(0.3615 * units.Hartree)
    assert resolve([atoms]).energy[0] == pytest.approx(-76.404702 * units.Hartree)


def test_formats_have_names(tmp_path):
    write(tmp_path / "odd.name", bulk("Cu"), format="vasp")
    assert len(kp.read(tmp_path / "odd.name", format="vasp", verbose=False)) == 1
    with pytest.raises(ParameterError, match="`format` must be xyz, mtp, ml_ab, npz or one of ASE's"):
        kp.read(tmp_path / "odd.name", format="nothing")
    with pytest.raises(DataError, match="--format"):
        kp.read(put(tmp_path / "other.name", "what is this"))
    with pytest.raises(DataError, match=r"this is vasp, and ASE failed.*--format"):
        kp.read(put(tmp_path / "POSCAR", "what is this"))


def test_a_pipe_is_read_once(tmp_path):
    pipe = tmp_path / "pipe.xyz"
    os.mkfifo(pipe)
    writer = threading.Thread(target=lambda: pipe.write_text("2\n" + BODY.format(-3)))
    writer.start()
    found = kp.read(pipe, verbose=False)
    writer.join()
    assert resolve(found).energy[0] == -3.0
    with pytest.raises(DataError, match="read several times"):
        stream(pipe)


@pytest.mark.parametrize("device", ["/dev/zero", "/dev/null"])
def test_a_device_is_no_file(device):
    with pytest.raises(DataError, match="found a device"):
        kp.read(device)


def test_a_pipe_that_nobody_writes_to_is_given_up(tmp_path, monkeypatch):
    monkeypatch.setattr("kernelpot.data.xyz.PATIENCE", 0.1)
    os.mkfifo(tmp_path / "pipe.xyz")
    with pytest.raises(DataError, match="must have a writer"):
        kp.read(tmp_path / "pipe.xyz")


@given(st.binary(max_size=300), st.integers(0, 200), st.sampled_from(["insert", "replace"]))
@settings(max_examples=300, deadline=None)
def test_any_bytes_are_read_or_refused_alike(tmp_path_factory, noise, at, how):
    text = ("2\n" + BODY.format(-1) + "2\n" + BODY.format(-2)).encode()
    mixed = text[:at] + noise + text[at + (len(noise) if how == "replace" else 0) :]
    path = put(tmp_path_factory.getbasetemp() / "noise.xyz", mixed or b"\n")
    found = []
    for reader in (lambda: kp.read(path, verbose=False, check=False), lambda: list(stream(path))):
        try:
            found.append([str(atoms.symbols) for atoms in reader()])
        except KernelpotError:
            found.append(None)
        except UserWarning:  # No line break at the end: a warning is an error here.
            return
    assert found[0] is None or found[1] is None or found[0] == found[1]


# ---- what stands beside labels


def frames(**info):
    found = make.labelled([make.copper(k) for k in range(4)])
    for atoms in found:
        atoms.info.update(info)
    return found


def test_forces_that_a_mask_hides_are_not_fitted():
    """As if the rows were never there: equal to a fit whose masked forces are others."""
    fits = []
    for wrong in (7.0, -50.0):
        train = frames()
        for atoms in train:
            atoms.arrays["force_mask"] = np.arange(len(atoms)) == 0
            atoms.calc.results["forces"] = atoms.get_forces().copy()
            atoms.calc.results["forces"][0] = wrong
        labels = resolve(train)
        assert np.isnan(labels.forces[0][0]).all()
        assert np.isfinite(labels.forces[0][1:]).all()
        assert "masked" in "".join(labels.notes)
        fits.append(potentials.model(8).fit(train))
    test = [make.copper(9)]
    np.testing.assert_array_equal(fits[0].predict(test).forces[0], fits[1].predict(test).forces[0])
    n = 3 * sum(map(len, train)) - 3 * len(train)
    assert fits[0].state.n_labels["forces"] == n
    info = fits[0].information(train)
    shown = fits[0].information(train, masks=[~atoms.arrays["force_mask"] for atoms in train])
    np.testing.assert_allclose(info.rows, shown.rows)
    train[0].arrays["force_mask"] = np.full(len(train[0]), 3)
    with pytest.raises(LabelError, match="T or F for each atom"):
        resolve(train)


def test_a_weight_of_four_is_four_copies():
    """Weights w are noises over √w: a frame of weight 4 counts as it would four times."""
    heavy = frames()
    heavy[0].info["config_weight"] = 4.0
    test, noise = [make.copper(9)], kp.Noise(0.002, 0.1)
    labels = resolve(heavy)
    np.testing.assert_allclose(labels.factor("energy"), [1.0, 1.0, 1.0, 1.0])  # Over the median of those that have one
    for atoms in heavy[1:]:
        atoms.info["config_weight"] = 1.0 + 1e-12
    labels = resolve(heavy)
    np.testing.assert_allclose(labels.factor("forces"), [0.5, 1.0, 1.0, 1.0])
    space = kp.SparseGP(potentials.small_soap(), n_inducing=8, noise=noise).prepare(frames())
    weighed = space.fit(heavy).predict(test)
    again = space.fit([*frames(), *[frames()[0]] * 3]).predict(test)
    # Energy constants have a centre by plain least squares, which counts copies and no weights.
    np.testing.assert_allclose(weighed.forces[0], again.forces[0], atol=2e-3 * np.abs(again.forces[0]).max())
    heavy[1].info["energy_sigma"] = -1.0
    with pytest.raises(LabelError, match="`energy_sigma` must be a number above 0"):
        resolve(heavy)


def test_remarks_on_labels_that_look_wrong():
    def said(change, **info):
        train = frames(**info)
        for atoms in train:
            atoms.calc = SinglePointCalculator(atoms, **change(atoms))
        return "\n".join(resolve(train).notes)

    assert "kbar or GPa" in said(lambda a: {"stress": np.full(6, 12.0)})
    assert "exactly zero where forces are not" in said(lambda a: {"forces": a.get_forces(), "stress": np.zeros(6)})
    assert "did not converge" in said(lambda a: {"energy": 1.0}, converged=False)
    mixed = frames()
    for k, atoms in enumerate(mixed):
        atoms.info["total_charge"] = k % 2
    assert "several charges or spins (total_charge 0; total_charge 1)" in "\n".join(resolve(mixed).notes)
    assert not resolve(frames(total_charge=1)).notes


def test_calculations_that_did_not_converge_are_counted(tmp_path):
    from kernelpot.data.formats import unconverged

    assert unconverged(put(tmp_path / "a", "x\n aborting loop EDIFF was not reached (unconverged)\n")) == 1
    assert unconverged(put(tmp_path / "b", "aborting loop because EDIFF is reached\n")) == 0
    step, loop = "<scstep>\n</scstep>\n", '<i type="int" name="NELM">     3</i>\n'
    text = loop + "<calculation>\n" + 3 * step + "</calculation>\n<calculation>\n" + 2 * step + "</calculation>\n"
    assert unconverged(put(tmp_path / "vasprun.xml", text)) == 1


# ---- order


def test_a_fit_depends_on_the_set_alone():
    """Not on the order of structures or atoms: noises, coupling, calibration and predictions to round-off."""
    train = make.labelled([make.four_metals(k) for k in range(14)])
    rng = np.random.default_rng(1)
    mixed = []
    for k in rng.permutation(len(train)).tolist():
        order = rng.permutation(len(train[k]))
        atoms = train[k][order.tolist()]
        results = dict(train[k].calc.results)
        results["forces"] = np.asarray(results["forces"])[order]
        atoms.calc = SinglePointCalculator(atoms, **results)
        mixed.append(atoms)
    soap = kp.SOAP(cutoff=3.6, n_max=4, l_max=2, sigma=0.6)
    one, other = (kp.SparseGP(soap, n_inducing=40, noise="cv").fit(some).predict(train[:3]) for some in (train, mixed))
    np.testing.assert_allclose(other.energy, one.energy, rtol=1e-9, atol=1e-8)
    np.testing.assert_allclose(other.energy_std, one.energy_std, rtol=1e-6)
    np.testing.assert_allclose(np.concatenate(other.forces), np.concatenate(one.forces), atol=1e-8)


# ---- bounds


def test_a_cutoff_that_fills_the_memory_is_refused():
    train = make.labelled([make.copper(k) for k in range(3)])
    with pytest.raises(DataError, match=r"fewer than 20,000 neighbours, 45 Å gives about"):
        kp.SparseGP(kp.SOAP(cutoff=45.0, n_max=2, l_max=1), n_inducing=5).fit(train)
    with pytest.raises(ParameterError, match=r"must lie between 0.01 and 50"):
        kp.SOAP(cutoff=100.0)


def test_factors_that_fill_the_memory_are_refused(monkeypatch):
    monkeypatch.setattr("kernelpot.potentials.fitting.physical_memory", lambda: 1000)
    with pytest.raises(ParameterError, match="must fit into memory"):
        potentials.model(8).fit(frames())
