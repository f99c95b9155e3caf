"""The command `regress`, with what `evaluate` and `predict` do for models of one property."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

import kernelpot as kp
from kernelpot.cli.options import Command, Evaluate, Predict, Regress
from kernelpot.cli.printing import (
    cells_of,
    check_outputs,
    facts_of,
    read,
    shortened,
    show,
    source_of,
    table,
    write_json,
    write_structures,
)
from kernelpot.errors import DataError, LabelError, ParameterError, SpeciesError
from kernelpot.progress import track

if TYPE_CHECKING:
    from ase import Atoms
    from jaxtyping import Float

    from kernelpot.properties.classifier import Classifier
    from kernelpot.properties.ridge import KernelRidge

ALPHAS = tuple(10.0**k for k in range(-8, -1))
"""Where the user gives none: in units of a structure's mean k(x, x), the best by left-out errors is taken."""
CHUNK = 200
"""Structures predicted at a time, so that the progress bar moves."""


def regress(options: Regress) -> None:
    """Fit a kernel ridge regression to one property, save it, and score it where test files are given."""
    check_outputs({"--out": options.out, "--json": options.json}, [*options.train, *options.test])
    options.model.check()
    train = _read(options, options.train, options.property)
    test = _read(options, options.test, options.property) if options.test else []
    y, y_test = (_values(s, options.property, "name the property with --property") for s in (train, test))
    if len(train) < 2:
        raise DataError(f"{source_of(train[0], 0)}: a fit needs at least two structures, found one; give more")
    _check_elements(train, test)
    baseline = options.baseline or "auto"
    kernel = kp.StructureKernel(
        options.model.describing(),
        options.model.comparing(),
        combine=options.combine,
        normalise=options.combine != "sum",
    ).prepared(train)
    encoded = kernel.encode(train)
    tried = [alpha * float(np.mean(kernel.diagonal(encoded))) for alpha in ALPHAS]
    model = kp.KernelRidge(
        kernel,
        alpha=options.alpha or tried,
        mean={"none": "zero", "mean": "constant"}.get(baseline, baseline),
        n_inducing=options.model.n_inducing,
        seed=options.model.seed,
    )
    model.fit(encoded, y)
    at_end = options.alpha is None and model.alpha_ == tried[-1]
    model.save(options.out, label=options.property)
    kind, said = model.mean_.trend.kind, {"zero": "none", "constant": "mean"}
    left_out = _summary(model.left_out().error, None)
    content: dict[str, Any] = {
        "model": options.out,
        "property": options.property,
        "train": options.train,
        "alpha": model.alpha_,
        "left_out": left_out,
        "test": None,
    }
    show(
        f"{options.property} of {len(train)} structures: kernel ridge regression, {options.combine} of environment "
        f"kernels, baseline {said.get(kind, kind)}, regularisation alpha {model.alpha_:.3g}"
        f"{', the largest tried: see whether a larger --alpha is better' if at_end else ''}\n\n"
        f"{_scores('left out one by one', left_out)}",
        options.json,
    )
    if test:
        predicted, std = _predicted(model, test)
        content["test"] = _summary(predicted - y_test, std)
        show(f"\n{_scores(f'test, {len(test)} structures', content['test'])}", options.json)
    show(f"\nwrote {options.out}", options.json)
    write_json(options.json, content)


def _check_elements(train: Sequence[Atoms], test: Sequence[Atoms]) -> None:
    """Refuse test structures with elements that training lacks, before anything is fitted."""
    known = {symbol for atoms in train for symbol in atoms.symbols}
    foreign = [k for k, atoms in enumerate(test) if not known.issuperset(atoms.symbols)]
    if foreign:
        first = test[foreign[0]]
        symbols = ", ".join(sorted(set(first.symbols) - known))
        raise SpeciesError(
            f"{source_of(first, foreign[0])}: {symbols} stands in no training structure, and so in {len(foreign)} of "
            f"{len(test)} test structures; train with such structures, or leave these out of the test"
        )


def evaluate_property(options: Evaluate, model: KernelRidge) -> None:
    """Score a model of one property on labelled structures."""
    name = _label(options.model, model)
    structures = _read(options, options.files, name)
    values = _values(structures, name, "the model was fitted to this property")
    predicted, std = _predicted(model, structures)
    scores = _summary(predicted - values, std)
    show(f"{options.model} on {len(structures)} structures\n{_scores(name, scores)}", options.json)
    write_json(options.json, {"model": options.model, "property": name, "files": options.files, "scores": scores})


def predict_property(options: Predict, model: KernelRidge) -> None:
    """Write structures with a predicted property and its standard deviation."""
    name = _label(options.model, model)
    structures = _read(options, options.files, name)
    values, stds = (found.tolist() for found in _predicted(model, structures))
    infos = [{f"{name}_predicted": value, f"{name}_std": std} for value, std in zip(values, stds, strict=True)]
    found = [{"value": value, "std": std} for value, std in zip(values, stds, strict=True)]
    _write(options, structures, infos, {name: values, "std": stds}, {"property": name}, found)


def predict_classes(options: Predict, model: Classifier) -> None:
    """Write structures with their most probable class, its posterior probability, and whether the model refuses it."""
    name, least = _name(options.model, model), model.reject
    structures = _read(options, options.files, name)
    probabilities = np.concatenate([model.predict_proba(part) for part in _parts(structures)])
    classes, largest = model.classes_of(probabilities).tolist(), probabilities.max(axis=1).tolist()
    refused = [least is not None and probability < least for probability in largest]
    found = [
        {"class": label, "probability": probability, "refused": no}
        for label, probability, no in zip(classes, largest, refused, strict=True)
    ]
    infos = [
        {f"{name}_predicted": _kept(one["class"]), f"{name}_probability": one["probability"]}
        | ({} if least is None else {f"{name}_refused": one["refused"]})
        for one in found
    ]
    said = "" if least is None else f"{sum(refused)} refused: probability below {least:g}\n"
    columns = {name: classes, "probability": largest, "": ["refused" if no else "" for no in refused]}
    _write(options, structures, infos, columns, {"property": name, "reject": least}, found, said)


def _write(
    options: Predict,
    structures: Sequence[Atoms],
    infos: Sequence[dict[str, Any]],
    columns: Mapping[str, Sequence[object]],
    facts: Mapping[str, Any],
    found: Sequence[dict[str, Any]],
    said: str = "",
) -> None:
    """Write structures with what was predicted of each, show it as columns of a table, and write it as JSON."""
    copies = []
    for atoms, info in zip(structures, infos, strict=True):
        copy = atoms.copy()
        copy.calc = None
        copy.info |= info | {"predicted_by": "kernelpot"}
        copies.append(copy)
    write_structures(options.out, copies)
    rows = [
        (k, *cells_of(atoms, k), *row)
        for k, (atoms, row) in enumerate(zip(structures, zip(*columns.values(), strict=True), strict=True))
    ]
    table = shortened(("#", "source", "formula", "atoms", *columns), rows)
    show(f"{table}\n\n{said}wrote {options.out}", options.json)
    named = [facts_of(atoms, k) | one for k, (atoms, one) in enumerate(zip(structures, found, strict=True))]
    write_json(options.json, {"model": options.model, **facts, "out": options.out, "structures": named})


def _kept(value: Any) -> Any:
    """Return a class as extended XYZ keeps it: text that would come back as something else, "" or "17", as JSON."""
    from ase.io.extxyz import key_val_dict_to_str, key_val_str_to_dict

    if not isinstance(value, str):
        return value
    # Empty text would take the place of what stands behind it.
    again = key_val_str_to_dict(key_val_dict_to_str({"class": value, "next": 1}))
    same = isinstance(again.get("class"), str) and again["class"] == value and value.splitlines() == [value]
    # ASE takes one backslash off when it reads.
    return value if same else "_JSON " + json.dumps(value).replace("\\", "\\\\")


def _read(options: Command, files: Sequence[str], name: str) -> list[Atoms]:
    # Energies and forces that may stand beside the property are of no interest, and need not be whole.
    ignored = {kind: None for kind in ("energy", "forces", "stress") if kind != name}
    return read(options, files, keys=ignored, verbose=False)


def _values(structures: Sequence[Atoms], name: str, hint: str) -> Float[np.ndarray, " n"]:
    """Return the property of every structure; `hint` says where its name comes from.

    Raises
    ------
    LabelError
        A structure has none, or it is no finite number.
    """
    found = np.empty(len(structures))
    for k, atoms in enumerate(structures):
        results = {} if atoms.calc is None else atoms.calc.results
        value = atoms.info.get(name, results.get(name))
        if value is None:
            there = ", ".join(sorted({*map(str, atoms.info), *results} - {"kernelpot_source"})) or "nothing"
            raise LabelError(f"{source_of(atoms, k)}: no `{name}`, found {there}; {hint}")
        if isinstance(value, bool) or np.ndim(value) or not np.issubdtype(np.asarray(value).dtype, np.number):
            raise LabelError(f"{source_of(atoms, k)}: `{name}` must be one number, found {value!r}")
        if not np.isfinite(value):
            raise LabelError(f"{source_of(atoms, k)}: `{name}` must be finite, found {value!r}; mend or remove it")
        found[k] = value
    return found


def _name(path: str, model: KernelRidge | Classifier) -> str:
    if model.label_ is None:
        raise ParameterError(f"{path}: the file does not name its property; save with model.save(path, label=…)")
    return model.label_


def _label(path: str, model: KernelRidge) -> str:
    name = _name(path, model)
    if not model.single:
        raise ParameterError(f"{path}: the model has several properties, which is for Python alone")
    return name


def _predicted(
    model: KernelRidge, structures: Sequence[Atoms]
) -> tuple[Float[np.ndarray, " n"], Float[np.ndarray, " n"]]:
    """Return a property and its standard deviation."""
    encoded = [model.kernel_.encode(part) for part in _parts(structures)]
    return np.concatenate([model.predict(e) for e in encoded]), np.concatenate([model.std(e) for e in encoded])


def _parts(structures: Sequence[Atoms]) -> list[Sequence[Atoms]]:
    """Cut structures into parts under a progress bar."""
    return [structures[start : start + CHUNK] for start in track(range(0, len(structures), CHUNK), "predicting")]


def _summary(errors: Float[np.ndarray, " n"], std: Float[np.ndarray, " n"] | None) -> dict[str, float]:
    """Return the errors' sizes, and the shares inside the intervals of 68 and 95 %."""
    found = {
        "mae": float(np.abs(errors).mean()),
        "rmse": float(np.sqrt(np.mean(errors**2))),
        "worst": float(np.abs(errors).max()),
    }
    if std is not None:
        found |= {f"inside_{q:g}_std": float(np.mean(np.abs(errors) <= q * std)) for q in (1.0, 1.96)}
    return found


def _scores(what: str, scores: dict[str, float]) -> str:
    """Lay out a line of scores in the words of `evaluate`."""
    head, row = ["errors", "MAE", "RMSE", "worst"], [what, scores["mae"], scores["rmse"], scores["worst"]]
    if "inside_1_std" not in scores:
        return table(head, [row])
    shares = [f"{100 * scores[name]:.0f}%" for name in ("inside_1_std", "inside_1.96_std")]
    text = table([*head, "in 68%", "in 95%"], [[*row, *shares]])
    return f"{text}\nin 68%, in 95%: values inside those intervals; more is cautious, less is bold"
