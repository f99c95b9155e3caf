"""A file of finished trials, whole at every moment, that an interrupted search goes on from."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kernelpot.archive import replacing
from kernelpot.errors import DataError, ParameterError
from kernelpot.tuning.trial import Settings, Trial, key_of

FORMAT = "kernelpot tune 1"
"""First word of the file's first line."""


class Journal:
    """Finished trials, in memory, and in a file of JSON lines where one is named.

    Parameters
    ----------
    path
        The file, made or gone on with; None keeps nothing.
    search
        What makes trials comparable: data, objective, seed, sizes. A file of another search is refused.

    Raises
    ------
    DataError
        The file is not of this kind, or damaged.
    ParameterError
        It belongs to another search.
    """

    def __init__(self, path: str | Path | None, search: Mapping[str, Any]) -> None:
        self.path = None if path is None else Path(path)
        self.head = {"format": FORMAT, **search}
        self._known: dict[tuple[str, int], Trial] = {}
        if self.path is not None and self.path.exists() and self.path.stat().st_size > 0:
            for trial in _read(self.path, self.head):
                self._known[key_of(trial.settings), trial.rung] = trial

    def __len__(self) -> int:
        return len(self._known)

    def find(self, settings: Settings, rung: int) -> Trial | None:
        """Return the trial of these settings on this rung, if it was finished before."""
        return self._known.get((key_of(settings), rung))

    def add(self, trial: Trial) -> None:
        """Keep a trial; the file is written anew, whole or not at all."""
        self._known[key_of(trial.settings), trial.rung] = trial
        if self.path is None:
            return
        lines = [self.head, *(known.as_dict() for known in self._known.values())]
        text = "".join(json.dumps(line, allow_nan=False) + "\n" for line in lines)
        with replacing(self.path) as temporary:
            temporary.write_text(text, encoding="utf-8")


def _read(path: Path, head: Mapping[str, Any]) -> list[Trial]:
    try:
        first, *rest = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
        known = first["format"]
        trials = [Trial.from_dict(line) for line in rest] if known == FORMAT else []
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"`resume` must be a file that tune wrote, {path} is not ({error}); name another.") from None
    if known != FORMAT:
        raise DataError(f"`resume` must be a file of this version, {path} is of {known!r}; name another.")
    changed = [name for name, value in head.items() if first.get(name) != json.loads(json.dumps(value))]
    if changed:
        raise ParameterError(
            f"`resume` must be of the same search, {path} differs in {', '.join(changed)}; name another file, "
            "or give what it was made with."
        )
    return trials
