"""The command ``kernelpot``."""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import sys
import threading
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

from kernelpot import __version__, progress
from kernelpot.cli.options import Assess, Check, Command, Curate, Demo, Evaluate, Fit, Predict, Regress, Select
from kernelpot.cli.parsing import Parser, add_command, made
from kernelpot.errors import KernelpotError, ParameterError

COMMANDS = (Check, Select, Assess, Curate, Fit, Regress, Evaluate, Predict, Demo)

ABOUT = """\
Choose which atomic structures deserve a DFT calculation before any is run,
then fit a kernel potential that knows its own error."""

EXAMPLES = """\
examples:
  kernelpot demo
  kernelpot check labelled.xyz
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
INTERRUPTED, TERMINATED = 130, 143


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Parameters
    ----------
    argv
        The arguments after the program's name; None takes those of the process.

    Returns
    -------
    int
        Exit status: 0 done, 2 bad input (one line on standard error says which), 130 interrupted, 143 terminated.
    """
    for name in ("stdout", "stderr"):
        # A stream that was closed before we started (`>&-`) is None.
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open("w", encoding="utf-8"))  # noqa: SIM115
    words = sys.argv[1:] if argv is None else argv
    signals: list[int] = []
    try:
        check_words(words)
        command = parse(words)
        with progress.shown(enabled=not command.quiet), terminable(signals):
            run(command)
        progress.put("", sys.stdout)
        return 0
    except KernelpotError as error:
        message = str(error)
        if "keys={" in message:
            message += " (on the command line: --keys energy=NAME,forces=NAME)"
    except BrokenPipeError:
        # The reader of our output (`| head`) has left: nothing more to say.
        return 0
    except OSError as error:
        what = "no such file: " if isinstance(error, FileNotFoundError) else ""
        message = f"{what}{error.filename}: {error.strerror}" if error.filename else str(error)
    except MemoryError:
        message = "out of memory; choose a smaller --n-inducing, or split the files"
    except (KeyboardInterrupt, SystemError, ImportError) as error:
        # Compiled code that a signal meets as it returns, or is imported, says so in its own way.
        if not signals and not isinstance(error, KeyboardInterrupt):
            raise
        tell("\nkernelpot: interrupted; every output file is whole or as it was\n")
        return TERMINATED if signal.SIGTERM in signals else INTERRUPTED
    finally:
        flush()
    # Here the exception is gone, with it the frames that held progress bars open: the message has its own line.
    tell(f"kernelpot: error: {' '.join(message.split())}\n")
    return BAD_INPUT


def check_words(words: Sequence[str]) -> None:
    """Refuse arguments that no file and no JSON can hold."""
    for word in words:
        if "\0" in word or any("\ud800" <= letter <= "\udfff" for letter in word):
            raise ParameterError(f"arguments must be UTF-8 without NUL, got {word!a}; rename the file")


@contextlib.contextmanager
def terminable(signals: list[int]) -> Iterator[None]:
    """Let SIGTERM end the block as Ctrl-C does, and no warning of arithmetic stand beside the line that ends it.

    Signals that came are listed.
    """

    def end(number: int, _: object) -> None:
        signals.append(number)
        raise KeyboardInterrupt

    ours = threading.current_thread() is threading.main_thread()
    # Ctrl-C may be ignored, as by what runs in the background.
    caught = [signal.SIGTERM, *([signal.SIGINT] if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN else [])]
    before = [(number, signal.signal(number, end)) for number in caught] if ours else []
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", category=RuntimeWarning)
            warnings.showwarning = warned  # type: ignore[assignment]
            yield
    finally:
        for number, handler in before:
            signal.signal(number, handler)


def warned(message: Warning | str, *_: object) -> None:
    """Write a warning as one line, as the commands write theirs."""
    tell(f"kernelpot: warning: {' '.join(str(message).split())}\n")


def tell(line: str) -> None:
    """Write on standard error, where that is possible."""
    with contextlib.suppress(OSError):
        progress.put(line, sys.stderr)


def flush() -> None:
    """Leave nothing to the interpreter's exit that cannot be written."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


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
    try:
        given = vars(top.parse_args(words))
    finally:
        progress.put("", sys.stdout)  # the help
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
        case Check():
            from kernelpot.cli.models import check

            check(command)
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
