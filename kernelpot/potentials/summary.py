"""A fitted model in a few lines for people."""

from __future__ import annotations

from kernelpot.potentials.fitted import Fitted

UNITS = {"energy": ("meV/atom", 1e3), "forces": ("meV/Å", 1e3), "stress": ("meV/Å³", 1e3)}


FEW = 30
"""Structures below which left-out residuals say little about the scale of standard deviations."""


def summarise(state: Fitted) -> str:
    """Describe size, labels, noises, leave-out errors and energy constants, one fact a line."""
    from ase.data import chemical_symbols

    features = state.features
    names = [chemical_symbols[z] for z in features.species]
    paths = (
        state.form.paths
        if len(state.form.paths) != len(names)
        else map(" ".join, zip(names, state.form.paths, strict=True))
    )
    lines = [
        f"species             {' '.join(names)}",
        f"inducing            {features.n_inducing} ({features.shares()}); {features.n_weights} independent",
        f"evaluation          {', '.join(paths)}",
        f"amplitude           {', '.join(f'{state.amplitude * scale:.4g} eV' for scale in features.scales)}",
    ]
    for kind, count in state.n_labels.items():
        unit, scale = UNITS[kind]
        text = f"{kind:<19} {count} labels, weighted by noise {scale * state.noise.sigma(kind):.4g} {unit}"
        if kind in state.cross_validation:
            text += f", left-out RMSE {scale * state.cross_validation[kind]:.4g} {unit}"
        # A kind that only `condition` brought was never calibrated.
        noise, factor = scale * state.calibration.noise.get(kind, 0.0), state.calibration.scale(kind)
        # A calibrated std is bent and has a floor, which is no noise: the misfit is in the bent part.
        what = "calibrated: floor of the std" if kind in state.calibration.shape else "label noise"
        text += f", {what} {noise:.4g}, std factor {factor:.3g}"
        lines.append(text)
    n = state.n_labels.get("energy", FEW)
    if n < FEW:
        lines.append(f"note                standard deviations rest on {n} structures; trust them from about {FEW} on")
    if state.reference is not None:
        lines.append(f"baseline            {state.reference.describe(features.species)}")
    e0 = ", ".join(f"{name} {value:.4f} eV" for name, value in zip(names, state.e0, strict=True))
    lines.append(f"energy constants    {e0}")
    return "\n".join(lines)
