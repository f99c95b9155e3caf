"""One fit of a search, with what it cost."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

Settings = Mapping[str, Any]
"""Settings of a model by name, JSON values."""


def key_of(settings: Settings) -> str:
    """Return settings as one string, equal for equal settings."""
    return json.dumps(dict(settings), sort_keys=True)


@dataclass(frozen=True)
class Trial:
    """A candidate, scored on one rung.

    Attributes
    ----------
    settings
        What was tried.
    rung
        Number of the rung, from 0; higher ones see more structures or have more inducing environments.
    n_structures, n_inducing
        Size of the fit.
    rmse
        Root mean square error of left-out labels of each kind: eV/atom, eV/Å, eV/Å³.
    loss
        Σ_kind log RMSE, smaller is better; infinite where the fit failed.
    seconds
        Time of the fit, and of timing the prediction.
    us_per_atom
        Time of predicting energy, forces and stress, µs per atom, at this number of inducing environments; an estimate.
    failure
        Why the fit failed; empty where it did not.
    """

    settings: Settings
    rung: int
    n_structures: int
    n_inducing: int
    rmse: Mapping[str, float]
    loss: float
    seconds: float
    us_per_atom: float = math.nan
    failure: str = ""

    def as_dict(self) -> dict[str, Any]:
        """Return everything as JSON values; what is not finite becomes None."""
        return {
            "settings": dict(self.settings),
            "rung": self.rung,
            "n_structures": self.n_structures,
            "n_inducing": self.n_inducing,
            "rmse": {kind: float(v) for kind, v in self.rmse.items()},
            "loss": self.loss if math.isfinite(self.loss) else None,
            "seconds": self.seconds,
            "us_per_atom": self.us_per_atom if math.isfinite(self.us_per_atom) else None,
            "failure": self.failure,
        }

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Trial:
        """Make the trial that `as_dict` describes.

        Raises
        ------
        KeyError, TypeError, ValueError
            It describes none.
        """
        loss, speed = content["loss"], content["us_per_atom"]
        settings = {
            str(name): tuple(value) if isinstance(value, list) else value
            for name, value in dict(content["settings"]).items()
        }
        return cls(
            settings=settings,
            rung=int(content["rung"]),
            n_structures=int(content["n_structures"]),
            n_inducing=int(content["n_inducing"]),
            rmse={str(kind): float(v) for kind, v in dict(content["rmse"]).items()},
            loss=math.inf if loss is None else float(loss),
            seconds=float(content["seconds"]),
            us_per_atom=math.nan if speed is None else float(speed),
            failure=str(content["failure"]),
        )
