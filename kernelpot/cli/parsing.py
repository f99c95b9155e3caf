"""A command line from frozen dataclasses: a field is an option, its annotation says the rule and the help."""

from __future__ import annotations

import argparse
import math
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, dataclass, fields, is_dataclass
from types import NoneType
from typing import Annotated, Any, Literal, NoReturn, Union, get_args, get_origin, get_type_hints

LARGEST_SEED = 2**32 - 1
"""What k-means takes at most."""

MOST = 10**7
"""Largest structure number and quota; a guard against typing errors."""

CRITERIA = ("balanced", "IV", "D", "A", "V", "G", "E")
"""Criteria that need no more than structures."""


@dataclass(frozen=True)
class Option:
    """What the annotation of a field adds to its type: one without this note is no option."""

    help: str
    metavar: str | None = None
    positional: bool = False
    append: bool = False
    choices: tuple[str, ...] | None = None
    bare: float | None = None
    """Value of an option that may stand without one."""
    default: str | None = None
    """Words for the default, where the value itself does not say it."""


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one line."""

    def error(self, message: str) -> NoReturn:
        """Exit with status 2 after one line, instead of the whole usage."""
        self.exit(2, f"kernelpot: error: {message} (see `{self.prog} --help`)\n")


def add_command(commands: argparse._SubParsersAction[Parser], options: type, words: Sequence[str]) -> None:
    """Add a command; the first line of its docstring stands in the list of commands, the rest above its options."""
    line, _, about = (options.__doc__ or "").partition("\n")
    name = options.__name__.lower()
    command = commands.add_parser(
        name,
        help=line[:1].lower() + line[1:].rstrip("."),
        description=textwrap.dedent(about).strip(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    command.set_defaults(options=options)
    # The options of all commands would cost half of the time to start.
    if name in words:
        _add_options(command, options)


def made(options: type, given: Mapping[str, Any]) -> Any:
    """Make the dataclass from what the user gave; a field `given` keeps the names of what that was."""
    hints, values = get_type_hints(options), {}
    for field in fields(options):
        group: type = hints[field.name]
        if is_dataclass(group):
            values[field.name] = made(group, given)
        elif field.name in given:
            value = given[field.name]
            values[field.name] = tuple(value) if isinstance(value, list) else value
    if "given" in hints:
        values["given"] = frozenset(values)
    return options(**values)


def _add_options(parser: argparse._ActionsContainer, options: type) -> None:
    """Add what each field describes, a dataclass among them as a group of options."""
    hints = get_type_hints(options, include_extras=True)
    for field in fields(options):
        # The type under `Annotated` and `| None`, with the notes that were on it.
        kind, notes = hints[field.name], []
        while get_origin(kind) is Annotated or NoneType in get_args(kind):
            if get_origin(kind) is Annotated:
                notes += kind.__metadata__
                kind = kind.__origin__
            else:
                kind = Union[tuple(one for one in get_args(kind) if one is not NoneType)]  # noqa: UP007
        if isinstance(kind, type) and is_dataclass(kind):
            about = textwrap.fill(" ".join((kind.__doc__ or "").split()), 88)
            _add_options(parser.add_argument_group(field.name, about), kind)
        for option in (note for note in notes if isinstance(note, Option)):
            rule = next((note for note in notes if callable(note)), None)
            settings: dict[str, Any] = {"help": option.help}
            if kind is bool:
                settings["action"] = "store_true"
            else:
                settings |= {"metavar": option.metavar, "type": rule, "action": "append" if option.append else "store"}
                settings["choices"] = get_args(kind) if get_origin(kind) is Literal else option.choices
                if option.bare is not None:
                    settings |= {"nargs": "?", "const": option.bare}
                elif rule is None and get_origin(kind) is tuple:
                    settings["nargs"] = "+"
            says = isinstance(field.default, str | int | float) and field.default is not False
            default = option.default or (f"{field.default}" if says else "")
            if default:
                settings["help"] += f" (default: {default.removesuffix('.0')})"
            if option.positional:
                parser.add_argument(field.name, **settings)
                continue
            # Without a value of argparse's own, what stands in the result is what the user gave.
            settings |= {"default": argparse.SUPPRESS, "required": field.default is MISSING}
            dashes = "-" if len(field.name) == 1 else "--"
            parser.add_argument(dashes + field.name.replace("_", "-"), dest=field.name, **settings)


def positive(text: str) -> float:
    """Parse a positive finite number."""
    try:
        value = float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be a number, got {text!r}") from None
    if not (math.isfinite(value) and value > 0):
        raise argparse.ArgumentTypeError(f"must be a positive number, got {text!r}")
    return value


def positive_or_none(text: str) -> float | None:
    """Parse a positive finite number, or the word none."""
    return None if text.lower() == "none" else positive(text)


def power(text: str) -> float:
    """Parse the power of N_atoms in a cost."""
    if (value := positive(text)) > 10:
        raise argparse.ArgumentTypeError(f"must be at most 10, got {text!r}")
    return value


def whole(least: int, most: int | None = None) -> Callable[[str], int]:
    """Make a rule for whole numbers between two limits, included."""

    def rule(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"must be a whole number, got {text!r}") from None
        if value < least:
            raise argparse.ArgumentTypeError(f"must be at least {least}, got {text}")
        if most is not None and value > most:
            raise argparse.ArgumentTypeError(f"must be at most {most}, got {text}")
        return value

    return rule


positive_int, natural, seed = whole(1), whole(0), whole(0, LARGEST_SEED)


def noise(text: str) -> str | tuple[float | None, ...]:
    """Parse the argument of ``fit --noise``: cv, evidence, tempered, or two to three numbers."""
    if text in ("cv", "evidence", "tempered"):
        return text
    parts = text.split(",")
    if len(parts) not in (2, 3):
        raise argparse.ArgumentTypeError(f"must be cv, evidence, tempered or ENERGY,FORCES[,STRESS], got {text!r}")
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


def symbols(text: str) -> tuple[str, ...]:
    """Parse chemical symbols, ``Cu,Au``."""
    return tuple(text.split(","))


def numbers(text: str) -> tuple[int, ...]:
    """Parse structure numbers, ``3,17,20-25``."""
    found: list[int] = []
    for part in text.split(","):
        first, dash, last = part.partition("-")
        start = whole(0, MOST)(first)
        found += range(start, 1 + (whole(start, MOST)(last) if dash else start))
    return tuple(found)


def quota(text: str) -> tuple[str, int | tuple[int, int]]:
    """Parse ``GROUP=MOST`` or ``GROUP=LEAST-MOST``."""
    name, equals, limits = text.rpartition("=")
    if not equals or not name:
        raise argparse.ArgumentTypeError(f"must look like GROUP=MOST or GROUP=LEAST-MOST, got {text!r}")
    least, dash, most = limits.partition("-")
    limit = whole(0, MOST)
    return name, (limit(least), limit(most)) if dash else limit(least)


def criterion(text: str) -> str | dict[str, float]:
    """Parse the name of a criterion, or ``NAME=WEIGHT,NAME=WEIGHT`` for a compound."""
    parts = [part.partition("=") for part in text.split(",")]
    for name, equals, weight in parts:
        if name not in CRITERIA or (bool(equals) != (len(parts) > 1 or bool(weight))):
            raise argparse.ArgumentTypeError(
                f"must be one of {', '.join(CRITERIA)}, or a compound such as D=0.3,IV=0.7; got {text!r}"
            )
    if len({name for name, _, _ in parts}) < len(parts):
        raise argparse.ArgumentTypeError(f"must name every criterion once, got {text!r}")
    return text if not parts[0][1] else {name: positive(weight) for name, _, weight in parts}
