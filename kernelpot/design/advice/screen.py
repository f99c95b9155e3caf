"""Structures that lie far outside the rest of a pool, which spread criteria would choose first.

Distances to a few neighbours as a measure of strangeness go back to Knorr and Ng (1998) and Ramaswamy, Rastogi and Shim
(2000). The yardstick is the pool's own 90th percentile: a median absolute deviation is no use here, as pools are
mixtures of families, and the logarithms of such distances spread over decades in good ones.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int

from kernelpot.design.blocks import KINDS
from kernelpot.design.information import Information
from kernelpot.errors import ParameterError
from kernelpot.linalg.subsets import equal_vectors

FACTOR = 8.0
"""How many times the 90th percentile is too far."""

NEIGHBOURS = 3
"""Which nearest neighbour counts: as many broken frames that resemble each other are still found."""

FEWEST = 20
"""Distinct structures below which there is no saying what is usual."""

SMALL = 2
"""Structures of up to so many atoms are never strange: isolated atoms and dimers are there on purpose."""

_USUAL = 0.9
_CHUNK = 1024


def outliers(info: Information, *, factor: float = FACTOR) -> list[tuple[int, str]]:
    """List the structures that lie far outside the rest, each with the reason.

    Two measures: the distance of the mean descriptor to its third nearest distinct neighbour (`distant`), and the
    root mean square of the rows of each label kind, which near-collisions drive up. Each is too much beyond `factor`
    times the 90th percentile of the pool. What is set aside so is strange, not always broken: look at it.

    Parameters
    ----------
    info
        The pool.
    factor
        Times the 90th percentile.

    Returns
    -------
    list of (int, str)
        Structure number, reason; in the order of the pool.

    Raises
    ------
    ParameterError
        The factor is not above 1.
    """
    found = dict(distant(info.means, info.n_atoms, factor=factor))
    traces = np.zeros((len(info), len(KINDS)))
    np.add.at(traces, (info.structure, info.kinds), np.einsum("rd,rd->r", info.rows, info.rows))
    size = np.sqrt((traces + info.discarded) / np.maximum(info.counts, 1))
    for kind, name in enumerate(KINDS):
        here = info.counts[:, kind] > 0
        if np.count_nonzero(here) < FEWEST:
            continue
        usual = float(np.quantile(size[here, kind], _USUAL))
        for s in np.flatnonzero(here & (size[:, kind] > factor * usual) & (info.n_atoms > SMALL)):
            found.setdefault(
                int(s),
                f"its {name} rows are {size[s, kind] / usual:.1f} times the size that 90 % of the pool stay below "
                f"(limit {factor:g})",
            )
    return sorted(found.items())


def distant(
    means: Float[np.ndarray, "structures F"],
    n_atoms: Int[np.ndarray, " structures"],
    *,
    factor: float = FACTOR,
) -> list[tuple[int, str]]:
    """List the structures whose mean descriptor is far from that of any other, each with the reason.

    Equal ones count once; those of one or two atoms are never listed, nor do they count as usual.
    """
    if not (np.isfinite(factor) and factor > 1):
        raise ParameterError(f"`factor` must be above 1, got {factor}; {FACTOR:g} is usual")
    if means.shape[1] == 0:
        return []
    groups = equal_vectors(means, n_atoms)
    heads = np.unique(groups, return_index=True)[1]
    heads = heads[n_atoms[heads] > SMALL]
    if len(heads) < FEWEST:
        return []
    apart = _to_neighbour(means[heads])
    usual = float(np.quantile(apart, _USUAL))
    of_group = {int(groups[head]): float(distance) for head, distance in zip(heads, apart, strict=True)}
    return [
        (
            s,
            f"its mean descriptor is {of_group[int(g)] / usual:.1f} times as far from its neighbours as 90 % of the "
            f"pool stay below (limit {factor:g})",
        )
        for s, g in enumerate(groups)
        if of_group.get(int(g), 0.0) > factor * usual
    ]


def _to_neighbour(means: Float[np.ndarray, "n F"]) -> Float[np.ndarray, " n"]:
    """Distance to the neighbour that counts, by matrix products: trees are no help in hundreds of dimensions."""
    centred = means - means.mean(axis=0)
    squares = np.einsum("nf,nf->n", centred, centred)
    result = np.empty(len(means))
    for start in range(0, len(means), _CHUNK):
        part = slice(start, start + _CHUNK)
        squared = squares[part, None] + squares - 2.0 * (centred[part] @ centred.T)
        # The nearest of all is the structure itself.
        result[part] = np.partition(squared, NEIGHBOURS, axis=1)[:, NEIGHBOURS]
    return np.sqrt(np.maximum(result, 0.0))
