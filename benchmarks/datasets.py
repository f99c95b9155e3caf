"""Where the real data of tests and benchmarks lies."""

from __future__ import annotations

import os
from pathlib import Path

VARIABLE = "KERNELPOT_DATA"
"""Environment variable that names the directory of real data."""


def locate(relative: str) -> Path | None:
    """Find a file or folder of real data.

    Parameters
    ----------
    relative
        Path inside the data directory, e.g. "mlearn/Si_train.xyz.xz".

    Returns
    -------
    Path or None
        Its place in the directory that `KERNELPOT_DATA` names, else in `../shared/data` beside the project;
        None where it is in neither.
    """
    beside = Path(__file__).resolve().parents[2] / "shared" / "data"
    named = os.environ.get(VARIABLE)
    for root in [Path(named), beside] if named else [beside]:
        if (root / relative).exists():
            return root / relative
    return None
