"""Command line of the benchmarks; thread counts are fixed before anything numerical is imported."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from benchmarks import THREADS


def main(arguments: list[str] | None = None) -> int:
    words = sys.argv[1:] if arguments is None else arguments
    if words[:1] == ["break"]:
        for name in THREADS:
            os.environ[name] = "1"
        # The other layers do not survive a fork.
        os.environ["NUMBA_THREADING_LAYER"] = "workqueue"

        from benchmarks.breaking import main as breaking

        return breaking(words[1:])
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description=__doc__, epilog="break: broken inputs, see `break --help`"
    )
    parser.add_argument("cases", nargs="*", metavar="CASE", help="names, or beginnings of names; default: all")
    parser.add_argument("--list", action="store_true", help="list the cases")
    parser.add_argument("--json", type=Path, metavar="FILE", help="default: benchmarks/results/<time>.json")
    parser.add_argument("--threads", type=int, default=1, metavar="N", help="threads of each measurement, default 1")
    parser.add_argument("--quick", action="store_true", help="small sizes: shows that it runs, judges nothing")
    parser.add_argument("--full", action="store_true", help="also the rivals that take minutes")
    options = parser.parse_args(words)
    if options.threads < 1:
        parser.error(f"--threads must be at least 1, got {options.threads}")
    for name in THREADS:
        os.environ[name] = str(options.threads)

    from benchmarks.runner import CASES, matching, run

    if options.list:
        for name, case in CASES.items():
            print(f"{name:<25}{case.what}")
        return 0
    names = matching(options.cases)
    if not names:
        parser.error(f"no case begins with {', '.join(options.cases)}; the cases are {', '.join(CASES)}")
    return run(names, threads=options.threads, quick=options.quick, full=options.full, path=options.json)


if __name__ == "__main__":
    sys.exit(main())
