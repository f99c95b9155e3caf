"""Records: what follows from what their fields say."""

from __future__ import annotations

from dataclasses import dataclass, replace
from importlib import import_module
from typing import Annotated

import numpy as np
import pytest
from jaxtyping import Float, Int

import kernelpot as kp
from kernelpot.archive import arrays_of, read_arrays, read_numbers
from kernelpot.cli.options import PotentialOptions
from kernelpot.errors import ParameterError
from kernelpot.record import (
    HOMES,
    NEVER,
    WHEN_GIVEN,
    Between,
    EachOf,
    OneOf,
    Positive,
    Record,
    Whole,
    checked,
    fields_of,
    record_of,
)


@dataclass(frozen=True)
class Inner(Record):
    """A record within another."""

    size: Annotated[int, Whole(1, 9)] = 2


@dataclass(frozen=True)
class Outer(Record):
    """What has a field of every kind."""

    reach: Annotated[float, Positive(0.1, 10.0), "Å", "5 is usual"] = 5.0
    kind: Annotated[str, OneOf(("wide", "narrow"))] = "wide"
    inner: Inner = Inner()
    other: Annotated[Inner | None, WHEN_GIVEN] = None
    shares: Annotated[tuple[float, ...], EachOf(Between(0.0, 1.0))] = ()
    numbers: tuple[int, ...] | None = None
    loud: bool = False
    made: Annotated[int, NEVER] = 0

    def check(self) -> None:
        if self.kind == "narrow" and self.reach > 5.0:
            raise ParameterError("a narrow one sees 5 at most.")


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"reach": -1}, "`reach` must be positive and in Å, got -1; 5 is usual."),
        ({"reach": 20}, "`reach` must lie between 0.1 and 10 Å, got 20.0; 5 is usual."),
        ({"reach": True}, "`reach` must be positive"),
        ({"reach": np.nan}, "`reach` must be positive"),
        ({"kind": "round"}, "`kind` must be one of wide, narrow, got 'round'"),
        ({"inner": 2}, "`inner` must be a Inner, got 2"),
        ({"inner": None}, "`inner` must be a Inner, got None"),
        ({"shares": (0.5, 2.0)}, r"`shares\[1\]` must lie between 0 and 1, got 2.0"),
        ({"shares": "half"}, "`shares` must be a list, got 'half'"),
        ({"numbers": (1, 2.5)}, r"`numbers\[1\]` must be a whole number"),
        ({"loud": 1}, "`loud` must be True or False, got 1"),
        ({"kind": "narrow", "reach": 6.0}, "a narrow one sees 5 at most"),
    ],
)
def test_a_value_that_breaks_its_rule_is_refused_by_its_name(wrong, message):
    with pytest.raises(ParameterError, match=message):
        Outer(**wrong)


def test_values_are_kept_as_their_types_say():
    outer = Outer(np.float32(2.0), shares=[1, np.float64(0.5)], numbers=np.array([3, 4]))
    assert (outer.reach, outer.shares, outer.numbers) == (2.0, (1.0, 0.5), (3, 4))
    assert [type(value) for value in (outer.reach, outer.shares[0], outer.numbers[0])] == [float, float, int]
    assert replace(outer, reach=3).reach == 3.0


def test_settings_and_back():
    outer = Outer(2.0, "narrow", Inner(3), Inner(4), (0.5,), (1, 2), loud=True, made=7)
    settings = outer.settings()
    assert settings == {
        "reach": 2.0, "kind": "narrow", "inner": {"size": 3}, "other": {"size": 4}, "shares": [0.5],
        "numbers": [1, 2], "loud": True,
    }  # fmt: skip
    assert Outer.from_settings(settings) == replace(outer, made=0)
    assert "other" not in Outer().settings()
    assert Outer.from_settings(Outer().settings()) == Outer()


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"reach": "2"}, ParameterError),
        ({"inner": None}, TypeError),
        ({"inner": {}}, KeyError),
        ({"shares": None}, TypeError),
    ],
)
def test_settings_that_are_none_are_refused(change, error):
    with pytest.raises(error):
        Outer.from_settings(Outer().settings() | change)


def test_what_fields_say():
    fields = {field.name: field for field in fields_of(kp.SOAP)}
    cutoff, fade = fields["cutoff"], fields["fade"]
    assert (cutoff.kind, cutoff.unit, cutoff.default, cutoff.optional) == (float, "Å", 5.0, False)
    assert cutoff.read(4) == 4.0
    assert (fade.kind, fade.optional, fade.default) == (float, True, None)
    assert checked(kp.DotProduct, "amplitude", 2) == 2.0


def test_options_of_the_command_line_have_the_defaults_of_records():
    """They are written twice, as descriptors and kernels take too long to import for ``--help``."""
    options = PotentialOptions()
    for record, prefix in ((kp.SOAP, ""), (kp.DotProduct, ""), (kp.Noise, "noise_")):
        for field in fields_of(record):
            if hasattr(options, prefix + field.name):
                assert getattr(options, prefix + field.name) == field.default, field.name
    assert options.describing() == kp.SOAP()
    assert options.comparing() == kp.DotProduct()


def test_only_what_is_listed_is_made_of_a_file():
    for group, homes in HOMES.items():
        with pytest.raises(ValueError, match=f"there is no {group} of the name 'os.system'"):
            record_of(group, {"name": "os.system"})
        for name, home in homes.items():
            assert getattr(import_module(home), name).__name__ == name
            assert hasattr(getattr(import_module(home), name), "from_settings")


@dataclass(frozen=True, eq=False)
class Held:
    """Arrays beside what is none."""

    name: str
    factor: Float[np.ndarray, "d d"]
    offsets: Int[np.ndarray, " n_plus_1"]
    parts: tuple[Float[np.ndarray, "m d"], ...]


HELD = Held("held", np.eye(2), np.array([0, 1, 3]), (np.ones((1, 2)), np.ones((4, 2))))


def test_arrays_and_back():
    arrays = arrays_of(HELD, "a_", "_b")
    assert list(arrays) == ["a_factor_b", "a_offsets_b", "a_parts_b_0", "a_parts_b_1"]
    found = read_arrays(Held, arrays, "a_", "_b", d=2, n=2)
    assert found["factor"] is HELD.factor
    assert len(found["parts"]) == 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"factor": np.eye(3)}, r"factor must be float64 of shape \(2, 2\)"),
        ({"factor": np.ones((2, 3))}, r"factor must be float64 of shape \(2, 2\)"),
        ({"factor": np.eye(2, dtype=np.float32)}, "found float32"),
        ({"factor": np.full((2, 2), np.nan)}, "finite numbers"),
        ({"offsets": np.array([0, 1])}, r"offsets must be int64 of shape \(3,\)"),
        ({"offsets": np.array([0.0, 1.0, 3.0])}, "offsets must be int64"),
        ({"parts_1": np.ones((4, 3))}, r"parts_1 must be float64 of shape \(4, 2\)"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        read_arrays(Held, arrays_of(HELD) | change, d=2, n=2)


def test_numbers_by_shapes_in_words():
    arrays = {"x": np.ones((2, 3)), "y": np.ones(3)}
    assert list(read_numbers(arrays, {"x": "n 3", "y": "f"})) == ["x", "y"]
    with pytest.raises(ValueError, match=r"y must be float64 of shape \(2,\)"):
        read_numbers(arrays, {"x": "n f", "y": "n"})
