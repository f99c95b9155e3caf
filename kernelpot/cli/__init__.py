"""The command ``kernelpot``."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from kernelpot import progress
from kernelpot.cli.arguments import parser
from kernelpot.errors import KernelpotError

BAD_INPUT = 2
INTERRUPTED = 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Parameters
    ----------
    argv
        The arguments after the program's name; None takes those of the process.

    Returns
    -------
    int
        Exit status: 0 done, 2 bad input (one line on standard error says which), 130 interrupted.
    """
    for name in ("stdout", "stderr"):
        # A stream that was closed before we started (`>&-`) is None.
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open("w", encoding="utf-8"))  # noqa: SIM115
    args = parser().parse_args(argv)
    try:
        # Only now the heavy imports: `--help` and mistyped arguments answer at once.
        commands = importlib.import_module("kernelpot.cli.commands")
        with progress.shown(enabled=not args.quiet):
            getattr(commands, args.command)(args)
        sys.stdout.flush()
        return 0
    except KernelpotError as error:
        message = str(error)
        if "keys={" in message:
            message += " (on the command line: --keys energy=NAME,forces=NAME)"
    except FileNotFoundError as error:
        message = f"no such file: {error.filename}"
    except BrokenPipeError:
        # The reader of our output (`| head`) has left: nothing more to say, and nothing to flush at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        message = str(error)
    except MemoryError:
        message = "out of memory; choose a smaller --n-inducing, or split the files"
    except KeyboardInterrupt:
        sys.stderr.write("\nkernelpot: interrupted; every output file is whole or as it was\n")
        return INTERRUPTED
    # Here the exception is gone, with it the frames that held progress bars open: the message has its own line.
    sys.stderr.write(f"kernelpot: error: {' '.join(message.split())}\n")
    return BAD_INPUT
