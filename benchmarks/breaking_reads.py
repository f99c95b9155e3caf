"""Fuzzed reads of extended XYZ: `python -m benchmarks break --reads N`."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import shutil
import signal
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms

from benchmarks import broken
from benchmarks.breaking import listed
from benchmarks.broken_models import cut, flipped

MEMORY = 4 << 30
PART = 500
"""Reads of one forked worker."""
SLOWEST = 0.5
"""After so many seconds of CPU time a read counts as hung."""
TOKENS = tuple(
    token.encode() for token in (
        *broken.COUNTS, *broken.NUMBERS, *(new for _, new in broken.HEADERS.values() if len(new) < 200), "Xx", "X", "H",
        "pbc=", 'pbc="F F F"', "Properties=species:S:1", ":", "=", '"', "'", "{", "}", "[", "]", "\\", "#", "\0", "\r",
        "_JSON", "energy=1", "species:S:1:pos:R:3:forces:R:3", "charge=1", "virial=", 'virial="1 2 3 4 5 6"', "T", "F",
        "numbers=1", "cell=", "kernelpot_source=1", "calculator=x", "momenta:R:3", "magmoms:R:1", "stress:R:6",
        "move_mask:L:1", "tags:I:1", "initial_charges:R:1", "masses:R:1", "Z:I:1", "Lattice=", 'Lattice="1 1 1"',
    )
)  # fmt: skip


def seeds() -> list[bytes]:
    """Return small files of several kinds."""
    good = broken.frames(4)
    free = broken.labelled(Atoms("OH2", [[0, 0, 0], [0.9, 0, 0], [-0.2, 0.9, 0]]), -3.0)
    text = broken.xyz(good[:1])
    virial = text.replace(b"energy=", b'config_type=bulk virial="1 0 0 0 1 0 0 0 1" dft_energy=')
    plain = b"2\nwater, a comment without any keys\nO 0 0 0\nH 0.9 0 0.1\n"
    return [text, broken.xyz([free]), broken.xyz([good[0], free]), virial, plain, broken.xyz([good[3]])]


def mutated(content: bytes, rng: np.random.Generator) -> bytes:
    """Change bytes, words or lines at one or two places."""
    for _ in range(int(rng.integers(1, 3))):
        if not content:
            break
        content = CHANGES[int(rng.integers(len(CHANGES)))](content, rng)
    return content


def _any(rng: np.random.Generator) -> bytes:
    return TOKENS[int(rng.integers(len(TOKENS)))]


def _inserted(content: bytes, rng: np.random.Generator) -> bytes:
    k = int(rng.integers(len(content) + 1))
    return content[:k] + rng.bytes(int(rng.integers(1, 4))) + content[k:]


def _deleted(content: bytes, rng: np.random.Generator) -> bytes:
    k = int(rng.integers(len(content)))
    return content[:k] + content[k + int(rng.integers(1, 9)) :]


def _word(content: bytes, rng: np.random.Generator) -> bytes:
    words = content.split(b" ")
    k = int(rng.integers(len(words)))
    words[k : k + int(rng.integers(2))] = [_any(rng)]
    return b" ".join(words)


def _lines(content: bytes, rng: np.random.Generator) -> bytes:
    lines = content.split(b"\n")
    k, other = (int(n) for n in rng.integers(len(lines), size=2))
    kind = int(rng.integers(4))
    if kind == 0:
        lines.insert(k, lines[other])
    elif kind == 1:
        del lines[k]
    elif kind == 2:
        lines[k], lines[other] = lines[other], lines[k]
    else:
        lines[k] = _any(rng)
    return b"\n".join(lines)


def _key(content: bytes, rng: np.random.Generator) -> bytes:
    """Replace what follows an equals sign or a colon."""
    places = [k for k, byte in enumerate(content) if byte in b"=:"]
    if not places:
        return content
    k = places[int(rng.integers(len(places)))] + 1
    return content[:k] + _any(rng) + content[k + int(rng.integers(0, 6)) :]


CHANGES: tuple[Callable[[bytes, np.random.Generator], bytes], ...] = (
    flipped, cut, _inserted, _deleted, _word, _word, _lines, _lines, _key, _key,
)  # fmt: skip


class HungError(BaseException):
    """A read takes too long; not an `Exception`, which readers would take for a broken file."""


def _hung(*_: object) -> None:
    raise HungError


def ending(call: Callable[[], object]) -> tuple[str, str, object]:
    """Say how a call ended: read, refused, or by the name of another exception; the end of its traceback; its value."""
    from kernelpot.errors import KernelpotError

    try:
        return "read", "", call()
    except KernelpotError:
        return "refused", "", None
    except (Exception, HungError) as error:
        return type(error).__name__, traceback.format_exc(limit=-2)[-1200:], None


def part(path: Path, answer: Path, seed: tuple[int, int]) -> None:
    """Read mutated files by `kernelpot.read` and `kernelpot.pools.stream`, in a process of its own."""
    import kernelpot as kp
    from kernelpot.pools import stream

    signal.signal(signal.SIGPROF, _hung)
    calls = {"read": lambda: kp.read(path, verbose=False), "stream": lambda: list(stream(path))}
    rng, start = np.random.default_rng(seed), seeds()
    counts: Counter[str] = Counter()
    odd = []
    for _ in range(PART):
        content = mutated(start[int(rng.integers(len(start)))], rng)
        path.write_bytes(content)
        ends = {}
        for reader, call in calls.items():
            signal.setitimer(signal.ITIMER_PROF, SLOWEST)
            ends[reader] = ending(call)
            signal.setitimer(signal.ITIMER_PROF, 0.0)
        for reader, (end, trace, _) in ends.items():
            counts[f"{reader}: {end}"] += 1
            if trace:
                odd.append({"reader": reader, "end": end, "trace": trace, "input": content.decode("latin-1")[:4000]})
        found = [ends[reader][2] for reader in ("read", "stream")]
        if isinstance(found[0], list) and isinstance(found[1], list) and len(found[0]) != len(found[1]):
            counts["other numbers of structures"] += 1
            said = f"read {len(found[0])}, stream {len(found[1])}"
            odd.append(
                {"reader": "both", "end": "other numbers", "trace": said, "input": content.decode("latin-1")[:4000]}
            )
    answer.write_text(json.dumps([counts, odd]), encoding="utf-8")


def reads(folder: Path, total: int, seed: int, jobs: int) -> tuple[Counter[tuple[str, str]], list[Any]]:
    """Read fuzzed files in forked workers; list one input for every kind of exception and place, and all crashes."""
    import kernelpot.pools

    memory = Path("/dev/shm")
    where = Path(tempfile.mkdtemp(dir=memory if memory.is_dir() else None))
    for text in seeds():
        (where / "warm.xyz").write_bytes(text)
        kernelpot.read(where / "warm.xyz", verbose=False)
        list(kernelpot.pools.stream(where / "warm.xyz"))
    waiting, running = list(range(-(-total // PART)))[::-1], dict[int, int]()
    counts: Counter[tuple[str, str]] = Counter()
    kinds: dict[tuple[str, ...], dict[str, Any]] = {}
    began = time.monotonic()
    while waiting or running:
        while waiting and len(running) < jobs:
            number = waiting.pop()
            path, answer = where / f"{number}.xyz", where / f"{number}.json"
            if (pid := os.fork()) == 0:
                with contextlib.suppress(BaseException), warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
                    resource.setrlimit(resource.RLIMIT_CPU, (120, 120))
                    part(path, answer, (seed, number))
                os._exit(0 if answer.exists() else 1)
            running[pid] = number
        pid, status = os.wait()
        number = running.pop(pid)
        path, answer = where / f"{number}.xyz", where / f"{number}.json"
        if answer.exists():
            found, odd = json.loads(answer.read_text(encoding="utf-8"))
            for key, n in found.items():
                reader, _, end = key.partition(": ")
                counts[reader, end or "files"] += n
        else:
            counts["worker", f"ended with {os.waitstatus_to_exitcode(status)}"] += 1
            last = path.read_bytes().decode("latin-1")[:4000]
            odd = [{"reader": "worker", "end": f"status {status}", "trace": f"part {number}", "input": last}]
        for one in odd:
            # One of each kind: reader, exception, and the line that raised it.
            at = [line for line in one["trace"].splitlines() if line.startswith("  File")][-1:]
            kind = (one["reader"], one["end"], *(at or [one["trace"]]))
            if kind not in kinds and len(kinds) < 20:
                saved = folder / f"read-{len(kinds)}.xyz"
                saved.write_bytes(one["input"].encode("latin-1"))
                call = "list(kernelpot.pools.stream(F))" if one["reader"] == "stream" else "kernelpot.read(F)"
                kinds[kind] = {
                    "fault": one["reader"], "name": one["end"], "verdict": "exception", "times": 0, "left": [],
                    "command": f"python -c 'import kernelpot, kernelpot.pools; F=\"{saved}\"; {call}'",
                    "stderr": one["trace"].strip().splitlines()[-5:],
                }  # fmt: skip
            if kind in kinds:
                kinds[kind]["times"] += 1
    shutil.rmtree(where)
    seconds = time.monotonic() - began
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    rate = total / (used.ru_utime + used.ru_stime)
    print(f"{total} files in {seconds:.0f} s with {jobs} workers, each by two readers: {rate:.0f} files per s of CPU")
    print(listed(list(kinds.values())))
    return counts, list(kinds.values())
