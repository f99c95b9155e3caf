"""Devices that PyTorch computes on: their names, their free memory, and factorisations there."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from threading import Lock
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float

from kernelpot.errors import ParameterError
from kernelpot.run import WORTH_THREADS, calm_blas

if TYPE_CHECKING:
    import torch

PRECISIONS = ("float64", "mixed", "float32")
"""What is computed in float32: nothing; densities behind energies and forces; those behind training rows too.

Kernels, energies, sums over atoms, factorisations and variances are float64 in all three.
"""

CPU_BYTES = 64_000_000
"""Working set of one piece on a CPU: larger ones gain nothing."""

LARGEST_BYTES = 4_000_000_000
"""Working set of one piece on any device: beyond it nothing gets faster."""

FREE_SHARE = 0.3
"""Share of a device's free memory that the working sets of all threads together may take."""


def check_device(device: str | None, precision: str = "float64") -> None:
    """Refuse a device or a precision that cannot be had here."""
    if precision not in PRECISIONS or (device is None and precision != "float64"):
        raise ParameterError(
            '`precision` must be "float64", or together with a device "mixed" or "float32", '
            f"got {precision!r} with device={device!r}."
        )
    if device is None or device == "cpu":
        return
    if not isinstance(device, str) or not re.fullmatch(r"cuda(:\d+)?", device):
        raise ParameterError(
            f'`device` must be None (compiled loops on the CPU), "cpu" (PyTorch on the CPU), "cuda" or "cuda:0", '
            f"got {device!r}."
        )
    import torch

    found = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if found <= int(device.partition(":")[2] or 0):
        there = f"{found} CUDA device(s)" if found else "no CUDA device"
        raise ParameterError(
            f"device={device!r}: PyTorch {torch.__version__} finds {there} on this machine; leave `device` None, "
            "or install a PyTorch build for your GPU and its driver."
        )


class _Threads:
    """Who computes on the CPU now, and how many threads PyTorch had before the first of them came."""

    lock = Lock()
    inside = 0
    before = 1


@contextmanager
def computing(device: str) -> Iterator[None]:
    """Compute without gradients; on a CPU without threads of PyTorch's own.

    Its threads wait for each other after every operation, which costs many times the work itself where cores are
    shared; the sharing out is done by `kernelpot.run`, batch by batch.
    """
    import torch

    with torch.inference_mode():
        if device != "cpu":
            yield
            return
        with _one_thread():
            yield


@contextmanager
def _one_thread() -> Iterator[None]:
    """Keep PyTorch to one thread on the CPU."""
    import torch

    with _Threads.lock:
        if _Threads.inside == 0:
            _Threads.before = torch.get_num_threads()
        _Threads.inside += 1
        torch.set_num_threads(1)
    try:
        yield
    finally:
        with _Threads.lock:
            _Threads.inside -= 1
            torch.set_num_threads(_Threads.before)


@contextmanager
def calm(n: int) -> Iterator[None]:
    """Do for PyTorch what `kernelpot.run.calm_blas` does, and for BLAS, too."""
    with calm_blas(n), _one_thread() if n < WORTH_THREADS else nullcontext():
        yield


def working_bytes(device: str, n_threads: int = 1) -> int:
    """Return how many bytes one piece of work may take on a device now, of as many at a time as there are threads."""
    if device == "cpu":
        return CPU_BYTES
    import torch

    where = torch.device(device)
    free, _ = torch.cuda.mem_get_info(where)
    # What PyTorch keeps for itself and does not use is free as well.
    free += torch.cuda.memory_reserved(where) - torch.cuda.memory_allocated(where)
    return max(1, min(LARGEST_BYTES, int(FREE_SHARE * free / n_threads)))


def pieces(n: int, bytes_each: float, budget: int) -> Iterator[tuple[int, int]]:
    """Cut n items into equal runs ``start, stop`` of at most `budget` bytes, one item at the least."""
    most = max(1, int(min(n, budget / max(bytes_each, 1.0))))
    number = -(-n // most)
    for k in range(number):
        yield k * n // number, (k + 1) * n // number


def triangle_on(device: str, rows: Float[np.ndarray, "rows d"]) -> Float[np.ndarray, "rank d"]:
    """Return R as `kernelpot.linalg.factor.triangle` does, by Householder QR in float64 on a device."""
    import torch

    n, d = rows.shape
    if n == 0:
        return np.zeros((0, d))
    with computing(device):
        there: torch.Tensor = torch.as_tensor(np.ascontiguousarray(rows), device=device, dtype=torch.float64)
        r = torch.linalg.qr(there, mode="r").R
        sign = torch.where(torch.diagonal(r) < 0, -1.0, 1.0)
        result: np.ndarray = (sign[:, None] * r).cpu().numpy()
    if not np.isfinite(result).all():
        raise np.linalg.LinAlgError("QR factorisation gave values that are not finite; are the rows finite?")
    return result
