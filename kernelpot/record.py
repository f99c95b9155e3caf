"""Records: values whose fields say once what they may be, from which checks, settings, files and options follow.

A record is a dataclass with this base. A field says its type, its rule, its unit and what is usual, as in
``cutoff: Annotated[float, Positive(0.01, 100.0), "Å", "4 to 6 is usual"]``. Without a rule the type decides. Relations
between fields stand in `Record.check`.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, replace
from importlib import import_module
from types import NoneType, UnionType
from typing import Annotated, Any, Self, Union, get_args, get_origin, get_type_hints

import numpy as np

from kernelpot.archive import NO_ARRAYS, array_type, arrays_of, read_arrays
from kernelpot.errors import ParameterError
from kernelpot.rules import number_or_none, shown, whole

HOMES: dict[str, dict[str, str]] = {
    "baseline": {"ZBL": "kernelpot.potentials.baselines.zbl"},
    "descriptor": {
        "SOAP": "kernelpot.descriptors.soap.definition",
        "ACSF": "kernelpot.descriptors.acsf.definition",
        "TwoBody": "kernelpot.descriptors.pairs",
        "DScribe": "kernelpot.structures.dscribe",
    },
    "kernel": {
        "DotProduct": "kernelpot.kernels",
        "Gaussian": "kernelpot.kernels",
        "Linear": "kernelpot.kernels",
    },
    "structure kernel": {
        "VectorKernel": "kernelpot.structures.vector_kernel",
        "StructureKernel": "kernelpot.structures.structure_kernel",
        "Scaled": "kernelpot.structures.composites",
        "Sum": "kernelpot.structures.composites",
        "Product": "kernelpot.structures.composites",
        "Precomputed": "kernelpot.properties.inputs",
    },
    "kernel of environments": {
        "DotProduct": "kernelpot.kernels",
        "Gaussian": "kernelpot.kernels",
        "VectorKernel": "kernelpot.structures.vector_kernel",
    },
    "feature map": {
        "KernelMap": "kernelpot.features.kernel_map",
        "LinearMap": "kernelpot.features.linear_map",
        "SumMap": "kernelpot.features.sum_map",
        "TwoBodyMap": "kernelpot.features.two_body_map",
    },
    "radial basis": {
        "GTO": "kernelpot.descriptors.radial",
        "PowerGaussian": "kernelpot.descriptors.radial",
        "SphericalBessel": "kernelpot.descriptors.radial",
        "Compressed": "kernelpot.descriptors.radial",
    },
}
"""Where the records are that a file may name, by what they stand for; nothing else is ever made of a file."""

WHEN_GIVEN, NEVER = object(), object()
"""Of a field: written only where it is not None, so that older files and checksums stay as they are; or never."""


def record_of(group: str, settings: Mapping[str, Any], *arrays: Mapping[str, np.ndarray]) -> Any:
    """Make the record that settings name, one of a group of `HOMES`, or refuse them as `Record.from_settings` does."""
    name = settings["name"]
    if name not in HOMES[group]:
        raise ValueError(f"there is no {group} of the name {name!r}")
    return getattr(import_module(HOMES[group][name]), name).from_settings(settings, *arrays)


# ---- rules


class Rule:
    """What a value may be; this one lets everything pass."""

    def read(self, value: Any, field: Field) -> Any:  # noqa: ARG002
        """Return the value as the record keeps it, or refuse it."""
        return value

    def write(self, value: Any) -> Any:
        """Return the value as JSON has it."""
        return plain(value)

    def back(self, stored: Any) -> Any:
        """Return what `read` takes, from what `write` returned."""
        return stored


@dataclass(frozen=True)
class Between(Rule):
    """A finite number from one limit to another."""

    least: float = -math.inf
    most: float = math.inf

    def read(self, value: Any, field: Field) -> float:
        """Return a float."""
        number = number_or_none(value)
        if number is not None and math.isfinite(number) and self.least <= number <= self.most:
            return number
        limits = f"lie between {self.least:g} and {self.most:g} {field.unit}".rstrip()
        raise field.refused(limits if math.isfinite(self.most - self.least) else "be a finite number", value)


@dataclass(frozen=True)
class Positive(Rule):
    """A number above 0, where there are limits between them."""

    least: float = 0.0
    most: float = math.inf

    def read(self, value: Any, field: Field) -> float:
        """Return a float."""
        number = number_or_none(value)
        if number is None or not 0.0 < number < math.inf:
            raise field.refused(f"be positive and in {field.unit}" if field.unit else "be positive", value)
        return number if self.most == math.inf else Between(self.least, self.most).read(number, field)


@dataclass(frozen=True)
class Whole(Rule):
    """A whole number within limits."""

    least: int = 0
    most: int = 2**63 - 1

    def read(self, value: Any, field: Field) -> int:
        """Return an int."""
        return whole(value, field.name, least=self.least, most=self.most, usual=field.usual)


@dataclass(frozen=True)
class OneOf(Rule):
    """One of some names."""

    names: tuple[str, ...]

    def read(self, value: Any, field: Field) -> str:
        """Return the name."""
        if not isinstance(value, str) or value not in self.names:
            raise field.refused(f"be one of {', '.join(self.names)}", value)
        return value


@dataclass(frozen=True)
class Kind(Rule):
    """An object of a class; of a file, what that class reads."""

    made: type

    def read(self, value: Any, field: Field) -> Any:
        """Return the object."""
        if not isinstance(value, self.made):
            rules = {bool: "be True or False", str: "be text"}
            raise field.refused(rules.get(self.made, f"be a {self.made.__name__}"), value)
        return value

    def back(self, stored: Any) -> Any:
        """Make the record that JSON values describe; words and True and False are what they are."""
        return self.made.from_settings(stored) if issubclass(self.made, Record) else stored


@dataclass(frozen=True)
class Named(Rule):
    """A record of a group of `HOMES`, or an object of the user's own that no file can make again."""

    group: str

    def back(self, stored: Any) -> Any:
        """Make the record that JSON values name."""
        return record_of(self.group, stored)


@dataclass(frozen=True)
class EachOf(Rule):
    """Values under one rule."""

    rule: Rule

    def read(self, value: Any, field: Field) -> tuple[Any, ...]:
        """Return a tuple."""
        if isinstance(value, str | bytes | Mapping) or not hasattr(value, "__iter__"):
            raise field.refused("be a list", value)
        name = field.name
        return tuple(self.rule.read(one, replace(field, name=f"{name}[{k}]")) for k, one in enumerate(value))

    def write(self, value: Any) -> list[Any]:
        """Return a list."""
        return [self.rule.write(one) for one in value]

    def back(self, stored: Any) -> Any:
        """Return what `read` takes."""
        return [self.rule.back(one) for one in stored]


def plain(value: Any) -> Any:
    """Return a value as JSON has it: NumPy's numbers as Python's, tuples as lists, records as their settings."""
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    if isinstance(value, list | tuple):
        return [plain(one) for one in value]
    if hasattr(value, "settings"):
        return value.settings()
    # What a user's own class holds, for reports and checksums; no file makes it again.
    named = dataclasses.is_dataclass(value) and not isinstance(value, type)
    return {"name": type(value).__name__, **dataclasses.asdict(value)} if named else value


# ---- fields


@dataclass(frozen=True)
class Field:
    """What a record says of one of its values."""

    name: str
    kind: Any  # Its type, None left out
    optional: bool  # Whether it may be None
    rule: Rule
    unit: str
    usual: str
    default: Any  # `dataclasses.MISSING` where there is none
    written: object  # Whether it is always in the settings, `WHEN_GIVEN` or `NEVER`

    def read(self, value: Any) -> Any:
        """Return the value as the record keeps it, or refuse it with a ParameterError."""
        return None if value is None and self.optional else self.rule.read(value, self)

    def refused(self, rule: str, value: Any) -> ParameterError:
        """Return the error that names the field, the rule, what was found and what is usual."""
        usual = f"; {self.usual}" if self.usual else ""
        return ParameterError(f"`{self.name}` must {rule}, got {shown(value)}{usual}.")


def checked(record: type, name: str, value: Any) -> Any:
    """Return a value as a field of a record keeps it, for arguments that are such before there is one."""
    return next(field for field in fields_of(record) if field.name == name).read(value)


_KNOWN: dict[type, tuple[Field, ...]] = {}


def fields_of(record: type) -> tuple[Field, ...]:
    """Return what a class says of its settings, in their order; arrays are none."""
    if record not in _KNOWN:
        hints = get_type_hints(record, include_extras=True)
        given = [one for one in dataclasses.fields(record) if one.init and array_type(hints[one.name]) is None]
        _KNOWN[record] = tuple(_field(one, hints[one.name]) for one in given)
    return _KNOWN[record]


def _field(one: dataclasses.Field[Any], hint: Any) -> Field:
    """Return what a field of a dataclass says by its type."""
    kind, *said = get_args(hint) if get_origin(hint) is Annotated else (hint,)
    types = get_args(kind) if isinstance(kind, UnionType) or get_origin(kind) is Union else (kind,)
    left = [t for t in types if t is not NoneType]
    kind = left[0] if len(left) == 1 else kind
    unit, usual = [*(word for word in said if isinstance(word, str)), "", ""][:2]
    rule = next((r for r in said if isinstance(r, Rule)), None) or _rule_of(kind)
    written = next((mark for mark in said if mark is WHEN_GIVEN or mark is NEVER), None)
    default = one.default if one.default_factory is MISSING else one.default_factory()
    return Field(one.name, kind, len(left) < len(types), rule, unit, usual, default, written)


def _rule_of(kind: Any) -> Rule:
    """Return what a type alone asks for."""
    if get_origin(kind) is tuple:
        return EachOf(_rule_of(get_args(kind)[0]))
    if kind is float:
        return Between()
    if kind is int:
        return Whole(-(2**63))
    return Kind(kind) if kind in (bool, str) or (isinstance(kind, type) and issubclass(kind, Record)) else Rule()


# ---- records


class Record:
    """A dataclass whose fields are checked by their rules, and that turns into settings and back."""

    def __post_init__(self) -> None:
        """Check and keep every value, then their relations."""
        for name, value in self.checked_values().items():
            object.__setattr__(self, name, value)
        self.check()

    def checked_values(self) -> dict[str, Any]:
        """Return every value as it is to be kept, or refuse it by its rule."""
        return {field.name: field.read(getattr(self, field.name)) for field in fields_of(type(self))}

    def check(self) -> None:
        """Refuse fields that do not fit together; a record that has relations says them here."""

    def verify(self) -> None:
        """Refuse what only settings from a file can be; such a check may take long."""

    def settings(self) -> dict[str, Any]:
        """Return the settings as JSON values; where several records may stand, `name` says which this is."""
        name = type(self).__name__
        settings: dict[str, Any] = {"name": name} if any(name in group for group in HOMES.values()) else {}
        for field in fields_of(type(self)):
            value = getattr(self, field.name)
            if field.written is None or (field.written is WHEN_GIVEN and value is not None):
                settings[field.name] = None if value is None else field.rule.write(value)
        return settings

    def arrays(self) -> dict[str, np.ndarray]:
        """Return what the settings do not hold: the arrays, by name."""
        return arrays_of(self)

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any], arrays: Mapping[str, np.ndarray] = NO_ARRAYS) -> Self:
        """Make the record that settings and arrays describe."""
        given = read_arrays(cls, arrays)
        for field in fields_of(cls):
            if field.written is None or field.name in settings:
                stored = settings[field.name]
                given[field.name] = None if stored is None and field.optional else field.rule.back(stored)
            elif field.written is WHEN_GIVEN:
                given[field.name] = None
        made = cls(**given)
        made.verify()
        return made


class Parameterised:
    """Parameters for scikit-learn, those of frozen records included: ``elements__n``; stands before `BaseEstimator`."""

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """Return parameters by name; with `deep` those of the parameters as well."""
        base: Any = super()
        params: dict[str, Any] = base.get_params(deep=deep)
        if deep:
            for name, value in list(params.items()):
                if _is_value(value):
                    params |= {f"{name}__{field.name}": getattr(value, field.name) for field in fields_of(type(value))}
        return params

    def set_params(self, **params: Any) -> Self:
        """Set parameters by name; a frozen record is replaced by one with the new value."""
        base: Any = super()
        inner: dict[str, dict[str, Any]] = {}
        outer = {}
        for name, value in params.items():
            head, _, tail = name.partition("__")
            held = params.get(head, getattr(self, head, None))
            if tail and _is_value(held) and tail in {field.name for field in fields_of(type(held))}:
                inner.setdefault(head, {})[tail] = value
            else:
                outer[name] = value
        try:
            base.set_params(**outer)
        except (ValueError, AttributeError) as error:
            if isinstance(error, ParameterError):
                raise
            known = ", ".join(sorted(self.get_params()))
            raise ParameterError(f"there is no parameter {', '.join(outer)}; the parameters are {known}.") from None
        for head, changes in inner.items():
            setattr(self, head, replace(getattr(self, head), **changes))
        return self


def _is_value(value: Any) -> bool:
    """Tell whether this is a record that cannot change."""
    return isinstance(value, Record) and not isinstance(value, Parameterised)
