"""The demonstration told as a page, with numbers and pictures from its outcome."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from kernelpot import __version__
from kernelpot.demo.outcome import Arm, Outcome
from kernelpot.report import Fact, Figure, Page, Section, Table, plots, render

UNITS = {"energy": "meV/atom", "forces": "meV/Å"}


def write_report(outcome: Outcome, path: str | Path) -> None:
    """Write the page of a demonstration."""
    Path(path).write_text(render(page(outcome)), encoding="utf-8")


def page(outcome: Outcome) -> Page:
    """Lay the outcome out as a page."""
    plan, chosen = outcome.plan, outcome.chosen
    forces, rivals = _rmse(chosen, "forces"), [_rmse(arm, "forces") for arm in outcome.random]
    energy, energy_rivals = _rmse(chosen, "energy"), [_rmse(arm, "energy") for arm in outcome.random]
    times = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in outcome.seconds.items())
    return Page(
        kicker=f"kernelpot {__version__} · demonstration on copper–gold",
        title=f"{plan.n_chosen} structures, chosen before any was labelled",
        lead=(
            f"Out of {plan.n_pool} Cu–Au structures, kernelpot picked the {plan.n_chosen} whose labels would"
            " tell a potential most about the whole pool, without looking at one energy or force. Only then"
            " were they labelled, by EMT, a quick potential that stands in for DFT here. The force error of"
            f" the fitted potential lies {_against(forces, float(np.median(rivals)))} the median of"
            f" {len(rivals)} random choices, its energy error"
            f" {_against(energy, float(np.median(energy_rivals)))} it."
        ),
        facts=_facts(outcome),
        sections=[
            _choosing(outcome),
            _comparing(outcome),
            _trusting(outcome),
            _moving(outcome),
            Section(
                "How it was made",
                f"A seeded pool of {plan.n_pool} structures of 4 to 16 atoms: ordered crystals, strained crystals,"
                " random alloys, vacancies, surfaces and snapshots of melts. Inducing environments come from the"
                " unlabelled pool and are the same for every arm.",
                details=[*outcome.model.items(), ("time", times)],
            ),
        ],
        footer=(
            f"Made by `kernelpot demo`, seed {plan.seed}, in {sum(outcome.seconds.values()):.0f} s. Energies"
            " are in eV, lengths in Å; meV/atom and meV/Å are thousandths of eV/atom and eV/Å."
        ),
    )


def _against(value: float, rival: float) -> str:
    percent = 100 * (1 - value / rival)
    return f"{percent:.0f} % below" if percent >= 0 else f"{-percent:.0f} % above"


def _typeset(formula: str) -> str:
    """Lower the numbers of a formula."""
    return formula.translate(str.maketrans("0123456789", "₀₁₂₃₄₅₆₇₈₉"))


def _rmse(arm: Arm, kind: str) -> float:
    return arm.score(kind)["rmse"]


def _facts(outcome: Outcome) -> list[Fact]:
    chosen, randoms = outcome.chosen, outcome.random
    beaten = sum(_rmse(arm, "forces") > _rmse(chosen, "forces") for arm in randoms)
    medians = {kind: float(np.median([_rmse(arm, kind) for arm in randoms])) for kind in UNITS}
    inside = {kind: f"{100 * chosen.score(kind)['coverage_95']:.0f}" for kind in UNITS}
    return [
        Fact(
            f"{1000 * _rmse(chosen, 'forces'):.0f}",
            UNITS["forces"],
            "Force error (RMSE)",
            f"random: {1000 * medians['forces']:.0f} in the median; better than {beaten} of {len(randoms)} random sets",
        ),
        Fact(
            f"{1000 * _rmse(chosen, 'energy'):.1f}",
            UNITS["energy"],
            "Energy error (RMSE)",
            f"random: {1000 * medians['energy']:.1f} in the median",
        ),
        Fact(
            f"{inside['energy']}; {inside['forces']}",
            "%",
            "Energies; forces in 95 % interval",
            "honest uncertainties would give 95 % of each",
        ),
        Fact(
            f"{outcome.dynamics.drift:+.3f}".replace("-", "−"),
            "meV/atom",
            "Energy drift in dynamics",
            f"{outcome.dynamics.times[-1]:.0f} ps at constant energy, {_typeset(outcome.dynamics.formula)}",
        ),
    ]


def _choosing(outcome: Outcome) -> Section:
    plan, chosen = outcome.plan, outcome.chosen
    coordinates, shares = plots.principal_plane(outcome.means)
    kinds = [outcome.kinds[k] for k in chosen.indices]
    counts = ", ".join(f"{kinds.count(kind)} {kind}" for kind in dict.fromkeys(outcome.kinds) if kind in kinds)
    # The criterion is a mean variance in units of the labels' noise; people read standard deviations.
    curves = {arm.name: np.sqrt(arm.curve) for arm in outcome.arms}
    map_alt = (
        f"Scatter plot of {plan.n_pool} structures on two principal axes of their mean descriptor, coloured"
        f" by kind; the {plan.n_chosen} chosen ones are ringed: {counts}."
    )
    curve_alt = (
        "Line plot of the predicted standard deviation over the pool against the number of chosen structures: it"
        f" ends at {curves[chosen.name][-1]:.3g} times the noise for the design and at"
        f" {np.median([curves[arm.name][-1] for arm in outcome.random]):.3g} in the median of the random choices."
    )
    return Section(
        "What was chosen",
        "A structure is worth labelling if its rows, one energy and three force components per atom, would"
        " narrow what the potential does not yet know. The design adds one structure at a time, always the"
        " one that lowers the predicted variances over the pool most.",
        [
            Figure(
                _drawn(
                    plots.pool_map, coordinates, outcome.kinds, chosen.indices, shares, alt=map_alt, size=(10.4, 4.6)
                ),
                "A map of the pool",
                "Each mark is a structure; near marks have similar atomic environments, and the arc leads"
                f" from one pure metal to the other. Rings show what was chosen: {counts}. A good choice"
                " spreads out without spending its labels on outliers alone.",
                wide=True,
            ),
            Figure(
                _drawn(plots.information_curves, curves, chosen.name, alt=curve_alt, size=(10.4, 3.7)),
                "What each choice leaves unknown",
                "Predicted standard deviation over the pool after each pick, in multiples of the labels' noise"
                f" ({outcome.model['noise planned with']}), energies and forces together; lower is better. No label"
                " enters this curve: it is known before the first calculation is run.",
                wide=True,
            ),
        ],
    )


def _comparing(outcome: Outcome) -> Section:
    chosen = outcome.chosen
    figures = []
    for kind, name in (("energy", "Energy"), ("forces", "Force")):
        values = {arm.name: 1000 * _rmse(arm, kind) for arm in outcome.arms}
        alt = f"{name} error of every way to choose, {UNITS[kind]}: " + ", ".join(
            f"{arm} {value:.3g}" for arm, value in values.items()
        )
        figures.append(
            Figure(
                _drawn(plots.strips, values, chosen.name, "", f"RMSE, {UNITS[kind]}", alt=alt, size=(5.4, 2.6)),
                f"{name} error by way of choosing",
                f"Root mean square error on the held-out structures, {UNITS[kind]}; shorter is better. Each"
                " grey dot is one random choice; the tick is their median.",
            )
        )
    for kind, name in (("energy", "Energies"), ("forces", "Forces")):
        rows, unit = (chosen.energy, "eV/atom") if kind == "energy" else (chosen.forces, "eV/Å")
        score = chosen.score(kind)
        alt = (
            f"Predicted against EMT's {name.lower()} of held-out structures, close to the diagonal: mean"
            f" absolute error {1000 * score['mae']:.3g}, worst {1000 * score['worst']:.3g} {UNITS[kind]}."
        )
        figures.append(
            Figure(
                _drawn(plots.parity, rows, "", unit, bars=kind == "energy", alt=alt, size=(5.4, 4.6)),
                f"{name}: predicted against EMT",
                f"{rows.shape[1]:,} held-out values; on the line, prediction and EMT agree. "
                + (
                    "Bars are 95 % intervals." if kind == "energy" else "Each dot is one component of one atom's force."
                ),
            )
        )
    table = Table(
        "Held-out errors: energies in meV/atom, force components in meV/Å. MAE: mean absolute error; RMSE:"
        " root mean square error; worst: largest error. The random lines are taken over"
        f" {len(outcome.random)} seeds, column by column.",
        [("", 1), ("Energy, meV/atom", 3), ("Forces, meV/Å", 3)],
        ["Chosen by", "MAE", "RMSE", "worst", "MAE", "RMSE", "worst"],
        [
            [name, *(f"{1000 * value:.{1 if k < 3 else 0}f}" for k, value in enumerate(values))]
            for name, values in errors(outcome)
        ],
        marked=[0],
    )
    return Section(
        "What it is worth",
        f"Every arm labelled {outcome.plan.n_chosen} structures and was fitted the same way, noises found by"
        f" cross-validation on its own labels. All were scored on the same {outcome.plan.n_test} structures,"
        " made with another seed.",
        [*figures, table],
    )


def _drawn(plot: Callable, *given: object, alt: str, size: tuple[float, float], **options: object) -> str:
    """Draw on one pair of axes."""
    return plots.svg(lambda figure: plot(figure.subplots(), *given, **options), alt, size=size)


def errors(outcome: Outcome) -> list[tuple[str, list[float]]]:
    """Return a line per arm: MAE, RMSE, worst of energies, then of forces; random as mean, median, worst."""
    scores = {
        arm.name: [arm.score(kind)[error] for kind in UNITS for error in ("mae", "rmse", "worst")]
        for arm in outcome.arms
    }
    lines = [(arm.name, scores[arm.name]) for arm in outcome.arms if arm not in outcome.random]
    randoms = np.array([scores[arm.name] for arm in outcome.random])
    over: Sequence[tuple[str, Callable]] = (("mean", np.mean), ("median", np.median), ("worst", np.max))
    return lines + [(f"random, {name}", list(how(randoms, axis=0))) for name, how in over]


def _trusting(outcome: Outcome) -> Section:
    chosen = outcome.chosen
    figures = []
    for kind, name in (("energy", "Energies"), ("forces", "Forces")):
        rows, unit = (chosen.energy, "eV/atom") if kind == "energy" else (chosen.forces, "eV/Å")
        inside = 100 * chosen.score(kind)["coverage_95"]
        alt = (
            f"Absolute error against predicted standard deviation of {name.lower()}; {inside:.0f} % lie below"
            " 1.96 standard deviations."
        )
        figures.append(
            Figure(
                _drawn(plots.honesty, rows, "", unit, n_bins=6 if kind == "energy" else 12, alt=alt, size=(5.4, 4.3)),
                f"{name}: error against predicted std",
                "Grey: one value each. Coloured: root mean square error of equally full bins. On the line the"
                " std is right, below it too cautious, above it too bold."
                f" {inside:.0f} % of the {name.lower()} lie within 1.96 std; 95 % would be perfect.",
            )
        )
    return Section(
        "Does it know its own error?",
        "Each prediction comes with a standard deviation that predicts the distance to a label. Where it is"
        " large, the error may be large. It holds a noise that is the same everywhere, so that very small errors"
        " meet stds that are too large; and it was scaled on structures left out of the 25, not on these.",
        figures,
    )


def _moving(outcome: Outcome) -> Section:
    moved, plan = outcome.dynamics, outcome.plan
    alt = (
        f"Potential and total energy over {moved.times[-1]:.1f} ps of molecular dynamics; the total energy"
        f" drifts by {moved.drift:+.3f} meV per atom while the potential energy swings by"
        f" {np.ptp(moved.potential):.0f}."
    )
    return Section(
        "Atoms that move",
        f"{_typeset(moved.formula)} at constant energy under the fitted potential, {plan.md_step:g} fs per"
        f" step, about {moved.temperature[len(moved.temperature) // 2 :].mean():.0f} K. A potential whose"
        " forces are the exact derivatives of its energy keeps the total energy.",
        [
            Figure(
                plots.svg(
                    lambda figure: plots.drift(
                        figure.subplots(2, 1, sharex=True), moved.times, moved.total, moved.potential
                    ),
                    alt,
                    size=(10.4, 4.6),
                ),
                "Energy along the run",
                f"Total energy drifts by {moved.drift:+.3f} meV/atom over {moved.times[-1]:.1f} ps. Along the"
                f" run the forces differ from EMT's by {1000 * moved.force_rmse:.0f} meV/Å (RMSE).",
                wide=True,
            )
        ],
    )
