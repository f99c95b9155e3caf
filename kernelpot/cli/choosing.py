"""What ``kernelpot select`` does."""

from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

import numpy as np

import kernelpot as kp
from kernelpot.cli.common import given_noise, model_of, read, settings_json, shortened, source_of, write_structures
from kernelpot.cli.options import NOISE_DEFAULTS
from kernelpot.cli.output import check_outputs, show, write_json
from kernelpot.errors import DataError, ParameterError
from kernelpot.progress import say

if TYPE_CHECKING:
    from ase import Atoms

    from kernelpot.design import Certificate, Choice
    from kernelpot.judgement.unlabelled import Screening
    from kernelpot.potentials.sparse_gp import SparseGP

COMPARED = 20_000
"""Structures up to which all are compared with all to find outliers; larger pools have their geometry checked."""


def choose(args: Namespace) -> None:
    """Choose structures of a pool and write them.

    Parameters
    ----------
    args
        The arguments of ``kernelpot select``.
    """
    inputs = [*args.pool, *args.existing, *args.target]
    check_outputs({"--out": args.out, "--json": args.json}, inputs)
    if args.n is None and args.budget is None:
        raise ParameterError("say how many structures to choose with `-n`, or what they may cost with `--budget`")
    pool = _pool(args)
    existing, target = (read(args, files) if files else [] for files in (args.existing, args.target))
    spec = model_of(args, kp.Noise(**given_noise(args, NOISE_DEFAULTS)))
    screening = _screened(pool, spec, setting_aside=args.screen)
    kept = np.asarray(screening.kept) if args.screen else np.arange(len(pool))
    usable = [pool[k] for k in kept]
    if args.n is not None and args.n > len(usable):
        raise ParameterError(f"`-n` must be at most the size of the pool, got {args.n} of {len(usable)} structures")
    rules = _rules(args, kept, len(pool), {str(atoms.info.get("config_type", "")) for atoms in usable})
    say(f"preparing: inducing environments from {len(usable) + len(existing)} structures, labels unseen")
    space = spec.prepare([*usable, *existing])
    info = space.information(usable)
    given = {
        "criterion": args.criterion,
        "existing": space.information(existing, labels="present") if existing else None,
        "target": space.information(target) if target else None,
        **rules,
    }
    choice = kp.design.select(info, args.n, method=args.method, seed=args.seed, **given)
    certificate = None
    if args.certify and len(choice):
        say("certifying")
        certificate = kp.design.certify(info, choice, **given)
    choice = replace(choice, indices=kept[choice.indices])  # numbers are those of the files
    if args.out:
        write_structures(args.out, [pool[int(k)] for k in choice.indices])
    text = _text(choice, pool, certificate, args.out)
    show(f"{screening}\n\n{text}" if args.screen else text, args.json)
    write_json(args.json, _json(choice, pool, certificate, args, screening))


def _pool(args: Namespace) -> list[Atoms]:
    """Read the pool; with ``--screen`` broken structures are listed with the others, without it they are an error."""
    try:
        return read(args, args.pool, check=not args.screen)
    except DataError as error:
        if args.screen:
            raise
        raise DataError(f"{error} (or let --screen set broken structures of the pool aside)") from error


def _rules(args: Namespace, kept: np.ndarray, size: int, groups: set[str]) -> dict[str, Any]:
    """Limits of the choice, in the numbers of what was kept."""
    position = {int(k): place for place, k in enumerate(kept)}
    for option, given in (("--force", args.force), ("--forbid", args.forbid)):
        wrong = [k for k in given if k >= size]
        if wrong:
            raise ParameterError(f"`{option}` names structure {wrong[0]}, but the pool has {size}, counted from 0")
    aside = [k for k in args.force if k not in position]
    if aside:
        raise ParameterError(f"`--force` names structure {aside[0]}, which `--screen` has set aside: drop one of them")
    names = [name for name, _ in args.quota]
    if len(set(names)) < len(names):
        raise ParameterError(f"`--quota` must name every group once, got {', '.join(names)}")
    unknown = [name for name, _ in args.quota if name not in groups]
    if unknown:
        raise ParameterError(
            f"`--quota` names the group {unknown[0]!r}, but config_type knows {', '.join(sorted(groups)) or 'none'}"
        )
    power = args.cost_power
    return {
        "forced": [position[k] for k in args.force] or None,
        "forbidden": [position[k] for k in args.forbid if k in position] or None,
        "quotas": dict(args.quota) or None,
        "budget": args.budget,
        "costs": None if args.budget is None else lambda info: info.n_atoms.astype(float) ** power,
    }


def _text(choice: Choice, pool: Sequence[Atoms], certificate: Certificate | None, out: str | None) -> str:
    rows = [
        (
            rank,
            int(k),
            source_of(pool[k], int(k)),
            str(pool[k].info.get("config_type", "")),
            str(pool[k].symbols),
            len(pool[k]),
            choice.curve[rank],
        )
        for rank, k in enumerate(choice.indices, start=1)
    ]
    text = f"{choice.summary()}\n\n" + shortened(
        ("pick", "index", "source", "group", "formula", "atoms", choice.symbol), rows
    )
    if certificate is not None:
        text += f"\n\n{certificate}"
    return text + (f"\n\nwrote {out}" if out else "")


def _json(
    choice: Choice, pool: Sequence[Atoms], certificate: Certificate | None, args: Namespace, screening: Screening
) -> dict[str, Any]:
    return {
        "indices": choice.indices,
        "curve": choice.curve,
        "criterion": choice.criterion,
        "method": choice.method,
        "efficiency_bound": choice.efficiency_bound,
        "certificate": None if certificate is None else asdict(certificate),
        "budget": choice.budget,
        "cost_power": args.cost_power if args.budget is not None else None,
        "costs": choice.costs,
        "forced": args.force,
        "forbidden": args.forbid,
        "quotas": dict(args.quota),
        "existing": args.existing,
        "target": args.target,
        "description": dict(choice.description),
        "pool": {"files": args.pool, "n_structures": len(pool)},
        "screen": {
            "set_aside": args.screen,
            "found": [
                {"index": k, "source": name, "reason": reason}
                for name, (k, reason) in zip(screening.names, screening.aside, strict=True)
            ],
        },
        "settings": settings_json(args) | {"noise": given_noise(args, NOISE_DEFAULTS)},
        "structures": [
            {
                "index": int(k),
                "source": source_of(pool[k], int(k)),
                "formula": str(pool[k].symbols),
                "n_atoms": len(pool[k]),
            }
            for k in choice.indices
        ],
        "out": args.out,
    }


def _screened(pool: list[Atoms], spec: SparseGP, *, setting_aside: bool) -> Screening:
    """Look for broken structures, and warn of them where they are not to be set aside.

    Not by default: what resembles nothing else may be broken, or the very structure that the pool was made for, and a
    choice that leaves candidates out unasked is no choice among the pool that was given.
    """
    screening = kp.screen(pool, spec.descriptor if len(pool) <= COMPARED else None)
    if setting_aside and not len(screening.kept):
        raise DataError(f"`--screen` leaves no structure of the pool: {screening.names[0]}: {screening.aside[0][1]}")
    if screening.aside and not setting_aside:
        sys.stderr.write(
            f"kernelpot: warning: {len(screening.aside)} of {len(pool)} structures look broken or outlying; the first, "
            f"{screening.names[0]}: {screening.aside[0][1]}; --screen lists them and sets them aside\n"
        )
    return screening
