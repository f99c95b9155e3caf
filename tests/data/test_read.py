from __future__ import annotations

import bz2
import gzip
import lzma

import ase.io
import numpy as np
import pytest
from ase.build import bulk, molecule
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator
from ase.constraints import FixAtoms
from ase.db import connect
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kernelpot.data.labels import resolve
from kernelpot.data.read import read
from kernelpot.errors import DataError, LabelError, ParameterError
from tests.datasets import dataset


def copper(seed=0, **info):
    atoms = bulk("Cu", cubic=True)
    atoms.rattle(0.1, seed=seed)
    atoms.set_constraint(FixAtoms([0]))
    atoms.calc = EMT()
    results = {
        "energy": atoms.get_potential_energy(),
        "forces": atoms.get_forces(apply_constraint=False),
        "stress": atoms.get_stress(apply_constraint=False),
    }
    atoms.calc = SinglePointCalculator(atoms, **results)
    atoms.info.update(info)
    return atoms


FRAMES = [copper(seed) for seed in range(3)]


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def assert_same_labels(found, expected, atol=1e-7):
    one, other = resolve(found), resolve(expected)
    np.testing.assert_allclose(one.energy, other.energy, atol=atol)
    np.testing.assert_allclose(one.stress, other.stress, atol=atol)
    for mine, theirs in zip(one.forces, other.forces, strict=True):
        np.testing.assert_allclose(mine, theirs, atol=atol)


@pytest.mark.parametrize("name", ["a.xyz", "a.extxyz", "a.traj", "a.db", "a.json"])
def test_labels_survive_every_format_that_holds_them(here, name, capsys):
    ase.io.write(name, FRAMES)
    found = read(name)
    assert_same_labels(found, FRAMES)
    assert found[2].info["kernelpot_source"] == f"{name}@2"
    assert f"{name}: 3 structures, 12 atoms, Cu; periodic" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["a.cif", "a.gen", "a.vasp", "a.xsf", "a.pdb", "a.cfg", "a.res"])
def test_formats_without_labels_are_read(here, name, capsys):
    atoms = bulk("Cu", cubic=True)
    ase.io.write(name, atoms)
    (found,) = read(name)
    np.testing.assert_allclose(found.get_all_distances(mic=True), atoms.get_all_distances(mic=True), atol=1e-3)
    assert "energy  none" in capsys.readouterr().err
    with pytest.raises(LabelError, match="all structures must have energy"):
        read(name, require=("energy",))


@pytest.mark.parametrize(("suffix", "squeeze"), [(".xz", lzma), (".gz", gzip), (".bz2", bz2)])
@pytest.mark.parametrize("name", ["a.xyz", "a.traj", "a.db"])
def test_compressed_files_of_any_format(here, name, suffix, squeeze):
    ase.io.write(name, FRAMES)
    (here / (name + suffix)).write_bytes(squeeze.compress((here / name).read_bytes()))
    found = read(name + suffix, verbose=False)
    assert_same_labels(found, FRAMES)
    assert found[1].info["kernelpot_source"] == f"{name}{suffix}@1"


def test_several_files_are_read_one_after_the_other(here, capsys):
    ase.io.write("a.xyz", FRAMES[:2])
    ase.io.write("b.traj", FRAMES[2:])
    found = read(["a.xyz", here / "b.traj"])
    assert_same_labels(found, FRAMES)
    assert [atoms.info["kernelpot_source"] for atoms in found] == [
        "a.xyz@0",
        "a.xyz@1",
        f"{here / 'b.traj'}@0",
    ]
    assert "2 files: 3 structures" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("index", "chosen"),
    [(":", [0, 1, 2]), ("1", [1]), (-1, [2]), ("::2", [0, 2]), ("-2:", [1, 2]), ("::-1", [2, 1, 0])],
)
def test_index_selects_and_numbers_stay_those_of_the_file(here, index, chosen):
    ase.io.write("a.xyz", FRAMES)
    found = read("a.xyz", index, verbose=False)
    assert_same_labels(found, [FRAMES[k] for k in chosen])
    assert [atoms.info["kernelpot_source"] for atoms in found] == [f"a.xyz@{k}" for k in chosen]


def test_index_after_an_at_sign(here):
    ase.io.write("a.xyz", FRAMES)
    assert [atoms.info["kernelpot_source"] for atoms in read("a.xyz@1:", verbose=False)] == [
        "a.xyz@1",
        "a.xyz@2",
    ]
    ase.io.write("odd@1.xyz", FRAMES)
    assert len(read("odd@1.xyz", verbose=False)) == 3


@pytest.mark.parametrize("index", ["7", 7, "5:", -4])
def test_index_that_selects_nothing_is_refused(here, index):
    ase.io.write("a.xyz", FRAMES)
    with pytest.raises(DataError, match="selects none of 3"):
        read("a.xyz", index)


@pytest.mark.parametrize("index", ["first", 1.5, None, "1:x"])
def test_index_must_be_a_number_or_a_slice(here, index):
    ase.io.write("a.xyz", FRAMES)
    with pytest.raises(ParameterError, match="`index` must be a whole number or a slice"):
        read("a.xyz", index)


@pytest.mark.parametrize("source", [[], 3, [3], None])
def test_source_must_be_files(source):
    with pytest.raises(ParameterError, match="`source` must be a file or a list of files"):
        read(source)


def test_truncated_archives_are_named(here):
    ase.io.write("a.xyz", FRAMES)
    for suffix, squeeze in ((".xz", lzma), (".gz", gzip), (".bz2", bz2)):
        packed = squeeze.compress((here / "a.xyz").read_bytes())
        (here / f"cut.xyz{suffix}").write_bytes(packed[: len(packed) // 2])
        with pytest.raises(DataError, match=rf"^cut.xyz{suffix}: .*truncated or damaged"):
            read(f"cut.xyz{suffix}")


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(share=st.floats(0.01, 0.99))
def test_a_truncated_text_file_is_never_read_without_a_word(tmp_path, share):
    whole = tmp_path / "whole.xyz"
    if not whole.exists():
        ase.io.write(whole, FRAMES)
    text = whole.read_text()
    cut = text[: int(share * len(text))]
    (tmp_path / "cut.xyz").write_text(cut)
    frame = text.index("Lattice", 10 + text.index("Lattice")) - text.index("Lattice")
    if cut.endswith("\n") and len(cut) % frame == 0:
        return
    with pytest.raises((DataError, UserWarning)):
        read(tmp_path / "cut.xyz", verbose=False)


def test_a_last_line_without_its_end_is_told(here):
    ase.io.write("a.xyz", FRAMES)
    (here / "cut.xyz").write_text((here / "a.xyz").read_text()[:-6])
    with pytest.warns(UserWarning, match="cut.xyz: file must end with a line break"):
        read("cut.xyz", verbose=False)


GARBAGE = np.random.default_rng(0).bytes(2000)


@pytest.mark.parametrize(
    "name",
    [
        "r.xyz",
        "r.traj",
        "r.db",
        "r.cif",
        "r",
        "r.json",
        "r.xml",
        "OUTCAR",
        "vasprun.xml",
        "r.pkl",
        "r.gz",
        "r.xyz.xz",
    ],
)
@pytest.mark.parametrize("content", [GARBAGE, b"hello, this is\nno structure\n1 2 3\n"], ids=["bytes", "words"])
def test_foreign_files_are_refused_by_name(here, name, content):
    (here / name).write_bytes(content)
    with pytest.raises(DataError, match=rf"^{name}: ") as caught:
        read(name)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["e.xyz", "e.traj", "e.xyz.xz", "OUTCAR"])
def test_empty_files_are_refused(here, name):
    (here / name).touch()
    with pytest.raises(DataError, match=f"{name}: file must hold structures, found it empty"):
        read(name)


def test_files_that_hold_nothing_are_refused(here):
    (here / "blank.xyz").write_text("\n\n")
    with pytest.raises(DataError, match="found none"):
        read("blank.xyz")
    (here / "blank.xyz.xz").write_bytes(lzma.compress(b""))
    with pytest.raises(DataError, match="found none"):
        read("blank.xyz.xz")
    with pytest.raises(DataError, match=r"^absent.xyz: file must exist"):
        read("absent.xyz")
    (here / "folder").mkdir()
    with pytest.raises(DataError, match=r"^folder: "):
        read("folder")


def test_bad_structures_are_named_by_file_and_number(here):
    broken = bulk("Cu", cubic=True)
    broken.positions[3] = broken.positions[2]
    ase.io.write("a.xyz", [*FRAMES, broken])
    with pytest.raises(DataError, match=r"^a.xyz@3: atoms must be at least 0.1 Å apart, atoms 2 and 3"):
        read("a.xyz")
    assert len(read("a.xyz", ":3", verbose=False)) == 3


def test_nan_in_a_file_is_named(here):
    ase.io.write("a.xyz", FRAMES)
    text = (here / "a.xyz").read_text().splitlines()
    words = text[-1].split()
    (here / "b.xyz").write_text("\n".join([*text[:-1], " ".join([words[0], "nan", *words[2:]])]) + "\n")
    with pytest.raises(DataError, match=r"^b.xyz@2: positions must be finite, atom 3"):
        read("b.xyz")


def test_ambiguous_labels_are_named_and_settled_by_keys_once_and_for_all(here, capsys):
    frames = [copper(seed, dft_energy=-1.0 * seed) for seed in range(3)]
    ase.io.write("a.xyz", frames)
    with pytest.raises(LabelError, match=r"^a.xyz@0: sources of the energy must agree"):
        read("a.xyz")
    found = read("a.xyz", keys={"energy": "dft_energy"})
    np.testing.assert_array_equal(resolve(found).energy, [0.0, -1.0, -2.0])
    assert found[2].get_potential_energy() == -2.0
    assert "3 of 3 from info `dft_energy`" in capsys.readouterr().err


def test_ignored_kinds_leave_the_calculator(here):
    ase.io.write("a.xyz", FRAMES)
    found = read("a.xyz", keys={"stress": None}, verbose=False)
    assert not resolve(found).present("stress").any()
    assert "stress" not in found[0].calc.results


def test_virials_become_stress_results(here):
    atoms = bulk("Cu", cubic=True)
    atoms.info["REF_virials"] = -atoms.get_volume() * np.diag([0.1, 0.2, 0.3])
    ase.io.write("a.xyz", atoms)
    (found,) = read("a.xyz", verbose=False)
    np.testing.assert_allclose(found.get_stress(), [0.1, 0.2, 0.3, 0, 0, 0], atol=1e-12)


def test_other_results_are_kept(here):
    water = molecule("H2O")
    water.calc = SinglePointCalculator(water, energy=-1.0, dipole=np.array([0.0, 0.0, 0.4]))
    ase.io.write("w.traj", water)
    (found,) = read("w.traj", verbose=False)
    np.testing.assert_array_equal(found.get_dipole_moment(), [0.0, 0.0, 0.4])


def test_forces_of_constrained_atoms_are_the_true_ones(here):
    ase.io.write("a.traj", FRAMES)
    (found,) = read("a.traj", 0, verbose=False)
    assert found.constraints
    assert np.abs(found.get_forces(apply_constraint=False)[0]).max() > 0.01


def test_rows_of_an_ase_database_bring_their_keys(here):
    with connect("a.db") as database:
        database.write(bulk("Cu"), dft_energy=-3.5, config_type="bulk", data={"dft_forces": np.zeros((1, 3))})
    (found,) = read("a.db", verbose=False)
    assert found.info["config_type"] == "bulk"
    labels = resolve([found])
    assert labels.energy[0] == -3.5
    assert labels.present("forces").all()


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    flags=st.lists(st.tuples(st.booleans(), st.booleans(), st.booleans()), min_size=1, max_size=4),
    name=st.sampled_from(["a.xyz", "a.traj", "a.json"]),
)
def test_writing_and_reading_keeps_the_labels_that_are_there(tmp_path, flags, name):
    frames = []
    for seed, present in enumerate(flags):
        atoms = copper(seed)
        kept = {kind: value for (kind, value), flag in zip(atoms.calc.results.items(), present, strict=True) if flag}
        atoms.calc = SinglePointCalculator(atoms, **kept)
        frames.append(atoms)
    ase.io.write(tmp_path / name, frames)
    once = read(tmp_path / name, verbose=False)
    ase.io.write(tmp_path / name, once)
    twice = resolve(read(tmp_path / name, verbose=False))
    expected = resolve(frames)
    np.testing.assert_allclose(twice.energy, expected.energy, atol=1e-7)
    np.testing.assert_allclose(twice.stress, expected.stress, atol=1e-7)
    for kind in ("energy", "forces", "stress"):
        np.testing.assert_array_equal(twice.present(kind), expected.present(kind))


def test_vasp_energies_and_stress_follow_ase(here):
    """ASE brings the kbar and the sign of VASP to eV/Å³ and its own sign."""
    (here / "vasprun.xml").write_text(VASPRUN)
    (found,) = read("vasprun.xml", verbose=False)
    labels = resolve([found])
    assert labels.energy[0] == -3.7
    np.testing.assert_allclose(labels.stress[0], np.array([-10, -20, -30, 0, 0, 0]) / 1602.176634, rtol=1e-6)
    np.testing.assert_array_equal(labels.forces[0], [[0.1, 0.2, 0.3]])


@pytest.mark.parametrize(
    ("name", "count", "atoms"),
    [
        ("mlearn/Si_train.xyz.xz", 214, 13233),
        ("mlearn/Ni_train.xyz.xz", 263, 27420),
        ("agpd/AgPd_bulk_master.xyz.xz", 768, 19629),
        ("rmd17/ethanol_train.xyz.xz", 1000, 9000),
        ("acac/train_300K.xyz.xz", 500, 7500),
        ("ta_snap/ta_all.xyz.xz", 363, 4224),
    ],
)
def test_real_files_are_complete(name, count, atoms):
    found = read(dataset(name), require=("energy", "forces"), verbose=False)
    assert (len(found), sum(map(len, found))) == (count, atoms)
    labels = resolve(found)
    assert labels.present("stress").all() == ("stress" in found[0].calc.results)
    assert all(forces is not None and np.abs(forces.sum(axis=0)).max() < 1.0 for forces in labels.forces)


VASPRUN = """<?xml version="1.0" encoding="ISO-8859-1"?>
<modeling>
 <generator><i name="program" type="string">vasp </i></generator>
 <kpoints><varray name="kpointlist"><v>0 0 0</v></varray><varray name="weights"><v>1.0</v></varray></kpoints>
 <parameters><separator name="electronic"><i type="int" name="ISPIN"> 1</i></separator></parameters>
 <atominfo>
  <atoms> 1 </atoms><types> 1 </types>
  <array name="atoms"><dimension dim="1">ion</dimension><field type="string">element</field>
   <field type="int">atomtype</field><set><rc><c>Cu</c><c> 1</c></rc></set></array>
 </atominfo>
 <structure name="initialpos">
  <crystal><varray name="basis"><v>3 0 0</v><v>0 3 0</v><v>0 0 3</v></varray></crystal>
  <varray name="positions"><v>0 0 0</v></varray>
 </structure>
 <calculation>
  <scstep>
   <energy><i name="e_fr_energy">-3.8</i><i name="e_wo_entrp">-3.6</i><i name="e_0_energy">-3.7</i></energy>
  </scstep>
  <structure>
   <crystal><varray name="basis"><v>3 0 0</v><v>0 3 0</v><v>0 0 3</v></varray></crystal>
   <varray name="positions"><v>0 0 0</v></varray>
  </structure>
  <varray name="forces"><v>0.1 0.2 0.3</v></varray>
  <varray name="stress"><v>10 0 0</v><v>0 20 0</v><v>0 0 30</v></varray>
  <energy><i name="e_fr_energy">-3.8</i><i name="e_wo_entrp">-3.6</i><i name="e_0_energy">-3.7</i></energy>
 </calculation>
</modeling>
"""
