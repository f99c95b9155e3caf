"""Run the demonstration and draw the picture of README.md from its outcome: python docs/make_picture.py."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from kernelpot import progress
from kernelpot.demo import DemoPlan, Outcome, run
from kernelpot.report import plots
from kernelpot.report.plots import PAPER, svg

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def draw(figure: Figure, outcome: Outcome) -> None:
    """Draw map, errors and uncertainties side by side."""
    figure.set_facecolor(PAPER)
    chosen = outcome.chosen
    axes = figure.subplot_mosaic([["map", "energy", "std"], ["map", "forces", "std"]], width_ratios=[1.25, 1, 1])
    coordinates, shares = plots.principal_plane(outcome.means)
    plots.pool_map(axes["map"], coordinates, outcome.kinds, chosen.indices, shares, legend_below=True)
    axes["map"].set_title(f"{outcome.plan.n_chosen} of {outcome.plan.n_pool} structures, chosen without labels")
    for kind, title, unit in (("energy", "Energy error", "meV/atom"), ("forces", "Force error", "meV/Å")):
        values = {arm.name: 1000 * arm.score(kind)["rmse"] for arm in outcome.arms}
        plots.strips(axes[kind], values, chosen.name, f"{title}, held out", f"RMSE, {unit}")
    plots.honesty(axes["std"], chosen.energy, "Energy error against predicted std", "eV/atom", n_bins=6)


def main() -> None:
    """Write docs/demo.svg."""
    with progress.shown():
        outcome = run(DemoPlan())
    alt = "Pool map with the chosen structures, held-out errors by way of choosing, error against predicted std"
    text = svg(lambda figure: draw(figure, outcome), alt, size=(14, 4.6), text_as_paths=True)
    Path(__file__).with_name("demo.svg").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
