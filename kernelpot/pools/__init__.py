"""Pools that do not fit in memory: blocks in chunks on disk, made by worker processes, and choices over them."""

from __future__ import annotations

from kernelpot.data.stream import stream
from kernelpot.pools.block_store import BlockStore
from kernelpot.pools.request import PoolChoice
from kernelpot.pools.rounds import select_chunks, target_root
from kernelpot.pools.source import sample
from kernelpot.pools.write import load_space, open_blocks, save_space, write_blocks

__all__ = [
    "BlockStore",
    "PoolChoice",
    "load_space",
    "open_blocks",
    "sample",
    "save_space",
    "select_chunks",
    "stream",
    "target_root",
    "write_blocks",
]
