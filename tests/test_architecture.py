"""The plan of the house, measured: limits here may be tightened, never loosened."""

from __future__ import annotations

import ast
import sys
from collections import Counter, defaultdict
from functools import cache
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

import kernelpot as kp
from tests import potentials
from tests import structures as make

HOME = Path(kp.__file__).parent

FILES, LINES, IN_A_FOLDER, LONGEST = 199, 46_000, 15, 480
ONE_IMPORTER, SHARED_STEMS, SHARED_CLASSES = 40, 5, 1
ONE_CALLER = 0.45
LOST = 0
STRAYS = 8
PARAMETERS, DEPTH = 10, 3
PUBLIC = 32
ENTERED = {"select": 18, "fit": 37, "ridge": 21, "predict": 20}


@cache
def sources() -> dict[str, tuple[Path, str, ast.Module]]:
    """Every module by its dotted name: path, text, tree."""
    found = {}
    for path in sorted(HOME.rglob("*.py")):
        parts = [*path.relative_to(HOME.parent).with_suffix("").parts]
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        text = path.read_text(encoding="utf-8")
        found[name] = (path, text, ast.parse(text))
    return found


def nodes(kind: type) -> list[tuple[str, Any]]:
    return [
        (name, node) for name, (_, _, tree) in sources().items() for node in ast.walk(tree) if isinstance(node, kind)
    ]


def is_door(name: str) -> bool:
    return sources()[name][0].name == "__init__.py"


@cache
def importers() -> dict[str, set[str]]:
    """Which modules import each module, names that are modules themselves included."""
    found: dict[str, set[str]] = defaultdict(set)
    for name, (_, _, tree) in sources().items():
        for node in ast.walk(tree):
            targets = []
            if isinstance(node, ast.Import):
                targets = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module:
                full = [f"{node.module}.{alias.name}" for alias in node.names]
                targets = [one if one in sources() else node.module for one in full]
            for target in targets:
                if target in sources() and target != name:
                    found[target].add(name)
    return found


def test_files_are_few_and_short():
    lengths = {name: len(text.splitlines()) for name, (_, text, _) in sources().items()}
    assert len(lengths) <= FILES
    assert sum(lengths.values()) <= LINES
    assert max(lengths.values()) <= LONGEST, max(lengths, key=lengths.get)


def test_folders_are_small():
    ((folder, count),) = Counter(path.parent for path, _, _ in sources().values()).most_common(1)
    assert count <= IN_A_FOLDER, folder


def test_files_serve_more_than_one():
    alone = sorted(name for name, by in importers().items() if len(by) == 1 and not is_door(name))
    assert len(alone) <= ONE_IMPORTER, alone


def test_every_file_is_reached():
    """By an import, or by its name in a table of what is imported late."""
    entrances = {"kernelpot.__main__"}
    lost = set(sources()) - set(importers()) - entrances - {name for name in sources() if is_door(name)}
    named = "\n".join(text for _, text, _ in sources().values())
    lost = {name for name in lost if f'"{name}"' not in named}
    assert len(lost) <= LOST, lost


def test_names_of_files_and_classes_are_said_once():
    stems = Counter(path.stem for name, (path, _, _) in sources().items() if not is_door(name))
    classes = Counter(node.name for _, node in nodes(ast.ClassDef))
    twice = sorted(stem for stem, count in stems.items() if count > 1)
    assert len(twice) <= SHARED_STEMS, twice
    twice = sorted(one for one, count in classes.items() if count > 1)
    assert len(twice) <= SHARED_CLASSES, twice


def test_helpers_help_more_than_once():
    """A private function that one place calls should say something that the place could not."""
    counts = []
    for _, _, tree in sources().values():
        own = {n.name for n in tree.body if isinstance(n, ast.FunctionDef) and n.name[0] == "_" != n.name[1]}
        uses = Counter(n.id for n in ast.walk(tree) if isinstance(n, ast.Name) and n.id in own)
        counts += [uses[name] for name in own]
    assert counts.count(0) == 0
    assert counts.count(1) / len(counts) <= ONE_CALLER


def parameters(node: ast.FunctionDef) -> int:
    """How many a caller sees; a typed bundle of keywords counts as one."""
    named = [a.arg for a in node.args.posonlyargs + node.args.args]
    bundle = int(node.args.kwarg is not None) + int(node.args.vararg is not None)
    return len(named) - (named[:1] in (["self"], ["cls"])) + len(node.args.kwonlyargs) + bundle


def test_functions_take_few_parameters():
    most = max(nodes(ast.FunctionDef), key=lambda one: parameters(one[1]))
    assert parameters(most[1]) <= PARAMETERS, f"{most[0]}.{most[1].name}"


def test_inheritance_is_shallow():
    bases: dict[str, list[str]] = {}
    for _, node in nodes(ast.ClassDef):
        names = [b.value if isinstance(b, ast.Subscript) else b for b in node.bases]
        bases[node.name] = [b.id for b in names if isinstance(b, ast.Name)]

    def depth(name: str) -> int:
        """Protocols aside, which are promises, not code, and what scikit-learn asks of parameters."""
        if "Protocol" in bases.get(name, ()) or name not in bases or name == "Parameterised":
            return 0
        return 1 + max((depth(base) for base in bases[name]), default=0)

    deepest = max(bases, key=depth)
    assert depth(deepest) <= DEPTH, deepest


def owned(tree: ast.Module) -> set[str]:
    """Names that a file makes: its definitions, and whatever it assigns."""
    named = {n.name for n in ast.walk(tree) if isinstance(n, ast.FunctionDef | ast.ClassDef)}
    stored = [n for n in ast.walk(tree) if isinstance(getattr(n, "ctx", None), ast.Store)]
    return named | {n.attr if isinstance(n, ast.Attribute) else getattr(n, "id", "") for n in stored}


def test_private_names_stay_in_their_file():
    own = {name: owned(tree) for name, (_, _, tree) in sources().items()}
    private = {one for names in own.values() for one in names if one.startswith("_") and not one.startswith("__")}
    strays = [
        f"{name}:{node.lineno} {ast.unparse(node)}"
        for name, node in nodes(ast.Attribute)
        if node.attr in private - own[name] and ast.unparse(node.value) not in ("self", "cls")
    ]
    assert len(strays) <= STRAYS, strays


def test_every_return_is_typed():
    untyped = [f"{name}.{node.name}" for name, node in nodes(ast.FunctionDef) if node.returns is None]
    assert [one for one in untyped if not one.endswith("__init__")] == []


def test_public_names_are_few():
    assert len(kp.__all__) <= PUBLIC


@cache
def _alloy() -> list[Any]:
    return make.copper_gold_set(6)


def entered(act: Any) -> int:
    """Count the package's files whose code runs while `act()` does, once what is made on first use has been made."""
    act()
    files = set()

    def look(frame: FrameType, event: str, _: object) -> None:
        if event == "call" and frame.f_code.co_filename.startswith(str(HOME)):
            files.add(frame.f_code.co_filename)

    before = sys.getprofile()
    sys.setprofile(look)
    try:
        act()
    finally:
        sys.setprofile(before)
    return len(files)


def _select() -> Any:
    info = potentials.copper_gold().information(_alloy())
    return lambda: kp.design.select(info, 3)


def _fit() -> Any:
    return lambda: potentials.model(12).fit(_alloy())


def _ridge() -> Any:
    kernel = kp.StructureKernel(potentials.small_soap(), kp.Gaussian(0.7), combine="sum")
    energies = [atoms.get_potential_energy() for atoms in _alloy()]
    return lambda: kp.KernelRidge(kernel, alpha=1e-6).fit(_alloy(), energies)


def _predict() -> Any:
    model = potentials.copper_gold()
    return lambda: model.predict(_alloy())


@pytest.mark.parametrize(
    ("walk", "how"), [("select", _select), ("fit", _fit), ("ridge", _ridge), ("predict", _predict)]
)
def test_a_value_walks_through_few_files(walk, how):
    assert entered(how()) <= ENTERED[walk]
