"""Values that the command line accepts, with the rule in the error."""

from __future__ import annotations

import argparse
import math

LARGEST_SEED = 2**32 - 1
"""What k-means takes at most."""

MOST = 10**7
"""Largest structure number and quota; a guard against typing errors."""

CRITERIA = ("balanced", "IV", "D", "A", "V", "G", "E")
"""Criteria that need no more than structures."""


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


def numbers(text: str) -> list[int]:
    """Parse structure numbers, ``3,17,20-25``."""
    found: list[int] = []
    for part in text.split(","):
        first, dash, last = part.partition("-")
        start = _whole(first, 0)
        stop = _whole(last, start) if dash else start
        if stop > MOST:
            raise argparse.ArgumentTypeError(f"must be structure numbers of at most {MOST}, got {stop}")
        found += range(start, stop + 1)
    return found


def quota(text: str) -> tuple[str, int | tuple[int, int]]:
    """Parse ``GROUP=MOST`` or ``GROUP=LEAST-MOST``."""
    name, equals, limits = text.rpartition("=")
    if any(len(limit) > len(str(MOST)) for limit in limits.split("-")):
        raise argparse.ArgumentTypeError(f"must limit a group to at most {MOST}, got {text!r}")
    if not equals or not name:
        raise argparse.ArgumentTypeError(f"must look like GROUP=MOST or GROUP=LEAST-MOST, got {text!r}")
    least, dash, most = limits.partition("-")
    if not dash:
        return name, _whole(least, 0)
    return name, (_whole(least, 0), _whole(most, 0))


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


def power(text: str) -> float:
    """Parse the power of N_atoms in a cost."""
    value = positive(text)
    if value > 10:
        raise argparse.ArgumentTypeError(f"must be at most 10, got {text!r}")
    return value
