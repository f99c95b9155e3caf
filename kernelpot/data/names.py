"""Names under which files keep energies, forces, stresses and virials."""

from __future__ import annotations

STEMS = {
    "energy": "energy",
    "total_energy": "energy",
    "potential_energy": "energy",
    "free_energy": "free_energy",
    "forces": "forces",
    "force": "forces",
    "stress": "stress",
    "virial": "virial",
    "virials": "virial",
}
"""Plain names and the quantity that each means."""

MARKS = ("ref", "reference", "dft", "qm", "target", "label")
"""Marks of a reference value: `REF_energy` and `energy_dft` are read like `energy`, `mace_energy` is not."""

ON_ATOMS = ("forces",)
"""Quantities looked for in `atoms.arrays` too."""


def _table() -> dict[str, tuple[int, str]]:
    plain = list(STEMS.items())
    marked = [
        (name, quantity)
        for mark in MARKS
        for stem, quantity in STEMS.items()
        for name in (f"{mark}_{stem}", f"{stem}_{mark}")
    ]
    return {name: (rank, quantity) for rank, (name, quantity) in enumerate([*plain, *marked])}


_RANKED = _table()


def ranked(name: object) -> tuple[int, str] | None:
    """Look up a name, without regard to upper and lower case, hyphens and spaces.

    Parameters
    ----------
    name
        Key of `atoms.info` or `atoms.arrays`.

    Returns
    -------
    (int, str) or None
        Rank (the smallest is preferred) and quantity, one of "energy", "free_energy", "forces", "stress" and
        "virial"; None for a name that means no label.
    """
    if not isinstance(name, str):
        return None
    return _RANKED.get(name.lower().replace("-", "_").replace(" ", "_"))
