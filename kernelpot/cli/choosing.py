"""What ``kernelpot select`` and ``kernelpot curate`` do."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Bool, Float, Int

import kernelpot as kp
from kernelpot.cli.options import Curate, Select
from kernelpot.cli.printing import (
    cells_of,
    check_outputs,
    check_path,
    facts_of,
    read,
    settled,
    shortened,
    show,
    space_of,
    spec_of,
    table,
    warn,
    write_json,
    write_structures,
)
from kernelpot.data.check import validate
from kernelpot.data.geometry import broken
from kernelpot.data.noise import KINDS
from kernelpot.design.information import duplicates
from kernelpot.design.precision import Precision, row_variances
from kernelpot.errors import DataError, ParameterError, StoreError
from kernelpot.linalg.store import held, require_zarr
from kernelpot.progress import say

if TYPE_CHECKING:
    from ase import Atoms

    from kernelpot.design import Certificate, Choice, Information
    from kernelpot.judgement.unlabelled import Screening
    from kernelpot.potentials.sparse_gp import SparseGP

COMPARED = 20_000
"""Structures up to which all are compared with all to find outliers; larger pools have their geometry checked."""

COVERED = 10
"""Groups or compositions of `select` that the screen is given; JSON holds them all."""

LOOKED_AT = 400
"""Structures of a pool whose variances before and after a choice are compared."""

NAMED = 5
"""Structures of `curate` that were set aside and are named on the screen; JSON names them all."""


def select(options: Select) -> None:
    """Choose structures of a pool and write them."""
    check_outputs({"--out": options.out, "--json": options.json}, [*options.pool, *options.existing, *options.target])
    if options.n is None and options.budget is None:
        raise ParameterError("say how many structures to choose with `-n`, or what they may cost with `--budget`")
    pool = read(options, options.pool, check=False, look=False)
    if not options.screen:
        try:
            validate(pool)
        except DataError as error:
            raise DataError(f"{error} (or let --screen set broken structures of the pool aside)") from error
    existing, target = (read(options, files) if files else [] for files in (options.existing, options.target))
    strange = {number for number, _ in broken(pool)} if options.screen else set()
    sound = [*(atoms for k, atoms in enumerate(pool) if k not in strange), *existing, *target]
    options = replace(options, model=settled(options.model, sound))
    spec = spec_of(options.model)
    # Not set aside by default: what resembles nothing else may be broken, or the very structure that the pool was made
    # for, and a choice that leaves candidates out unasked is no choice among the pool that was given.
    advice = None if options.screen else "--screen lists them and sets them aside"
    screening = screened(pool, "structures", spec, advice)
    if options.screen and not len(screening.kept):
        raise DataError(f"`--screen` leaves no structure of the pool: {screening.names[0]}: {screening.aside[0][1]}")
    kept = np.asarray(screening.kept) if options.screen else np.arange(len(pool))
    usable = [pool[k] for k in kept]
    if options.n is not None and options.n > len(usable):
        raise ParameterError(f"`-n` must be at most the size of the pool, got {options.n} of {len(usable)} structures")
    rules = _rules(options, kept, len(pool), {str(atoms.info.get("config_type", "")) for atoms in usable})
    space = space_of(options.model, [*usable, *existing], spec)
    info = space.information(usable)
    given = {
        "criterion": options.criterion,
        "existing": space.information(existing, labels="present") if existing else None,
        "target": space.information(target) if target else None,
        **rules,
    }
    choice = kp.design.select(info, options.n, method=options.method, seed=options.model.seed, **given)
    certificate = None
    if options.certify and len(choice):
        say("certifying")
        certificate = kp.design.certify(info, choice, **given)
    left = np.full((len(pool), 2), np.nan)
    left[kept] = left_after(info, given["existing"], choice.indices, options.model.seed)
    choice = replace(choice, indices=kept[choice.indices])  # numbers are those of the files
    if options.n is None and not len(choice):
        _short(options, f"nothing was chosen: {_binding(options, choice, usable)}")
    elif options.n is not None and len(choice) < options.n:
        _short(options, f"{len(choice)} of {options.n} structures were chosen: {_binding(options, choice, usable)}")
    if options.out and len(choice):
        write_structures(options.out, [pool[int(k)] for k in choice.indices])
    groups = duplicates(info)
    same = [kept[groups == group].tolist() for group in np.flatnonzero(np.bincount(groups) > 1)]
    result = _Result(options, pool, screening, choice, certificate, left, same)
    show(result.text(), options.json)
    write_json(options.json, result.content())


def left_after(
    info: Information, existing: Information | None, chosen: Int[np.ndarray, " chosen"], seed: int
) -> Float[np.ndarray, "structures 2"]:
    """Return the summed variances of each structure's forces (energies, where no forces are planned) before and after
    a choice; of a large pool those of some structures, NaN for the others.
    """
    some = np.sort(np.random.default_rng(seed).permutation(len(info))[:LOOKED_AT])
    part = info.take(some)
    code = KINDS.index("forces")
    here = part.kinds == (code if (part.kinds == code).any() else KINDS.index("energy"))
    before = Precision.prior(info.d)
    before = before if existing is None else before.with_rows(existing.rows)
    found = np.full((len(info), 2), np.nan)
    for k, precision in enumerate((before, before.with_rows(info.take(chosen).rows))):
        variances = row_variances(part.rows[here], precision)
        found[some, k] = np.bincount(part.structure[here], variances, minlength=len(some))
    return found


def _short(options: Select, text: str) -> None:
    """Say that fewer were chosen than were asked for; refuse it where that is wanted."""
    if options.strict:
        raise ParameterError(f"`--strict`: {text}")
    warn(f"{text} (--strict makes this an error)")


def _binding(options: Select, choice: Choice, usable: Sequence[Atoms]) -> str:
    """Say which rule left no more to choose."""
    left = [atoms for k, atoms in enumerate(usable) if k not in set(choice.indices.tolist())]
    if options.budget is not None and left:
        cheapest = min(len(atoms) for atoms in left) ** options.cost_power
        return f"--budget {options.budget:g} leaves less than the {cheapest:g} that the cheapest of the rest costs"
    if options.quota:
        limits = ", ".join(f"{name}={limit}" for name, limit in options.quota)
        return f"--quota {limits} and --forbid leave no more"
    if options.forbid:
        return f"--forbid leaves {len(usable) - len(set(options.forbid))} of {len(usable)}"
    return f"{options.method} found no more that differ from these"


def screened(structures: Sequence[Atoms], what: str, spec: SparseGP, advice: str | None) -> Screening:
    """Look for structures that are broken, and warn of them where there is advice what to do."""
    screening = kp.screen(structures, spec.descriptor if len(structures) <= COMPARED else None)
    if screening.aside and advice:
        warn(
            f"{len(screening.aside)} of {len(structures)} {what} look broken or outlying; the first, "
            f"{screening.names[0]}: {screening.aside[0][1]}; {advice}"
        )
    return screening


def suspects(screening: Screening) -> list[dict[str, Any]]:
    """Return what a screen set aside, for JSON."""
    return [
        {"index": k, "source": name, "reason": reason}
        for name, (k, reason) in zip(screening.names, screening.aside, strict=True)
    ]


def _rules(options: Select, kept: np.ndarray, size: int, groups: set[str]) -> dict[str, Any]:
    """Limits of the choice, in the numbers of what was kept."""
    position = {int(k): place for place, k in enumerate(kept)}
    for option, given in (("--force", options.force), ("--forbid", options.forbid)):
        wrong = [k for k in given if k >= size]
        if wrong:
            raise ParameterError(f"`{option}` names structure {wrong[0]}, but the pool has {size}, counted from 0")
    aside = [k for k in options.force if k not in position]
    if aside:
        raise ParameterError(f"`--force` names structure {aside[0]}, which `--screen` has set aside: drop one of them")
    names = [name for name, _ in options.quota]
    if len(set(names)) < len(names):
        raise ParameterError(f"`--quota` must name every group once, got {', '.join(names)}")
    unknown = [name for name in names if name not in groups]
    if unknown:
        raise ParameterError(
            f"`--quota` names the group {unknown[0]!r}, but config_type knows {', '.join(sorted(groups)) or 'none'}"
        )
    power = options.cost_power
    return {
        "forced": [position[k] for k in options.force] or None,
        "forbidden": [position[k] for k in options.forbid if k in position] or None,
        "quotas": dict(options.quota) or None,
        "budget": options.budget,
        "costs": None if options.budget is None else lambda info: info.n_atoms.astype(float) ** power,
    }


@dataclass(frozen=True)
class _Result:
    """What `select` tells."""

    options: Select
    pool: Sequence[Atoms]
    screening: Screening
    choice: Choice
    certificate: Certificate | None
    left: Float[np.ndarray, "pool 2"]
    repeats: list[list[int]]

    def text(self) -> str:
        """Lay out the choice as a table, below what the screen found where it was asked for."""
        choice, pool, certificate, out = self.choice, self.pool, self.certificate, self.options.out
        heading, values = choice.column
        rows = [
            (rank, k, *cells_of(pool[k], k), str(pool[k].info.get("config_type", "")), values[rank])
            for rank, k in enumerate(choice.indices.tolist(), start=1)
        ]
        head = ("pick", "index", "source", "formula", "atoms", "group", heading)
        told = choice
        if certificate is not None:
            # It says more than the quick limit, which may hold against other choices: of a size, not of a budget.
            told = replace(choice, efficiency_bound=None, efficiency_from="the certificate")
        text = f"{told.summary()}\n\n{shortened(head, rows)}"
        if certificate is not None:
            text += f"\n\n{certificate}"
        for name, counts in self.coverage().items():
            lines = [(key, one["pool"], one["chosen"], one["std_left_percent"]) for key, one in counts.items()]
            text += f"\n\n{table((name, 'in the pool', 'chosen', 'std left, %'), lines[:COVERED])}"
            if len(lines) > COVERED:
                text += f"\n… and {len(lines) - COVERED} more"
            none = [key or "(no name)" for key, one in counts.items() if not one["chosen"]]
            if none:
                more = f" and {len(none) - COVERED} more" if len(none) > COVERED else ""
                text += f"\nnone chosen of: {', '.join(none[:COVERED])}{more}"
        if self.repeats:
            named = (
                "=".join(map(str, group[:COVERED])) + " …" * (len(group) > COVERED) for group in self.repeats[:COVERED]
            )
            more = f"; and {len(self.repeats) - COVERED} more groups" if len(self.repeats) > COVERED else ""
            text += f"\n\nstructures of the pool that repeat each other: {'; '.join(named)}{more}"
        if out:
            text += f"\n\nwrote {out}" if len(choice) else f"\n\n{out} was not written"
        return f"{self.screening}\n\n{text}" if self.options.screen else text

    def coverage(self) -> dict[str, dict[str, dict[str, Any]]]:
        """Count structures of the pool and of the choice by group, where there are some, and by composition.

        Beside them stands how much of their standard deviation before the choice is left (`left_after`), per cent.
        """
        names = {
            "group": [str(atoms.info.get("config_type", "")) for atoms in self.pool],
            "composition": [atoms.get_chemical_formula(empirical=True) for atoms in self.pool],
        }
        if not any(names["group"]):
            del names["group"]
        found = {}
        for name, of in names.items():
            chosen = Counter(of[k] for k in self.choice.indices.tolist())
            found[name] = {
                key: {"pool": count, "chosen": chosen[key], "std_left_percent": self._percent(np.array(of) == key)}
                for key, count in Counter(of).most_common()
            }
        return found

    def _percent(self, members: Bool[np.ndarray, " pool"]) -> float:
        """Return what is left of the standard deviation of some structures, those that were looked at."""
        before, after = np.nansum(self.left[members], axis=0)
        return round(100.0 * float(np.sqrt(after / before)), 1) if before > 0.0 else float("nan")

    def content(self) -> dict[str, Any]:
        """Return the choice for JSON."""
        choice, pool, options, certificate = self.choice, self.pool, self.options, self.certificate
        return {
            "indices": choice.indices,
            "curve": choice.curve,
            "criterion": choice.criterion,
            "method": choice.method,
            "efficiency_bound": choice.efficiency_bound,
            "certificate": None if certificate is None else asdict(certificate),
            "budget": choice.budget,
            "cost_power": options.cost_power if options.budget is not None else None,
            "costs": choice.costs,
            "forced": options.force,
            "forbidden": options.forbid,
            "quotas": dict(options.quota),
            "existing": options.existing,
            "target": options.target,
            "description": dict(choice.description),
            "pool": {"files": options.pool, "n_structures": len(pool)},
            "screen": {"set_aside": options.screen, "found": suspects(self.screening)},
            "settings": options.model.as_dict() | {"noise": options.model.noises(), "model": options.model.model},
            "structures": [{"index": k} | facts_of(pool[k], k) for k in choice.indices.tolist()],
            "repeats": self.repeats,
            "coverage": {
                name: [{"name": key, **one} for key, one in counts.items()] for name, counts in self.coverage().items()
            },
            "out": options.out,
        }


def curate(options: Curate) -> None:
    """Write the blocks of a pool to a folder, or go on with them, and choose."""
    from kernelpot.pools import select_chunks, write_blocks
    from kernelpot.pools.source import file_list, read_frames

    outputs = {"--out": options.out, "--json": options.json}
    check_outputs(outputs, [*options.pool, *options.existing])
    check_path("--blocks", options.blocks)
    folder = Path(options.blocks).resolve()
    above = next(place for place in (folder, *folder.parents) if place.exists())
    if not above.is_dir():
        raise ParameterError(f"`--blocks` must be a folder, but {above} is a file; choose another name")
    for option, path in outputs.items():
        if path is not None and path != "-" and Path(path).resolve().is_relative_to(folder):
            raise ParameterError(f"`{option}` must not lie in the folder of `--blocks`, got {path!r}; choose another")
    require_zarr()
    file_list(options.pool)
    for name, value in (("epsilon", options.epsilon), ("truncate", options.truncate)):
        if value is not None and value >= 1:
            raise ParameterError(f"`--{name}` must lie between 0 and 1, got {value:g}")
    with held(folder):
        space = _space(options)
        existing = None
        if options.existing:
            labelled = read(options, options.existing)
            existing = space.information(labelled, labels="present", keys=options.keys)
        store = write_blocks(
            space,
            options.pool,
            options.blocks,
            chunk=options.chunk,
            workers=options.workers,
            scheduler=options.scheduler,
            truncate=options.truncate,
        )
        choice = select_chunks(
            store,
            options.n,
            criterion=options.criterion,
            method=options.method,
            existing=existing,
            epsilon=options.epsilon,
            memory=options.memory,
            workers=0 if options.scheduler is None else None,
            scheduler=options.scheduler,
            seed=options.model.seed,
        )
    if options.out:
        write_structures(options.out, read_frames(options.pool, choice.indices))
    size, aside = store.manifest["n_structures"], store.set_aside()
    lines = [str(choice), "", f"{options.blocks}: {size} structures"]
    if aside:
        lines.append(f"{len(aside)} unusable structures were set aside:")
        lines += [f"  {one['reason']}" for one in aside[:NAMED]]
        if len(aside) > NAMED:
            lines.append(f"  … and {len(aside) - NAMED} more")
    show("\n".join(lines) + (f"\n\nwrote {options.out}" if options.out else ""), options.json)
    content = {
        "indices": choice.indices,
        "curve": choice.curve,
        "criterion": choice.criterion,
        "method": choice.method,
        "guarantee": choice.guarantee,
        "n_chunks": choice.n_chunks,
        "n_parts": choice.n_parts,
        "pool": {"files": options.pool, "n_structures": size, "n_distinct": choice.n_distinct},
        "settings": store.manifest["settings"],
        "set_aside": aside,
        "structures": [
            {"index": int(index), "source": f"{Path(choice.files[k]).name}@{choice.frames[k]}"}
            for k, index in enumerate(choice.indices)
        ],
        "out": options.out,
    }
    write_json(options.json, content)


def _space(options: Curate) -> SparseGP:
    """Take the feature space of the folder, or prepare one from a sample and put it there."""
    from kernelpot.pools import load_space, save_space
    from kernelpot.pools.block_store import differences
    from kernelpot.pools.request import check_memory
    from kernelpot.pools.source import counted_sample
    from kernelpot.pools.write import SPACE, settings_of

    path = Path(options.blocks) / SPACE
    if not path.exists():
        drawn, count = counted_sample(options.pool, options.sample, seed=options.model.seed)
        if options.n > count:
            raise ParameterError(f"`-n` must be at most the size of the pool, got {options.n} of {count} structures")
        say(f"preparing: inducing environments from {len(drawn)} structures drawn at random, labels unseen")
        space = settled(options.model, drawn).spec().prepare(drawn)
        check_memory(options.memory, space.plan()[0].n_weights)
        save_space(space, path)
        return space
    space = load_space(path)
    old, new = settings_of(space), json.loads(json.dumps(options.model.spec().settings()))
    # The command line writes spaces of one term. Species come from the sample, and whether a model was prepared is
    # no setting of the space.
    before, wanted = old["terms"][0], new["terms"][0]
    kept = ("n_inducing", "noise", "seed", "inducing", "tolerance")
    before["descriptor"]["species"] = wanted["descriptor"]["species"]
    # How elements are coupled is no option: a folder keeps what it was made with.
    # The same holds for a cutoff that the data of then suggested.
    for term in (before, wanted):
        term["descriptor"].pop("channels", None)
        if "cutoff" not in options.model.given:
            term["descriptor"].pop("cutoff", None)
        term["kernel"].pop("centres", None)
    different = differences(
        {key: old[key] for key in kept} | {key: before[key] for key in ("descriptor", "kernel")},
        {key: new[key] for key in kept} | {key: wanted[key] for key in ("descriptor", "kernel")},
    )
    if different:
        raise StoreError(
            f"{options.blocks}: the folder's feature space was prepared with other settings: {'; '.join(different)}; "
            "use those, or choose another folder"
        )
    say(f"the feature space of {options.blocks} is used; --sample has no effect any more")
    return space
