"""Which way of keeping gains suits a criterion and a pool."""

from __future__ import annotations

from kernelpot.design.criteria import Criterion
from kernelpot.design.information import Information
from kernelpot.design.search.gains import Gains, Path
from kernelpot.design.search.lazy import LazyGains
from kernelpot.design.search.tried import TriedGains

AnyGains = Gains | LazyGains | TriedGains

SHORT = 3e-3
"""Share of the trace of a block's label kind that gains of large pools leave out; whoever is chosen counts wholly.

On mlearn Si (400 inducing environments, 40 of 214) that takes 4 s in the place of 11, and costs 0.1 % of IV."""
_TALL = 16
_LONG, _VERY_LONG = 1e9, 1e10
"""Mean rows per structure, and operations of a step (rows times d²), above which candidates are shortened; operations
above which gains are lazy though that is a heuristic."""


def economy(info: Information, criterion: Criterion) -> str:
    """Say how greedy keeps gains if it is free to choose: "exact", "lazy" or "short".

    Parameters
    ----------
    info
        Candidate blocks.
    criterion
        What is improved; lazy gains are exact where it is submodular.
    """
    if criterion.roots is None:
        return "exact"
    work = float(len(info.rows)) * info.d**2
    if criterion.submodular or work > _VERY_LONG:
        return "lazy"
    return "short" if work > _LONG and len(info.rows) > _TALL * len(info) else "exact"


def gains_for(info: Information, path: Path, *, lazy: bool = False, short: bool = False) -> AnyGains:
    """Make what keeps the gains of a path's criterion.

    Parameters
    ----------
    info
        Candidate blocks.
    path
        The design so far.
    lazy
        Bring gains up to date only where they could win.
    short
        Take the gains of shortened candidates, beside the whole blocks of those chosen.
    """
    if path.criterion.roots is None:
        return TriedGains(info, path)
    if lazy:
        return LazyGains(info, path)
    return Gains(info.truncated(SHORT), path, picks=info) if short else Gains(info, path)
