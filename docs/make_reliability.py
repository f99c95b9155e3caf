"""Draw docs/figures/reliability-*.png from results of ``python -m benchmarks calibration --json FILE``."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import kernelpot as kp
from kernelpot.judgement.intervals import KindReliability, Measured, Reliability

FIGURES = Path(__file__).with_name("figures")
SHOWN = ("Si", "ethanol")


def found(content: dict[str, Any]) -> Reliability:
    """Make a reliability from its JSON values."""
    kinds = {}
    for kind, values in content["overall"].items():
        measured = {name: Measured(**v) for name, v in values.items() if isinstance(v, dict)}
        several = {
            name: tuple(Measured(**item) if isinstance(item, dict) else item for item in v)
            for name, v in values.items()
            if isinstance(v, list)
        }
        kinds[kind] = KindReliability(**{**values, **measured, **several})
    return Reliability(kinds, {})


def main(paths: list[str]) -> None:
    """Draw every set that is shown and found in the files."""
    for path in paths:
        for name, case in json.loads(Path(path).read_text(encoding="utf-8"))["cases"].items():
            known = name.removeprefix("calibration-")
            for label, text in (("before", "as fitted"), ("after", "calibrated by folds")):
                if known in SHOWN and case["details"]:
                    figure = kp.report.plot_reliability(found(case["details"][label]), title=f"{known}, {text}")
                    figure.savefig(FIGURES / f"reliability-{known}-{label}.png", dpi=110)
                    print(FIGURES / f"reliability-{known}-{label}.png")


if __name__ == "__main__":
    main(sys.argv[1:])
