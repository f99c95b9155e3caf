"""Read numbers, arrays and names that a user gave, and refuse what they cannot be, by the argument's name."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterable
from functools import wraps
from typing import Any, ParamSpec, TypeVar

import numpy as np
from jaxtyping import Int

from kernelpot.errors import ParameterError

MOST_SEED = 2**32 - 1
"""Largest seed; NumPy's generators take more, other libraries do not."""

_MOST = 2**63 - 1
_SHOWN = 120

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


def keywords(*kinds: type) -> Callable[[Callable[Arguments, Result]], Callable[Arguments, Result]]:
    """Write the keys of TypedDicts into the signature and the docstring of a function that takes them as keywords.

    The function's last parameter is ``**name: Unpack[kind]``, where `kind` is the last of `kinds` and made from the
    others; ``**name`` in its docstring is where their texts under "Parameters" are to stand. Keywords that are neither
    its own nor keys are refused by a TypeError that lists those that are.
    """
    names = dict.fromkeys(name for kind in kinds for name in kind.__annotations__)
    text = "\n".join(inspect.cleandoc(kind.__doc__ or "").partition("----------\n")[2] for kind in kinds)

    def decorate(function: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
        signature = inspect.signature(function)
        *own, bundle = signature.parameters.values()
        more = [inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None) for name in names]
        signature = signature.replace(parameters=[*own, *more])

        @wraps(function)
        def checked(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
            for name in kwargs:
                if name not in signature.parameters:
                    raise TypeError(
                        f"{function.__name__}() knows no parameter `{name}`; it takes {', '.join(signature.parameters)}"
                    )
            return function(*args, **kwargs)

        checked.__doc__ = inspect.cleandoc(function.__doc__ or "").replace(f"**{bundle.name}", text)
        checked.__signature__ = signature  # type: ignore[attr-defined]
        return checked

    return decorate


def whole(value: object, name: str, *, least: int = 0, most: int = _MOST, usual: str = "") -> int:
    """Check a whole number between limits, included; True and False are none."""
    value = _scalar(value)
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or not least <= value <= most:
        limits = f", at least {least}" if most == _MOST else f" from {least} to {most}"
        mend = f"; {usual}." if usual else ""
        raise ParameterError(f"`{name}` must be a whole number{limits}, got {shown(value)}{mend}")
    return int(value)


def real(value: object, name: str, *, least: float = 0.0, most: float = np.inf, above: bool = False) -> float:
    """Check a finite number; the upper limit is excluded, with `above` the lower one, too."""
    number = number_or_none(value)
    if number is not None and np.isfinite(number) and least <= number < most and not (above and number == least):
        return number
    rule = f"{'above' if above else 'at least'} {least:g}" + (f" and below {most:g}" if np.isfinite(most) else "")
    raise ParameterError(f"`{name}` must be a finite number {rule}, got {shown(value)}")


def number_or_none(value: object) -> float | None:
    """Return a number as a float, or None for what is none; True and False are none, and whole ones beyond floats."""
    value = _scalar(value)
    small = isinstance(value, int) and not isinstance(value, bool) and abs(value) <= sys.float_info.max
    if isinstance(value, float | np.integer | np.floating) or small:
        return float(value)  # type: ignore[arg-type]
    return None


def reals(value: object, name: str) -> np.ndarray[Any, Any]:
    """Check an array of real numbers; shapes and values are the caller's."""
    array = _array(value, name)
    if array.dtype.kind not in "biuf":
        raise ParameterError(f"`{name}` must hold real numbers, got {shown(value)}")
    return array


def wholes(value: object, name: str) -> np.ndarray[Any, Any]:
    """Check an array of whole numbers; those written as floats will do."""
    array = reals(value, name)
    if array.dtype.kind == "f" and not (np.isfinite(array) & (array == np.floor(array))).all():
        raise ParameterError(f"`{name}` must hold whole numbers, got {shown(array)}")
    return array.astype(np.int64, copy=False)


def numbers(value: object, name: str, what: str = "structure numbers") -> Int[np.ndarray, " some"]:
    """Check a list of whole numbers; their range is the caller's."""
    array = _array(value, name)
    if array.dtype.kind == "b" and array.size:
        raise ParameterError(
            f"`{name}` must be a list of {what}, got a mask of {array.size} booleans; "
            "np.flatnonzero(mask) turns it into numbers"
        )
    if array.dtype.kind == "f" and array.size:
        raise ParameterError(f"`{name}` must be a list of {what}, got floats {shown(value)}; give whole numbers")
    if array.ndim != 1 or (array.size and array.dtype.kind not in "iu"):
        raise ParameterError(f"`{name}` must be a list of {what}, got {shown(value)}")
    if array.size and array.max() > _MOST:
        raise ParameterError(f"`{name}` must be a list of {what}, got {array.max()}")
    return array.astype(np.int64)


def names(value: object, name: str) -> tuple[str, ...]:
    """Check a list of names, one a structure."""
    if isinstance(value, (str, bytes)) or not isinstance(value, Iterable) or getattr(value, "shape", (1,)) == ():
        raise ParameterError(f"`{name}` must be a list with one name for each structure, got {shown(value)}")
    return tuple(map(str, value))


def shown(value: object) -> str:
    """Return a value as it is written, shortened, in one line."""
    text = " ".join(repr(value).split())
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}… ({type(value).__name__})"


def _scalar(value: object) -> object:
    """Take the number out of an array without axes."""
    return value.item() if isinstance(value, np.ndarray) and value.ndim == 0 else value


def _array(value: object, name: str) -> np.ndarray[Any, Any]:
    """Make an array, or say that parts differ in length."""
    try:
        return np.asarray(value)
    except ValueError:
        raise ParameterError(f"`{name}` must hold parts of equal lengths, got {shown(value)}") from None
