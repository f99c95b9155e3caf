"""Names of an earlier release: each is kept for one, and says what it is called now."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import wraps
from typing import Any, ParamSpec

Given = ParamSpec("Given")


def renamed(old: str, new: str, *, stacklevel: int = 3) -> None:
    """Say that a name has changed; the level is that of whoever used the old one."""
    warnings.warn(
        f"`{old}` is now `{new}`; the old name goes with the next release.", DeprecationWarning, stacklevel=stacklevel
    )


def old_keywords(init: Callable[Given, None]) -> Callable[Given, None]:
    """Let an ``__init__`` take parameters under old names as well: those of the class's `_old`, which translates them.

    The signature stays that of the new names, which is where scikit-learn looks for parameters.
    """

    @wraps(init)
    def made(*args: Given.args, **kwargs: Given.kwargs) -> None:
        model: Any = args[0]
        old = {name: kwargs.pop(name) for name in list(kwargs) if name in model._old}
        init(*args, **kwargs)
        for name, value in old.items():
            new, translated = model._old[name](model, value)
            renamed(name, new)
            setattr(model, new, translated)

    return made


class Renamed:
    """An attribute or a method under its old name: `get` returns its value as it was, of an object."""

    def __init__(self, new: str, get: Callable[[Any], Any]) -> None:
        self.new, self.get = new, get

    def __set_name__(self, owner: type, name: str) -> None:
        """Learn the old name."""
        self.old = name

    def __get__(self, model: Any, owner: type) -> Any:
        """Return what the name stood for."""
        if model is None:
            return self
        renamed(self.old, self.new)
        return self.get(model)
