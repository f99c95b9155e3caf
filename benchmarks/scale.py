"""Choices from pools in chunks: memory, a killed run, and what distribution loses."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks import THREADS
from benchmarks.child import ROOT, Stopwatch, measure
from benchmarks.harness import Report, Settings

if TYPE_CHECKING:
    from ase import Atoms

    from kernelpot.design import Information

TRUNCATE = 0.01
SHORT = 0.1
MEMORY = 4.0
EPSILON = 0.1
PARTS = 4


@dataclass(frozen=True)
class Sizes:
    """How large everything is."""

    real: int = 10_000
    synthetic: int = 190_000
    chosen: int = 1_000
    n_inducing: int = 300
    chunk: int = 1_000
    compared: int = 200
    memory: float = MEMORY


QUICK = Sizes(real=60, synthetic=240, chosen=12, n_inducing=24, chunk=20, compared=3, memory=1.0)


def run(settings: Settings) -> Report:
    """Write blocks, choose with and without being killed, and compare with the choice in memory."""
    report = Report()
    sizes = QUICK if settings.quick else Sizes()
    with tempfile.TemporaryDirectory(prefix="kernelpot_scale_") as temporary:
        asked = {"folder": temporary, "sizes": asdict(sizes)}

        def part(name: str, **more: Any) -> tuple[dict[str, Any], float]:
            outcome = measure(f"benchmarks.scale:{name}", threads=settings.threads, **asked, **more)
            report.details[name + "".join(f" {value}" for value in more.values())] = outcome.known | {
                "peak_mib": outcome.peak
            }
            return outcome.known, outcome.peak

        blocks, _ = part("write_real")
        report.add("blocks written, each", 1e3 * blocks["cpu_s"] / sizes.real, "ms")
        made, _ = part("write_synthetic")
        whole, peak = part("choose")
        report.add(
            f"{sizes.chosen} of {sizes.real + sizes.synthetic}: peak memory", peak, "MiB",
            target=1024 * sizes.memory, note=f"the blocks alone take {made['gib']:.2f} GiB in float64",
        )  # fmt: skip
        report.add(f"{sizes.chosen} of {sizes.real + sizes.synthetic}: time", whole["cpu_s"], "s")
        shutil.rmtree(Path(temporary) / "all" / "rounds")
        killed = _killed(asked, settings.threads)
        again, peak = part("choose")
        same = again["indices"] == whole["indices"] and again["curve"] == whole["curve"]
        report.add(
            "answers that differ after SIGKILL and resuming", float(not same), target=0.0,
            note=f"killed with {killed} part(s) finished; resumed in {again['cpu_s']:.0f} s, peak {peak:.0f} MiB",
        )  # fmt: skip
        shutil.rmtree(Path(temporary) / "all")
        found, _ = part("compare")
        for way, lost in found["lost"].items():
            report.add(f"log det gain lost by {way}", 100 * lost, "%", target=2.0)
            report.add(
                f"time of {way}", found["cpu_s"][way], "s", rivals={"greedy in memory": found["cpu_s"]["greedy"]}
            )
        for criterion in ("IV", "D"):
            clock, peak = part("in_memory", criterion=criterion)
            report.add(
                f"{sizes.compared} of {sizes.real} by {criterion} in memory: time", clock["cpu_s"], "s",
                target=120.0 if criterion == "IV" else None, note=f"mean rank {clock['rank']:.1f}, {peak:.0f} MiB",
            )  # fmt: skip
    report.note(
        f"Cu-Au alloys of 32 atoms, M = {sizes.n_inducing}, blocks truncated at {TRUNCATE:g} (and at {SHORT:g} for the "
        f"large pool and the comparison, mean rank {made['rank']:.1f}); synthetic blocks mix the rows of two real ones "
        f"with 5 % noise; {whole['n_parts']} parts searched by stochastic greedy, ε = {EPSILON:g}, then greedy; "
        f"CPU seconds; {settings.threads} thread(s)"
    )
    return report


def alloy(k: int) -> Atoms:
    """32 atoms of copper and gold at random on a strained lattice, moved by up to 0.25 Å."""
    from ase.build import bulk

    rng = np.random.default_rng([k, 20260101])
    atoms = bulk("Cu", "fcc", a=3.7 + 0.4 * rng.random(), cubic=True).repeat(2)
    atoms.set_chemical_symbols(list(np.where(rng.random(len(atoms)) < rng.random(), "Cu", "Au")))
    atoms.set_cell(atoms.cell @ (np.eye(3) + rng.normal(scale=0.03, size=(3, 3))), scale_atoms=True)
    atoms.positions += rng.normal(scale=rng.uniform(0.02, 0.25), size=(len(atoms), 3))
    atoms.info["config_type"] = "alloy"
    return atoms


def write_real(*, folder: str, sizes: dict[str, Any]) -> dict[str, Any]:
    """Write the blocks of real structures."""
    import kernelpot as kp
    from kernelpot.pools import write_blocks

    s = Sizes(**sizes)
    pool = [alloy(k) for k in range(s.real)]
    soap = kp.SOAP(cutoff=4.5, n_max=4, l_max=3, sigma=0.5)
    spec = kp.SparseGP(soap, kp.DotProduct(2), n_inducing=s.n_inducing, noise=kp.Noise(energy=0.002, forces=0.1))
    space = spec.prepare(pool[:: max(1, s.real // 500)])
    with Stopwatch() as watch:
        store = write_blocks(space, pool, Path(folder) / "real", chunk=s.chunk, workers=0, truncate=TRUNCATE)
    return watch.as_dict() | {"rank": float(store.catalogue.heights.mean()), "d": store.d}


def write_synthetic(*, folder: str, sizes: dict[str, Any]) -> dict[str, Any]:
    """Write the real blocks, shorter, and many that resemble them, chunk by chunk."""
    from kernelpot.pools import open_blocks
    from kernelpot.pools.block_store import BlockStore

    s = Sizes(**sizes)
    real = _short(open_blocks(Path(folder) / "real").information())
    store = BlockStore.create(
        Path(folder) / "all",
        {"d": real.d, "chunk": s.chunk, "dtype": "float32", "source": [], "description": dict(real.description)},
    )
    total = s.real + s.synthetic
    rng = np.random.default_rng(7)
    size = 0
    with Stopwatch() as watch:
        for k, start in enumerate(range(0, total, s.chunk)):
            index = np.arange(start, min(start + s.chunk, total))
            made = index[index >= s.real]
            parts = [real.take(index[index < s.real]), *([_resembling(real, len(made), rng)] if len(made) else [])]
            info = parts[0] if len(parts) == 1 else parts[0].append(parts[1])
            size += len(info.rows)
            store.write(k, info, index=index, file=np.full(len(index), -1), frame=index)
        store.finish(k + 1)
    return watch.as_dict() | {"rank": size / total, "gib": 8 * size * real.d / 2**30}


def _short(info: Information) -> Information:
    """Cut blocks to few rows, and mean descriptors to the projections that a store compares."""
    from dataclasses import replace

    from kernelpot.pools.block_store import marks

    return replace(info, means=marks(info.means)).truncated(SHORT)


def _resembling(real: Information, n: int, rng: np.random.Generator) -> Information:
    """Blocks whose rows are mixtures of the rows of two real blocks, plus noise of the size of each column."""
    from kernelpot.design import Information

    spread = 0.05 * real.rows.std(axis=0)
    blocks, sources = [], rng.integers(len(real), size=(n, 2))
    for a, b in sources:
        if len(real.block(int(a))) < len(real.block(int(b))):
            a, b = b, a  # as high as the higher of the two
        first, second = real.block(int(a)), real.block(int(b))
        angle = rng.uniform(0.0, np.pi / 2)
        rows = np.cos(angle) * first + spread * rng.standard_normal(first.shape)
        rows[: len(second)] += np.sin(angle) * second
        at = slice(real.offsets[a], real.offsets[a + 1])
        blocks.append((rows, real.kinds[at], real.sigma[at]))
    means = real.means[sources[:, 0]] + 0.1 * rng.standard_normal((n, real.means.shape[1]))
    return Information.from_blocks(
        blocks, n_atoms=real.n_atoms[sources[:, 0]], means=means, groups=["synthetic"] * n,
        description=dict(real.description),
    )  # fmt: skip


def choose(*, folder: str, sizes: dict[str, Any]) -> dict[str, Any]:
    """Choose from the whole pool within the memory."""
    from kernelpot.pools import open_blocks, select_chunks

    s = Sizes(**sizes)
    with Stopwatch() as watch:
        choice = select_chunks(
            open_blocks(Path(folder) / "all"), s.chosen, criterion="D", memory=s.memory, epsilon=EPSILON
        )
    return watch.as_dict() | {
        "indices": choice.indices.tolist(), "curve": choice.curve.tolist(), "n_parts": choice.n_parts,
        "guarantee": choice.guarantee,
    }  # fmt: skip


def _killed(asked: dict[str, Any], threads: int) -> int:
    """Start the choice in a process, kill it when its first part is finished, and count what it left."""
    environment = os.environ | dict.fromkeys(THREADS, str(threads))
    with tempfile.TemporaryDirectory() as answers:
        command = [
            sys.executable, "-m", "benchmarks.child", "benchmarks.scale:choose", json.dumps(asked),
            str(Path(answers) / "answer.json"),
        ]  # fmt: skip
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL)
        rounds = Path(asked["folder"]) / "all" / "rounds"
        while process.poll() is None and not any(rounds.glob("*/*/chunk-*")):
            time.sleep(0.005)
        os.kill(process.pid, signal.SIGKILL) if process.poll() is None else None
        process.wait()
    return len(list(rounds.glob("*/round-0*/chunk-*")))


def compare(*, folder: str, sizes: dict[str, Any]) -> dict[str, Any]:
    """Compare what several ways gain on a pool that fits."""
    from kernelpot.design import select
    from kernelpot.pools import open_blocks, request, select_chunks
    from kernelpot.pools.block_store import BlockStore

    s = Sizes(**sizes)
    info = _short(open_blocks(Path(folder) / "real").information())
    store = BlockStore.create(
        Path(folder) / "short", {"d": info.d, "chunk": s.chunk, "dtype": "float64", "source": [], "description": {}}
    )
    for k, start in enumerate(range(0, len(info), s.chunk)):
        which = np.arange(start, min(start + s.chunk, len(info)))
        store.write(k, info.take(which), index=which, file=np.full(len(which), -1), frame=which)
    store.finish(k + 1)
    # Memory that leaves room for a quarter of the blocks at a time.
    whole = request.room(store, 1e3, 0)
    memory = (1e3 * 2**30 - whole + request.weights(store).sum() / (PARTS - 0.05)) / 2**30
    ways = {
        f"{PARTS} parts, structures mixed": {"mix": "structures", "memory": memory},
        f"{PARTS} parts, chunks mixed": {"mix": "chunks", "memory": memory},
        f"{PARTS} parts by stochastic greedy": {"epsilon": EPSILON, "memory": memory},
        "stochastic greedy": {"method": "stochastic", "epsilon": EPSILON, "memory": 64.0},
    }
    with Stopwatch() as watch:
        plain = select(info, s.compared, criterion="D")
    best, times, lost, n_parts = plain.curve[-1] - plain.curve[0], {"greedy": watch.cpu}, {}, {}
    for way, how in ways.items():
        with Stopwatch() as watch:
            found = select_chunks(store, s.compared, criterion="D", **how)
        times[way], n_parts[way] = watch.cpu, found.n_parts
        lost[way] = 1.0 - float(found.curve[-1] - found.curve[0]) / float(best)
    return {"lost": lost, "cpu_s": times, "n_parts": n_parts, "gain": float(best)}


def in_memory(*, folder: str, sizes: dict[str, Any], criterion: str) -> dict[str, Any]:
    """Time the choice from blocks that are all in memory."""
    from kernelpot.design import select
    from kernelpot.pools import open_blocks

    s = Sizes(**sizes)
    info = open_blocks(Path(folder) / "real").information()
    with Stopwatch() as watch:
        choice = select(info, s.compared, criterion=criterion)
    return watch.as_dict() | {"rank": len(info.rows) / len(info), "value": float(choice.curve[-1])}
