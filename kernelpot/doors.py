"""Public names of packages: loaded when first used (PEP 562), and kept for a release where they have changed."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any, ParamSpec


def door(
    package: str, homes: Mapping[str, str], *, rooms: Sequence[str] = (), moved: Mapping[str, str] | None = None
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """Return `__getattr__` and `__dir__` of a package, for the names in its `__all__`.

    Parameters
    ----------
    package
        Its name.
    homes
        Module of each name that it shows.
    rooms
        Packages and modules within it that are shown, too.
    moved
        Names that it showed in the last release, with the packages that do now.
    """

    def get(name: str) -> Any:
        if name in rooms:
            return import_module(f"{package}.{name}")
        if name in homes:
            value = getattr(import_module(homes[name]), name)
            setattr(sys.modules[package], name, value)
            return value
        if moved is not None and name in moved:
            value = getattr(import_module(moved[name]), name)
            warnings.warn(f"`{package}.{name}` is now `{moved[name]}.{name}`.", DeprecationWarning, stacklevel=2)
            return value
        shown = ", ".join(sys.modules[package].__all__)
        raise AttributeError(f"module {package!r} has no attribute {name!r}; public names: {shown}")

    def show() -> list[str]:
        own = vars(sys.modules[package])
        return sorted({*own["__all__"], *(name for name in own if name.startswith("__"))})

    return get, show


class Former(MetaPathFinder, Loader):
    """Modules by the names that documents gave them in the last release, with a word on the new ones."""

    def __init__(self, names: Mapping[str, str]) -> None:
        self.names = names

    def find_spec(self, fullname: str, path: object = None, target: object = None) -> ModuleSpec | None:  # noqa: ARG002
        """Say that a former name can be imported."""
        return ModuleSpec(fullname, self) if fullname in self.names else None

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:  # noqa: ARG002
        """Let Python make an empty module, whose place the real one takes."""
        return None

    def exec_module(self, module: ModuleType) -> None:
        """Put the module of the new name in the place of the old one."""
        new = self.names[module.__name__]
        warnings.warn(f"`{module.__name__}` is now `{new}`.", DeprecationWarning, stacklevel=2)
        sys.modules[module.__name__] = import_module(new)


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
