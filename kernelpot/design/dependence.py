"""The old place of `sensitivity`, kept for one release."""

from __future__ import annotations

import warnings
from typing import Any

from kernelpot.design import robust


def __getattr__(name: str) -> Any:
    """Give what now stands in `robust`, with a word on its new place."""
    value = getattr(robust, name)
    warnings.warn(
        "`kernelpot.design.dependence` is now part of `kernelpot.design.robust`.", DeprecationWarning, stacklevel=2
    )
    return value
