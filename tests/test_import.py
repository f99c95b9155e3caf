"""What importing the package costs."""

from __future__ import annotations

import subprocess
import sys

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


def test_public_names_are_few_and_all_load():
    assert len(kp.__all__) <= 48
    for name in kp.__all__:
        assert getattr(kp, name) is not None
        assert name in dir(kp)


def test_unknown_name_lists_the_known_ones():
    with pytest.raises(AttributeError, match=r"no attribute 'Sparse'; public names: .*SparseGP"):
        kp.Sparse  # noqa: B018


def test_the_old_name_of_the_room_of_pools_says_the_new_one():
    with pytest.warns(DeprecationWarning, match=r"kernelpot\.pools"):
        from kernelpot.curate import select_chunks
    from kernelpot.pools import select_chunks as moved

    assert select_chunks is moved
