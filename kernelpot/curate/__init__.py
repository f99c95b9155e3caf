"""Pools that do not fit in memory: blocks in chunks on disk, made by worker processes, and choices over them."""

from __future__ import annotations

from kernelpot.curate.choice import PoolChoice
from kernelpot.curate.select import select_chunks
from kernelpot.curate.source import sample
from kernelpot.curate.space import load_space, save_space
from kernelpot.curate.target import target_root
from kernelpot.curate.write import open_blocks, write_blocks
from kernelpot.design.chunks import BlockStore

__all__ = [
    "BlockStore",
    "PoolChoice",
    "load_space",
    "open_blocks",
    "sample",
    "save_space",
    "select_chunks",
    "target_root",
    "write_blocks",
]
