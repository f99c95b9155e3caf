"""The examples of README.md and of every docstring, run by Sybil."""

from __future__ import annotations

from pathlib import Path

import pytest
from sybil.document import Document, PythonDocStringDocument
from sybil.parsers.markdown import PythonCodeBlockParser
from sybil.parsers.rest import DocTestParser

ROOT = Path(__file__).parents[1]
MODULES = [path for path in sorted((ROOT / "kernelpot").rglob("*.py")) if ">>> " in path.read_text(encoding="utf-8")]


def test_readme_examples(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    examples = list(Document.parse(str(ROOT / "README.md"), PythonCodeBlockParser()))
    assert len(examples) >= 3
    for example in examples:
        example.evaluate()


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_docstring_examples(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    # Each document starts from a clean namespace, as a reader would.
    for example in PythonDocStringDocument.parse(str(path), DocTestParser()):
        example.evaluate()


def test_readme_names_the_two_commands():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert "make demo" in text
    assert "make test" in text


def test_readme_files_exist():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    for name in ("docs/demo.svg", "examples/choose_then_fit.py"):
        assert name in text
        assert (ROOT / name).is_file()
