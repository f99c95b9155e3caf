"""The command ``kernelpot``."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from kernelpot import __version__, progress
from kernelpot.cli.options import Assess, Command, Curate, Demo, Evaluate, Fit, Predict, Regress, Select
from kernelpot.cli.parsing import Parser, add_command, made
from kernelpot.errors import KernelpotError

COMMANDS = (Select, Assess, Curate, Fit, Regress, Evaluate, Predict, Demo)

ABOUT = """\
Choose which atomic structures deserve a DFT calculation before any is run,
then fit a kernel potential that knows its own error."""

EXAMPLES = """\
examples:
  kernelpot demo
  kernelpot select pool.xyz.xz -n 50 --out chosen.xyz
  kernelpot assess train.xyz --pool pool.xyz
  kernelpot curate huge.xyz.xz --blocks huge.blocks -n 1000 --workers 4 --out chosen.xyz
  kernelpot fit labelled.xyz --out si.kp --test test.xyz
  kernelpot fit labelled.xyz --out si.kp --budget 5 --tune-table trials.csv
  kernelpot regress crystals.xyz --property gap --combine average --out gap.kp
  kernelpot evaluate si.kp test.xyz --json scores.json
  kernelpot predict si.kp new.xyz --out predicted.xyz
"""

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
    try:
        command = parse(argv)
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
    except (KeyboardInterrupt, SystemError) as error:
        # A compiled loop that is interrupted as it returns says so in its own way.
        if isinstance(error, SystemError) and not isinstance(error.__cause__ or error.__context__, KeyboardInterrupt):
            raise
        sys.stderr.write("\nkernelpot: interrupted; every output file is whole or as it was\n")
        return INTERRUPTED
    # Here the exception is gone, with it the frames that held progress bars open: the message has its own line.
    sys.stderr.write(f"kernelpot: error: {' '.join(message.split())}\n")
    return BAD_INPUT


def parse(argv: Sequence[str] | None) -> Command:
    """Read a command line; None takes that of the process."""
    top = Parser(
        prog="kernelpot",
        description=ABOUT,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    top.add_argument("--version", action="version", version=f"kernelpot {__version__}")
    commands = top.add_subparsers(
        dest="command", metavar="command", required=True, parser_class=Parser, title="commands"
    )
    words = sys.argv[1:] if argv is None else argv
    for command in COMMANDS:
        add_command(commands, command, words)
    given = vars(top.parse_args(words))
    found: Command = made(given["options"], given)
    return found


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
