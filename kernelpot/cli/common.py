"""What several commands share: reading, the model's settings, lists of structures."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import kernelpot as kp
from kernelpot.archive import replacing
from kernelpot.cli.output import table
from kernelpot.errors import ParameterError

if TYPE_CHECKING:
    from ase import Atoms

    from kernelpot.potentials.sparse_gp import SparseGP

SHOWN = 60
"""Most rows of a table of structures that a screen is given; files and JSON hold them all."""


def read(args: Namespace, files: Sequence[str], *, check: bool = True) -> list[Atoms]:
    """Read structures, with a word on what was found; unusable ones too where they are not to be refused."""
    return kp.read(list(files), keys=getattr(args, "keys", None), verbose=not args.quiet, check=check)


def model_of(args: Namespace, noise: kp.Noise | str) -> SparseGP:
    """Make the model that the settings describe."""
    check_model(args)
    baseline = kp.ZBL() if getattr(args, "zbl", False) else None
    return kp.SparseGP(
        descriptor_of(args), kernel_of(args), n_inducing=args.n_inducing, noise=noise, seed=args.seed,
        baseline=baseline,
    )  # fmt: skip


def check_model(args: Namespace) -> None:
    """Refuse options that the descriptor or the kernel has no use for.

    Raises
    ------
    ParameterError
        There is one, and the message says which.
    """
    given = getattr(args, "given", ())
    acsf = args.descriptor == "acsf"
    idle = [name for name in (("l_max", "sigma") if acsf else ("n_angular",)) if name in given]
    if idle:
        owner, change = ("SOAP", "leave --descriptor acsf out") if acsf else ("acsf", "add --descriptor acsf")
        raise ParameterError(f"`--{idle[0].replace('_', '-')}` belongs to {owner}; leave it out, or {change}")
    if args.gaussian is not None and "zeta" in given:
        raise ParameterError("`--zeta` is the power of the kernel that --gaussian replaces; give one or the other")


def descriptor_of(args: Namespace) -> kp.SOAP | kp.ACSF:
    """Make the descriptor that the settings describe."""
    if args.descriptor == "acsf":
        return kp.ACSF.spaced(args.cutoff, n_radial=args.n_max, n_angular=args.n_angular)
    return kp.SOAP(cutoff=args.cutoff, n_max=args.n_max, l_max=args.l_max, sigma=args.sigma)


def kernel_of(args: Namespace) -> kp.DotProduct | kp.Gaussian:
    """Make the kernel of environments that the settings describe."""
    if args.gaussian is not None:
        return kp.Gaussian(args.gaussian, args.amplitude)
    return kp.DotProduct(zeta=args.zeta, amplitude=args.amplitude)


def given_noise(args: Namespace, defaults: dict[str, float | None]) -> dict[str, float | None]:
    """Noise of each kind as given on the command line, else its default."""
    return {kind: getattr(args, f"noise_{kind}", default) for kind, default in defaults.items()}


def write_structures(path: str, structures: Sequence[Atoms]) -> None:
    """Write extended XYZ, whole or not at all."""
    from ase.io import write

    with replacing(path) as temporary:
        write(temporary, list(structures), format="extxyz")


def settings_json(args: Namespace) -> dict[str, Any]:
    """Return the model's settings."""
    sizes = ["descriptor", "n_angular"] if args.descriptor == "acsf" else ["l_max", "sigma"]
    kernel = "zeta" if args.gaussian is None else "gaussian"
    names = ["cutoff", "n_max", *sizes, kernel, "n_inducing", "amplitude", "seed"]
    return {name: getattr(args, name) for name in names}


def source_of(atoms: Atoms, number: int) -> str:
    """File and number that `kp.read` left on a structure."""
    return Path(str(atoms.info.get("kernelpot_source", f"@{number}"))).name


def shortened(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Lay out a table, and say how many rows it leaves out."""
    more = len(rows) - SHOWN
    return table(head, rows[:SHOWN]) + (f"\n… and {more} more" if more > 0 else "")
