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
    Path(path).write_text(render(Story(outcome).page()), encoding="utf-8")


class Story:
    """An outcome as a page."""

    def __init__(self, outcome: Outcome) -> None:
        self.outcome, self.plan, self.chosen, self.randoms = outcome, outcome.plan, outcome.chosen, outcome.random

    def page(self) -> Page:
        """Lay the outcome out as a page."""
        forces, rivals = _rmse(self.chosen, "forces"), [_rmse(arm, "forces") for arm in self.randoms]
        energy, energy_rivals = _rmse(self.chosen, "energy"), [_rmse(arm, "energy") for arm in self.randoms]
        times = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in self.outcome.seconds.items())
        return Page(
            kicker=f"kernelpot {__version__} · demonstration on copper–gold",
            title=f"{self.plan.n_chosen} structures, chosen before any was labelled",
            lead=(
                f"Out of {self.plan.n_pool} Cu–Au structures, kernelpot picked the {self.plan.n_chosen} whose labels"
                " would tell a potential most about the whole pool, without looking at one energy or force. Only then"
                " were they labelled, by EMT, a quick potential that stands in for DFT here. The force error of"
                f" the fitted potential lies {_against(forces, float(np.median(rivals)))} the median of"
                f" {len(rivals)} random choices, its energy error"
                f" {_against(energy, float(np.median(energy_rivals)))} it."
            ),
            facts=self._facts(),
            sections=[
                self._choosing(),
                self._comparing(),
                self._trusting(),
                self._moving(),
                Section(
                    "How it was made",
                    f"A seeded pool of {self.plan.n_pool} structures of 4 to 16 atoms: ordered crystals, strained"
                    " crystals, random alloys, vacancies, surfaces and snapshots of melts. Inducing environments come"
                    " from the unlabelled pool and are the same for every arm.",
                    details=[*self.outcome.model.items(), ("time", times)],
                ),
            ],
            footer=(
                f"Made by `kernelpot demo`, seed {self.plan.seed}, in {sum(self.outcome.seconds.values()):.0f} s."
                " Energies are in eV, lengths in Å; meV/atom and meV/Å are thousandths of eV/atom and eV/Å."
            ),
        )

    def _facts(self) -> list[Fact]:
        """Pick the few numbers to take away."""
        beaten = sum(_rmse(arm, "forces") > _rmse(self.chosen, "forces") for arm in self.randoms)
        medians = {kind: float(np.median([_rmse(arm, kind) for arm in self.randoms])) for kind in UNITS}
        inside = {kind: f"{100 * self.chosen.score(kind)['coverage_95']:.0f}" for kind in UNITS}
        return [
            Fact(
                f"{1000 * _rmse(self.chosen, 'forces'):.0f}",
                UNITS["forces"],
                "Force error (RMSE)",
                f"random: {1000 * medians['forces']:.0f} in the median; better than {beaten} of {len(self.randoms)}"
                " random sets",
            ),
            Fact(
                f"{1000 * _rmse(self.chosen, 'energy'):.1f}",
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
                f"{self.outcome.dynamics.drift:+.3f}".replace("-", "−"),
                "meV/atom",
                "Energy drift in dynamics",
                f"{self.outcome.dynamics.times[-1]:.0f} ps at constant energy,"
                f" {_typeset(self.outcome.dynamics.formula)}",
            ),
        ]

    def _choosing(self) -> Section:
        """Show what was chosen, and what every choice leaves unknown."""
        coordinates, shares = plots.principal_plane(self.outcome.means)
        kinds = [self.outcome.kinds[k] for k in self.chosen.indices]
        counts = ", ".join(f"{kinds.count(kind)} {kind}" for kind in dict.fromkeys(self.outcome.kinds) if kind in kinds)
        # The criterion is a mean variance in units of the labels' noise; people read standard deviations.
        curves = {arm.name: np.sqrt(arm.curve) for arm in self.outcome.arms}
        map_alt = (
            f"Scatter plot of {self.plan.n_pool} structures on two principal axes of their mean descriptor, coloured"
            f" by kind; the {self.plan.n_chosen} chosen ones are ringed: {counts}."
        )
        curve_alt = (
            "Line plot of the predicted standard deviation over the pool against the number of chosen structures: it"
            f" ends at {curves[self.chosen.name][-1]:.3g} times the noise for the design and at"
            f" {np.median([curves[arm.name][-1] for arm in self.randoms]):.3g} in the median of the random choices."
        )
        return Section(
            "What was chosen",
            "A structure is worth labelling if its rows, one energy and three force components per atom, would"
            " narrow what the potential does not yet know. The design adds one structure at a time, always the"
            " one that lowers the predicted variances over the pool most.",
            [
                Figure(
                    _drawn(
                        plots.pool_map,
                        coordinates,
                        self.outcome.kinds,
                        self.chosen.indices,
                        shares,
                        alt=map_alt,
                        size=(10.4, 4.6),
                    ),
                    "A map of the pool",
                    "Each mark is a structure; near marks have similar atomic environments, and the arc leads"
                    f" from one pure metal to the other. Rings show what was chosen: {counts}. A good choice"
                    " spreads out without spending its labels on outliers alone.",
                    wide=True,
                ),
                Figure(
                    _drawn(plots.information_curves, curves, self.chosen.name, alt=curve_alt, size=(10.4, 3.7)),
                    "What each choice leaves unknown",
                    "Predicted standard deviation over the pool after each pick, in multiples of the labels' noise"
                    f" ({self.outcome.model['noise planned with']}), energies and forces together; lower is better. No"
                    " label enters this curve: it is known before the first calculation is run.",
                    wide=True,
                ),
            ],
        )

    def _comparing(self) -> Section:
        """Compare the errors of every way to choose."""
        figures = []
        for kind, name in (("energy", "Energy"), ("forces", "Force")):
            values = {arm.name: 1000 * _rmse(arm, kind) for arm in self.outcome.arms}
            alt = f"{name} error of every way to choose, {UNITS[kind]}: " + ", ".join(
                f"{arm} {value:.3g}" for arm, value in values.items()
            )
            figures.append(
                Figure(
                    _drawn(
                        plots.strips, values, self.chosen.name, "", f"RMSE, {UNITS[kind]}", alt=alt, size=(5.4, 2.6)
                    ),
                    f"{name} error by way of choosing",
                    f"Root mean square error on the held-out structures, {UNITS[kind]}; shorter is better. Each"
                    " grey dot is one random choice; the tick is their median.",
                )
            )
        for kind, name in (("energy", "Energies"), ("forces", "Forces")):
            rows, unit = (self.chosen.energy, "eV/atom") if kind == "energy" else (self.chosen.forces, "eV/Å")
            score = self.chosen.score(kind)
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
                        "Bars are 95 % intervals."
                        if kind == "energy"
                        else "Each dot is one component of one atom's force."
                    ),
                )
            )
        table = Table(
            "Held-out errors: energies in meV/atom, force components in meV/Å. MAE: mean absolute error; RMSE:"
            " root mean square error; worst: largest error. The random lines are taken over"
            f" {len(self.randoms)} seeds, column by column.",
            [("", 1), ("Energy, meV/atom", 3), ("Forces, meV/Å", 3)],
            ["Chosen by", "MAE", "RMSE", "worst", "MAE", "RMSE", "worst"],
            [
                [name, *(f"{1000 * value:.{1 if k < 3 else 0}f}" for k, value in enumerate(values))]
                for name, values in errors(self.outcome)
            ],
            marked=[0],
        )
        return Section(
            "What it is worth",
            f"Every arm labelled {self.plan.n_chosen} structures and was fitted the same way, noises found by"
            f" cross-validation on its own labels. All were scored on the same {self.plan.n_test} structures,"
            " made with another seed.",
            [*figures, table],
        )

    def _trusting(self) -> Section:
        """Hold errors against standard deviations."""
        figures = []
        for kind, name in (("energy", "Energies"), ("forces", "Forces")):
            rows, unit = (self.chosen.energy, "eV/atom") if kind == "energy" else (self.chosen.forces, "eV/Å")
            inside = 100 * self.chosen.score(kind)["coverage_95"]
            alt = (
                f"Absolute error against predicted standard deviation of {name.lower()}; {inside:.0f} % lie below"
                " 1.96 standard deviations."
            )
            figures.append(
                Figure(
                    _drawn(
                        plots.honesty, rows, "", unit, n_bins=6 if kind == "energy" else 12, alt=alt, size=(5.4, 4.3)
                    ),
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
            " meet stds that are too large; and it was scaled on structures left out of the"
            f" {self.plan.n_chosen}, not on these.",
            figures,
        )

    def _moving(self) -> Section:
        """Show the molecular dynamics."""
        moved = self.outcome.dynamics
        alt = (
            f"Potential and total energy over {moved.times[-1]:.1f} ps of molecular dynamics; the total energy"
            f" drifts by {moved.drift:+.3f} meV per atom while the potential energy swings by"
            f" {np.ptp(moved.potential):.0f}."
        )
        return Section(
            "Atoms that move",
            f"{_typeset(moved.formula)} at constant energy under the fitted potential, {self.plan.md_step:g} fs per"
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


def _against(value: float, rival: float) -> str:
    percent = 100 * (1 - value / rival)
    return f"{percent:.0f} % below" if percent >= 0 else f"{-percent:.0f} % above"


def _typeset(formula: str) -> str:
    """Lower the numbers of a formula."""
    return formula.translate(str.maketrans("0123456789", "₀₁₂₃₄₅₆₇₈₉"))


def _rmse(arm: Arm, kind: str) -> float:
    return arm.score(kind)["rmse"]


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
