"""Pools written to disk in chunks: what is read, set aside, resumed and refused."""

from __future__ import annotations

import contextlib
import gzip
import lzma
import os
import signal
import socket
import subprocess
import threading
import time

import numpy as np
import pytest
from ase import Atoms
from ase.io import write

import kernelpot as kp
from kernelpot import progress

pytest.importorskip("zarr", reason="zarr is not installed (kernelpot[scale])")

from kernelpot.errors import DataError, NotFittedError, ParameterError, StoreError
from kernelpot.linalg.store import held
from kernelpot.pools import BlockStore, load_space, open_blocks, sample, save_space, select_chunks, write_blocks
from kernelpot.pools import write as writing
from kernelpot.pools.source import frames, read_frames
from kernelpot.pools.write import fingerprint
from tests import structures as make
from tests.pools.pools import killed_script, pool, space, store, xyz


def gram(info, s):
    return info.block(s).T @ info.block(s)


def assert_same_information(found, wanted, rtol=1e-9):
    assert len(found) == len(wanted)
    for s in range(len(wanted)):
        assert np.abs(gram(found, s) - gram(wanted, s)).max() <= rtol * np.abs(gram(wanted, s)).max()
    assert np.array_equal(found.counts, wanted.counts)
    assert np.array_equal(found.n_atoms, wanted.n_atoms)
    assert found.groups == wanted.groups
    assert np.allclose(found.means, wanted.means, atol=1e-7)


@pytest.mark.parametrize(("dtype", "rtol"), [("float64", 1e-9), ("float32", 1e-6)])
def test_blocks_equal_those_made_in_memory(tmp_path, dtype, rtol):
    made = store(tmp_path / "s", dtype=dtype, truncate=0.0)
    assert_same_information(made.information(), space().information(pool(), truncate=0.0), rtol)
    assert made.complete
    assert made.manifest["n_structures"] == 30
    assert open_blocks(tmp_path / "s").fingerprint() == made.fingerprint()


@pytest.mark.parametrize("ending", [".xyz", ".extxyz.xz", ".xyz.gz", ".traj"])
def test_files_stream_with_their_numbers(tmp_path, ending):
    inner = tmp_path / f"pool{ending.removesuffix('.xz').removesuffix('.gz')}"
    write(inner, pool(), format="traj" if ending == ".traj" else "extxyz")
    path = tmp_path / f"pool{ending}"
    if ending.endswith((".xz", ".gz")):
        opener = lzma.open if ending.endswith(".xz") else gzip.open
        path.write_bytes(b"")
        with opener(path, "wb") as file:
            file.write(inner.read_bytes())
    other = xyz(tmp_path / "other.xyz", pool()[:3])
    made = write_blocks(space(), [other, path], tmp_path / "s", chunk=8, workers=0, dtype="float64", truncate=0.0)
    wanted = space().information([*pool()[:3], *pool()], truncate=0.0)
    assert_same_information(made.information(), wanted, 1e-6)
    assert made.catalogue.file.tolist() == [0] * 3 + [1] * 30
    assert made.catalogue.frame.tolist() == [0, 1, 2, *range(30)]
    assert made.catalogue.index.tolist() == list(range(33))
    assert len(made.catalogue.heads) == 30
    back = read_frames([other, path], [32, 4])
    assert np.allclose(back[0].positions, pool()[29].positions, atol=1e-6)
    assert np.allclose(back[1].positions, pool()[1].positions, atol=1e-6)


def test_one_structure_and_none(tmp_path):
    made = write_blocks(space(), pool()[:1], tmp_path / "s", workers=0)
    assert len(made.information()) == 1
    with pytest.raises(ParameterError, match="not empty"):
        write_blocks(space(), [], tmp_path / "t", workers=0)
    assert not (tmp_path / "t").exists()
    (tmp_path / "empty.xyz").write_text("")
    with pytest.raises(DataError, match="empty"):
        write_blocks(space(), tmp_path / "empty.xyz", tmp_path / "t", workers=0)
    (tmp_path / "blank.xyz").write_text("\n\n")
    with pytest.raises(DataError, match="found none"):
        write_blocks(space(), tmp_path / "blank.xyz", tmp_path / "t", workers=0)
    with pytest.raises(DataError, match="must exist"):
        write_blocks(space(), tmp_path / "absent.xyz", tmp_path / "t", workers=0)
    with pytest.raises(ParameterError, match="mixture"):
        write_blocks(space(), [pool()[0], "a.xyz"], tmp_path / "t", workers=0)


def test_broken_structures_are_set_aside_with_reasons(tmp_path):
    structures = [atoms.copy() for atoms in pool()[:9]]
    structures[2].positions[1] = structures[2].positions[0]
    structures[4].positions[0, 0] = np.nan
    structures[6].symbols[0] = "Si"
    structures[8] = Atoms()
    made = write_blocks(space(), structures, tmp_path / "s", chunk=4, workers=0)
    assert made.catalogue.index.tolist() == [0, 1, 3, 5, 7]
    aside = {one["index"]: one["reason"] for one in made.set_aside()}
    assert list(aside) == [2, 4, 6, 8]
    assert "apart" in aside[2]
    assert "finite" in aside[4]
    assert "Si was never seen" in aside[6]
    assert "found none" in aside[8]
    assert made.manifest["n_set_aside"] == 4


def test_broken_text_costs_only_what_is_broken(tmp_path):
    path = xyz(tmp_path / "pool.xyz", pool()[:6])
    lines = path.read_text().splitlines(keepends=True)
    assert len(lines) == 36
    lines[2 * 6 + 3] = "Cu 0.1 nonsense 0.3\n"
    lines[4 * 6] = "four\n"
    path.write_text("".join(lines[:-2]))
    found = list(frames(path))
    assert [frame.content is None for frame in found] == [False, False, False, False, True, True]
    made = write_blocks(space(), path, tmp_path / "s", chunk=4, workers=0)
    assert made.catalogue.index.tolist() == [0, 1, 3]
    reasons = [one["reason"] for one in made.set_aside()]
    assert "ASE failed" in reasons[0]
    assert "lines 25 to 30 belong to no structure" in reasons[1]
    assert "found 'four'" in reasons[1]
    assert "ends within a structure of 4 atoms" in reasons[2]


def test_a_truncated_compressed_file_gives_what_can_be_read(tmp_path):
    plain = xyz(tmp_path / "pool.xyz", pool())
    path = tmp_path / "pool.xyz.xz"
    whole = lzma.compress(plain.read_bytes(), preset=0)
    path.write_bytes(whole[: len(whole) // 2])
    made = write_blocks(space(), path, tmp_path / "s", chunk=8, workers=0)
    n = len(made.catalogue)
    assert made.catalogue.index.tolist() == list(range(n))
    assert "cannot be read" in made.set_aside()[-1]["reason"]


def test_a_killed_run_goes_on_to_the_same_store(tmp_path, monkeypatch, capsys):
    whole = store(tmp_path / "whole")
    make, made = writing._make, []

    def interrupted(item):
        if len(made) == 2:
            raise KeyboardInterrupt
        made.append(item[1])
        return make(item)

    monkeypatch.setattr(writing, "_make", interrupted)
    with pytest.raises(KeyboardInterrupt):
        store(tmp_path / "s")
    assert BlockStore(tmp_path / "s").chunks.numbers() == [0, 1]
    with pytest.raises(StoreError, match="2 of an unknown number"):
        open_blocks(tmp_path / "s")
    made.clear()
    monkeypatch.setattr(writing, "_make", lambda item: (made.append(item[1]), make(item)))
    with progress.shown():
        resumed = store(tmp_path / "s")
    assert made == [2, 3, 4]
    assert "going on with 2 complete chunk(s)" in capsys.readouterr().err
    assert resumed.fingerprint() == whole.fingerprint()
    made.clear()
    store(tmp_path / "s")
    assert made == []


def test_a_second_run_waits_for_the_first(tmp_path, capsys):
    order, inside, leave = [], threading.Event(), threading.Event()

    def first():
        with held(tmp_path / "s"):
            (tmp_path / "s" / "manifest.json").write_text("{}")
            inside.set()
            leave.wait(10)
            order.append("first")

    def second():
        with progress.shown(), held(tmp_path / "s"), held(tmp_path / "s"):
            order.append("second")

    runs = [threading.Thread(target=run) for run in (first, second)]
    runs[0].start()
    inside.wait(10)
    runs[1].start()
    said = ""
    while "another run is at work in this folder (process" not in said:
        said += capsys.readouterr().err
        time.sleep(0.01)
    leave.set()
    for run in runs:
        run.join(10)
    assert order == ["first", "second"]
    assert [entry.name for entry in (tmp_path / "s").iterdir()] == ["manifest.json"]


@pytest.mark.slow
def test_two_runs_on_one_store_choose_what_one_does(tmp_path):
    body = f"""
from pathlib import Path
from tests.pools.pools import store
from kernelpot.pools import select_chunks
print(list(select_chunks(store(Path({str(tmp_path / "s")!r}), chunk=3), 5).indices))
"""
    runs = [subprocess.Popen(killed_script(body), stdout=subprocess.PIPE, stderr=subprocess.PIPE) for _ in range(3)]
    said = [run.communicate(timeout=240) for run in runs]
    alone = str(list(select_chunks(store(tmp_path / "alone", chunk=3), 5).indices))
    assert [out.decode().strip() for out, _ in said] == [alone] * 3
    assert [run.returncode for run in runs] == [0, 0, 0]


@pytest.mark.slow
def test_a_run_that_was_killed_for_good_goes_on(tmp_path):
    body = f"""
from pathlib import Path
from tests.pools.pools import store
store(Path({str(tmp_path / "s")!r}), n=30, chunk=1)
"""
    process = subprocess.Popen(killed_script(body), stderr=subprocess.PIPE)
    chunks = tmp_path / "s" / "chunks"
    limit = time.monotonic() + 240
    while len(list(chunks.glob("chunk-*"))) < 3:
        assert process.poll() is None, process.stderr.read().decode()
        assert time.monotonic() < limit
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    assert len(BlockStore(tmp_path / "s").chunks.numbers()) < 30
    resumed = store(tmp_path / "s", chunk=1)
    assert resumed.fingerprint() == store(tmp_path / "whole", chunk=1).fingerprint()


def test_damaged_and_missing_chunks_are_made_again(tmp_path, capsys):
    made = store(tmp_path / "s")
    before = made.fingerprint()
    rows = next(p for p in (made.chunks.path(2) / "rows" / "c").rglob("*") if p.is_file())
    rows.unlink()
    made.chunks.remove(4)
    with progress.shown():
        again = store(tmp_path / "s")
    said = capsys.readouterr().err
    assert "chunk-000002: damaged" in said
    assert again.fingerprint() == before
    assert again.chunks.intact(2)


def test_other_settings_are_refused_with_their_names(tmp_path):
    path = xyz(tmp_path / "pool.xyz", pool())
    write_blocks(space(), path, tmp_path / "s", chunk=7, workers=0)
    with pytest.raises(StoreError, match=r"truncate was 0.01, now 0.5"):
        write_blocks(space(), path, tmp_path / "s", chunk=7, workers=0, truncate=0.5)
    quiet = kp.SparseGP(space().descriptor, n_inducing=24, noise=kp.Noise(energy=0.002, forces=0.2))
    with pytest.raises(StoreError, match=r"space.noise.forces was 0.05, now 0.2"):
        write_blocks(quiet.prepare(pool()[:10]), path, tmp_path / "s", chunk=7, workers=0)
    with pytest.raises(StoreError, match=r"space.checksum was"):
        write_blocks(space().prepare(pool()[5:20]), path, tmp_path / "s", chunk=7, workers=0)
    xyz(path, pool()[:29])
    with pytest.raises(StoreError, match=r"source was"):
        write_blocks(space(), path, tmp_path / "s", chunk=7, workers=0)


@pytest.mark.parametrize(
    ("settings", "word"),
    [
        ({"chunk": 0}, "chunk"),
        ({"chunk": 2.5}, "chunk"),
        ({"truncate": 1.0}, "truncate"),
        ({"dtype": "float16"}, "dtype"),
        ({"workers": -1}, "workers"),
        ({"workers": None, "scheduler": "nonsense"}, "scheduler"),
        ({"workers": 2, "scheduler": "tcp://x:1"}, "workers"),
    ],
)
def test_bad_settings_are_named(tmp_path, settings, word):
    with pytest.raises(ParameterError, match=f"`{word}`"):
        write_blocks(space(), pool(), tmp_path / "s", **({"workers": 0} | settings))
    assert not (tmp_path / "s").exists()


def test_a_space_that_is_not_prepared_is_refused(tmp_path):
    with pytest.raises(NotFittedError, match="prepare"):
        write_blocks(kp.SparseGP(space().descriptor, n_inducing=4), pool(), tmp_path / "s", workers=0)
    with pytest.raises(ParameterError, match="SparseGP"):
        write_blocks("space", pool(), tmp_path / "s", workers=0)


def test_a_space_comes_back_from_its_file(tmp_path):
    save_space(space(), tmp_path / "space")
    back = load_space(tmp_path / "space")
    assert fingerprint(back) == fingerprint(space())
    ours, theirs = space().information(pool()[:4]), back.information(pool()[:4])
    assert np.array_equal(ours.rows, theirs.rows)


def test_damaged_spaces_are_refused(tmp_path):
    with pytest.raises(StoreError, match="no such file"):
        load_space(tmp_path / "absent")
    save_space(space(), tmp_path / "space")
    content = (tmp_path / "space").read_bytes()
    for damaged in (content[:200], b"", content.replace(b"kernelpot-space", b"kernelpot-spade")):
        (tmp_path / "space").write_bytes(damaged)
        with pytest.raises(StoreError, match=r"damaged|must be"):
            load_space(tmp_path / "space")


def test_a_sample_is_drawn_evenly_and_repeatably(tmp_path):
    path = xyz(tmp_path / "pool.xyz", pool())
    assert len(sample(path, 100)) == 30
    drawn = [atoms.info["kernelpot_source"] for atoms in sample(path, 5, seed=1)]
    assert drawn == [atoms.info["kernelpot_source"] for atoms in sample(path, 5, seed=1)]
    counts = np.zeros(30)
    for seed in range(300):
        for atoms in sample(pool(), 3, seed=seed):
            counts[next(k for k, other in enumerate(pool()) if other is atoms)] += 1
    assert counts.sum() == 900
    assert counts.min() >= 9
    assert counts.max() <= 60


def test_a_sample_leaves_out_what_is_broken():
    broken = pool()[0].copy()
    broken.positions[:] = np.nan
    assert len(sample([broken, pool()[1]], 2)) == 1
    with pytest.raises(DataError, match="none of 1"):
        sample([broken], 1)


def test_the_plan_is_said_before_the_start(tmp_path, capsys):
    with progress.shown():
        store(tmp_path / "s")
    said = capsys.readouterr().err
    assert "GiB of memory in 1 process" in said
    assert "kB of disk a structure" in said


@pytest.mark.slow
def test_dask_workers_write_the_same_store(tmp_path):
    pytest.importorskip("distributed", reason="dask[distributed] is not installed (kernelpot[scale])")
    made = write_blocks(space(), pool(), tmp_path / "s", chunk=7, workers=2)
    assert made.fingerprint() == store(tmp_path / "t").fingerprint()


def test_a_cluster_that_is_not_there_is_a_clear_error(tmp_path):
    distributed = pytest.importorskip("distributed", reason="dask[distributed] is not installed (kernelpot[scale])")
    assert distributed
    from kernelpot.linalg import workers

    with pytest.raises(StoreError, match="no cluster answers"):
        list(workers.spread(len, [[1]], scheduler="tcp://127.0.0.1:9", patience="1s"))


def test_a_fitted_space_is_written_with_what_the_fit_found(tmp_path):
    fitted = kp.SparseGP(space().descriptor, n_inducing=16, noise="evidence").fit(make.labelled(pool()[:8]))
    save_space(fitted, tmp_path / "space")
    back = load_space(tmp_path / "space")
    ours, theirs = fitted.information(pool()[:4]), back.information(pool()[:4])
    assert np.array_equal(ours.rows, theirs.rows)
    assert dict(ours.description) == dict(theirs.description)


@pytest.mark.slow
def test_a_running_cluster_does_the_work(tmp_path):
    distributed = pytest.importorskip("distributed", reason="dask[distributed] is not installed (kernelpot[scale])")
    with distributed.LocalCluster(
        n_workers=1, threads_per_worker=1, dashboard_address="127.0.0.1:0", memory_limit=0, silence_logs=50
    ) as cluster:
        made = write_blocks(space(), pool(), tmp_path / "s", chunk=7, scheduler=cluster.scheduler_address)
        chosen = select_chunks(made, 4, criterion="IV", scheduler=cluster.scheduler_address)
    here = store(tmp_path / "t")
    assert made.fingerprint() == here.fingerprint()
    assert chosen.indices.tolist() == select_chunks(here, 4, criterion="IV").indices.tolist()


def test_workers_start_beside_what_holds_the_port_of_dask():
    pytest.importorskip("distributed", reason="dask[distributed] is not installed (kernelpot[scale])")
    from kernelpot.linalg.workers import spread

    with socket.socket() as taken:
        with contextlib.suppress(OSError):  # held by another program already: just as well
            taken.bind(("127.0.0.1", 8787))
            taken.listen()
        assert list(spread(str.upper, ["a"], workers=1)) == ["A"]


@pytest.mark.slow
def test_workers_have_one_thread_and_their_errors_come_back():
    pytest.importorskip("distributed", reason="dask[distributed] is not installed (kernelpot[scale])")
    from kernelpot.linalg.workers import spread

    assert list(spread(os.getenv, ["NUMBA_NUM_THREADS", "OMP_NUM_THREADS"], workers=1)) == ["1", "1"]
    with pytest.raises(ValueError, match="invalid literal"):
        list(spread(int, ["1", "x", "3", "4"], workers=1))


def test_workers_leave_the_thread_counts_of_this_process(monkeypatch):
    from kernelpot.linalg.workers import spread

    monkeypatch.delenv("NUMBA_NUM_THREADS", raising=False)
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    during = []
    for found in spread(os.getenv, ["NUMBA_NUM_THREADS"], workers=1):
        during.append((found, os.environ.get("NUMBA_NUM_THREADS"), os.environ["OMP_NUM_THREADS"]))
    assert during == [("1", None, "2")]
    assert "NUMBA_NUM_THREADS" not in os.environ
