"""Runs that are killed and run again, and two runs at once: `python -m benchmarks break --kills N`."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
import shutil
import signal
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.breaking import GOOD, Bench, contents, end_group, listed, verdict_of
from benchmarks.broken import COMMANDS, Case, valid
from benchmarks.broken_models import unpacked

SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)


def numbers_of(path: Path) -> tuple[list[str], np.ndarray]:
    """Split an output into words and numbers, so that two can be compared."""
    if path.suffix == ".kp":
        header, arrays = unpacked(path.read_bytes())
        return [json.dumps(header), *arrays], np.concatenate([np.ravel(a).astype(float) for a in arrays.values()])
    parts = re.split(r"([-+]?\d+\.?\d*(?:e[-+]?\d+)?)", path.read_text(encoding="utf-8"))
    return parts[::2], np.array([float(part) for part in parts[1::2]])


def same(first: Path, second: Path) -> bool:
    """Say whether two outputs hold the same, numbers to 1e-9; of folders and reports, that they are there."""
    if first.is_dir() or first.suffix == ".html":
        return second.exists() and first.is_dir() == second.is_dir()
    if not second.exists():
        return False
    if first.read_bytes() == second.read_bytes():
        return True
    (words, numbers), (others, found) = numbers_of(first), numbers_of(second)
    return words == others and numbers.shape == found.shape and bool(np.allclose(numbers, found, rtol=1e-9, atol=1e-9))


# ---- killed runs, and two at once


def wait(pid: int, seconds: float) -> int | None:
    """Wait for a process, stop it after a time; return its exit status, None where it was stopped."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.002)
    os.killpg(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return None


def alone(pid: int, seconds: float) -> bool:
    """Say whether the processes that a run started have ended within a time; end those that have not."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        try:
            os.killpg(pid, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.01)
    return not end_group(pid)


def undisturbed(bench: Bench, case: Case) -> tuple[Path, float, set[str]]:
    """Run a case to its end; return its folder, how long it took and what it left."""
    folder = bench.place(case)
    began = time.monotonic()
    status = wait(bench.start(case, folder), case.seconds)
    if status != 0:
        raise RuntimeError(f"a valid run failed: {case.argv}: {(folder / 'stderr').read_text()[-500:]}")
    return folder, time.monotonic() - began, set(contents(folder / "in"))


def kills(bench: Bench, times: int, seed: int, words: Sequence[str]) -> tuple[Counter[tuple[str, str]], list[Any]]:
    """Kill every command at random moments, run it again, and compare with an undisturbed run."""
    rng = np.random.default_rng(seed)
    several = valid("curate")
    several = replace(several, argv=tuple("2" if word == "0" else word for word in several.argv), fresh=True)
    named = [(command, valid(command)) for command in COMMANDS]
    named += [("select, own process", valid("select", fresh=True)), ("curate, two workers", several)]
    counts: Counter[tuple[str, str]] = Counter()
    failing: list[dict[str, Any]] = []
    for name, case in [one for one in named if not words or any(word in one[0] for word in words)]:
        reference, seconds, whole = undisturbed(bench, case)
        for number, _ in ((n, k) for n in SIGNALS for k in range(times)):
            folder, moment = bench.place(case), float(rng.uniform(0.0, seconds))
            pid = bench.start(case, folder)
            time.sleep(moment)
            with contextlib.suppress(ProcessLookupError):
                # The terminal sends an interrupt to all processes of a job.
                (os.killpg if number == signal.SIGINT else os.kill)(pid, number)
            status = wait(pid, case.seconds)
            orphans = not alone(pid, 5.0)
            stderr = (folder / "stderr").read_text(errors="replace") if (folder / "stderr").exists() else ""
            left = sorted(set(contents(folder / "in")) - whole) + sorted(contents(folder / "tmp"))
            again = wait(bench.start(case, folder, "-again"), case.seconds)
            still = sorted(set(contents(folder / "in")) - whole) + sorted(contents(folder / "tmp"))
            equal = all(same(reference / "in" / output, folder / "in" / output) for output in case.outputs)
            checks = {
                "rerun failed": again != 0, "outputs differ": again == 0 and not equal, "files left for good": still,
                "processes left": orphans, "traceback": "Traceback (most recent" in stderr,
                "other status": number == signal.SIGINT and status not in (0, 130),
            }  # fmt: skip
            bad = [what for what, found in checks.items() if found] or ["well"]
            counts.update((f"{name}, {number.name}", what) for what in bad)
            if bad == ["well"]:
                shutil.rmtree(folder)
                continue
            rerun = (folder / "stderr-again").read_text(errors="replace")
            failing.append(
                {
                    "fault": f"{name}, {number.name}", "name": f"after {moment:.3f} of {seconds:.3f} s",
                    "verdict": ", ".join(bad), "status": [status, again], "left": still[:20], "at first": left[:20],
                    "command": f"cd {folder / 'in'} && python -m kernelpot {shlex.join(case.argv)}",
                    "stderr": [*stderr.strip().splitlines()[-3:], *rerun.strip().splitlines()[-3:]],
                }
            )  # fmt: skip
            print(listed(failing[-1:]), flush=True)
        shutil.rmtree(reference)
    return counts, failing


def pairs(bench: Bench, times: int, seed: int) -> tuple[Counter[tuple[str, str]], list[Any]]:
    """Start two commands that share a file together; both end well, or one is refused in one line."""
    rng = np.random.default_rng(seed)
    fit_m, other = valid("fit", extra=("--out", "m.kp")), valid("curate", extra=("--out", "o2.xyz"))
    fit_m = replace(fit_m, outputs=("m.kp",), files={"m.kp": bench.files["m.kp"]})
    predict = valid("predict", files=fit_m.files)
    together = {
        **{f"{c}/{c}": (valid(c), valid(c)) for c in ("fit", "regress", "select", "predict", "assess", "curate")},
        "curate/curate, other outputs": (valid("curate"), replace(other, outputs=("b", "o2.xyz"))),
        "fit/predict": (fit_m, predict),
    }
    counts: Counter[tuple[str, str]] = Counter()
    failing: list[dict[str, Any]] = []
    for name, two in together.items():
        references = [undisturbed(bench, one) for one in two]
        whole = references[0][2] | references[1][2]
        for _ in range(times):
            folder = bench.place(two[0])
            for file, content in two[1].files.items():
                (folder / "in" / file).write_bytes(content)
            pids = [bench.start(two[0], folder, "-1")]
            time.sleep(float(rng.uniform(0.0, 0.3)) * references[0][1] * int(rng.integers(2)))
            pids.append(bench.start(two[1], folder, "-2"))
            states = [wait(pid, 60.0) for pid in pids]
            texts = [(folder / f"stderr-{k}").read_text(errors="replace") for k in (1, 2)]
            verdicts = [verdict_of(state, text) for state, text in zip(states, texts, strict=True)]
            bad = sorted({v for v in verdicts if v not in GOOD})
            bad += ["both refused"] * (verdicts == ["refused"] * 2)
            left = sorted(set(contents(folder / "in")) - whole) + sorted(contents(folder / "tmp"))
            bad += ["files left"] * bool(left)
            for one, verdict, (reference, _, _) in zip(two, verdicts, references, strict=True):
                wrong = not all(same(reference / "in" / o, folder / "in" / o) for o in one.outputs)
                bad += ["outputs differ"] * (verdict == "accepted" and wrong)
            counts.update((name, what) for what in (set(bad) or {f"well ({' and '.join(sorted(verdicts))})"}))
            if not bad:
                shutil.rmtree(folder)
                continue
            commands = " & ".join(f"python -m kernelpot {shlex.join(one.argv)}" for one in two)
            failing.append(
                {
                    "fault": name, "name": "two at once", "verdict": ", ".join(bad), "status": states,
                    "left": left[:20], "command": f"cd {folder / 'in'} && {commands}",
                    "stderr": [line for text in texts for line in text.strip().splitlines()[-3:]],
                }
            )  # fmt: skip
            print(listed(failing[-1:]), flush=True)
        for reference, _, _ in references:
            shutil.rmtree(reference)
    return counts, failing
