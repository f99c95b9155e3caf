"""What ``kernelpot assess`` does: design's figures, elements and environments, and a forecast where labels are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

import kernelpot as kp
from kernelpot.cli.choosing import screened, suspects
from kernelpot.cli.options import Assess
from kernelpot.cli.printing import check_outputs, read, settled, show, source_of, space_of, spec_of, table, write_json
from kernelpot.data.labels import resolve
from kernelpot.design.advice.text import Sources, describe
from kernelpot.errors import LabelError
from kernelpot.judgement.forecast import FEWEST, Forecast, forecast, shortlist
from kernelpot.judgement.unlabelled import Coverage, coverage

if TYPE_CHECKING:
    from ase import Atoms

    from kernelpot.potentials.sparse_gp import SparseGP

TARGET = 200
"""Target structures whose rows are kept whole; more are thinned, as a mean needs no more."""

PILOT = 60
"""Labelled structures up to which a forecast is made by leaving each one out."""

_POORLY = 0.5


def assess(options: Assess) -> None:
    """Judge a set of structures, with a pool to add from where one is given."""
    check_outputs({"--json": options.json}, [*options.train, *options.pool, *options.target])
    train, pool, target = (
        read(options, files, look=False) if files else [] for files in (options.train, options.pool, options.target)
    )
    options = replace(options, model=settled(options.model, [*train, *pool, *target]))
    spec = spec_of(options.model)
    advice = "they may be proposed all the same, so look before labelling"
    screens = {
        name: suspects(screened(some, f"structures of the {name}", spec, advice)) if some else []
        for name, some in (("set", train), ("pool", pool))
    }
    space = space_of(options.model, [*pool, *target, *train], spec)
    labels = resolve(train, options.keys)
    kinds = [kind for kind in space.plan()[1].kinds if labels.present(kind).any()]
    info = space.information(train, labels="present" if kinds else "planned", keys=options.keys)
    aims = list(target or pool or train)
    numbers = np.arange(len(aims))
    if len(aims) > TARGET:
        numbers = np.sort(np.random.default_rng(spec.seed).permutation(len(aims))[:TARGET])
    found = kp.design.assess(
        info,
        pool=space.information(pool) if pool else None,
        target=space.information([aims[k] for k in numbers], truncate=0.0),
        criterion=options.criterion,
        next=options.next,
        swaps=options.swaps,
        seed=spec.seed,
    )
    name = "target" if target else "pool" if pool else "set itself"
    found = replace(found, target_name=name, target_numbers=numbers)
    known = coverage(space, train, aims, info)
    elements = _Elements(known, aims, name)
    ahead, why = _forecast(space, (train, pool, target), found.next_indices.tolist(), kinds, options.keys)
    counted = (
        f"labels: those that are there count ({', '.join(kinds)})"
        if kinds
        else "labels: none found, so all planned ones count; nothing below looks at a label"
    )
    sources = [[source_of(atoms, k) for k, atoms in enumerate(some)] for some in (train, pool, aims)]
    remarks = [counted, *elements.remarks()]
    if ahead and ahead.missing:
        remarks.append(f"the set holds no {shortlist(ahead.missing)}: there the errors by the labels are a guess")
    text = describe(
        found,
        remarks,
        by_labels={kind: float(values[0]) for kind, values in ahead.errors.items()} if ahead else None,
        sources=Sources(*sources),
    )
    text += "\n\n" + elements.text()
    text += "\n\n" + (f"FORECAST, corrected by the labels that are there\n{ahead}" if ahead else f"no forecast: {why}")
    show(text, options.json)
    content = {
        "files": {"train": options.train, "pool": options.pool, "target": options.target},
        "settings": options.model.as_dict() | {"noise": options.model.noises(), "model": options.model.model},
        **found.as_dict(),
        "labels_counted": "present" if kinds else "planned",
        "coverage": known.as_dict(),
        "forecast": ahead.as_dict() if ahead else None,
        "sources": {"train": sources[0], "pool": sources[1]},
        "screen": screens,
    }
    write_json(options.json, content)


def _forecast(
    space: SparseGP,
    structures: tuple[list[Atoms], list[Atoms], list[Atoms]],
    path: Sequence[int],
    kinds: Sequence[str],
    keys: Mapping[str, str | None] | None,
) -> tuple[Forecast | None, str]:
    """Forecast the error of set, pool and target along the proposed additions, or say why not."""
    train, pool, target = structures
    if not pool:
        return None, "it needs a pool (--pool)"
    if not {"energy", "forces"} & set(kinds):
        return None, "it needs labels, which tell how far predicted errors can be trusted"
    if len(train) > PILOT:
        return (
            None,
            f"it leaves out each structure, for sets of up to {PILOT}; `kernelpot fit` cross-validates this one",
        )
    n = sorted({len(train), len(train) + (len(path) + 1) // 2, len(train) + len(path)})
    try:
        ahead = forecast(space, train, pool=pool, n=n, path=path, target=target or None, keys=keys, seed=space.seed)
        return replace(ahead, path="the additions proposed"), ""
    except LabelError as error:
        if "different structures" in str(error):
            return None, f"it needs at least {FEWEST} different labelled structures"
        raise


@dataclass(frozen=True)
class _Elements:
    """What the set knows of elements and environments, in words; `name` is that of the structures aimed at."""

    known: Coverage
    aims: Sequence[Atoms]
    name: str

    def remarks(self) -> list[str]:
        """Sentences for the verdict about elements."""
        from ase.data import chemical_symbols

        known, lines = self.known, []
        for one in known.species:
            symbol = chemical_symbols[one.number]
            if not one.in_train:
                lines.append(f"{symbol} is missing: no atom of it in the set, {one.in_pool} where it is needed")
            elif one.share > _POORLY:
                lines.append(
                    f"{symbol} is poorly known: {100 * one.share:.0f} % of the prior std of its local energies is left"
                )
        if known.compositions < known.needed:
            lines.append(
                f"compositions: only {known.compositions} of {known.needed} independent ones have energies, so the "
                "energies of some elements cannot be told apart; add structures of other compositions"
            )
        return lines

    def text(self) -> str:
        """Tables of elements and of the least known environments."""
        from ase.data import chemical_symbols

        known, aims, name = self.known, self.aims, self.name
        rows = [
            (
                chemical_symbols[one.number],
                one.in_train,
                one.in_pool,
                round(100 * one.share, 1),
                round(100 * one.unseen, 2),
            )
            for one in known.species
        ]
        head = ("element", "atoms in set", f"in {name}", "% of prior std left", "% outside the model")
        text = (
            f"ELEMENTS: local energies in the {name}, about their mean; outside the model: share of an environment's "
            "variance that no inducing environment sees\n" + table(head, rows)
        )
        most = max(map(float, known.least_known_std), default=1.0) or 1.0
        places = [
            (int(s), int(i), aims[s].get_chemical_symbols()[i], source_of(aims[s], int(s)), float(std) / most)
            for (s, i), std in zip(known.least_known, known.least_known_std, strict=True)
        ]
        columns = ("structure", "atom", "element", "source", "std left, largest = 1")
        return text + f"\n\nleast known environments of the {name}, one per structure\n" + table(columns, places)
