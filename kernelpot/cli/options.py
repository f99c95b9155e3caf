"""What the arguments of several commands share: the parser, and groups of options."""

from __future__ import annotations

import argparse
import textwrap
from typing import Any, NoReturn

from kernelpot.cli.values import keys, natural, positive, positive_int, positive_or_none, seed

NOISE_DEFAULTS: dict[str, float | None] = {"energy": 0.002, "forces": 0.1, "stress": None}
"""Noise that `select` plans with where the user gives none: eV/atom, eV/Å, eV/Å³."""


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one line."""

    def error(self, message: str) -> NoReturn:
        """Exit with status 2 after one line, instead of the whole usage."""
        self.exit(2, f"kernelpot: error: {message} (see `{self.prog} --help`)\n")


def add_command(commands: argparse._SubParsersAction[Parser], name: str, help_: str, about: str) -> Parser:
    """Add a command with what every command has."""
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


class Given(argparse.Action):
    """Keeps a value, with the fact that the user gave it."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,  # noqa: ARG002
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,  # noqa: ARG002
    ) -> None:
        """Set the value and note its name."""
        setattr(namespace, self.dest, values)
        namespace.given = (*getattr(namespace, "given", ()), self.dest)


def add_tuning(command: Parser) -> None:
    """Add the options of a search for settings."""
    group = command.add_argument_group(
        "tuning",
        "Settings that are given stay as given; the others of cutoff, n-max, l-max, sigma and zeta are searched, with "
        "--descriptor acsf those of cutoff, n-max, n-angular and gaussian; a pair term is tried with either.",
    )
    group.add_argument(
        "--tune",
        type=positive,
        nargs="?",
        const=10.0,
        metavar="MINUTES",
        help="search the settings by left-out errors for so long first (10 where no number follows)",
    )
    group.add_argument("--tune-fits", type=positive_int, metavar="N", help="at most N fits: alone, exactly repeatable")
    group.add_argument(
        "--tune-groups", action="store_true", help="leave out each config_type in turn, instead of folds of frames"
    )
    group.add_argument("--tune-table", metavar="FILE", help="write the table of all trials, as CSV")
    group.add_argument("--tune-resume", metavar="FILE", help="keep trials here; an interrupted search goes on from it")


def add_model(command: Parser, *, cutoff: float | None = 5.0, potential: bool = True) -> None:
    """Add the options of a model; `potential` has noises."""
    group = command.add_argument_group("model")
    group.add_argument(
        "--descriptor",
        choices=("soap", "acsf"),
        default="soap",
        help="soap, or acsf: symmetry functions, n-max radial ones (default: soap)",
    )
    group.add_argument(
        "--gaussian",
        type=positive,
        metavar="LENGTH",
        help="Gaussian kernel of this length between unit vectors, instead of a power; 1 to 2 suits acsf",
    )
    group.add_argument(
        "--cutoff",
        type=positive,
        default=cutoff,
        action=Given,
        help=f"reach of an environment, Å (default: {cutoff or 'from the distances between atoms in the data'})",
    )
    group.add_argument("--n-max", type=positive_int, default=8, action=Given, help="radial functions (default: 8)")
    group.add_argument(
        "--l-max", type=natural, default=6, action=Given, help="soap: largest angular momentum (default: 6)"
    )
    group.add_argument(
        "--n-angular", type=positive_int, default=2, action=Given, help="acsf: widths of angular functions (default: 2)"
    )
    group.add_argument(
        "--sigma", type=positive, default=0.5, action=Given, help="soap: width of an atom's density, Å (default: 0.5)"
    )
    group.add_argument("--zeta", type=positive_int, default=2, action=Given, help="power of the kernel (default: 2)")
    group.add_argument(
        "--n-inducing",
        type=positive_int,
        default=500 if potential else None,
        action=Given,
        help="inducing environments at most (default: 500)" if potential else "inducing structures (default: all)",
    )
    group.add_argument("--amplitude", type=positive, default=1.0, help="prior std of a local energy, eV (default: 1)")
    for kind, unit in () if not potential else (("energy", "eV/atom"), ("forces", "eV/Å"), ("stress", "eV/Å³")):
        group.add_argument(
            f"--noise-{kind}",
            type=positive_or_none,
            default=argparse.SUPPRESS,
            metavar="STD",
            help=f"noise of {kind}, {unit}, or 'none' (default: {NOISE_DEFAULTS[kind] or 'none'})",
        )
    group.add_argument("--seed", type=seed, default=0, help="seed of everything random (default: 0)")


def add_keys(command: Parser) -> None:
    """Add the option that names labels."""
    command.add_argument(
        "--keys",
        type=keys,
        metavar="KIND=NAME,...",
        help="where labels stand, e.g. energy=dft_energy,forces=dft_forces; 'none' ignores a kind",
    )
