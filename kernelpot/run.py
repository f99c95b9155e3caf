"""Work shared out over threads, by ranges of atoms or by items of a list.

Compiled loops and BLAS let go of Python's lock, so that plain threads keep all cores busy. The work is cut at the
highest level there is: two threads that never wait for each other lose nothing on a busy machine, where the barriers
inside a parallel loop or a threaded matrix product cost several times the work itself.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from functools import cache
from itertools import pairwise
from threading import local
from typing import TypeVar

from threadpoolctl import ThreadpoolController

Item = TypeVar("Item")
Result = TypeVar("Result")

WORTH_THREADS = 1000
"""Rows of a matrix from which its factorisation is shared out over threads of BLAS."""

_here = local()


@cache
def count() -> int:
    """Return the number of threads: NUMBA_NUM_THREADS or OMP_NUM_THREADS where set, else the cores of this process."""
    for name in ("NUMBA_NUM_THREADS", "OMP_NUM_THREADS"):
        value = os.environ.get(name, "")
        if value.isdigit() and int(value) > 0:
            return int(value)
    return max(1, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)


@cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(count(), thread_name_prefix="kernelpot")


if hasattr(os, "register_at_fork"):
    # Threads do not survive a fork: a child process makes its own.
    os.register_at_fork(after_in_child=_pool.cache_clear)


@cache
def _blas() -> ThreadpoolController:
    return ThreadpoolController()


@contextmanager
def one_blas() -> Iterator[None]:
    """Keep BLAS to one thread: for many small products, and where threads of our own do the sharing out.

    Also a decorator: ``@one_blas()``.
    """
    with _blas().limit(limits=1, user_api="blas"):
        yield


@contextmanager
def calm_blas(n: int) -> Iterator[None]:
    """Keep BLAS to one thread while it works on matrices of n rows, unless these are large.

    Of small ones two threads make little more than half the time where cores are free, and many times the time where
    they are shared, as each waits for the other after every step.
    """
    with one_blas() if n < WORTH_THREADS else nullcontext():
        yield


@contextmanager
def alone() -> Iterator[None]:
    """Do everything in the calling thread: for worker processes, of which there is one per core already."""
    before = getattr(_here, "busy", False)
    _here.busy = True
    try:
        with one_blas():
            yield
    finally:
        _here.busy = before


def _inside(work: Callable[[Item], Result], item: Item) -> Result:
    _here.busy = True
    try:
        return work(item)
    finally:
        _here.busy = False


def share(work: Callable[[int, int], None], n: int, grain: int) -> None:
    """Call ``work(start, stop)`` on ranges that cover ``range(n)``, at least `grain` long, over the threads."""
    parts = min(count(), n // max(1, grain))
    if parts < 2 or getattr(_here, "busy", False):
        work(0, n)
        return
    # Smaller ranges than threads, so that a late thread leaves little to wait for.
    cuts = [k * n // (4 * parts) for k in range(4 * parts + 1)]
    futures = [_pool().submit(_inside, lambda r: work(*r), r) for r in pairwise(cuts)]
    for future in futures:
        future.result()


def ordered(work: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
    """Yield ``work(item)`` for every item in order, computed by threads a little ahead of who consumes it.

    BLAS keeps to one thread meanwhile. No more than one result per thread waits, so memory stays bounded.
    """
    if count() < 2 or getattr(_here, "busy", False):
        yield from map(work, items)
        return
    waiting: deque[Future[Result]] = deque()
    with one_blas():
        try:
            for item in items:
                waiting.append(_pool().submit(_inside, work, item))
                if len(waiting) > count():
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def physical_memory() -> int:
    """Return how much memory the machine has, bytes."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
