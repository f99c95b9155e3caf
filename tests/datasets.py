"""Real data for tests, which skip where it is absent."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.datasets import VARIABLE, locate


def dataset(relative: str) -> Path:
    """Path of a file of real data; the test that asks is skipped where there is none.

    Parameters
    ----------
    relative
        Path inside the data directory, e.g. "mlearn/Si_train.xyz.xz".
    """
    path = locate(relative)
    if path is None:
        pytest.skip(f"real data `{relative}` is absent; put it into ../shared/data or name its folder in {VARIABLE}")
    return path
