"""Which way of keeping gains suits a criterion and a pool."""

from __future__ import annotations

from kernelpot.design.gains import Gains, Path
from kernelpot.design.information import Information
from kernelpot.design.lazy import LazyGains
from kernelpot.design.tried import TriedGains

AnyGains = Gains | LazyGains | TriedGains

SHORT = 3e-3
"""Share of the trace of a block's label kind that gains of large pools leave out; whoever is chosen counts wholly.

On mlearn Si (400 inducing environments, 40 of 214) that takes 4 s in the place of 11, and costs 0.1 % of IV."""
_TALL = 16
_WORK = 1e9
"""Mean rows per structure, and operations of a step (rows times d²), above which candidates are shortened."""


def shortens(info: Information) -> bool:
    """Whether exact gains of all candidates would take long enough to shorten them.

    Parameters
    ----------
    info
        Candidate blocks.
    """
    return len(info.rows) > _TALL * len(info) and float(len(info.rows)) * info.d**2 > _WORK


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
