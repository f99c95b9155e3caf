"""Work spread over Dask's worker processes, or done here, with a bounded number of items on the way."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from multiprocessing import resource_tracker
from typing import Any, TypeVar

from kernelpot.archive import scratch
from kernelpot.errors import ParameterError, StoreError
from kernelpot.rules import whole
from kernelpot.run import alone, count

Item = TypeVar("Item")
Result = TypeVar("Result")

AHEAD = 2
"""Items on the way for each worker: one in work and one waiting."""

PATIENCE = "20s"
"""How long a cluster may take to answer."""

_ONE = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"), "1")


def number_of(workers: int | None, scheduler: str | None) -> int:
    """Return how many worker processes are meant; 0 for none."""
    if scheduler is not None:
        if workers:
            raise ParameterError(
                "`workers` are those of the cluster where a `scheduler` is given: leave one of them out"
            )
        if not isinstance(scheduler, str) or "://" not in scheduler:
            raise ParameterError(f"`scheduler` must be an address like tcp://host:8786, got {scheduler!r}")
        return 0
    if workers is None:
        return count() if count() > 1 else 0
    return whole(workers, "workers", usual="0 is this process alone")


def spread(
    work: Callable[[Item], Result],
    items: Iterable[Item],
    *,
    workers: int = 0,
    scheduler: str | None = None,
    patience: str = PATIENCE,
) -> Iterator[Result]:
    """Yield ``work(item)`` for every item, in the order of completion.

    Items are taken from their iterator only as fast as they are worked on, so that it may be endless.
    """
    if not workers and scheduler is None:
        yield from map(work, items)
        return
    # What Dask sets for workers before they start stays set in the process that starts them. Numba looks at its
    # variable whenever it compiles, and fails where it has changed since its threads were launched.
    before = {name: os.environ.get(name) for name in _ONE}

    def restore() -> None:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value

    try:
        with _client(workers, scheduler, patience) as client:
            restore()
            for found in _bounded(client, work, iter(items)):
                # A worker that is started anew, as on a busy machine, sets its variables here again.
                restore()
                yield found
    finally:
        restore()


def _bounded(client: Any, work: Callable[[Item], Result], items: Iterator[Item]) -> Iterator[Result]:
    from distributed import KilledWorker, as_completed

    limit = AHEAD * max(len(client.scheduler_info(n_workers=-1)["workers"]), 1)
    done = as_completed(loop=client.loop)
    open_ = 0
    try:
        while True:
            while open_ < limit:
                try:
                    item = next(items)
                except StopIteration:
                    limit = 0
                    break
                # Never the same key twice: the work writes files, which a remembered result would not do.
                done.add(client.submit(_alone, work, item, pure=False))
                open_ += 1
            if not open_:
                return
            future = next(done)
            open_ -= 1
            try:
                result: Result = future.result()
            except KilledWorker as error:
                raise StoreError(
                    f"workers died on a piece of the work ({error}), most likely for want of memory; use fewer workers "
                    "or smaller chunks; what is complete stays"
                ) from None
            yield result
            future.release()
    finally:
        for future in list(done.futures):
            future.cancel()


def _alone(work: Callable[[Item], Result], item: Item) -> Result:
    with alone():
        return work(item)


@contextlib.contextmanager
def _client(workers: int, scheduler: str | None, patience: str) -> Iterator[Any]:
    """Connect to the cluster, or start one of local processes and stop it in the end."""
    try:
        import dask
        import distributed
    except ModuleNotFoundError as error:
        raise ParameterError(
            f"worker processes need dask[distributed], but {error.name} is not installed; "
            "in kernelpot's folder: pip install -c constraints.txt '.[scale]'; or use workers=0"
        ) from None
    if scheduler is not None:
        try:
            client = distributed.Client(scheduler, timeout=patience, set_as_default=False)
        except (OSError, TimeoutError, ValueError) as error:
            raise StoreError(f"no cluster answers at {scheduler} ({type(error).__name__}): is it running?") from None
        with client:
            if not client.scheduler_info(n_workers=-1)["workers"]:
                raise StoreError(
                    f"the cluster at {scheduler} has no workers; start some with `dask worker {scheduler}`"
                )
            yield client
        return
    # Threads are set before a worker imports NumPy; memory is bounded by our plan, not by pausing workers.
    settings = {"distributed.nanny.pre-spawn-environ": _ONE | {"MALLOC_TRIM_THRESHOLD_": "65536"}}
    with (
        scratch() as folder,
        dask.config.set({**settings, "temporary-directory": folder}),
        contextlib.ExitStack() as stack,
    ):
        with uninterrupted():
            try:
                # An address of None means port 8787, also without a page to show there: two runs at once would collide.
                cluster = distributed.LocalCluster(
                    n_workers=workers, threads_per_worker=1, processes=True, memory_limit=0, silence_logs=50,
                    local_directory=folder, dashboard_address="127.0.0.1:0", scheduler_kwargs={"dashboard": False},
                )  # fmt: skip
            except (OSError, RuntimeError, TimeoutError) as error:
                raise StoreError(f"{workers} worker process(es) did not start ({error}); use workers=0") from None
            stack.callback(uninterrupted()(cluster.close))
        yield stack.enter_context(distributed.Client(cluster, set_as_default=False))


@contextlib.contextmanager
def uninterrupted() -> Iterator[None]:
    """Put an interruption off to the end of the block; processes that are started in it never hear of one."""
    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "pthread_sigmask"):
        yield
        return
    late: list[Callable[[], Any]] = []
    # A new thread or process blocks what the thread that starts it does. The tracker of multiprocessing, once it runs,
    # leaves that as it is.
    resource_tracker.ensure_running()
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = signal.pthread_sigmask(signal.SIG_BLOCK, numbers)
    handlers = {number: signal.getsignal(number) for number in numbers}
    handlers = {number: handler for number, handler in handlers.items() if callable(handler)}
    for number, handler in handlers.items():
        signal.signal(number, lambda *found, handler=handler: late.append(lambda: handler(*found)))
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        for number, handler in handlers.items():
            signal.signal(number, handler)
        for call in late[:1]:
            call()
