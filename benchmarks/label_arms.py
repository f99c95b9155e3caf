"""Ways of choosing that are compared, all through the library's own call."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.label_rows import NOISE, Rows

if TYPE_CHECKING:
    from kernelpot.design import Information

TRUNCATION = 3e-2
"""Share of each kind's trace that a block may lose; the fits use every row."""


@dataclass(frozen=True)
class Arm:
    """One way of choosing.

    Attributes
    ----------
    how
        Arguments of `select`.
    seeds
        How many seeds are run.
    nested
        Whether a longer choice begins with the shorter one, so that one call serves all sizes.
    criterion
        Makes a criterion from the pool, where a name does not do.
    most
        Largest number of labels.
    paid
        Choose for the cost of as many average structures (atoms cubed), in place of their number.
    """

    how: Mapping[str, Any] = field(default_factory=dict)
    seeds: int = 1
    nested: bool = True
    criterion: Callable[[Information], Any] | None = None
    most: int = 40
    paid: bool = False


def kinds(**weights: float) -> Callable[[Information], Any]:
    """Return a maker of the integrated variance of weighted label kinds."""

    def make(info: Information) -> Any:
        from kernelpot.design import IV

        return IV.from_root(heads(info).target_root({"energy": 0.0, "forces": 0.0, **weights}))

    return make


def alike(info: Information) -> Any:
    """Make the balanced criterion with equal weights of all kinds."""
    from kernelpot.design import Compound
    from kernelpot.design.criteria import make_criterion

    parts = make_criterion("balanced", info, None).parts
    return Compound(parts, [1.0] * len(parts), info.d)


def heads(info: Information) -> Information:
    """Keep each distinct structure once."""
    from kernelpot.design import duplicates

    return info.take(np.unique(duplicates(info), return_index=True)[1])


RANDOM = "random"
DEFAULT = "balanced"

OURS = {
    DEFAULT: Arm({"criterion": "balanced"}, most=80),
    "IV": Arm({"criterion": "IV"}, most=80),
    "balanced, kinds alike": Arm(criterion=alike),
    "IV of energies": Arm(criterion=kinds(energy=1.0)),
    "IV of forces": Arm(criterion=kinds(forces=1.0)),
    "A": Arm({"criterion": "A"}),
    "D": Arm({"criterion": "D"}),
}

RIVALS = {
    RANDOM: Arm({"method": "random"}, seeds=12, most=80),
    "fps": Arm({"method": "fps"}, seeds=2, most=80),
    "kmeans": Arm({"method": "kmeans"}, seeds=2, nested=False, most=80),
    "stratified": Arm({"method": "stratified"}, seeds=2, nested=False),
    "cur": Arm({"method": "cur"}, nested=False),
    "maxvol": Arm({"method": "maxvol"}, nested=False),
    "maximin": Arm({"method": "maximin"}, nested=False),
    "kdpp": Arm({"method": "kdpp"}, nested=False),
    "kdpp-greedy": Arm({"method": "kdpp-greedy"}, nested=False),
}

PER_COST = "balanced, per cost"


def arms(n_atoms: np.ndarray) -> dict[str, Arm]:
    """Return every arm for a pool of structures of these sizes, rivals first."""
    varied = {PER_COST: Arm({"criterion": DEFAULT}, paid=True)} if n_atoms.std() > 0.15 * n_atoms.mean() else {}
    return RIVALS | OURS | varied


def information(rows: Rows, truncate: float = TRUNCATION) -> Information:
    """Turn the pool's rows into blocks, as `SparseGP.information` does."""
    from kernelpot.design import Information

    def blocks() -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        for s in range(rows.n_pool):
            parts = [rows.energy[s : s + 1, :-1] / NOISE["energy"], rows.force_rows(s, s + 1)[:, :-1] / NOISE["forces"]]
            codes = np.repeat([0, 1], [len(part) for part in parts])
            yield np.concatenate(parts), codes, np.where(codes == 0, NOISE["energy"], NOISE["forces"])

    pool = slice(rows.n_pool)
    return Information.from_blocks(
        blocks(), n_atoms=rows.n_atoms[pool], means=rows.means[pool], groups=rows.groups[pool], truncate=truncate,
        description={**NOISE, "amplitude": 1.0},
    )  # fmt: skip


def choices(arm: Arm, info: Information, sizes: tuple[int, ...], seed: int) -> dict[int, list[int]]:
    """Choose with one seed at every size that the distinct structures allow.

    Parameters
    ----------
    arm
        Way of choosing.
    info
        The pool.
    sizes
        Numbers of labels.
    seed
        Of the choice.
    """
    from kernelpot.design import duplicates, select
    from kernelpot.design.rivals import RIVALS as KNOWN
    from kernelpot.design.rivals import Lot

    how = dict(arm.how)
    first = np.unique(duplicates(info), return_index=True)[1]
    fits = [n for n in sizes if n <= len(first)]
    if arm.criterion is not None:
        how["criterion"] = arm.criterion(info)
    if "method" in how:  # what `select` would call, without the curve of a criterion
        rival = KNOWN[how["method"]]
        if arm.nested:
            order = rival(Lot(info, first, max(fits), None, seed)).tolist()
            return {n: order[:n] for n in fits}
        return {n: rival(Lot(info, first, n, None, seed))[:n].tolist() for n in fits}
    if arm.paid:
        share = float(np.mean(info.n_atoms[first].astype(float) ** 3))
        return {n: select(info, None, budget=n * share, seed=seed, **how).indices.tolist() for n in fits}
    order = select(info, max(fits), seed=seed, **how).indices.tolist()
    return {n: order[:n] for n in fits}
