"""Write results as docs/benchmarks.md: `python -m benchmarks.markdown RESULT.json ... [--out FILE]`."""

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


def page(documents: Sequence[dict[str, Any]]) -> str:
    """Return a page with every case, each from the last document that has it."""
    latest = {name: document for document in documents for name in document["cases"]}
    lines = [
        "# Benchmarks",
        "",
        "Made by `python -m benchmarks`, then `python -m benchmarks.markdown`. Smaller is better in every row;",
        "ours/rival compares with the rival named in the row. Times are CPU times, medians of several repeats,",
        "unless they say wall.",
        "Rivals that are installed are measured in the same run; notes say where a figure is published instead.",
    ]
    for name in [*(n for n in CASES if n in latest), *(n for n in latest if n not in CASES)]:
        document = latest[name]
        case = document["cases"][name]
        before, after = case["gemm_gflops_per_core"]
        lines += ["", f"## {name}", "", f"{case['what'][0].upper()}{case['what'][1:]}.", ""]
        if case["rows"]:
            lines += [_line(HEAD), _line(["---"] * len(HEAD)), *(_line(cells(row)) for row in case["rows"]), ""]
        lines += [f"- {_plain(note)}" for note in case["notes"]]
        lines.append(f"- GEMM {before:.1f} before, {after:.1f} GFLOP/s per core after; run {document['started']}")
    lines += ["", "## Machine", ""]
    seen = list(dict.fromkeys(describe(document).split(" on ", 1)[1] for document in latest.values()))
    lines += [f"- {_plain(text)}" for text in seen]
    return "\n".join(lines) + "\n"


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
    options.out.write_text(page(documents), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
