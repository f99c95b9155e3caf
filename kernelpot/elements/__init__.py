"""Elements as vectors of numbers: tables of properties, modes of these, compositions, channels of descriptors."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kernelpot.doors import door

if TYPE_CHECKING:
    from kernelpot.elements.channels import ElementChannels as ElementChannels
    from kernelpot.elements.compositions import CompositionFeatures as CompositionFeatures
    from kernelpot.elements.modes import ElementalModes as ElementalModes

_HOMES = {
    "CompositionFeatures": "kernelpot.elements.compositions",
    "ElementChannels": "kernelpot.elements.channels",
    "ElementalModes": "kernelpot.elements.modes",
}

__all__ = [*_HOMES]

__getattr__, __dir__ = door(__name__, _HOMES)
