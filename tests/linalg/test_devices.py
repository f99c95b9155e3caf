"""Names of devices, memory, and factorisation by PyTorch."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from threadpoolctl import threadpool_info

from kernelpot.errors import ParameterError
from kernelpot.linalg import devices
from kernelpot.linalg.factor import RowSink, triangle
from tests.devices import DEVICES


@pytest.mark.parametrize("device", ["gpu", "cuda:", "cuda:x", "mps", "", 0, "CPU"])
def test_unknown_devices_are_named(device):
    with pytest.raises(ParameterError, match=r'`device` must be None .* "cuda" or "cuda:0", got'):
        devices.check_device(device)


def test_a_gpu_that_is_not_there_is_an_error(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ParameterError, match=r"device='cuda': PyTorch .* finds no CUDA device on this machine"):
        devices.check_device("cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    devices.check_device("cuda:1")
    with pytest.raises(ParameterError, match=r"finds 2 CUDA device\(s\)"):
        devices.check_device("cuda:2")


@pytest.mark.parametrize(("device", "precision"), [("cpu", "single"), (None, "mixed"), ("cpu", "")])
def test_unknown_precisions_are_named(device, precision):
    with pytest.raises(ParameterError, match="`precision` must be"):
        devices.check_device(device, precision)


def test_working_memory_follows_what_a_gpu_has_free(monkeypatch):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda where: (2_000_000_000, 8_000_000_000))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda where: 1_500_000_000)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda where: 500_000_000)
    assert devices.working_bytes("cuda:0") == int(devices.FREE_SHARE * 3_000_000_000)
    assert devices.working_bytes("cuda:0", 4) == int(devices.FREE_SHARE * 750_000_000)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda where: (10**12, 10**12))
    assert devices.working_bytes("cuda") == devices.LARGEST_BYTES
    assert devices.working_bytes("cpu", 8) == devices.CPU_BYTES


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="PyTorch finds no CUDA device on this machine")
def test_working_memory_of_a_real_gpu():
    assert 0 < devices.working_bytes("cuda") <= torch.cuda.get_device_properties(0).total_memory


@given(st.integers(0, 200), st.floats(0.0, 50.0), st.integers(1, 300))
def test_pieces_cover_everything_once_within_the_budget(n, bytes_each, budget):
    found = list(devices.pieces(n, bytes_each, budget))
    assert [k for a, b in found for k in range(a, b)] == list(range(n))
    assert all(b - a == 1 or (b - a) * bytes_each <= budget for a, b in found)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("shape", [(0, 4), (3, 5), (5, 5), (40, 6)])
def test_triangles_are_those_of_lapack(shape, device):
    rows = np.random.default_rng(0).normal(size=shape)
    before = rows.copy()
    found, expected = devices.triangle_on(device, rows), triangle(rows)
    np.testing.assert_array_equal(rows, before)
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, atol=1e-13)
    np.testing.assert_allclose(found.T @ found, rows.T @ rows, atol=1e-12)


@pytest.mark.parametrize("device", DEVICES)
def test_a_sink_may_factorise_on_a_device(device):
    rows = np.random.default_rng(1).normal(size=(60, 5))
    sink = RowSink(5, 7, device)
    for part in np.array_split(rows, 9):
        sink.append(part)
    np.testing.assert_allclose(sink.compact(), triangle(rows), atol=1e-12)


def test_rows_that_are_not_finite_are_refused():
    with pytest.raises((np.linalg.LinAlgError, torch.linalg.LinAlgError)):
        devices.triangle_on("cpu", np.full((4, 2), np.nan))


def test_threads_of_pytorch_come_back_and_gradients_are_off_meanwhile():
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        with devices.computing("cpu"):
            assert torch.get_num_threads() == 1
            assert not torch.is_grad_enabled()
            with devices.computing("cpu"):
                assert torch.get_num_threads() == 1
        assert torch.get_num_threads() == 3
        assert torch.is_grad_enabled()
    finally:
        torch.set_num_threads(before)


def test_small_matrices_keep_to_one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with devices.calm(10):
            assert torch.get_num_threads() == 1
            assert {pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"} == {1}
        assert torch.get_num_threads() == 2
        with devices.calm(100_000):
            assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
