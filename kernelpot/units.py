"""Unit conversions into kernelpot's units: eV, Å, eV/Å, eV/Å³."""

KCAL_PER_MOL = 0.0433641153087705
"""One kcal/mol in eV (CODATA 2018: 4184 J / N_A / e)."""

GPA = 1.0 / 160.2176634
"""One GPa in eV/Å³."""

KBAR = GPA / 10.0
"""One kbar in eV/Å³; VASP prints stress in kbar with the opposite sign (positive = compressed)."""

VOIGT = ((0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1))
"""ASE's Voigt order: xx, yy, zz, yz, xz, xy."""

MILLI = {"energy": "meV/atom", "forces": "meV/Å", "stress": "meV/Å³"}
"""What figures of each kind of label are printed in, a thousand times those in eV."""
