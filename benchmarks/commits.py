"""Two checkouts of kernelpot against each other, in turn on one machine: `python -m benchmarks.commits OLD NEW`.

Only public names and module paths that both have are used, so that a rebuilt house can be timed beside the one before.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import THREADS

Act = Callable[[], object]


def _silicon(atoms: int) -> Any:
    from ase.build import bulk

    repeat = {8: 1, 64: 2, 512: 4, 1000: 5}[atoms]
    cell = bulk("Si", "diamond", a=5.43, cubic=True).repeat(repeat)
    cell.positions += np.random.default_rng(atoms).normal(scale=0.05, size=cell.positions.shape)
    return cell


def _mlearn(part: str) -> Any:
    import kernelpot as kp
    from benchmarks.datasets import locate

    return kp.read(locate(f"mlearn/Si_{part}.xyz.xz"), verbose=False)


def _soap() -> Any:
    import kernelpot as kp

    return kp.SOAP(cutoff=5.0, n_max=8, l_max=6, sigma=0.5)


def _acsf() -> Any:
    import kernelpot as kp

    radial = [[eta, 0.0] for eta in (0.05, 0.2, 1.0, 4.0)]
    return kp.ACSF(5.0, radial, [[eta, zeta, sign] for eta in (0.01, 0.05) for zeta in (1, 4) for sign in (1, -1)])


def _model(n_inducing: int) -> Any:
    import kernelpot as kp

    noise = kp.Noise(energy=0.002, forces=0.1)
    return kp.SparseGP(_soap(), kp.DotProduct(2), n_inducing=n_inducing, noise=noise)


def _values(make: Callable[[], Any], atoms: int) -> Act:
    from dataclasses import replace

    from kernelpot.data.batch import Batch

    spec = replace(make(), species=(14,))
    batch = Batch.from_structures([_silicon(atoms)], spec.cutoff)
    return lambda: spec.values(batch)


def _step(atoms: int, n_inducing: int) -> Act:
    import kernelpot as kp

    model = _model(n_inducing).fit(_mlearn("train")[::8])
    cell = _silicon(atoms)
    cell.calc = kp.Calculator(model)
    rng = np.random.default_rng(0)

    def step() -> object:
        cell.positions += rng.normal(scale=0.001, size=cell.positions.shape)
        return cell.get_forces()

    return step


def _fit() -> Act:
    train = _mlearn("train")[::4]
    return lambda: _model(300).fit(train)


def _std() -> Act:
    model, test = _model(300).fit(_mlearn("train")[::8]), _mlearn("test")[:5]
    return lambda: model.predict(test)


def _information() -> Act:
    pool = _mlearn("train")[::4]
    space = _model(300).prepare(pool)
    return lambda: space.information(pool)


def _select(criterion: str) -> Act:
    import kernelpot as kp

    pool = _mlearn("train")
    info = _model(200).prepare(pool).information(pool)
    return lambda: kp.design.select(info, 20, criterion=criterion)


def _process() -> Act:
    import kernelpot as kp

    rng = np.random.default_rng(0)
    X = rng.normal(size=(800, 6))
    y = np.sin(X).sum(axis=1) + 0.01 * rng.normal(size=800)
    return lambda: kp.GP("rbf").fit(X, y)


def _ridge() -> Act:
    import kernelpot as kp

    structures = _mlearn("train")[::4]
    kernel = kp.StructureKernel(kp.SOAP(cutoff=5.0, n_max=6, l_max=4), kp.Gaussian(0.7), combine="sum")
    energies = [atoms.get_potential_energy() for atoms in structures]
    return lambda: kp.KernelRidge(kernel, alpha=1e-6).fit(structures, energies)


CASES: dict[str, Callable[[], Act]] = {
    "SOAP, values, 8 atoms": partial(_values, _soap, 8),
    "SOAP, values, 512 atoms": partial(_values, _soap, 512),
    "ACSF, values, 8 atoms": partial(_values, _acsf, 8),
    "ACSF, values, 512 atoms": partial(_values, _acsf, 512),
    "a step of dynamics, 8 atoms": partial(_step, 8, 300),
    "a step of dynamics, 1000 atoms": partial(_step, 1000, 1000),
    "prediction with standard deviations": _std,
    "fit of a sparse process": _fit,
    "information": _information,
    "select 20 of 214, D": partial(_select, "D"),
    "select 20 of 214, balanced": partial(_select, "balanced"),
    "exact process, 800 rows": _process,
    "kernel ridge on structures": _ridge,
}


def child(case: str, seconds: float) -> None:
    """Print the median CPU time of a case, s."""
    act = CASES[case]()
    act()
    times: list[float] = []
    start = time.perf_counter()
    while len(times) < 3 or (time.perf_counter() - start < seconds and len(times) < 400):
        before = time.process_time()
        act()
        times.append(time.process_time() - before)
    print(json.dumps(statistics.median(times)))


def measured(checkout: Path, case: str, seconds: float) -> float:
    """Run a case with the package of a checkout, in a process of its own with one thread."""
    here = Path(__file__).resolve().parents[1]
    # The package comes from the checkout, this file and its helpers from here.
    code = (
        f"import sys; sys.path.insert(0, {str(here)!r}); sys.path.insert(0, {str(checkout)!r})\n"
        f"import kernelpot; assert kernelpot.__file__.startswith({str(checkout)!r}), kernelpot.__file__\n"
        f"sys.path.remove({str(checkout)!r}); from benchmarks.commits import child; child({case!r}, {seconds})\n"
    )
    environment = os.environ | dict.fromkeys(THREADS, "1")
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=checkout.anchor, env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(f"{case} with {checkout}: {done.stderr.strip().splitlines()[-1]}")
    return float(json.loads(done.stdout.strip().splitlines()[-1]))


def main(arguments: list[str] | None = None) -> None:
    """Print each case's median times and the median of the ratios of neighbouring runs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("old", type=Path)
    parser.add_argument("new", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0, help="of each run, at least three repetitions")
    parser.add_argument("--only", default="", help="cases whose name holds this")
    given = parser.parse_args(arguments)
    print(f"{'case':40} {'old, ms':>10} {'new, ms':>10} {'new/old':>8} {'range':>14}")
    for case in CASES:
        if given.only not in case:
            continue
        pairs = [
            tuple(measured(path.resolve(), case, given.seconds) for path in (given.old, given.new))
            for _ in range(given.rounds)
        ]
        old, new = (1e3 * statistics.median(side) for side in zip(*pairs, strict=True))
        ratios = sorted(b / a for a, b in pairs)
        middle = statistics.median(ratios)
        print(f"{case:40} {old:10.3f} {new:10.3f} {middle:8.3f} {ratios[0]:6.3f}–{ratios[-1]:.3f}", flush=True)


if __name__ == "__main__":
    main()
