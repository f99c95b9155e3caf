"""Break kernelpot on purpose: broken inputs, killed runs, two runs at once, fuzzed reads.

Without --kills or --reads, every command is run on broken inputs; each run must end well or be refused in one line,
within its time and memory, and leave nothing but whole outputs.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import json
import os
import re
import resource
import shlex
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import broken
from benchmarks.broken import COMMANDS, Case
from benchmarks.broken_models import unpacked

ROOT = Path(__file__).resolve().parents[1]
RESULTS = Path(__file__).with_name("results")
MEMORY = 4 << 30
"""Address space of every run, bytes."""
VERDICTS = (
    "refused", "accepted", "traceback", "signal", "too long", "too much memory", "many lines", "other status",
    "raw warning", "files left", "input changed", "broken output", "not finite",
)  # fmt: skip
GOOD = VERDICTS[:2]


@dataclass(frozen=True)
class Result:
    """How a case ended."""

    case: Case
    folder: Path
    verdict: str
    status: int
    seconds: float
    stderr: str
    left: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """Return JSON values, with a line that repeats the case in the folder that was kept."""
        command = f"cd {shlex.quote(str(self.folder / 'in'))} && python -m kernelpot {shlex.join(self.case.argv)}"
        lines = self.stderr.strip().splitlines()[-4:]
        found = {
            "fault": self.case.fault, "name": self.case.name, "verdict": self.verdict, "status": self.status,
            "seconds": round(self.seconds, 2), "command": command[:2000], "stderr": [line[:500] for line in lines],
            "left": list(self.left[:20]), "size": self.case.size, "pipes": list(self.case.pipes),
            "stdout": self.case.stdout,
        }  # fmt: skip
        return json.loads(json.dumps(found).encode("ascii", "backslashreplace"))  # type: ignore[no-any-return]


class Bench:
    """A warm process that forks every case off, with the base files and folders of the cases."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.number = folder, 0
        self.said: dict[int, int] = {}  # Standard error of runs whose files are limited
        self.base = folder / "base"
        self.base.mkdir(parents=True)
        self.files = broken.base_files(self.base)
        for name, content in self.files.items():
            (self.base / name).write_bytes(content)

    def warm(self, commands: Sequence[str] = tuple(COMMANDS)) -> None:
        """Make models and blocks, and compile every loop on the way."""
        from kernelpot.cli import main

        made = {"fit": "m.kp", "regress": "r.kp", "curate": "blocks"}
        with contextlib.chdir(self.base), warnings.catch_warnings(), open(os.devnull, "w") as sink:  # noqa: PTH123
            warnings.simplefilter("ignore")
            for command in sorted(commands, key=lambda c: c not in made):
                source = str(self.base / "pool.xyz") if command == "curate" else "t.xyz"
                one = broken.case(command, "valid", "valid", source)
                argv = [made.get(command, word) if word in ("o.kp", "b") else word for word in one.argv]
                with contextlib.redirect_stdout(sink), contextlib.redirect_stderr(sys.stderr):
                    if main(argv) != 0:
                        raise RuntimeError(f"a valid run of {command} failed: {shlex.join(argv)}")
        # Objects of the parent stay out of collections, which would copy their pages in every child.
        gc.collect()
        gc.freeze()
        for name in ("m.kp", "r.kp"):
            if (self.base / name).exists():
                self.files[name] = (self.base / name).read_bytes()

    def place(self, case: Case) -> Path:
        """Make the fresh folder of a case."""
        self.number += 1
        folder = self.folder / f"{self.number:05d}"
        inside = folder / "in"
        inside.mkdir(parents=True)
        (folder / "tmp").mkdir()
        named = {name: content for name, content in self.files.items() if name in case.argv}
        for name, content in {**named, **case.files}.items():
            (inside / name).parent.mkdir(parents=True, exist_ok=True)
            (inside / name).write_bytes(content)
        if case.prepare is not None:
            case.prepare(inside)
        for name in filter(None, case.pipes):
            os.mkfifo(inside / name)
        return folder

    def start(self, case: Case, folder: Path, log: str = "") -> int:
        """Fork a run of a case, in a session of its own; return its process id."""
        sys.stdout.flush()
        said = os.pipe() if case.size is not None else None
        pid = os.fork()
        if pid:
            if said is not None:
                os.close(said[1])
                self.said[pid] = said[0]
            return pid
        status = 70
        try:
            _enter(case, folder, log, said)
            if case.fresh:
                environment = os.environ | {"PYTHONPATH": str(ROOT), "NUMBA_THREADING_LAYER": "default"}
                os.execve(sys.executable, [sys.executable, "-m", "kernelpot", *case.argv], environment)
            from kernelpot.cli import main

            status = main(list(case.argv))
        except SystemExit as end:
            status = end.code if isinstance(end.code, int) else 1 if end.code else 0
        except BaseException:
            status = 1
            traceback.print_exc()
        finally:
            with contextlib.suppress(BaseException):
                sys.stdout.flush()
                sys.stderr.flush()
            os._exit(status)

    def run(self, cases: Sequence[Case], jobs: int = 1) -> Iterator[Result]:
        """Run cases, some at a time, each in a fresh folder that is removed where all is well."""
        waiting = list(reversed(cases))
        running: dict[int, tuple[Case, Path, dict[str, str], float]] = {}
        while waiting or running:
            while waiting and len(running) < jobs:
                case = waiting.pop()
                folder = self.place(case)
                before = contents(folder / "in")
                running[self.start(case, folder)] = (case, folder, before, time.monotonic())
            for pid, (case, folder, before, began) in list(running.items()):
                ended, status = os.waitpid(pid, os.WNOHANG)
                seconds = time.monotonic() - began
                if not ended and seconds < case.seconds:
                    continue
                end_group(pid)
                if not ended:
                    os.waitpid(pid, 0)
                del running[pid]
                if (said := self.said.pop(pid, None)) is not None:
                    with open(said, "rb") as pipe:  # noqa: PTH123
                        (folder / "stderr").write_bytes(pipe.read())
                result = judged(case, folder, before, os.waitstatus_to_exitcode(status) if ended else None, seconds)
                if result.verdict in GOOD:
                    shutil.rmtree(folder)
                yield result
            time.sleep(0.004)


def _enter(case: Case, folder: Path, log: str, said: tuple[int, int] | None) -> None:
    """Set a forked child up: folder, streams, limits."""
    os.setsid()
    os.chdir(folder / "in")
    os.environ["TMPDIR"] = str(folder / "tmp")
    tempfile.tempdir = None
    for name, content in case.pipes.items():
        ends = (None, None) if name else os.pipe()
        if os.fork() == 0:
            with contextlib.suppress(OSError):
                sink = os.open(name, os.O_WRONLY) if ends[1] is None else ends[1]
                with open(sink, "wb") as file:  # noqa: PTH123
                    file.write(content)
            os._exit(0)
        if ends[0] is not None and ends[1] is not None:
            os.dup2(ends[0], 0)
            os.close(ends[1])
    if "" not in case.pipes:
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
    os.dup2(os.open(case.stdout or folder / f"stdout{log}", flags), 1)
    # A limit on files holds for standard error, too, unless that is a pipe.
    os.dup2(os.open(folder / f"stderr{log}", flags) if said is None else said[1], 2)
    if case.stdout == "":
        os.close(1)
    if not case.fresh:
        sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w", 1, errors="backslashreplace")
    # Should nobody be there any more to stop it.
    resource.setrlimit(resource.RLIMIT_CPU, (int(2 * case.seconds) + 10,) * 2)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    if case.size is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (case.size, case.size))


def end_group(pid: int) -> bool:
    """End what is left of the session of a run; say whether anything was."""
    try:
        os.killpg(pid, signal.SIGKILL)
    except ProcessLookupError:
        return False
    return True


def contents(folder: Path) -> dict[str, str]:
    """Return the files below a folder with what tells their contents apart."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.is_symlink() or not path.is_file():
            found[name] = "" if path.is_symlink() or not path.is_dir() else "/"
        else:
            content = path.read_bytes()
            found[name] = f"{len(content)} {hash(content)}"
    return found


def left_over(folder: Path, before: Mapping[str, str], outputs: Sequence[str]) -> tuple[str, ...]:
    """Name the files that a run left beside its outputs, in its folder or among temporary files."""
    new = [name for name in contents(folder / "in") if name not in before]
    owned = [n for n in new if n.split("/")[0] in outputs and not re.search(r"(^|/)\.|\.(part|tmp|lock)\b", n)]
    own = set(owned)
    temporary = [f"tmp/{name}" for name in contents(folder / "tmp") if "numba" not in name]
    return tuple([name for name in new if name not in own] + temporary)


def judged(
    case: Case, folder: Path, before: Mapping[str, str], status: int | None, seconds: float, log: str = ""
) -> Result:
    """Say how a run ended; the worst that can be said of it, first."""
    stderr = (folder / f"stderr{log}").read_bytes().decode("utf-8", "backslashreplace")
    # A folder of blocks is gone on with, and what was written before standard output failed is whole.
    outputs = case.outputs if status == 0 or case.stdout is not None else [name for name in case.outputs if name == "b"]
    left = left_over(folder, before, outputs)
    after = contents(folder / "in")
    kept = [n for n in before if after.get(n) != before[n] and n.split("/")[0] not in case.outputs]
    verdict = verdict_of(status, stderr)
    if verdict in GOOD:
        if left:
            verdict = "files left"
        elif kept:
            verdict, left = "input changed", tuple(kept)
        elif status == 0:
            verdict = verdict_of_outputs(case, folder, stderr)
    return Result(case, folder, verdict, -99 if status is None else status, seconds, stderr, left)


def verdict_of(status: int | None, stderr: str) -> str:
    """Judge exit status (None where it was stopped) and standard error."""
    if status is None:
        return "too long"
    if "Traceback (most recent" in stderr or "Exception ignored" in stderr:
        return "traceback"
    if status < 0:
        return "signal"
    if "kernelpot: error: out of memory" in stderr:
        return "too much memory"
    if status not in (0, 2):
        return "other status"
    lines = [line for line in re.split(r"[\n\r]", stderr) if line and not line.startswith("kernelpot: warning: ")]
    if status == 2:
        return "refused" if len(lines) == 1 and lines[0].startswith("kernelpot: error: ") else "many lines"
    return "raw warning" if re.search(r"\w+\.py:\d+: \w*Warning", stderr) else "accepted"


def verdict_of_outputs(case: Case, folder: Path, error: str) -> str:
    """Judge what a run that ended well has written."""
    for name in case.outputs:
        path = folder / "in" / name
        if name not in case.argv or path.is_dir():
            continue
        try:
            text = path.read_bytes()
            if name.endswith(".json"):
                json.loads(text)
            elif name.endswith(".kp"):
                unpacked(text)
            elif name.endswith(".xyz"):
                import ase.io

                structures = ase.io.read(path, ":")
                if case.fault != "numbers" and not all(np.isfinite(atoms.positions).all() for atoms in structures):
                    return "not finite"
                if case.argv[0] == "predict" and re.search(rb"(energy|std|predicted)=\"?(nan|inf|-inf)", text):
                    return "not finite"
        except FileNotFoundError:
            # Where nothing could be chosen nothing is written, and a warning says so.
            return "accepted" if "structures were chosen" in error else "broken output"
        except Exception:
            return "broken output"
    return "accepted"


def markdown(counts: Mapping[tuple[str, str], int], columns: Sequence[str] = ()) -> str:
    """Lay counts by kind of fault and by ending out as a Markdown table."""
    rows = list(dict.fromkeys(row for row, _ in counts))
    columns = [c for c in columns if any(counts.get((r, c)) for r in rows)] or sorted({c for _, c in counts})
    lines = [["fault", *columns, "all"], ["---", *["---:"] * (len(columns) + 1)]]
    for row in rows:
        found = [counts.get((row, column), 0) for column in columns]
        lines.append([row, *(str(n) if n else "" for n in found), str(sum(found))])
    sums = [sum(counts.get((row, column), 0) for row in rows) for column in columns]
    lines.append(["all", *map(str, sums), str(sum(sums))])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def listed(failing: Sequence[Mapping[str, Any]]) -> str:
    """List failing cases, so that each can be repeated."""
    lines = []
    for one in failing:
        lines.append(f"\n{one['verdict']}: {one['fault']}, {one['name']}\n  {one['command']}")
        lines += [f"  left: {', '.join(one['left'])}"] * bool(one.get("left"))
        lines += [f"  | {line}" for line in one["stderr"]]
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    """Break what was asked for, print tables, write JSON; return 1 where anything failed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks break", description=__doc__)
    parser.add_argument("words", nargs="*", metavar="WORD", help="only cases with one of these in fault or name")
    parser.add_argument("--kills", type=int, metavar="N", help="kill every command N times by each of three signals")
    parser.add_argument("--reads", type=int, metavar="N", help="read N fuzzed files of extended XYZ")
    parser.add_argument("--seed", type=int, default=0, help="of everything random, default 0")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, metavar="N", help="runs at a time")
    parser.add_argument("--all", action="store_true", help="every broken file by every command, not by three of them")
    parser.add_argument("--most", type=int, metavar="N", help="N of the cases, evenly spread")
    parser.add_argument(
        "--folder", type=Path, help="where failing cases stay, default: benchmarks/results/broken-<time>"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="default: result.json in that folder")
    options = parser.parse_args(arguments)
    folder = (options.folder or RESULTS / f"broken-{time.strftime('%Y%m%d-%H%M%S')}").resolve()
    folder.mkdir(parents=True, exist_ok=True)
    sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    began, columns = time.monotonic(), tuple[str, ...]()
    if options.reads is not None:
        from benchmarks.breaking_reads import reads

        counts, failing = reads(folder, options.reads, options.seed, options.jobs)
    else:
        bench = Bench(folder)
        bench.warm()
        print(f"warm after {time.monotonic() - began:.0f} s", flush=True)
        if options.kills is not None:
            from benchmarks.breaking_kills import kills, pairs

            counts, failing = kills(bench, options.kills, options.seed, options.words)
            more = pairs(bench, options.kills, options.seed) if not options.words else (Counter(), [])
            counts, failing = counts + more[0], failing + more[1]
        else:
            columns = VERDICTS
            counts, failing = inputs(bench, options.words, options.seed, options.jobs, options.most, options.all)
    print(f"\n{markdown(counts, columns)}\n")
    document = {
        "seed": options.seed, "seconds": round(time.monotonic() - began, 1), "failing": failing,
        "counts": [[*key, count] for key, count in counts.items()],
    }  # fmt: skip
    path = options.json or folder / "result.json"
    path.write_text(json.dumps(document, indent=1), encoding="utf-8")
    print(f"{len(failing)} failed; {document['seconds']} s; written: {path}")
    return 1 if failing else 0


def inputs(
    bench: Bench, words: Sequence[str], seed: int, jobs: int, most: int | None, whole: bool
) -> tuple[Counter[tuple[str, str]], list[Any]]:
    """Run the cases on broken inputs."""
    found = broken.cases(bench.files, bench.base / "blocks", seed, whole=whole)
    found = [one for one in found if not words or any(word in f"{one.fault} {one.name}" for word in words)]
    found = found[:: max(1, len(found) // most)] if most else found
    results = []
    for result in bench.run(found, jobs):
        results.append(result)
        if result.verdict not in GOOD:
            # At once, so that a run that is cut short has said what it found.
            print(listed([result.as_dict()]), flush=True)
        if len(results) % 200 == 0:
            print(f"{len(results)} of {len(found)}", file=sys.stderr, flush=True)
    counts = Counter((result.case.fault, result.verdict) for result in results)
    return counts, [result.as_dict() for result in results if result.verdict not in GOOD]
