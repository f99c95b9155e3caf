"""What the command line accepts; light enough that ``--help`` answers at once."""

from __future__ import annotations

import argparse
import math
import textwrap
from typing import NoReturn

from kernelpot import __version__

NOISE_DEFAULTS: dict[str, float | None] = {"energy": 0.002, "forces": 0.1, "stress": None}
"""Noise that `select` plans with where the user gives none: eV/atom, eV/Å, eV/Å³."""

METHODS = (
    "greedy",
    "random",
    "fps",
    "kmeans",
    "stratified",
    "cur",
    "maxvol",
    "maxvol-environments",
    "maximin",
    "kdpp",
    "kdpp-greedy",
    "entropy",
    "quests",
)
"""What ``select --method`` takes: greedy, then the names in `kernelpot.design.rivals.RIVALS`, too heavy to import."""

LARGEST_SEED = 2**32 - 1
"""What k-means takes at most."""

ABOUT = """\
Choose which atomic structures deserve a DFT calculation before any is run,
then fit a kernel potential that knows its own error."""

EXAMPLES = """\
examples:
  kernelpot demo
  kernelpot select pool.xyz.xz -n 50 --out chosen.xyz
  kernelpot fit labelled.xyz --out si.kp --test test.xyz
  kernelpot evaluate si.kp test.xyz --json scores.json
  kernelpot predict si.kp new.xyz --out predicted.xyz
"""


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one line."""

    def error(self, message: str) -> NoReturn:
        """Exit with status 2 after one line, instead of the whole usage."""
        self.exit(2, f"kernelpot: error: {message} (see `{self.prog} --help`)\n")


def parser() -> Parser:
    """Return the parser of the whole command line."""
    top = Parser(
        prog="kernelpot",
        description=ABOUT,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    top.add_argument("--version", action="version", version=f"kernelpot {__version__}")
    commands = top.add_subparsers(
        dest="command", metavar="command", required=True, parser_class=Parser, title="commands"
    )
    _select(commands)
    _fit(commands)
    _evaluate(commands)
    _predict(commands)
    _demo(commands)
    return top


def _command(commands: argparse._SubParsersAction[Parser], name: str, help_: str, about: str) -> Parser:
    command = commands.add_parser(
        name,
        help=help_,
        description=textwrap.dedent(about).strip(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    command.add_argument("--json", metavar="FILE", help="write the numbers as JSON; '-' is standard output")
    command.add_argument("--quiet", action="store_true", help="no progress on standard error")
    return command


def _select(commands: argparse._SubParsersAction[Parser]) -> None:
    command = _command(
        commands,
        "select",
        "choose which structures to label; needs no labels",
        """
        Choose the structures of a pool whose labels would teach the model most.
        Labels in the pool are ignored.
        """,
    )
    command.add_argument("pool", nargs="+", metavar="POOL", help="files of structures, any format ASE reads")
    command.add_argument("-n", type=positive_int, required=True, metavar="N", help="how many structures to choose")
    command.add_argument(
        "--criterion",
        choices=["balanced", "IV", "D", "A"],
        default="balanced",
        help=(
            "balanced: geometric mean of the label kinds' predicted variances over the pool (default); IV: mean "
            "predicted variance; D: log determinant; A: mean variance of weights"
        ),
    )
    command.add_argument(
        "--method",
        choices=METHODS,
        default="greedy",
        metavar="NAME",
        help=f"greedy (default), or a rival to compare with: {', '.join(METHODS[1:])}",
    )
    command.add_argument(
        "--existing", nargs="+", metavar="FILE", default=[], help="structures that are labelled already"
    )
    command.add_argument(
        "--out", metavar="FILE", help="write the chosen structures, in order of choice, as extended XYZ"
    )
    _settings(command)
    _keys(command)


def _fit(commands: argparse._SubParsersAction[Parser]) -> None:
    command = _command(
        commands,
        "fit",
        "fit a potential to labelled structures",
        """
        Fit a sparse Gaussian process to energies, forces and stresses, and save it.
        """,
    )
    command.add_argument("train", nargs="+", metavar="TRAIN", help="files of labelled structures")
    command.add_argument("--out", required=True, metavar="MODEL", help="the model file to write, e.g. si.kp")
    command.add_argument(
        "--noise",
        type=noise,
        metavar="cv|evidence|E,F[,S]",
        help=(
            "cv (default): find noises and amplitude by cross-validation; evidence: by marginal likelihood,"
            " for comparison; or fixed: eV/atom, eV/Å and eV/Å³ ('none' leaves a kind out)"
        ),
    )
    command.add_argument(
        "--pool",
        nargs="+",
        metavar="FILE",
        default=[],
        help="choose the inducing environments from these too: unlabelled structures, such as the pool of `select`",
    )
    command.add_argument("--test", nargs="+", metavar="FILE", default=[], help="also score the model on these")
    _settings(command)
    _keys(command)


def _evaluate(commands: argparse._SubParsersAction[Parser]) -> None:
    command = _command(
        commands,
        "evaluate",
        "score a model on labelled structures",
        """
        Compare predictions with labels: errors, worst cases, and whether the predicted
        standard deviations are honest.
        """,
    )
    command.add_argument("model", metavar="MODEL", help="a model file that `kernelpot fit` wrote")
    command.add_argument("files", nargs="+", metavar="FILE", help="files of labelled structures")
    _keys(command)


def _predict(commands: argparse._SubParsersAction[Parser]) -> None:
    command = _command(
        commands,
        "predict",
        "predict energies, forces, stresses and their standard deviations",
        """
        Write structures with predicted energy, forces and stress, and the standard
        deviation of each, as extended XYZ.
        """,
    )
    command.add_argument("model", metavar="MODEL", help="a model file that `kernelpot fit` wrote")
    command.add_argument("files", nargs="+", metavar="FILE", help="files of structures")
    command.add_argument("--out", required=True, metavar="FILE", help="the extended XYZ file to write")


def _demo(commands: argparse._SubParsersAction[Parser]) -> None:
    command = _command(
        commands,
        "demo",
        "the whole job on made-up Cu-Au data, with a report; needs no file",
        """
        Make a pool of Cu-Au structures, choose 25 without labels, label them with ASE's EMT
        potential (the stand-in for DFT), fit, compare with 25 random ones, run molecular
        dynamics, and write report.html.
        """,
    )
    command.add_argument("--out", metavar="FILE", default="report.html", help="the report (default: report.html)")
    command.add_argument("--pool", type=positive_int, default=300, help="structures in the pool (default: 300)")
    command.add_argument("-n", type=positive_int, default=25, metavar="N", help="structures to choose (25)")
    command.add_argument("--seed", type=seed, default=0, help="seed of everything random (default: 0)")


def _settings(command: Parser) -> None:
    group = command.add_argument_group("model")
    group.add_argument("--cutoff", type=positive, default=5.0, help="reach of an environment, Å (default: 5)")
    group.add_argument("--n-max", type=positive_int, default=8, help="radial functions (default: 8)")
    group.add_argument("--l-max", type=natural, default=6, help="largest angular momentum (default: 6)")
    group.add_argument("--sigma", type=positive, default=0.5, help="width of an atom's density, Å (default: 0.5)")
    group.add_argument("--zeta", type=positive_int, default=2, help="power of the kernel (default: 2)")
    group.add_argument(
        "--n-inducing", type=positive_int, default=500, help="inducing environments at most (default: 500)"
    )
    group.add_argument("--amplitude", type=positive, default=1.0, help="prior std of a local energy, eV (default: 1)")
    for kind, unit in (("energy", "eV/atom"), ("forces", "eV/Å"), ("stress", "eV/Å³")):
        group.add_argument(
            f"--noise-{kind}",
            type=positive_or_none,
            default=argparse.SUPPRESS,
            metavar="STD",
            help=f"noise of {kind}, {unit}, or 'none' (default: {NOISE_DEFAULTS[kind] or 'none'})",
        )
    group.add_argument("--seed", type=seed, default=0, help="seed of everything random (default: 0)")


def _keys(command: Parser) -> None:
    command.add_argument(
        "--keys",
        type=keys,
        metavar="KIND=NAME,...",
        help="where labels stand, e.g. energy=dft_energy,forces=dft_forces; 'none' ignores a kind",
    )


def positive(text: str) -> float:
    """Parse a positive finite number."""
    value = _number(text)
    if not (math.isfinite(value) and value > 0):
        raise argparse.ArgumentTypeError(f"must be a positive number, got {text!r}")
    return value


def positive_or_none(text: str) -> float | None:
    """Parse a positive finite number, or the word none."""
    return None if text.lower() == "none" else positive(text)


def positive_int(text: str) -> int:
    """Parse a whole number of at least 1."""
    return _whole(text, 1)


def natural(text: str) -> int:
    """Parse a whole number of at least 0."""
    return _whole(text, 0)


def seed(text: str) -> int:
    """Parse a seed, a whole number of 32 bits."""
    value = _whole(text, 0)
    if value > LARGEST_SEED:
        raise argparse.ArgumentTypeError(f"must be at most {LARGEST_SEED}, got {text}")
    return value


def noise(text: str) -> str | tuple[float | None, ...]:
    """Parse the argument of ``fit --noise``: cv, evidence, or two to three numbers."""
    if text in ("cv", "evidence"):
        return text
    parts = text.split(",")
    if len(parts) not in (2, 3):
        raise argparse.ArgumentTypeError(f"must be cv, evidence or ENERGY,FORCES[,STRESS], got {text!r}")
    return tuple(positive_or_none(part.strip()) for part in parts)


def keys(text: str) -> dict[str, str | None]:
    """Parse ``kind=name,kind=name``; the name none means that the kind is not to be read."""
    pairs = [part.partition("=") for part in text.split(",")]
    for kind, _, name in pairs:
        if kind not in ("energy", "forces", "stress", "virial") or not name:
            raise argparse.ArgumentTypeError(
                f"must look like energy=NAME,forces=NAME,stress=NAME (or virial=NAME), got {text!r}"
            )
    return {kind: None if name == "none" else name for kind, _, name in pairs}


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be a number, got {text!r}") from None


def _whole(text: str, least: int) -> int:
    try:
        value = int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be a whole number, got {text!r}") from None
    if value < least:
        raise argparse.ArgumentTypeError(f"must be at least {least}, got {text}")
    return value
