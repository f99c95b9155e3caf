"""Settings of a fit that the user left open: from the data's distances, or from a search."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Sequence
from typing import TYPE_CHECKING

import kernelpot as kp
from kernelpot.cli.common import check_model
from kernelpot.cli.options import NOISE_DEFAULTS
from kernelpot.cli.output import show
from kernelpot.errors import ParameterError
from kernelpot.progress import say

if TYPE_CHECKING:
    from ase import Atoms

    from kernelpot.tuning import TuneResult
    from kernelpot.tuning.candidates import Space

INDUCING, MOST_INDUCING = 500, 2000
"""Inducing environments that settings are compared with, and the most that the best are given."""

OPTIONS = {"n_radial": "n_max"}
"""Options whose names are not those of the settings."""


def check_tuning(args: Namespace) -> dict[str, str | None]:
    """Return the output files of a search, for `check_outputs`.

    Raises
    ------
    ParameterError
        An option of the search is there, but no search; or one that the model has no use for.
    """
    check_model(args)
    if args.tune is None and args.tune_fits is None:
        options = {
            "--tune-table": args.tune_table,
            "--tune-resume": args.tune_resume,
            "--tune-groups": args.tune_groups,
        }
        idle = [name for name, value in options.items() if value]
        if idle:
            raise ParameterError(f"`{idle[0]}` needs a search: add --tune MINUTES or --tune-fits N")
    elif args.noise not in (None, "cv") or any(hasattr(args, f"noise_{kind}") for kind in NOISE_DEFAULTS):
        raise ParameterError("`--tune` compares settings with noises by cross-validation: leave --noise out")
    return {"--tune-table": args.tune_table, "--tune-resume": args.tune_resume}


def settle(args: Namespace, train: Sequence[Atoms]) -> TuneResult | None:
    """Fill in the settings that the user left open.

    Raises
    ------
    KeyboardInterrupt
        The user stopped the search; the table of what was tried is written.
    """
    if args.tune is None and args.tune_fits is None:
        if args.cutoff is None:
            args.cutoff = kp.default_cutoff(train)
            say(f"cutoff {args.cutoff:g} Å, from the distances between atoms")
        return None
    given = getattr(args, "given", ())
    most = args.n_inducing if "n_inducing" in given else MOST_INDUCING
    result = kp.tune(
        train,
        budget_minutes=args.tune,
        max_fits=args.tune_fits,
        objective="groups" if args.tune_groups else "cv",
        space=_space(args, given, train),
        n_inducing=min(INDUCING, most),
        max_inducing=most,
        baseline=kp.ZBL() if args.zbl else None,
        seed=args.seed,
        resume=args.tune_resume,
    )
    if args.tune_table:
        result.to_csv(args.tune_table)
    show(f"{result}\n", args.json)
    if result.interrupted:
        raise KeyboardInterrupt
    # For the record of settings.
    for name, value in result.best_settings.items():
        setattr(args, OPTIONS.get(name, name), value)
    return result


def _space(args: Namespace, given: Sequence[str], train: Sequence[Atoms]) -> Space:
    """Return the default space of the descriptor, with what the user gave held fast."""
    from kernelpot.tuning.candidates import default_space

    kernel = "zeta" if args.gaussian is None else "gaussian"
    space: dict[str | tuple[str, ...], Sequence[object]] = {}
    for names, values in default_space(train, descriptor=args.descriptor).items():
        options = {name: OPTIONS.get(name, name) for name in ((names,) if isinstance(names, str) else names)}
        if names in ("zeta", "gaussian") and (args.gaussian is not None or "zeta" in given):
            space[kernel] = [getattr(args, kernel)]
        elif any(option in given for option in options.values()):
            # What is set together with a given value stays at its default.
            space |= {name: [getattr(args, option)] for name, option in options.items()}
        else:
            space[names] = values
    return space
