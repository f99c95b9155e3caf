"""What a search found, as a table to keep."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kernelpot.archive import replacing
from kernelpot.potentials.sparse_gp import SparseGP
from kernelpot.tuning.trial import Settings, Trial

UNITS = {"energy": ("meV/atom", "eV_per_atom"), "forces": ("meV/Å", "eV_per_A"), "stress": ("meV/Å³", "eV_per_A3")}

SHOWN = 30
"""Most rows that `str` gives; files hold them all."""


@dataclass(frozen=True, eq=False)
class TuneResult:
    """Every trial of a search, with the settings that came out best.

    Attributes
    ----------
    table
        All trials, in order of time.
    best_trial
        The best of the highest rung that any fit was made on.
    default_trial
        The first candidate on the first rung: what one would have taken without a search.
    objective
        "cv" or "groups".
    kinds
        Kinds of labels that the loss counts.
    notes
        What was not tried, and why.
    interrupted
        Whether the user stopped it.
    """

    table: tuple[Trial, ...]
    best_trial: Trial
    default_trial: Trial
    objective: str
    kinds: tuple[str, ...]
    notes: tuple[str, ...]
    interrupted: bool
    build: Callable[[Settings], SparseGP] = field(repr=False)

    @property
    def best_settings(self) -> dict[str, Any]:
        """Settings of the best trial, with its number of inducing environments."""
        return {**self.best_trial.settings, "n_inducing": self.best_trial.n_inducing}

    @property
    def best(self) -> SparseGP:
        """A new model with the best settings, unfitted: ``result.best.fit(train)``."""
        return self.build(self.best_settings)

    @property
    def seconds(self) -> float:
        """Time of all fits, s."""
        return sum(trial.seconds for trial in self.table)

    def as_dict(self) -> dict[str, Any]:
        """Return everything as JSON values."""
        return {
            "best_settings": self.best_settings,
            "best": self.best_trial.as_dict(),
            "default": self.default_trial.as_dict(),
            "objective": self.objective,
            "kinds": list(self.kinds),
            "seconds": self.seconds,
            "interrupted": self.interrupted,
            "notes": list(self.notes),
            "table": [trial.as_dict() for trial in self.table],
        }

    def to_csv(self, path: str | Path) -> None:
        """Write the table, one trial a line, whole or not at all; units stand in the head."""
        names = self._setting_names()
        kinds = self._kinds_shown()
        head = ["rung", "n_structures", "n_inducing", *names]
        head += [f"rmse_{kind}_{UNITS[kind][1]}" for kind in kinds]
        head += ["loss", "seconds", "prediction_us_per_atom", "failure"]
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(head)
        for t in self.table:
            numbers = [t.rmse.get(kind, "") for kind in kinds] + [v if math.isfinite(v) else "" for v in (t.loss,)]
            speed = t.us_per_atom if math.isfinite(t.us_per_atom) else ""
            given = [t.settings.get(name, "") for name in names]
            writer.writerow(
                [t.rung, t.n_structures, t.n_inducing, *given, *numbers, round(t.seconds, 3), speed, t.failure]
            )
        with replacing(path) as temporary:
            temporary.write_text(text.getvalue(), encoding="utf-8")

    def __str__(self) -> str:
        """Return a table for people, the highest rung first, the best of each rung on top."""
        names, kinds = self._setting_names(), self._kinds_shown()
        head = ["rung", "structures", "M", *names, *(f"{kind} {UNITS[kind][0]}" for kind in kinds)]
        head += ["loss", "fit s", "µs/atom"]
        ordered = sorted(self.table, key=lambda t: (-t.rung, t.loss))
        rows = []
        for t in ordered[:SHOWN]:
            errors = [f"{1e3 * t.rmse[kind]:.2f}" if kind in t.rmse else "" for kind in kinds]
            end = ["failed" if t.failure else f"{t.loss:.3f}", f"{t.seconds:.1f}"]
            end.append(f"{t.us_per_atom:.0f}" if math.isfinite(t.us_per_atom) else "")
            given = [_short(t.settings.get(name, "")) for name in names]
            rows.append([str(t.rung), str(t.n_structures), str(t.n_inducing), *given, *errors, *end])
        widths = [max(len(text) for text in column) for column in zip(head, *rows, strict=True)]
        lines = ["  ".join(f"{text:>{w}}" for text, w in zip(row, widths, strict=True)) for row in [head, *rows]]
        if len(ordered) > SHOWN:
            lines.append(f"… and {len(ordered) - SHOWN} more")
        how = "left-out folds" if self.objective == "cv" else "left-out groups (config_type)"
        lines.append(f"errors are RMSE of {how}; loss is the sum of their logarithms over {', '.join(self.kinds)}")
        chosen = ", ".join(f"{name} {_short(value)}" for name, value in self.best_settings.items())
        lines.append(f"best: {chosen}")
        lines += [f"note: {note}" for note in self.notes]
        if self.interrupted:
            lines.append("note: interrupted; the best is that of what was tried")
        return "\n".join(lines)

    def _setting_names(self) -> list[str]:
        return list(dict.fromkeys(name for t in self.table for name in t.settings if name != "n_inducing"))

    def _kinds_shown(self) -> list[str]:
        return [kind for kind in UNITS if any(kind in t.rmse for t in self.table)]


def _short(value: object) -> str:
    if value is None:
        return "none"
    return f"{value:g}" if isinstance(value, float) else str(value)
