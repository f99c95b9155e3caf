"""The old name of `kernelpot.pools`, kept for one release."""

from __future__ import annotations

import warnings
from typing import Any

from kernelpot import pools


def __getattr__(name: str) -> Any:
    """Give what the room now called `pools` holds, with a word on its new name."""
    value = getattr(pools, name)
    warnings.warn("`kernelpot.curate` is now `kernelpot.pools`.", DeprecationWarning, stacklevel=2)
    return value
