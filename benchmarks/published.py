"""Figures of others, published or measured elsewhere, for the rows where a rival is not run."""

from __future__ import annotations

MLEARN: dict[str, dict[str, tuple[float, float]]] = {
    "Si": {"GAP": (2.91, 70.0), "MTP": (2.21, 60.0), "SNAP": (6.44, 133.0), "qSNAP": (3.81, 116.0)},
    "Ge": {"GAP": (2.06, 50.0), "MTP": (1.79, 50.0), "SNAP": (6.59, 188.0), "qSNAP": (6.45, 133.0)},
    "Li": {"GAP": (0.49, 10.0), "MTP": (0.49, 10.0), "SNAP": (1.03, 27.7), "qSNAP": (0.73, 32.8)},
    "Ni": {"GAP": (0.42, 20.0), "MTP": (0.48, 10.0), "SNAP": (0.78, 37.7), "qSNAP": (0.78, 30.8)},
}
"""Test MAE on the published split, meV/atom and meV/Å: Zuo et al., J. Phys. Chem. A 124, 731 (2020).

Forces of GAP and MTP were printed rounded to 10 meV/Å."""

RMD17: dict[str, tuple[float, float]] = {"ethanol": (0.4, 2.1), "malonaldehyde": (0.8, 5.0), "toluene": (0.5, 1.5)}
"""Test MAE of MACE, meV and meV/Å, 1,000 training molecules: Batatia et al., NeurIPS (2022)."""

ETHANOL: dict[str, tuple[float, float]] = {
    "FCHL": (0.9, 6.2), "sGDML": (2.4, 16.0), "GAP": (3.5, 18.1), "MACE": (0.4, 2.1),
}  # fmt: skip
"""Test MAE on rMD17 ethanol, meV and meV/Å, 1,000 training molecules: Christensen and von Lilienfeld (2020); Batatia et
al., NeurIPS (2022)."""

GAP_FIT = {"wall_s": 215.0, "peak_mib": 3.1 * 1024}
"""gap_fit of quippy-ase 0.10.3 on mlearn Si, 500 inducing environments (n_max 8, l_max 8, zeta 4), one core."""

GAP_PREDICT = 2200.0
"""The same potential: energy and forces, µs/atom."""

SNAP_PREDICT = 195.0
"""LAMMPS SNAP (twojmax 8), 1000 Si atoms: energy and forces, µs/atom."""

ALGDESIGN = {"D": {"value": -238.069, "cpu_s": 3.7}, "A": {"value": 0.51537, "cpu_s": 10.1}}
"""R's AlgDesign, optFederov, 2,000 × 50 choose 100: best of three seeds, five repeats each; -log det and trace."""

ROWS: dict[tuple[int, int], dict[str, dict[str, float]]] = {
    (10_000, 300): {"random": {"value": 552.6, "cpu_s": 0.0}, "maxvol (teneva)": {"value": 453.4, "cpu_s": 2.3}},
    (10_000, 500): {"random": {"value": 223.6, "cpu_s": 0.0}, "maxvol (teneva)": {"value": 152.0, "cpu_s": 6.9}},
    (100_000, 300): {"random": {"value": 561.0, "cpu_s": 0.0}},
    (100_000, 500): {"random": {"value": 220.8, "cpu_s": 0.0}},
}
"""Others on the clustered rows, measured on one core: -log det of the information + 1e-6 I, and CPU time."""
