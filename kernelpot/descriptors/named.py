"""Descriptors by the names in their settings."""

from __future__ import annotations

from typing import Any

from kernelpot.descriptors.acsf.definition import ACSF
from kernelpot.descriptors.pairs import TwoBody
from kernelpot.descriptors.soap.definition import SOAP

NAMED: dict[str, type[SOAP] | type[ACSF] | type[TwoBody]] = {"ACSF": ACSF, "SOAP": SOAP, "TwoBody": TwoBody}


def descriptor_of(settings: dict[str, Any]) -> SOAP | ACSF | TwoBody:
    """Make the descriptor that `settings` describes.

    Raises
    ------
    KeyError, TypeError, ValueError, ParameterError
        The name is unknown, or the settings do not fit together.
    """
    kind: type[SOAP] | type[ACSF] | type[TwoBody] = NAMED[settings["name"]]
    return kind.from_settings(settings)
