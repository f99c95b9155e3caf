"""Information in chunks on disk: what comes back, and what is refused."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest

from kernelpot.design import Information, duplicates
from kernelpot.errors import DataError, ParameterError, StoreError
from kernelpot.pools.block_store import BlockStore, differences, from_arrays, marks, to_arrays
from tests.design.pools import pool

pytest.importorskip("zarr", reason="zarr is not installed (kernelpot[scale])")

from kernelpot.linalg.store import ChunkStore, digest

ARRAYS = ("rows", "kinds", "offsets", "counts", "sigma", "n_atoms", "means", "discarded")


def store_of(folder, info, chunk=5, dtype="float64", **settings):
    """A complete store of information that is in memory."""
    store = BlockStore.create(folder, {"d": info.d, "chunk": chunk, "dtype": dtype, "source": [], **settings})
    starts = range(0, len(info), chunk)
    for k, start in enumerate(starts):
        which = np.arange(start, min(start + chunk, len(info)))
        store.write(k, info.take(which), index=which, file=np.full(len(which), -1), frame=which)
    store.finish(len(starts))
    return BlockStore(folder)


def equal(a: Information, b: Information) -> bool:
    same = all(np.array_equal(getattr(a, name), getattr(b, name)) for name in ARRAYS)
    return same and a.groups == b.groups and dict(a.description) == dict(b.description)


def test_a_store_gives_back_every_field(tmp_path):
    info = pool(23, 7, truncate=0.05)
    assert info.discarded.sum() > 0
    assert equal(store_of(tmp_path / "s", info).information(), info)


def test_representation_is_one_line(tmp_path):
    info = pool(12, 7)
    assert repr(store_of(tmp_path / "s", info)).endswith("s': 12 structures, 7 weights, 3 chunks, complete)")
    begun = BlockStore.create(tmp_path / "t", {"d": 7, "chunk": 5, "dtype": "float64"})
    assert repr(begun).endswith("t': number of structures not known yet, 7 weights, 0 chunks, not complete)")


def test_float32_rounds_and_says_how_much_it_may_have_taken(tmp_path):
    info = pool(12, 9, scale=300.0)
    back = store_of(tmp_path / "s", info, dtype="float32").information()
    assert np.allclose(back.rows, info.rows, rtol=1e-7, atol=0.0)
    assert not np.array_equal(back.rows, info.rows)
    for s in range(len(info)):
        for kind in range(3):
            old = info.block(s)[info.kinds[info.offsets[s] : info.offsets[s + 1]] == kind]
            new = back.block(s)[back.kinds[back.offsets[s] : back.offsets[s + 1]] == kind]
            change = np.abs(np.linalg.eigvalsh(old.T @ old - new.T @ new)).sum()
            allowed = back.discarded[s, kind] - info.discarded[s, kind]
            assert change <= allowed * (1 + 1e-6) + 1e-12 * (old**2).sum()
            assert allowed <= 3e-7 * (old**2).sum()


def test_rows_too_large_for_float32_never_come_so_far():
    with pytest.raises(DataError, match="the noise is too small"):
        to_arrays(pool(3, 4, scale=1e60), "float32")


def test_take_reads_blocks_in_any_order(tmp_path):
    info = pool(17, 6)
    store = store_of(tmp_path / "s", info, chunk=4)
    which = [16, 3, 9, 0, 3]
    taken, wanted = store.take(which), info.take(which)
    assert np.array_equal(taken.rows, wanted.rows)
    assert np.array_equal(taken.counts, wanted.counts)
    assert taken.groups == wanted.groups
    assert len(store.take([])) == 0


def test_the_catalogue_finds_the_same_duplicates(tmp_path):
    info = pool(20, 5, F=40)
    means, n_atoms = np.array(info.means), np.array(info.n_atoms)
    means[[7, 12]], n_atoms[[7, 12]] = means[2] * (1 + 1e-9), n_atoms[2]
    parts, notes = to_arrays(info)
    info = from_arrays({**parts, "means": means, "n_atoms": n_atoms}, notes)
    store = store_of(tmp_path / "s", info, chunk=6, dtype="float32")
    assert np.array_equal(store.catalogue.same, duplicates(info))
    assert len(store.catalogue.heads) == 18


def test_marks_tell_close_vectors_from_equal_ones():
    x = np.random.default_rng(0).standard_normal((50, 300))
    apart = np.linalg.norm(marks(x) - marks(x * (1 + 1e-3)), axis=1) / np.linalg.norm(marks(x), axis=1)
    assert np.allclose(apart, 1e-3, rtol=1e-6)
    moved = x + 1e-3 * np.random.default_rng(1).standard_normal(x.shape)
    assert (np.linalg.norm(marks(moved) - marks(x), axis=1) > 1e-4 * np.linalg.norm(marks(x), axis=1)).all()


def test_a_chunk_without_structures_is_a_chunk(tmp_path):
    info = pool(4, 5)
    store = BlockStore.create(tmp_path / "s", {"d": 5, "chunk": 4, "dtype": "float64"})
    store.write(0, None, index=[], file=[], frame=[], set_aside=[{"index": 0, "reason": "broken"}])
    store.write(1, info, index=[4, 5, 6, 7], file=[-1] * 4, frame=[4, 5, 6, 7])
    store.finish(2)
    assert np.array_equal(store.information().rows, info.rows)
    assert store.catalogue.index.tolist() == [4, 5, 6, 7]
    assert store.set_aside() == [{"index": 0, "reason": "broken"}]
    assert store.manifest["n_set_aside"] == 1


def test_a_store_with_nothing_in_it_says_so(tmp_path):
    store = BlockStore.create(tmp_path / "s", {"d": 5, "chunk": 4, "dtype": "float64"})
    store.write(0, None, index=[], file=[], frame=[])
    store.finish(1)
    with pytest.raises(ParameterError, match="no structure"):
        _ = store.catalogue
    assert len(store.information()) == 0


def test_other_settings_are_refused_by_name(tmp_path):
    store_of(tmp_path / "s", pool(3, 4))
    with pytest.raises(StoreError, match=r"chunk was 5, now 7"):
        BlockStore.create(tmp_path / "s", {"d": 4, "chunk": 7, "dtype": "float64", "source": []})
    with pytest.raises(StoreError, match="already"):
        BlockStore.create(tmp_path / "s", {"d": 4, "chunk": 5, "dtype": "float64", "source": []}, resume=False)


def test_differences_name_nested_values():
    old = {"a": 1, "b": {"c": [1, 2], "d": "x"}}
    assert differences(old, {"a": 1, "b": {"c": [1, 3], "d": "x"}}) == ["b.c was [1, 2], now [1, 3]"]
    assert differences(old, {"a": 1}) != []
    assert differences(old, old) == []


def test_differences_are_short_for_other_things_and_for_tables():
    old = {"thing": {"name": "SOAP", "cutoff": 5.0, "table": [[1.0, 2.0], [3.0, 4.0]]}}
    assert differences(old, {"thing": {"name": "ACSF", "reach": 4.0}}) == ["thing was SOAP, now ACSF"]
    more = {"thing": {**old["thing"], "table": [[1.0, 2.0]]}}
    assert differences(old, more) == ["thing.table had 2 rows, now 1"]
    other = {"thing": {**old["thing"], "table": [[1.0, 2.0], [3.0, 5.0]]}}
    assert differences(old, other) == ["thing.table[1] was [3.0, 4.0], now [3.0, 5.0]"]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{", "damaged"),
        ("[]", "damaged"),
        ('{"format": "other", "version": 1, "settings": {}, "n_chunks": 1}', "must be kernelpot-blocks"),
        ('{"format": "kernelpot-blocks", "version": 99, "settings": {}, "n_chunks": 1}', "version 99"),
        ('{"format": "kernelpot-blocks", "version": 1, "settings": {}, "n_chunks": 1}', "settings are missing"),
    ],
)
def test_foreign_manifests_are_refused(tmp_path, content, words):
    (tmp_path / "manifest.json").write_text(content)
    with pytest.raises(StoreError, match=words):
        BlockStore(tmp_path)


def test_no_store_incomplete_store_and_chunks_without_manifest(tmp_path):
    with pytest.raises(StoreError, match="no manifest"):
        BlockStore(tmp_path / "nowhere")
    store = store_of(tmp_path / "s", pool(12, 4))
    store.chunks.remove(1)
    assert not store.complete
    with pytest.raises(StoreError, match="2 of 3 chunks"):
        store.information()
    (tmp_path / "s" / "manifest.json").unlink()
    with pytest.raises(StoreError, match="no manifest"):
        BlockStore.create(tmp_path / "s", {"d": 4, "chunk": 5, "dtype": "float64"})
    (tmp_path / "file").write_text("x")
    with pytest.raises(StoreError, match="found a file"):
        BlockStore.create(tmp_path / "file", {"d": 4, "chunk": 5, "dtype": "float64"})


def files_of(store, k):
    return sorted(p for p in store.path(k).rglob("*") if p.is_file())


def test_every_file_of_a_chunk_is_guarded(tmp_path):
    rng = np.random.default_rng(0)
    arrays = {"a": rng.standard_normal((40, 3)), "b": np.arange(7)}
    store = ChunkStore(tmp_path)
    store.write(0, arrays, {"x": ["y"]})
    assert store.intact(0)
    for file in files_of(store, 0):
        for damage in ("cut", "flip", "gone"):
            shutil.copytree(store.path(0), store.path(1))
            victim = store.path(1) / file.relative_to(store.path(0))
            content = bytearray(victim.read_bytes())
            if damage == "cut":
                victim.write_bytes(content[: len(content) // 2])
            elif damage == "flip":
                content[len(content) // 2] ^= 1
                victim.write_bytes(content)
            else:
                victim.unlink()
            try:
                back, notes = store.read(1), store.notes(1)
            except StoreError:
                pass
            else:  # a change that changes no value
                assert all(np.array_equal(back[name], arrays[name]) for name in arrays), (file, damage)
                assert notes == {"x": ["y"]}
            store.remove(1)


def test_an_unfinished_chunk_does_not_count_and_a_failed_write_leaves_the_old_one(tmp_path):
    store = ChunkStore(tmp_path)
    store.write(3, {"a": np.arange(3)}, {"n": 1})
    with pytest.raises(TypeError):
        store.write(3, {"a": np.arange(5)}, {"n": object()})
    assert store.read(3)["a"].tolist() == [0, 1, 2]
    (tmp_path / ".unfinished-000009-abc").mkdir()
    assert store.numbers() == [3]
    store.sweep()
    assert not list(tmp_path.glob(".unfinished*"))
    assert store.intact(3)
    assert not store.intact(9)


def test_unknown_arrays_and_formats_are_named(tmp_path):
    store = ChunkStore(tmp_path)
    store.write(0, {"a": np.arange(3)})
    with pytest.raises(StoreError, match="'b'"):
        store.read(0, ["b"])
    file = store.path(0) / "zarr.json"
    content = json.loads(file.read_text())
    content["attributes"]["kernelpot"]["format"] = 9
    file.write_text(json.dumps(content))
    with pytest.raises(StoreError, match="format 1, found 9"):
        store.read(0)


def test_digests_tell_types_shapes_and_values_apart():
    a = np.arange(6.0)
    others = [a.reshape(2, 3), a.astype(np.float32), a + 1e-300, a[::-1], np.append(a, 0)]
    assert digest(a) == digest(a.copy())
    assert len({digest(a), *(digest(other) for other in others)}) == 1 + len(others) - (digest(others[2]) == digest(a))
