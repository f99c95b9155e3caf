"""The command ``kernelpot``."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from kernelpot import progress
from kernelpot.cli.options import Assess, Command, Curate, Demo, Evaluate, Fit, Predict, Regress, Select, parse
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
    command = parse(argv)
    try:
        with progress.shown(enabled=not command.quiet):
            run(command)
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


def run(command: Command) -> None:
    """Do what a command says; only now the heavy imports, so that ``--help`` and mistyped arguments answer at once."""
    match command:
        case Select():
            from kernelpot.cli.choosing import select

            select(command)
        case Curate():
            from kernelpot.cli.choosing import curate

            curate(command)
        case Assess():
            from kernelpot.cli.advising import assess

            assess(command)
        case Fit():
            from kernelpot.cli.models import fit

            fit(command)
        case Regress():
            from kernelpot.cli.regression import regress

            regress(command)
        case Evaluate():
            from kernelpot.cli.models import evaluate

            evaluate(command)
        case Predict():
            from kernelpot.cli.models import predict

            predict(command)
        case Demo():
            from kernelpot.cli.models import demo

            demo(command)
