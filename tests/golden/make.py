"""Write golden files: ``python -m tests.golden.make`` writes what is not there yet, and never touches what is.

Every file stands for a format that users may have on their disks. When a format changes, add files under new names;
those that are here must be read for ever, or be refused with the name of a converter.

Written as they were in December 2026, each kind that the package reads back: sparse models, kernel fits to forces,
kernel ridge regressions, Gaussian processes, classifiers, a store of blocks with its space, its rounds and its target,
and the journal of a search. "earlier" files are what earlier versions wrote and this one still reads.

What has no file of its own: `Information` (only in stores), choices, certificates, scores and plans (JSON that is never
read back), spreads of a `ForceRidge` (its factor is never written), `Bootstrap`, `SampledModel`, `Calculator`,
`Alchemy`, `Goal`, `StructureFeatures` and `CompositionFeatures`; the training structures of a `SparseGP`. A GPyTorch
kernel, a kernel of the user's own and a calculator have to be given again.
"""

from __future__ import annotations

import gzip
import inspect
import io
import json
import os
import shutil
import tarfile
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from ase.calculators.emt import EMT
from ase.io import write
from safetensors import safe_open
from safetensors.numpy import save as to_bytes

import kernelpot as kp
from kernelpot.elements import CompositionFeatures, ElementalModes, ElementChannels
from kernelpot.kernels import Linear
from kernelpot.potentials.sparse_gp import LinearModel
from kernelpot.properties import DScribe, SiteKernel, VectorKernel
from tests import potentials
from tests import structures as some
from tests.golden.cases import (
    CHOICES,
    COMPOSITIONS,
    FILES,
    JOURNAL,
    OUTPUTS,
    STORE,
    Volumes,
    answers,
    as_lists,
    chosen,
    curate,
    opened,
    periodic_kernel,
    structures,
    tuned,
    write_space,
)

NOISE = potentials.NOISE
SOAP = potentials.small_soap()
ACSF = potentials.symmetry_functions()
SMALL = kp.ACSF(3.6, [[0.5, 0.0], [2.0, 2.5]], [[0.02, 1, 1]])
RADIAL = inspect.getmodule(type(SOAP.basis))
"""The module of the radial bases."""

X = np.random.default_rng(12).normal(size=(12, 2))
Y = np.sin(X).sum(axis=1)
THREE = np.digitize(X[:, 0], [-0.4, 0.4])
WORDS = np.array(["narrow", "middle", "wide"])[THREE]
PAIRS = {("Cu", "Cu"): (1.0, 3.0), ("Cu", "Au"): (1.0, 3.2), ("Au", "Au"): (1.0, 3.4)}


def crystals() -> list[Any]:
    return structures("training")


def energies() -> np.ndarray:
    return np.array([atoms.get_potential_energy() for atoms in crystals()])


def golden() -> np.ndarray:
    return np.array([bool(np.mean(atoms.numbers == 79) > 0.4) for atoms in crystals()])


def sparse(descriptor: Any = SOAP, kernel: Any = None, n_inducing: int = 5, noise: Any = NOISE, **settings: Any) -> Any:
    return kp.SparseGP(descriptor, kernel, n_inducing=n_inducing, noise=noise, **settings)


def mixed(channels: Any) -> kp.SOAP:
    return replace(SOAP, channels=channels)


def metals() -> list[Any]:
    return structures("metal_training")


def potential_models() -> dict[str, Callable[[], Any]]:
    """Sparse models, by name."""
    channels = ElementChannels
    tables = {
        "identity": channels.identity(),
        "weighted": channels.weighted({"Cu": 2.0}),
        "given": channels.given({"Cu": (1, 0), "Pd": (0.5, 1), "Ag": (0.2, 1), "Au": (0, 1)}),
        "modes": channels.modes(2),
        "elemental": ElementalModes(2),
        "random": channels.random(2, seed=3),
    }
    kernels = {
        "zeta1": kp.DotProduct(1), "zeta2": kp.DotProduct(2), "zeta3": kp.DotProduct(3, 2.0),
        "gaussian": kp.Gaussian(0.5),
    }  # fmt: skip
    bases = {"gto": RADIAL.GTO(), "bessel": RADIAL.SphericalBessel(), "radius": RADIAL.PowerGaussian(4.0)}
    wide = replace(SOAP, n_max=6)
    plain = {
        **{f"kernel-{name}": sparse(SOAP, kernel) for name, kernel in kernels.items()},
        **{f"basis-{name}": sparse(replace(SOAP, basis=basis)) for name, basis in bases.items()},
        "compressed": sparse(replace(wide, scaling=(2.5, 3.0)).compressed(4)),
        "linear": sparse(SMALL, Linear(1.5, normalise=True)),
        "sharp": sparse(replace(SOAP, fade=0.0, species=(29, 79)), inducing="cur", seed=7),
        "acsf": sparse(ACSF, kp.DotProduct(2), inducing="random"),
        "acsf-cosine": sparse(kp.ACSF(3.6, [[0.5, 0.0]], None, [[0.1, 2, 1]], [0.7], cutoff_function="cosine")),
        "sum": sparse(
            [kp.TwoBody(cutoff=3.6, length=1.2), kp.Term(SOAP, kp.DotProduct(2), n_inducing=4), ACSF], n_inducing=8
        ),
        "linear-model": LinearModel([kp.TwoBody(cutoff=3.6, length=2.4), SMALL], amplitude=2.0, noise=NOISE),
        "pairs": kp.SparseGP(kp.TwoBody(cutoff=3.6, length=1.2), n_inducing=1, noise=NOISE),
        "zbl": sparse(baseline=kp.ZBL(pairs=PAIRS)),
        "zbl-plain": sparse(baseline=kp.ZBL()),
        "calculator": sparse(baseline=EMT()),
        "forces": sparse(noise=kp.Noise(None, 0.05)),
        "energies": sparse(noise=kp.Noise(0.002)),
        "no-stress": sparse(noise=kp.Noise(0.002, 0.05)),
        "cv": sparse(noise="cv", n_inducing=4),
        "evidence": sparse(noise="evidence", n_inducing=4),
        "tempered": sparse(noise="tempered", n_inducing=4),
    }
    made: dict[str, Callable[[], Any]] = {name: lambda spec=spec: spec.fit(crystals()) for name, spec in plain.items()}
    for name, table in tables.items():
        made[f"four-{name}"] = lambda table=table: sparse(mixed(table), n_inducing=4).fit(metals())
    made |= {
        "acsf-scaled": lambda: sparse(ACSF.scaled(crystals()), kp.Gaussian(1.5)).fit(crystals()),
        "four-acsf": lambda: sparse(
            potentials.symmetry_functions(channels=channels.modes(2)).scaled(metals()), kp.Gaussian(1.5), 8
        ).fit(metals()),
        "prepared": lambda: sparse().prepare(crystals()[:3]).fit(crystals()),
        "conditioned": lambda: sparse().fit(crystals()[:6]).condition(crystals()[6:]),
        "grown": lambda: sparse().fit(crystals()).add_inducing(structures("new"), 2),
        "calibrated": lambda: sparse().fit(crystals()).calibrate(folds=4),
        "calibrated-floor": lambda: sparse().fit(crystals()).calibrate(folds=4, method="floor"),
        "calibrated-scale": lambda: sparse().fit(crystals()).calibrate(structures("new"), method="scale"),
    }
    return {f"potential-{name}": make for name, make in made.items()}


def force_models() -> dict[str, Callable[[], Any]]:
    """Kernel fits to energies and forces."""
    noise = kp.Noise(0.002, 0.05)
    made = {
        "plain": kp.ForceRidge(SOAP, kp.DotProduct(2), noise=noise, reduction=1e-2),
        "factor": kp.ForceRidge(ACSF, kp.DotProduct(3), noise=noise, reduction=1e-2, keep_factor=True),
        "gaussian": kp.ForceRidge(ACSF, kp.Gaussian(0.5), noise=noise, reduction=0.0),
        "alone": kp.ForceRidge(ACSF, noise=kp.Noise(None, 0.05), reduction=1e-2),
        "sum": kp.ForceRidge([SOAP, ACSF], [kp.DotProduct(2), kp.Gaussian(0.7)], noise=noise, reduction=1e-2),
        "cv": kp.ForceRidge(ACSF, kp.DotProduct(2), noise="cv"),
    }
    few: dict[str, Callable[[], Any]] = {
        f"forces-{name}": lambda spec=spec: spec.fit(crystals()[:4]) for name, spec in made.items()
    }
    return few


def one(descriptor: Any = ACSF, **settings: Any) -> kp.StructureKernel:
    return kp.StructureKernel(descriptor, **settings)


def ridges() -> dict[str, Callable[[], Any]]:
    """Kernel ridge regressions of structures and of features."""
    import dscribe.descriptors as dscribe

    numbers = dscribe.ACSF(r_cut=4.0, species=[29, 79], g2_params=[[1.0, 2.0]])
    whole = dscribe.CoulombMatrix(n_atoms_max=6)
    average = one(kernel=VectorKernel("rbf", length=1.0), combine="average", normalise=True)
    match = kp.StructureKernel(ACSF, kp.Gaussian(0.5), combine="rematch", gamma=0.3, between="all elements")
    of_structures = {
        "plain": kp.KernelRidge(one(SOAP), alpha=1e-4),
        "gaussian": kp.KernelRidge(one(kernel=kp.Gaussian(0.5)), mean="composition", alpha=[1e-4, 1e-2]),
        "named": kp.KernelRidge(one(), alpha=1e-4),
        "average": kp.KernelRidge(average, alpha=1e-4),
        "rematch": kp.KernelRidge(match, alpha=1e-3),
        "sum": kp.KernelRidge(0.3 * one() + match, alpha=1e-3, mean="constant"),
        "product": kp.KernelRidge(one() * average, alpha=1e-4, mean="zero"),
        "inducing": kp.KernelRidge(one(SOAP), n_inducing=4, inducing="fps", alpha=1e-4, seed=2),
        "inducing-sum": kp.KernelRidge(one() + average, n_inducing=4, inducing="kmeans", alpha=1e-4),
        "dscribe": kp.KernelRidge(kp.StructureKernel(DScribe(numbers)), alpha=1e-4),
        "dscribe-whole": kp.KernelRidge(kp.StructureKernel(DScribe(whole), VectorKernel("laplacian"))),
    }
    kinds = ("rbf", "laplacian", "exponential", "matern32", "matern52", "linear", "polynomial")
    of_rows = {
        **{kind: kp.KernelRidge(kind, alpha=1e-3) for kind in kinds},
        "lengths": kp.KernelRidge(VectorKernel("polynomial", length=[1.0, 2.0], degree=2), alpha=1e-3),
        "sum": kp.KernelRidge(0.5 * VectorKernel("rbf") + VectorKernel("linear"), alpha=1e-3),
        "inducing": kp.KernelRidge("rbf", n_inducing=5, alpha=1e-3),
    }
    made: dict[str, Callable[[], Any]] = {
        f"ridge-{name}": lambda spec=spec: spec.fit(crystals(), energies()) for name, spec in of_structures.items()
    }
    made |= {f"ridge-features-{name}": lambda spec=spec: spec.fit(X, Y) for name, spec in of_rows.items()}
    kernel = VectorKernel(length=1.0).matrix(X)
    made["ridge-features-outputs"] = lambda: kp.KernelRidge("rbf", alpha=1e-3).fit(X, np.stack([Y, Y**2], axis=1))
    made["ridge-features-weights"] = lambda: kp.KernelRidge("rbf", alpha=1e-3).fit(X, Y, np.arange(12))
    made["ridge-precomputed"] = lambda: kp.KernelRidge("precomputed", alpha=1e-3).fit(kernel, Y)
    made["ridge-precomputed-inducing"] = lambda: kp.KernelRidge("precomputed", n_inducing=5, alpha=1e-3).fit(kernel, Y)
    return made


def sites() -> np.ndarray:
    return CompositionFeatures(("a", "b", "c"), ElementalModes(2)).fit_transform(COMPOSITIONS)


def processes() -> dict[str, Callable[[], Any]]:
    """Gaussian processes."""
    quick = {"search": {"starts": 1, "n_warm": 12, "full_steps": 2}}
    kinds = ("rbf", "matern12", "matern32", "matern52", "rq", "linear", "rbf + linear")
    of_rows = {kind.replace(" + ", "-and-"): kp.GP(kind, **quick) for kind in kinds}
    of_rows |= {
        "one-length": kp.GP("rbf", ard=False, normalise=False, noise=0.1, mean="zero", **quick),
        "inducing": kp.GP("rbf", n_inducing=5, **quick),
        "cg": kp.GP("rbf", solver="cg", search=False),
    }
    two = kp.StructureKernel(ACSF, kp.Gaussian(0.5), combine="average")
    of_structures = {
        "plain": kp.GP(one(), **quick),
        "several": kp.GP([one(), two], noise=0.01, **quick),
        "sum": kp.GP(one() + 0.5 * two, mean="constant", **quick),
        "inducing": kp.GP(one(), n_inducing=4, **quick),
        "given-structures": kp.GP(Volumes(), mean="composition", **quick),
    }
    symmetric = SiteKernel(3, symmetric=((0, 1),))
    made: dict[str, Callable[[], Any]] = {
        f"gp-features-{name}": lambda spec=spec: spec.fit(X, Y) for name, spec in of_rows.items()
    }
    made |= {f"gp-{name}": lambda spec=spec: spec.fit(crystals(), energies()) for name, spec in of_structures.items()}
    kernel, pair = one(), one(SMALL) + 0.5 * two
    made["gp-encoded"] = lambda: kp.GP(kernel, **quick).fit(kernel.encode(crystals()), energies())
    made["gp-encoded-inducing"] = lambda: kp.GP(2 * kernel, n_inducing=4, **quick).fit(
        (2 * kernel).encode(crystals()), energies()
    )
    made["gp-encoded-pair"] = lambda: kp.GP(pair, **quick).fit(pair.encode(crystals()), energies())
    made["gp-features-outputs"] = lambda: kp.GP("rbf", **quick).fit(X, np.stack([Y, Y**2], axis=1))
    made["gp-given"] = lambda: kp.GP(periodic_kernel(), search=False).fit(X, Y)
    made["gp-site"] = lambda: kp.GP(symmetric, noise=0.1, **quick).fit(sites(), np.arange(5.0))
    return made


def classifiers() -> dict[str, Callable[[], Any]]:
    """Classifiers of two and of more classes, of every type."""
    classes = {
        "text": WORDS, "objects": WORDS.astype(object), "whole": THREE.astype(np.int32) - 1,
        "floating": 2.0 * THREE, "two": THREE > 0,
    }  # fmt: skip
    quick = {"search": {"starts": 1}}
    made: dict[str, Callable[[], Any]] = {
        f"classifier-features-{name}": lambda y=y: kp.Classifier("rbf + linear", reject=0.8, **quick).fit(X, y)
        for name, y in classes.items()
    }
    pair = 0.3 * one() + one(combine="average")
    structured = {"plain": one(combine="average"), "pair": pair, "several": [one(), one(combine="average")]}
    for name, kernel in structured.items():
        spec = kp.Classifier(kernel, mean="composition", search={"starts": 1})
        made[f"classifier-{name}"] = lambda spec=spec: spec.fit(crystals(), golden())
    kernel = one()
    made["classifier-encoded"] = lambda: kp.Classifier(kernel, **quick).fit(kernel.encode(crystals()), golden())
    made["classifier-encoded-pair"] = lambda: kp.Classifier(pair, **quick).fit(pair.encode(crystals()), golden())
    made["classifier-given"] = lambda: kp.Classifier(periodic_kernel(), search=False).fit(X, WORDS)
    spec = kp.Classifier(SiteKernel(3, 2), **quick)
    made["classifier-site"] = lambda: spec.fit(sites(), [0, 1, 1, 0, 1])
    return made


def spaces() -> dict[str, Callable[[], Any]]:
    """Models without labels."""
    channels = ElementChannels.modes(2)
    return {
        "space-plain": lambda: sparse(seed=3).prepare(crystals()),
        "space-sum": lambda: sparse([kp.TwoBody(3.6, length=1.2), SOAP]).prepare(crystals()),
        "space-acsf": lambda: sparse(ACSF.scaled(crystals()), kp.Gaussian(1.5)).prepare(crystals()),
        "space-four": lambda: sparse(mixed(channels), n_inducing=8).prepare(metals()),
        "space-linear": lambda: LinearModel(ACSF, noise=NOISE).prepare(crystals()),
        "space-fitted": lambda: sparse(noise="cv", n_inducing=4).fit(crystals()),
    }


# ---- what earlier versions wrote


def changed(source: str, target: str, change: Callable[[dict[str, Any], dict[str, np.ndarray]], None]) -> None:
    """Write a file again with other contents."""
    with safe_open(str(FILES / f"{source}.kp"), framework="numpy") as file:
        header = json.loads(file.metadata()["kernelpot"])
        arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    change(header, arrays)
    content = to_bytes(arrays, metadata={"kernelpot": json.dumps(header)})
    (FILES / f"{target}.kp").write_bytes(content)


def without_record(header: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
    """Drop the record of training environments."""
    header["fit"].pop("seen_noise")
    arrays.pop("seen_factor")
    arrays.pop("seen_reference")


def without_automatic(header: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
    """Drop what came with "auto" and with names of properties."""
    header["model"]["baseline"] = header["fit"].pop("baseline")
    header["fit"].pop("label")


def with_structures(header: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
    """Keep structures in the place of what the kernel makes of them."""
    header.pop("items")
    for name in [name for name in arrays if name.startswith("items_")]:
        arrays.pop(name)
    items = crystals()
    arrays |= {
        "numbers": np.concatenate([atoms.numbers for atoms in items]).astype(np.int64),
        "positions": np.concatenate([atoms.positions for atoms in items]),
        "counts": np.array([len(atoms) for atoms in items], dtype=np.int64),
        "cells": np.array([atoms.cell.array for atoms in items]),
        "periodic": np.array([atoms.pbc for atoms in items], dtype=np.uint8),
    }


EARLIER = {
    "potential-earlier": ("potential-kernel-zeta2", without_record),
    "ridge-earlier": ("ridge-gaussian", without_automatic),
    "gp-earlier": ("gp-encoded", with_structures),
    "classifier-earlier": ("classifier-encoded", with_structures),
}


# ---- stores and searches


def data() -> None:
    """Write the structures that everything else is made from."""
    sets = {
        "training": [*some.copper_gold_set(8)],
        "new": some.labelled([some.copper_gold(901), some.copper_gold(902), some.slab(3)]),
        "metal_training": some.labelled([some.four_metals(k) for k in range(6)]),
        "metals": some.labelled([some.four_metals(901)]),
        "pool": [some.copper_gold(500 + k) for k in range(10)],
    }
    sets["new"][-1].info.clear()
    sets["pool"][4].positions[1] = sets["pool"][4].positions[0]
    for name, items in sets.items():
        if not (FILES / f"{name}.xyz").exists():
            write(FILES / f"{name}.xyz", items, format="extxyz")


def store() -> dict[str, Any]:
    """Write a store in several chunks, with what a choice leaves in it, into one archive."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place).resolve()
        pool = folder / "pool.xyz"
        shutil.copyfile(FILES / "pool.xyz", pool)
        os.utime(pool, ns=(10**18, 10**18))
        found = {name: chosen(curate(folder, *more)[0]) for name, more in CHOICES.items()}
        manifest = folder / "store" / "manifest.json"
        content = json.loads(manifest.read_text(encoding="utf-8"))
        content["settings"]["source"][0]["path"] = "pool.xyz"
        manifest.write_text(json.dumps(content), encoding="utf-8")
        packed = io.BytesIO()
        with tarfile.open(fileobj=packed, mode="w") as archive:
            for path in sorted(folder.glob("store/**/*")):
                if path.is_file():
                    entry = tarfile.TarInfo(str(path.relative_to(folder)))
                    entry.size = path.stat().st_size
                    archive.addfile(entry, io.BytesIO(path.read_bytes()))
        (FILES / STORE).write_bytes(gzip.compress(packed.getvalue(), mtime=0))
    return found


def journal() -> dict[str, Any]:
    """Write the journal of a short search."""
    result = tuned(FILES / JOURNAL)
    return {"best": result.best_settings, "losses": [trial.loss for trial in result.table]}


def keep(model: Any, name: str) -> None:
    """Write what was made."""
    if name.startswith("space"):
        write_space(model, FILES / f"{name}.safetensors")
    elif "named" in name:
        model.save(FILES / f"{name}.kp", label="cohesion")
    else:
        model.save(FILES / f"{name}.kp")


def main() -> None:
    """Write what is missing, with what it answers."""
    FILES.mkdir(exist_ok=True)
    data()
    outputs = json.loads(OUTPUTS.read_text(encoding="utf-8")) if OUTPUTS.exists() else {}
    made = potential_models() | force_models() | ridges() | processes() | classifiers() | spaces()
    for name, make in made.items():
        if name not in outputs:
            keep(make(), name)
            outputs[name] = as_lists(answers(opened(name), name))
    for name, (source, change) in EARLIER.items():
        if name not in outputs:
            changed(source, name, change)
            outputs[name] = as_lists(answers(opened(name), name))
    for name, write_it in {"store": store, "journal": journal}.items():
        if name not in outputs:
            outputs[name] = write_it()
    lines = ",\n".join(f"{json.dumps(name)}: {json.dumps(outputs[name])}" for name in sorted(outputs))
    OUTPUTS.write_text(f"{{\n{lines}\n}}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
