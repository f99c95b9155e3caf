from __future__ import annotations

import sys
from functools import cache
from pathlib import Path

from ase import Atoms
from ase.io import write

import kernelpot as kp
from kernelpot.pools import BlockStore, write_blocks
from tests import structures as make
from tests.potentials import small_soap


@cache
def pool(n: int = 30) -> list[Atoms]:
    """Unlabelled Cu-Au crystals of 4 atoms."""
    return [make.copper_gold(500 + k) for k in range(n)]


@cache
def space() -> kp.SparseGP:
    return kp.SparseGP(small_soap(), n_inducing=24, noise=kp.Noise(energy=0.002, forces=0.05)).prepare(pool()[:10])


def store(folder: Path, n: int = 30, chunk: int = 7, **settings: object) -> BlockStore:
    return write_blocks(space(), pool(n), folder, chunk=chunk, workers=0, **settings)


def xyz(path: Path, structures: list[Atoms]) -> Path:
    write(path, structures, format="extxyz")
    return path


def killed_script(body: str) -> list[str]:
    """The command of a Python process that runs some lines with these helpers at hand."""
    return [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(Path(__file__).parents[2])!r})\n{body}"]
