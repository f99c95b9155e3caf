"""Manifests with numbers that no store can have, wrong types, and outputs where the store is."""

from __future__ import annotations

import json

import numpy as np
import pytest

pytest.importorskip("zarr", reason="zarr is not installed (kernelpot[scale])")

from kernelpot.cli import main
from kernelpot.errors import ParameterError, StoreError
from kernelpot.pools import open_blocks, sample, select_chunks
from tests.pools.pools import pool, store, xyz


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("blocks") / "s"
    store(place)
    return place


@pytest.fixture
def damaged(folder):
    """A function that writes values into the manifest, which is whole again afterwards."""
    file = folder / "manifest.json"
    before = file.read_text()

    def damage(values, settings=None):
        content = json.loads(before)
        content |= values
        content["settings"] |= settings or {}
        file.write_text(json.dumps({name: value for name, value in content.items() if value != "absent"}))
        return folder

    yield damage
    file.write_text(before)


@pytest.mark.parametrize("name", ["n_chunks", "n_structures", "n_set_aside"])
@pytest.mark.parametrize("value", ["5", 5.0, -1, True, [5], "absent"])
def test_numbers_of_a_wrong_type_are_refused_where_the_manifest_is_read(damaged, name, value):
    with pytest.raises(StoreError, match=r"manifest\.json: damaged .*write the store again"):
        open_blocks(damaged({name: value}))


@pytest.mark.parametrize("name", ["n_structures", "n_set_aside"])
def test_none_is_refused_for_a_complete_store(damaged, name):
    with pytest.raises(StoreError, match=rf"`{name}` must be a whole number"):
        open_blocks(damaged({name: None}))


@pytest.mark.parametrize(
    "settings", [{"d": "x"}, {"d": 0}, {"chunk": 1.5}, {"dtype": "int8"}, {"dtype": [1]}, {"description": 1}], ids=repr
)
def test_settings_of_a_wrong_type(damaged, settings):
    with pytest.raises(StoreError, match=r"manifest\.json: damaged"):
        open_blocks(damaged({}, settings))


@pytest.mark.parametrize("n", [4, 6, 10**18])
def test_wrong_numbers_of_chunks(damaged, n):
    with pytest.raises(StoreError, match="must be complete"):
        open_blocks(damaged({"n_chunks": n}))


@pytest.mark.parametrize("n", [0, 29, 31])
def test_wrong_numbers_of_structures(damaged, n):
    with pytest.raises(StoreError, match=rf"the chunks hold 30 structures, `n_structures` is {n}"):
        select_chunks(open_blocks(damaged({"n_structures": n})), 2)


@pytest.mark.parametrize(
    "settings",
    [
        *({"epsilon": value} for value in ("x", [0.1], 1.0, np.nan)),
        *({"memory": value} for value in ("x", None, 0, np.nan)),
        *({"existing": value} for value in (1, "x", [1])),
        *({"seed": value} for value in ("x", None, 1.5, True)),
        *({"n": value} for value in ("x", None, 1.5, True, -1)),
        *({"per_part": value} for value in ("x", 1.5, 0)),
        {"method": ["stochastic"]},
        {"target": "x"},
    ],
    ids=repr,
)
def test_wrong_types_in_a_choice(folder, settings):
    with pytest.raises(ParameterError, match=r"`|method"):
        select_chunks(open_blocks(folder), **{"n": 2, **settings})


def test_wrong_types_elsewhere(tmp_path, folder):
    for size in ("x", None, 0, 1.5):
        with pytest.raises(ParameterError, match="`size`"):
            sample(pool(), size)
    for settings in ({"truncate": "x"}, {"truncate": None}, {"truncate": 1.0}, {"chunk": "x"}, {"chunk": 0}):
        with pytest.raises(ParameterError, match=next(iter(settings))):
            store(tmp_path / "new", **settings)
    for which in (np.arange(30) < 3, [0.5], "x"):
        with pytest.raises(ParameterError, match="`which`"):
            open_blocks(folder).take(which)


@pytest.mark.parametrize("option", ["--out", "--json"])
def test_outputs_within_the_folder_of_blocks_are_refused(tmp_path, capsys, option):
    (tmp_path / "b").mkdir()
    path = str(xyz(tmp_path / "pool.xyz", pool(3)))
    inside = str(tmp_path / "b" / "file")
    assert main(["curate", path, "-n", "1", "--blocks", str(tmp_path / "b"), option, inside]) == 2
    assert f"`{option}` must not lie in the folder of `--blocks`" in capsys.readouterr().err
    assert not list((tmp_path / "b").iterdir())


@pytest.mark.parametrize("below", ["", "b/c"])
def test_a_folder_of_blocks_that_is_a_file(tmp_path, capsys, below):
    path = xyz(tmp_path / "pool.xyz", pool(3))
    assert main(["curate", str(path), "-n", "1", "--blocks", str(path / below)]) == 2
    printed = capsys.readouterr().err.strip()
    assert "`--blocks` must be a folder" in printed
    assert len(printed.splitlines()) == 1
