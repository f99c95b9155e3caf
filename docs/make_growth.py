"""Draw docs/figures/growth.svg from a run: `python docs/make_growth.py RESULT.json`."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

AXES = {"structures": "structures (M = 500)", "inducing": "inducing environments M (100 structures)"}
QUANTITIES = {"cpu_s": "CPU time / s", "peak_mib": "peak memory / MiB"}


def main(result: str) -> None:
    """Draw two quantities against two sizes."""
    curves = json.loads(Path(result).read_text(encoding="utf-8"))["cases"]["growth"]["details"]["curves"]
    plt.rcParams["svg.hashsalt"] = "kernelpot"
    figure, axes = plt.subplots(1, 4, figsize=(13, 3.2), layout="constrained")
    places = [(name, key) for key in QUANTITIES for name in AXES]
    for axis, (name, key) in zip(axes, places, strict=True):
        x, y = (np.array([point[k] for point in curves[name]]) for k in ("x", key))
        slope, intercept = np.polyfit(np.log(x), np.log(y), 1)
        axis.loglog(x, y, "o", color="#2a6f97")
        axis.loglog(x, np.exp(intercept) * x**slope, color="#2a6f97", lw=1, label=f"slope {slope:.2f}")
        axis.set_xticks(x, [f"{v:.0f}" for v in x], minor=False)
        axis.set_xticks([], minor=True)
        low, high = axis.get_ylim()
        if high / low < 4.0:
            axis.set_ylim(low / 1.5, high * 1.5)
        axis.set(xlabel=AXES[name], ylabel=QUANTITIES[key])
        axis.legend(frameon=False)
        axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(Path(__file__).parent / "figures" / "growth.svg", metadata={"Date": None})


if __name__ == "__main__":
    main(sys.argv[1])
