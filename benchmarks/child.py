"""One measurement in a process of its own, so that peak memory belongs to it and a rival's crash ends nothing else."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import tempfile
import time
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import THREADS

ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Outcome:
    """What a measurement returned, or why it did not.

    Attributes
    ----------
    value
        JSON values that the function returned; None if it did not.
    why
        Reason, where there is no value.
    peak
        Largest resident memory of the process, imports included, MiB.
    """

    value: dict[str, Any] | None
    why: str = ""
    peak: float = float("nan")

    @property
    def reason(self) -> str:
        """The last line of `why`, for a note."""
        return self.why.strip().splitlines()[-1][:200] if self.why.strip() else ""

    @property
    def known(self) -> dict[str, Any]:
        """The value of a measurement that must not fail."""
        if self.value is None:
            raise RuntimeError(self.why)
        return self.value


def measure(target: str, *, threads: int = 1, timeout: float = 3600.0, **arguments: Any) -> Outcome:
    """Call ``package.module:function`` with JSON arguments in a fresh Python with this many threads."""
    environment = os.environ | dict.fromkeys(THREADS, str(threads))
    with tempfile.TemporaryDirectory() as folder:
        answer = Path(folder) / "answer.json"
        command = [sys.executable, "-m", "benchmarks.child", target, json.dumps(arguments), str(answer)]
        try:
            done = subprocess.run(
                command, cwd=ROOT, env=environment, timeout=timeout, capture_output=True, text=True, check=False
            )
        except subprocess.TimeoutExpired:
            return Outcome(None, f"stopped after {timeout:.0f} s")
        if not answer.exists():
            return Outcome(None, f"ended with status {done.returncode}: {done.stderr[-1500:]}")
        return Outcome(**json.loads(answer.read_text(encoding="utf-8")))


def peak_memory() -> float:
    """Largest resident memory of this process so far, MiB.

    Linux carries `ru_maxrss` over from the parent at `exec`, but not its high-water mark of this address space.
    """
    status = Path("/proc/self/status")
    if status.exists():
        line = next(line for line in status.read_text(encoding="utf-8").splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) / 1024
    import resource

    unit = 1 << 20 if sys.platform == "darwin" else 1 << 10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


def resident_memory() -> float:
    """Resident memory of this process now, MiB; NaN where the system does not say."""
    status = Path("/proc/self/status")
    if not status.exists():
        return float("nan")
    line = next(line for line in status.read_text(encoding="utf-8").splitlines() if line.startswith("VmRSS"))
    return int(line.split()[1]) / 1024


class Stopwatch:
    """CPU and wall time of a block, s, with the resident memory before it."""

    def __enter__(self) -> Stopwatch:
        self.before = resident_memory()
        self._wall, self._cpu = time.perf_counter(), time.process_time()
        return self

    def __exit__(self, *_: object) -> None:
        self.wall, self.cpu = time.perf_counter() - self._wall, time.process_time() - self._cpu

    def as_dict(self) -> dict[str, float]:
        """Return the readings."""
        return {"wall_s": self.wall, "cpu_s": self.cpu, "before_mib": self.before}


def _answer(target: str, arguments: dict[str, Any]) -> Outcome:
    module, name = target.split(":")
    try:
        value = getattr(importlib.import_module(module), name)(**arguments)
    except ModuleNotFoundError as error:
        return Outcome(None, f"{error.name} is not installed")
    except Exception:
        return Outcome(None, traceback.format_exc(limit=-4))
    return Outcome(value, "", peak_memory())


if __name__ == "__main__":
    outcome = _answer(sys.argv[1], json.loads(sys.argv[2]))
    Path(sys.argv[3]).write_text(json.dumps(vars(outcome)), encoding="utf-8")
