"""The examples of docs: every name is made before it is used, and the quick one runs."""

from __future__ import annotations

import ast
import builtins
from pathlib import Path

import pytest
from sybil.document import Document
from sybil.parsers.markdown import PythonCodeBlockParser

DOCS = Path(__file__).parents[1] / "docs"
YOURS = {"goals.md": {"pool", "crystal", "cell", "soap", "kernel", "labelled"}}
"""Names that the text says are the reader's."""


def unbound(code: str) -> set[str]:
    """Names that code reads and neither makes nor finds among the builtins."""
    names = [node for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Name)]
    made = {node.id for node in names if isinstance(node.ctx, ast.Store)}
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            made |= {(alias.asname or alias.name).split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ExceptHandler) and node.name:
            made.add(node.name)
        elif isinstance(node, ast.FunctionDef):
            made |= {node.name, *(argument.arg for argument in node.args.args)}
    return {node.id for node in names} - made - set(vars(builtins))


def test_unbound_names_are_found():
    assert unbound("import numpy as np\nx = [np.sin(k) for k in y]\ndef f(a): return len(a) + b\n") == {"y", "b"}


@pytest.mark.parametrize(
    "name",
    [
        "acsf.md",
        "alchemy.md",
        "assess.md",
        "baselines.md",
        "elements.md",
        "forces.md",
        "goals.md",
        "gp.md",
        "gpu.md",
        "modes.md",
        "properties.md",
        "robustness.md",
        "samples.md",
        "scale.md",
        "terms.md",
        "tune.md",
    ],
)
def test_the_first_example_makes_what_it_uses(name):
    text = (DOCS / name).read_text(encoding="utf-8")
    code = text.split("```python\n")[1].split("```")[0]
    assert unbound(code) == YOURS.get(name, set())


@pytest.mark.slow
def test_the_examples_of_properties_run(capsys):
    for example in Document.parse(str(DOCS / "properties.md"), PythonCodeBlockParser()):
        example.evaluate()
    assert "mean error" in capsys.readouterr().out


@pytest.mark.slow
def test_the_forecast_of_assess_runs(capsys):
    for example in Document.parse(str(DOCS / "assess.md"), PythonCodeBlockParser()):
        example.evaluate()
    assert "forecast from a pilot of 12 labelled structures" in capsys.readouterr().out


def test_the_gaussian_process_of_the_gpu_page_runs(capsys):
    pytest.importorskip("gpytorch")
    code = (DOCS / "gpu.md").read_text(encoding="utf-8").split("```python\n")[2].split("```")[0]
    exec(compile(code, "gpu.md", "exec"), {"__name__": "gpu"})
    assert "tensor([" in capsys.readouterr().out


def test_the_examples_of_modes_and_alchemy_run(capsys):
    for name in ("modes.md", "alchemy.md"):
        for example in Document.parse(str(DOCS / name), PythonCodeBlockParser()):
            example.evaluate()
    assert "ΔF of one Ag turning into Pd" in capsys.readouterr().out


def test_the_example_of_samples_runs(capsys):
    next(iter(Document.parse(str(DOCS / "samples.md"), PythonCodeBlockParser()))).evaluate()
    said = capsys.readouterr().out
    assert "independent errors would give" in said
    assert "has an extrapolation grade of" in said
