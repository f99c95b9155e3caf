"""Write results into docs/benchmarks.md: `python -m benchmarks.markdown RESULT.json ... [--out FILE]`.

Sections of cases that no result has stay as they are.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.harness import HEAD, cells
from benchmarks.runner import CASES, describe

PAGE = Path(__file__).resolve().parents[1] / "docs" / "benchmarks.md"


MACHINE = "Machine"
"""The last section: what the runs were made on."""


def page(documents: Sequence[dict[str, Any]], before: str = "") -> str:
    """Return a page with every case, each from the last document that has it, else from the page before."""
    latest = {name: document for document in documents for name in document["cases"]}
    kept = _sections(before)
    machines = kept.pop(MACHINE, [])
    lines = [
        "# Benchmarks",
        "",
        "Made by `python -m benchmarks`, then `python -m benchmarks.markdown`. Smaller is better in every row;",
        "ours/rival compares with the rival named in the row. Times are CPU times, medians of several repeats,",
        "unless they say wall.",
        "Rivals that are installed are measured in the same run; notes say where a figure is published instead.",
    ]
    known = [*kept, *latest]
    for name in dict.fromkeys([*(n for n in CASES if n in known), *known]):
        if name not in latest:
            lines += ["", f"## {name}", "", *kept[name]]
            continue
        document = latest[name]
        case = document["cases"][name]
        before, after = case["gemm_gflops_per_core"]
        lines += ["", f"## {name}", "", f"{case['what'][0].upper()}{case['what'][1:]}.", ""]
        if case["rows"]:
            lines += [_line(HEAD), _line(["---"] * len(HEAD)), *(_line(cells(row)) for row in case["rows"]), ""]
        lines += [f"- {_plain(note)}" for note in case["notes"]]
        lines.append(f"- GEMM {before:.1f} before, {after:.1f} GFLOP/s per core after; run {document['started']}")
    lines += ["", f"## {MACHINE}", ""]
    seen = [f"- {_plain(describe(document).split(' on ', 1)[1])}" for document in latest.values()]
    lines += dict.fromkeys([*(machines if kept else []), *seen])
    return "\n".join(lines) + "\n"


def _sections(text: str) -> dict[str, list[str]]:
    """Return the lines of every section of a page by its name."""
    result: dict[str, list[str]] = {}
    for part in text.split("\n## ")[1:]:
        name, *lines = part.strip().splitlines()
        result[name] = lines[1:]
    return result


def _line(texts: Sequence[str]) -> str:
    return f"| {' | '.join(_plain(text) for text in texts)} |"


def _plain(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def main(arguments: list[str] | None = None) -> int:
    """Read results, write the page."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.markdown", description=__doc__)
    parser.add_argument("results", nargs="+", type=Path, help="JSON files of runs, older ones first")
    parser.add_argument("--out", type=Path, default=PAGE, help="default: docs/benchmarks.md")
    options = parser.parse_args(arguments)
    documents = [json.loads(path.read_text(encoding="utf-8")) for path in options.results]
    if any(document["quick"] for document in documents):
        parser.error("a --quick run judges nothing, so it has no place on the page")
    before = options.out.read_text(encoding="utf-8") if options.out.exists() else ""
    options.out.write_text(page(documents, before), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
