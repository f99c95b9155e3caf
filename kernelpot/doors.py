"""Public names of packages, loaded when they are first used (PEP 562), so that imports stay fast."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any


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
