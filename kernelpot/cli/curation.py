"""What ``kernelpot curate`` does."""

from __future__ import annotations

import json
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import kernelpot as kp
from kernelpot.archive import replacing
from kernelpot.cli.common import given_noise, model_of
from kernelpot.cli.options import NOISE_DEFAULTS
from kernelpot.cli.output import check_outputs, show, write_json
from kernelpot.errors import ParameterError, StoreError
from kernelpot.linalg.store import require_zarr
from kernelpot.pools.block_store import differences
from kernelpot.progress import say

if TYPE_CHECKING:
    from kernelpot.pools import BlockStore, PoolChoice
    from kernelpot.potentials.sparse_gp import SparseGP

MOST_SHOWN = 5
"""Set-aside structures that are named on the screen; JSON names them all."""


def curate(args: Namespace) -> None:
    """Write the blocks of a pool to a folder, or go on with them, and choose."""
    from kernelpot.pools import select_chunks, write_blocks
    from kernelpot.pools.source import file_list, read_frames

    outputs = {"--out": args.out, "--json": args.json}
    check_outputs(outputs, [*args.pool, *args.existing])
    _check_folder(args.blocks, outputs)
    require_zarr()
    file_list(args.pool)
    if args.epsilon is not None and args.epsilon >= 1:
        raise ParameterError(f"`--epsilon` must lie between 0 and 1, got {args.epsilon:g}")
    if args.truncate >= 1:
        raise ParameterError(f"`--truncate` must lie between 0 and 1, got {args.truncate:g}")
    space = _space(args)
    existing = None
    if args.existing:
        labelled = kp.read(args.existing, keys=args.keys, verbose=not args.quiet)
        existing = space.information(labelled, labels="present", keys=args.keys)
    store = write_blocks(
        space,
        args.pool,
        args.blocks,
        chunk=args.chunk,
        workers=args.workers,
        scheduler=args.scheduler,
        truncate=args.truncate,
    )
    choice = select_chunks(
        store,
        args.n,
        criterion=args.criterion,
        method=args.method,
        existing=existing,
        epsilon=args.epsilon,
        memory=args.memory,
        workers=0 if args.scheduler is None else None,
        scheduler=args.scheduler,
        seed=args.seed,
    )
    if args.out:
        from ase.io import write

        chosen = read_frames(args.pool, choice.indices)
        with replacing(args.out) as temporary:
            write(temporary, chosen, format="extxyz")
    show(_text(choice, store, args), args.json)
    write_json(args.json, _json(choice, store, args))


def _check_folder(blocks: str, outputs: Mapping[str, str | None]) -> None:
    """Refuse a folder that is a file, and outputs that would lie in it."""
    folder = Path(blocks).resolve()
    above = next((place for place in (folder, *folder.parents) if place.exists()), folder)
    if above.exists() and not above.is_dir():
        raise ParameterError(f"`--blocks` must be a folder, but {above} is a file; choose another name")
    for option, path in outputs.items():
        if path is not None and path != "-" and Path(path).resolve().is_relative_to(folder):
            raise ParameterError(f"`{option}` must not lie in the folder of `--blocks`, got {path!r}; choose another")


def _space(args: Namespace) -> SparseGP:
    """Take the feature space of the folder, or prepare one from a sample and put it there."""
    from kernelpot.pools import load_space, sample, save_space
    from kernelpot.pools.space import settings_of
    from kernelpot.pools.write import SPACE

    spec = model_of(args, kp.Noise(**given_noise(args, NOISE_DEFAULTS)))
    path = Path(args.blocks) / SPACE
    if path.exists():
        space = load_space(path)
        old, new = settings_of(space), json.loads(json.dumps(spec.settings()))
        # The command line writes spaces of one term. Species come from the sample, and whether a model was prepared is
        # no setting of the space.
        before, wanted = old["terms"][0], new["terms"][0]
        kept = ("n_inducing", "noise", "seed", "inducing", "tolerance")
        before["descriptor"]["species"] = wanted["descriptor"]["species"]
        different = differences(
            {key: old[key] for key in kept} | {key: before[key] for key in ("descriptor", "kernel")},
            {key: new[key] for key in kept} | {key: wanted[key] for key in ("descriptor", "kernel")},
        )
        if different:
            raise StoreError(
                f"{args.blocks}: the folder's feature space was prepared with other settings: {'; '.join(different)}; "
                "use those, or choose another folder"
            )
        say(f"the feature space of {args.blocks} is used; --sample has no effect any more")
        return space
    drawn = sample(args.pool, args.sample, seed=args.seed)
    say(f"preparing: inducing environments from {len(drawn)} structures drawn at random, labels unseen")
    space = spec.prepare(drawn)
    path.parent.mkdir(parents=True, exist_ok=True)
    save_space(space, path)
    return space


def _source(choice: PoolChoice, k: int) -> str:
    return f"{Path(choice.files[k]).name}@{choice.frames[k]}"


def _text(choice: PoolChoice, store: BlockStore, args: Namespace) -> str:
    aside = store.set_aside()
    lines = [str(choice), "", f"{args.blocks}: {store.manifest['n_structures']} structures"]
    if aside:
        lines.append(f"{len(aside)} unusable structures were set aside:")
        lines += [f"  {one['reason']}" for one in aside[:MOST_SHOWN]]
        if len(aside) > MOST_SHOWN:
            lines.append(f"  … and {len(aside) - MOST_SHOWN} more")
    if args.out:
        lines += ["", f"wrote {args.out}"]
    return "\n".join(lines)


def _json(choice: PoolChoice, store: BlockStore, args: Namespace) -> dict[str, Any]:
    return {
        "indices": choice.indices,
        "curve": choice.curve,
        "criterion": choice.criterion,
        "method": choice.method,
        "guarantee": choice.guarantee,
        "n_chunks": choice.n_chunks,
        "n_parts": choice.n_parts,
        "pool": {"files": args.pool, "n_structures": store.manifest["n_structures"], "n_distinct": choice.n_distinct},
        "settings": store.manifest["settings"],
        "set_aside": store.set_aside(),
        "structures": [{"index": int(index), "source": _source(choice, k)} for k, index in enumerate(choice.indices)],
        "out": args.out,
    }
