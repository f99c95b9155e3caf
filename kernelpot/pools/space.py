"""A prepared feature space in a file, so that every worker and every later run works in the same one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from kernelpot.archive import DAMAGE, read_archive, write_archive
from kernelpot.errors import ModelFileError, ParameterError, StoreError
from kernelpot.features.feature_map import FeatureMap
from kernelpot.linalg.store import digest
from kernelpot.potentials.sparse_gp import SparseGP
from kernelpot.record import record_of

FORMAT, VERSION = "kernelpot-space", 2


def settings_of(space: SparseGP) -> dict[str, Any]:
    """Return what fixes the rows of a prepared model, arrays apart, as JSON values."""
    features = features_of(space)
    _, noise, amplitude = space.plan()
    return {
        "features": features.settings(),
        "terms": [term.settings() for term in space.terms],
        "amplitude": float(amplitude),
        "noise": noise.settings(),
        "n_inducing": int(space.n_inducing),
        "seed": int(space.seed),
        "inducing": space.inducing,
        "tolerance": float(space.tolerance),
    }


def fingerprint(space: SparseGP) -> str:
    """Return a checksum of everything that decides the rows of a prepared model."""
    features = features_of(space)
    return digest(settings_of(space), *features.arrays().values())


def save_space(space: SparseGP, path: str | Path) -> None:
    """Write a prepared model without labels: safetensors with a JSON header; it holds no code.

    Parameters
    ----------
    space
        Made by `SparseGP.prepare`, or fitted: then with the noises and the amplitude of the fit.
    path
        The file to write, whole or not at all.

    Raises
    ------
    NotFittedError, ParameterError
        As `settings_of`.
    ModelFileError
        The file cannot be written.
    """
    write_archive(path, FORMAT, VERSION, {"model": settings_of(space)}, features_of(space).arrays())


def load_space(path: str | Path) -> SparseGP:
    """Read a prepared model that `save_space` wrote; nothing in the file is ever run as code.

    Raises
    ------
    StoreError
        There is no such file, or it is damaged, foreign, or of another version.
    """
    if not Path(path).is_file():
        raise StoreError(f"{path}: there is no such file; write_blocks makes it beside the blocks")
    try:
        archive = read_archive(path)
        archive.require(FORMAT, VERSION)
        settings = archive.header["model"]
        space = SparseGP.from_settings(settings)
        space.terms = (space.terms[0].with_amplitude(settings["amplitude"]), *space.terms[1:])
        space.features_ = record_of("feature map", settings["features"], archive.arrays)
        return space
    except (*DAMAGE, ModelFileError) as error:
        raise StoreError(
            f"{path}: the feature space is damaged or was altered ({type(error).__name__}: {error}); "
            "remove the folder and write it again"
        ) from None


def features_of(space: SparseGP) -> FeatureMap:
    """Return the feature map of a prepared model, or refuse it."""
    if not isinstance(space, SparseGP):
        raise ParameterError(f"`space` must be a prepared SparseGP, got a {type(space).__name__}")
    return space.plan()[0]
