"""Broken model files, and values to put into headers."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np


def flipped(content: bytes, rng: np.random.Generator, most: int = 8) -> bytes:
    """Flip a few bits."""
    found = bytearray(content)
    for _ in range(int(rng.integers(1, most + 1))):
        found[int(rng.integers(len(found)))] ^= 1 << int(rng.integers(8))
    return bytes(found)


def cut(content: bytes, rng: np.random.Generator) -> bytes:
    """Cut off at a random byte."""
    return content[: int(rng.integers(len(content)))]


def unpacked(content: bytes) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Return kernelpot's header and the arrays of a model file."""
    from safetensors.numpy import load

    size = struct.unpack("<Q", content[:8])[0]
    raw = json.loads(content[8 : 8 + size])
    return json.loads(raw["__metadata__"]["kernelpot"]), load(content)


def packed(header: Any, arrays: Mapping[str, np.ndarray]) -> bytes:
    """Return a model file."""
    from safetensors.numpy import save

    return bytes(
        save({k: np.ascontiguousarray(a) for k, a in arrays.items()}, metadata={"kernelpot": json.dumps(header)})
    )


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield where every value of a header stands."""
    if path:
        yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield from places(item, (*path, key))


def changed(value: Any, path: tuple[Any, ...], new: Any) -> Any:
    """Return a copy of a header with one value replaced."""
    copy = json.loads(json.dumps(value))
    inner = copy
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = new
    return copy


NASTY: tuple[Any, ...] = (
    None, "x", -1, 0, 1e300, 10**12, float("nan"), float("inf"), [], {}, True, [1] * 3, "", 2**63, -1e-300, 100, 118,
)  # fmt: skip


def broken_models(model: bytes, rng: np.random.Generator, headers: int) -> Iterator[tuple[str, str, bytes]]:
    """Yield fault, name and content of broken model files."""
    for k in range(5):
        yield "model cut or flipped", f"cut {k}", cut(model, rng)
        yield "model cut or flipped", f"flipped {k}", flipped(model, rng)
    header, arrays = unpacked(model)
    everywhere = list(places(header))
    for _ in range(headers):
        path, new = everywhere[int(rng.integers(len(everywhere)))], NASTY[int(rng.integers(len(NASTY)))]
        yield "model header", f"{'.'.join(map(str, path))} = {new!r}", packed(changed(header, path, new), arrays)
    sizes = {"cutoff": 100.0, "n_max": 12, "l_max": 12, "species": list(range(1, 119))}
    for name, new in [*sizes.items(), ("cutoff", 1e-3), ("n_max", 10**9), ("l_max", 10**6), ("zeta", 10**9)]:
        huge = header
        for path in everywhere:
            if path[-1] == name:
                huge = changed(huge, path, new)
        yield "model header", f"every {name} = {str(new)[:20]}", packed(huge, arrays)
    huge = header
    for path in everywhere:
        huge = changed(huge, path, sizes[path[-1]]) if path[-1] in sizes else huge
    yield "model header", "cutoff 100, 118 species, n_max 12", packed(huge, arrays)
    for name, array in arrays.items():
        flat = array.reshape(-1)
        bits = np.frombuffer(flipped(flat.tobytes(), rng, 64), dtype=array.dtype).reshape(array.shape)
        floats = array.dtype.kind == "f"
        new_arrays = {
            "bits flipped": bits, "transposed": array.T, "flat": flat, "empty": array[:0], "negative": -array,
            "nan": np.full_like(array, np.nan if floats else -1), "zeros": np.zeros_like(array),
            "1e200": np.full_like(array, 1e200 if floats else 2**62), "float32": array.astype("f4"),
        }  # fmt: skip
        for what, new in new_arrays.items():
            yield "model arrays", f"{name} {what}", packed(header, {**arrays, name: new})
        yield "model arrays", f"{name} absent", packed(header, {k: a for k, a in arrays.items() if k != name})
    yield from raw_models(model)


def raw_models(model: bytes) -> Iterator[tuple[str, str, bytes]]:
    """Yield model files that break the rules of safetensors: sizes, names and places of arrays."""
    size = struct.unpack("<Q", model[:8])[0]
    text, data = model[8 : 8 + size].decode(), model[8 + size :]
    raw = json.loads(text)
    first, second = [name for name in raw if name != "__metadata__"][:2]

    def whole(header: Any) -> bytes:
        content = (header if isinstance(header, str) else json.dumps(header)).encode()
        return struct.pack("<Q", len(content)) + content + data

    one = raw[first]
    again = {name: value for name, value in raw.items() if name != first}
    for name, header in {
        "huge shape": {**raw, first: {**one, "shape": [2**40, 2**40]}},
        "negative shape": {**raw, first: {**one, "shape": [-1]}},
        "huge offsets": {**raw, first: {**one, "data_offsets": [0, 2**60]}},
        "overlapping arrays": {**raw, first: raw[second]},
        "unknown type": {**raw, first: {**one, "dtype": "F1024"}},
        "path as a name": {**again, "../../escaped": one},
        "name twice": text[:-1].rstrip() + f", {json.dumps(first)}: {json.dumps(one)}}}",
        "metadata twice": text[:-1].rstrip() + ', "__metadata__": {"kernelpot": "{}"}}',
        "no metadata": {name: value for name, value in raw.items() if name != "__metadata__"},
        "header of brackets": "[" * 200_000,
        "kernelpot header of brackets": {**raw, "__metadata__": {"kernelpot": "[" * 200_000}},
        "format a list": {**raw, "__metadata__": {"kernelpot": '{"format": [], "version": {}}'}},
    }.items():
        yield "model file", name, whole(header)
    yield "model file", "header size 2^63", struct.pack("<Q", 2**63) + model[8:]
    yield "model file", "header size 0", struct.pack("<Q", 0) + model[8:]
    yield "model file", "more after the end", model + bytes(1000)
