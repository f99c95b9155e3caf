"""What importing the package costs."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from types import ModuleType

import pytest

import kernelpot as kp

SLOW = ("torch", "gpytorch", "dscribe", "vesin", "ase", "numba", "sklearn", "scipy", "matplotlib")
REPORT = f"import sys; print('loaded:' + ','.join(m for m in {SLOW!r} if m in sys.modules))"


def loaded_after(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", f"{code}\n{REPORT}"], capture_output=True, text=True, check=True)
    return done.stdout.strip().rsplit("loaded:", 1)[1]


def test_import_loads_nothing_slow():
    assert loaded_after("import kernelpot; kernelpot.__version__; dir(kernelpot)") == ""


def test_help_loads_nothing_slow():
    code = (
        "import sys; from kernelpot.cli import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit as stop:\n    assert not stop.code, stop.code\n"
    )
    assert loaded_after(code) == ""


def test_doors_load_nothing_slow():
    assert loaded_after("import kernelpot as kp; kp.elements, kp.properties, kp.potentials; dir(kp.potentials)") == ""


def test_public_names_are_few_and_all_load():
    assert len(kp.__all__) <= 32
    for name in kp.__all__:
        assert getattr(kp, name) is not None
        assert name in dir(kp)


def table(heading):
    """Names of a section of the reference, with what it says of them."""
    page = (Path(__file__).parents[1] / "docs" / "reference.md").read_text(encoding="utf-8")
    section = re.search(rf"^## {re.escape(heading)}$(.*?)(?=^## |\Z)", page, flags=re.MULTILINE | re.DOTALL)
    return dict(re.findall(r"^\| `(\w+)` \| (\S.*\.) \|$", section[1], flags=re.MULTILINE))


DOORS = ("design", "elements", "goals", "gpytorch", "pools", "potentials", "properties", "report")


@pytest.mark.parametrize("package", ["kernelpot", *(f"kernelpot.{door}" for door in (*DOORS, "tuning"))])
def test_the_reference_says_one_thing_of_every_public_name(package):
    module, said = import_module(package), table(package)
    assert set(said) == set(module.__all__)
    for name in said:
        assert getattr(module, name) is not None
        assert name in dir(module)


def test_every_door_is_in_the_reference():
    assert set(DOORS) < set(kp.__all__)
    rooms = {name for name in kp.__all__ if isinstance(getattr(kp, name), ModuleType)}
    assert rooms == set(DOORS)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("SiteKernel", "properties.SiteKernel"),
        ("ElementalModes", "elements.ElementalModes"),
        ("stream", "pools.stream"),
        ("Bootstrap", "potentials.Bootstrap"),
        ("Alchemy", "potentials.Alchemy"),
        ("plot_modes", "report.plot_modes"),
    ],
)
def test_names_that_moved_behind_a_door_say_so(old, new):
    with pytest.warns(DeprecationWarning, match=rf"`kernelpot\.{old}` is now `kernelpot\.{re.escape(new)}`\."):
        found = getattr(kp, old)
    door, name = new.split(".")
    assert found is getattr(getattr(kp, door), name)


def test_everything_that_was_at_the_top_is_still_found():
    from kernelpot import _MOVED

    assert not set(_MOVED) & set(kp.__all__)
    for name, door in _MOVED.items():
        assert name in import_module(door).__all__


def test_unknown_name_lists_the_known_ones():
    with pytest.raises(AttributeError, match=r"no attribute 'Sparse'; public names: .*SparseGP"):
        kp.Sparse  # noqa: B018


@pytest.mark.parametrize(("old", "new"), kp._FORMER.items())
def test_former_names_of_modules_say_the_new_ones(old, new):
    sys.modules.pop(old, None)
    with pytest.warns(DeprecationWarning, match=rf"`{re.escape(old)}` is now `{re.escape(new)}`"):
        assert import_module(old) is import_module(new)


def test_the_old_name_of_the_room_of_pools_still_gives_its_functions():
    sys.modules.pop("kernelpot.curate", None)
    with pytest.warns(DeprecationWarning, match=r"kernelpot\.pools"):
        from kernelpot.curate import select_chunks

    assert select_chunks is kp.pools.select_chunks
