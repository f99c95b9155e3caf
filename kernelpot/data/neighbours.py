"""The neighbour search, without the memory of libraries that it does not use here."""

from __future__ import annotations

import sys
from functools import cache
from typing import Any


@cache
def neighbour_list_class() -> Any:
    """Return `vesin.NeighborList`, imported without PyTorch.

    vesin imports PyTorch where it is installed, to accept tensors; the pairs of a `Batch` come from NumPy arrays, and
    PyTorch's 240 MiB would be half of a small fit's memory. A copy of vesin that does not know PyTorch is loaded and
    taken off the list of modules again, so that whoever imports vesin gets the whole one. Where PyTorch or vesin is
    loaded already, there is nothing to save.
    """
    if "torch" in sys.modules or "vesin" in sys.modules:
        from vesin import NeighborList

        return NeighborList
    # None in sys.modules makes an import fail like that of a module that is not installed.
    sys.modules["torch"] = None  # type: ignore[assignment]
    try:
        from vesin import NeighborList
    finally:
        del sys.modules["torch"]
        for name in [name for name in sys.modules if name.split(".")[0] == "vesin"]:
            del sys.modules[name]
    return NeighborList
