"""Progress bars for long work, silent unless the caller shows them."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterable, Iterator
from contextvars import ContextVar
from typing import TextIO, TypeVar

T = TypeVar("T")

_shown: ContextVar[bool] = ContextVar("kernelpot_progress_shown", default=False)


@contextlib.contextmanager
def shown(*, enabled: bool = True) -> Iterator[None]:
    """Show progress bars on standard error inside this context."""
    token = _shown.set(enabled)
    try:
        yield
    finally:
        _shown.reset(token)


def track(items: Iterable[T], what: str, total: int | None = None) -> Iterator[T]:
    """Yield `items`, with a progress bar named `what` where progress is shown."""
    if not _shown.get():
        yield from items
        return
    from tqdm import tqdm

    yield from tqdm(items, desc=what, total=total, file=sys.stderr, mininterval=0.5, delay=0.5)


def say(message: str) -> None:
    """Print one line on standard error where progress is shown."""
    if _shown.get():
        sys.stderr.write(message + "\n")
        sys.stderr.flush()


def put(text: str, stream: TextIO) -> None:
    """Write text at once, so that a device that is full is known here."""
    try:
        stream.write(text)
        stream.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        name = "standard output" if stream is sys.stdout else "standard error"
        raise OSError(error.errno, error.strerror, name) from None
