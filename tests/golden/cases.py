"""What the golden files are asked for, and how each of them is opened."""

from __future__ import annotations

import io
import json
import os
import tarfile
from collections.abc import Mapping
from contextlib import redirect_stderr, redirect_stdout
from functools import cache
from pathlib import Path
from typing import Any

import gpytorch
import numpy as np
from ase import Atoms
from ase.calculators.emt import EMT
from ase.io import read

import kernelpot as kp
from kernelpot.elements import CompositionFeatures, ElementalModes
from kernelpot.properties import VectorKernel

HERE = Path(__file__).parent
FILES = HERE / "files"
OUTPUTS = HERE / "outputs.json"
RNG = np.random.default_rng(11)
ROWS = RNG.normal(size=(5, 2))
"""Features that models of rows are asked about."""

COMPOSITIONS = [("Ag", "Nb", "La"), ("Ba", "Ti", "Sr"), ("K", "Ta", "Na"), ("Na", "Sn", "Ca"), ("Ba", "Zr", "K")]
STORE = "store.tar.gz"
JOURNAL = "trials.jsonl"
CURATE = ["-n", "4", "--chunk", "4", "--sample", "6", "--cutoff", "3.6", "--n-max", "4", "--l-max", "2", "--sigma",
          "0.6", "--n-inducing", "6", "--workers", "0"]  # fmt: skip

CHOICES = {
    "balanced": (),
    "known": ("--existing", FILES / "training.xyz", "--criterion", "D"),
    "stochastic": ("--method", "stochastic", "--criterion", "IV"),
}


def periodic_kernel() -> gpytorch.kernels.Kernel:
    """Make a kernel that no file can make."""
    return gpytorch.kernels.ScaleKernel(gpytorch.kernels.PeriodicKernel())


class Volumes:
    """A kernel between structures of the user's own, whose items are the structures themselves."""

    definite = True

    def encode(self, structures: Any) -> list[Atoms]:
        return list(structures)

    def matrix(self, a: Any, b: Any = None) -> np.ndarray:
        x, y = (np.array([atoms.get_volume() / 60.0 for atoms in items]) for items in (a, a if b is None else b))
        return np.exp(-0.5 * (x[:, None] - y) ** 2)

    def diagonal(self, a: Any) -> np.ndarray:
        return np.ones(len(a))

    def settings(self) -> dict[str, Any]:
        return {"name": "Volumes"}


GIVEN: dict[str, Any] = {
    "potential-calculator": lambda: {"baseline": EMT()},
    "gp-given": lambda: {"kernel": periodic_kernel()},
    "gp-given-structures": lambda: {"kernel": Volumes()},
    "classifier-given": lambda: {"kernel": periodic_kernel()},
}
"""What files cannot hold and `load` has to be given, by the name of the file."""


@cache
def structures(name: str) -> list[Atoms]:
    """Read structures with labels that were set aside."""
    return read(FILES / f"{name}.xyz", ":")


def new_items(name: str) -> Any:
    """Return what a model is asked about, by the name of its file."""
    if "features" in name or name in ("gp-given", "classifier-given"):
        return ROWS
    if "site" in name:
        return CompositionFeatures(("a", "b", "c"), ElementalModes(2)).fit_transform(COMPOSITIONS)
    if "precomputed" in name:
        return VectorKernel(length=1.0).matrix(ROWS, np.random.default_rng(12).normal(size=(12, 2)))
    return structures("metals" if "four" in name else "new")


def answers(model: Any, name: str) -> dict[str, np.ndarray]:
    """Return everything that a loaded model is compared by."""
    items = new_items(name)
    if name.startswith("space"):
        return space(model, items)
    if name.startswith(("potential", "forces")):
        return potential(model, items)
    if name.startswith("classifier"):
        found = {
            "probabilities": model.predict_proba(items), "answer": model.predict(items), "classes": model.classes_,
            "log_marginal": model.log_marginal_likelihood_,
        }  # fmt: skip
        return {k: np.asarray(v) for k, v in found.items()}
    found = {"mean": model.predict(items)}
    if "precomputed" not in name:
        found["std"] = model.std(items)
    if "named" in name:
        found["label"] = model.label_
    if name.startswith("ridge"):
        found |= {"leave_one_out": model.left_out().error, "alpha": model.alpha_, "jitter": model.jitter_}
    else:
        found |= {"latent": model.latent_std(items), "noise": model.noise_}
        found["log_marginal"] = model.log_marginal_likelihood_
    return {k: np.asarray(v) for k, v in found.items()}


def potential(model: Any, items: list[Atoms]) -> dict[str, np.ndarray]:
    """Return what a potential says of structures."""
    said = model.predict(items)
    found = {"energy": said.energy, "forces": np.concatenate(said.forces), "stress": said.stress,
             "local": np.concatenate(said.local_energy)}  # fmt: skip
    if said.label is None:
        return found | {"n_components": np.concatenate(model.n_components_)}
    found |= {
        "energy_std": said.energy_std, "forces_std": np.concatenate(said.forces_std), "stress_std": said.stress_std,
        "local_std": np.concatenate(said.local_energy_std), "latent_energy_std": said.latent.energy_std,
        "energy_interval": np.array(said.interval("energy", 0.9)),
        "forces_interval": np.array([np.concatenate(ends) for ends in said.interval("forces", 0.6)]),
    }  # fmt: skip
    if said.extrapolation is not None:
        found["extrapolation"] = np.concatenate(said.extrapolation)
    return found | {"amplitudes": np.array(model.amplitudes_)}


def space(model: Any, items: list[Atoms]) -> dict[str, np.ndarray]:
    """Return the information of structures along some directions; the rows themselves may be turned."""
    info = model.information(items, truncate=0.0)
    directions = np.random.default_rng(13).normal(size=(info.d, 4))
    sizes = [np.square(info.block(s) @ directions).sum(axis=0) for s in range(len(info))]
    return {"sizes": np.array(sizes), "counts": info.counts, "means": info.means.sum(axis=1)}


def write_space(model: Any, path: Path) -> None:
    """Write a prepared model without labels."""
    from kernelpot.pools import save_space

    save_space(model, path)


def opened(name: str) -> Any:
    """Load a model or a prepared space."""
    if name.startswith("space"):
        from kernelpot.pools import load_space

        return load_space(FILES / f"{name}.safetensors")
    return kp.load(FILES / f"{name}.kp", **GIVEN.get(name, dict)())


# ---- stores and searches


def run(*arguments: object) -> tuple[int, str, str]:
    """Run the command line in this process; return status and both outputs."""
    from kernelpot.cli import main

    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        status = main([str(one) for one in arguments])
    return status, out.getvalue(), err.getvalue()


def curate(folder: Path, *more: object) -> tuple[dict[str, Any], str]:
    """Choose from the store in a folder; return what was found and what was said."""
    pool = folder / "pool.xyz"
    status, out, err = run("curate", pool, "--blocks", folder / "store", "--json", "-", *CURATE, *more)
    assert status == 0, err
    return json.loads(out), err


def chosen(found: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a choice from the store is compared by."""
    aside = [one["index"] for one in found["set_aside"]]
    return {"indices": found["indices"], "curve": found["curve"], "set_aside": aside}


def unpacked(folder: Path) -> None:
    """Put the store into a folder with the pool it was made of, which it knows by its path and its time."""
    with tarfile.open(FILES / STORE) as archive:
        archive.extractall(folder, filter="data")
    pool, manifest = folder / "pool.xyz", folder / "store" / "manifest.json"
    pool.write_bytes((FILES / "pool.xyz").read_bytes())
    os.utime(pool, ns=(10**18, 10**18))
    content = json.loads(manifest.read_text(encoding="utf-8"))
    content["settings"]["source"][0]["path"] = str(pool.resolve())
    manifest.write_text(json.dumps(content), encoding="utf-8")


def tuned(path: Path) -> Any:
    """Search as the journal did."""
    space = {"cutoff": [3.6], "n_max": [4], "l_max": [2], "sigma": [0.6], "zeta": [1, 2]}
    return kp.tune(structures("training"), space=space, max_fits=4, n_inducing=6, max_inducing=6, n_folds=3,
                   resume=path)  # fmt: skip


def as_lists(found: Mapping[str, Any], digits: int = 12) -> dict[str, Any]:
    """Return arrays as JSON values, rounded; what is not finite becomes None."""
    return {name: _rounded(np.asarray(value).tolist(), digits) for name, value in found.items()}


def _rounded(value: Any, digits: int) -> Any:
    if isinstance(value, list):
        return [_rounded(part, digits) for part in value]
    if not isinstance(value, float):
        return value
    return float(f"{value:.{digits}g}") if np.isfinite(value) else None
