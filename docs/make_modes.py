"""Draw docs/figures/modes.png: python docs/make_modes.py."""

from __future__ import annotations

from pathlib import Path

import kernelpot as kp


def main() -> None:
    """Draw the four modes of the principal components."""
    figure = kp.report.plot_modes(kp.elements.ElementalModes(4))
    figure.savefig(Path(__file__).parent / "figures" / "modes.png", dpi=100)


if __name__ == "__main__":
    main()
