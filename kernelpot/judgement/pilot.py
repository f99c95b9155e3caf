"""How far predicted errors can be trusted, from a small labelled set: each structure predicted from the others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float, Int
from scipy.optimize import minimize

from kernelpot.data.labels import Labels
from kernelpot.data.noise import Noise
from kernelpot.features.feature_map import FeatureMap
from kernelpot.inference.left_out import LeftOut
from kernelpot.linalg.factor import Posterior, without_each
from kernelpot.potentials.training import labelled_rows, least_squares_e0, scale_rows, whiten_columns

if TYPE_CHECKING:
    from ase import Atoms


Blocks = Mapping[str, Float[np.ndarray, "rows columns"]]
"""Rows [B | y] of one structure by kind of label."""

REACH = 0.03
"""Energy floor over force floor, Å: a typical displacement over which a force error adds up; from training sets."""

NOISE_SHARE = 1.5
"""Energy floor over stated noise where nothing else is known."""

WITNESSES = 3.0
"""Independent errors that the force components of one structure are worth."""

SILENT = 0.05
"""Errors below this share of the noise, as on perfect crystals whose forces vanish by symmetry, tell nothing."""

_ENOUGH = 30
_SCALE, _SHARED, _RESIDUAL, _GUESSED = 1.0, 0.35, 0.15, 0.7
_TINY = 1e-12


@dataclass(frozen=True)
class Scales:
    """Scale and floor of each kind of label; floors in eV/atom, eV/Å, eV/Å³."""

    scale: Mapping[str, float]
    floor: Mapping[str, float]


@dataclass(frozen=True, eq=False)
class KindEvidence:
    """What leaving out shows about one kind of label, an entry per pilot structure that has it."""

    left_out: LeftOut
    signal: Float[np.ndarray, " n"]  # mean prior variance of the structure's labels, constants per element aside
    misfit: float  # sum of squared residuals of the fit to the whole pilot
    freedom: float  # the labels' degrees of freedom in it
    noise: float  # stated

    @property
    def left(self) -> float:
        """Labels less the degrees of freedom spent on them."""
        return float(self.left_out.rows.sum()) - self.freedom


@dataclass(frozen=True, eq=False)
class Pilot:
    """Evidence of every kind of label that a small labelled set has, each structure predicted from the others."""

    kinds: Mapping[str, KindEvidence]

    @classmethod
    def of(
        cls, blocks: Sequence[Blocks], groups: Int[np.ndarray, " structures"], n_weights: int, noise: Noise
    ) -> Pilot:
        """Predict every structure, given its rows [B | y] less a baseline, from those of other groups (duplicates).

        With r_s = y_s - B_s w the residuals of the fit to all and C its covariance, the errors of a structure that is
        left out are ``(I - B_s C B_sᵀ)⁻¹ r_s`` (Rasmussen and Williams 2006, section 5.4.2, in block form). That
        inverse loses digits where a structure alone knows a direction, so the factors without each structure are built
        by adding up.
        """
        members = [np.flatnonzero(groups == g) for g in np.unique(groups)]
        width = next(iter(next(block for block in blocks if block).values())).shape[1]

        def add(posterior: Posterior, first: int, last: int) -> Posterior:
            some = [rows for group in members[first:last] for s in group.tolist() for rows in blocks[s].values()]
            return posterior.condition(some) if some else posterior

        prior = Posterior.prior(width - 1)
        whole = add(prior, 0, len(members))
        others = {s: posterior for g, posterior in without_each(prior, len(members), add) for s in members[g].tolist()}

        def evidence(kind: str, mine: list[int]) -> KindEvidence:
            sigma, rows = noise.sigma(kind), [blocks[s][kind] for s in mine]
            counts = np.array([len(r) for r in rows])
            error = [r[:, -1] - r[:, :-1] @ others[s].mean for s, r in zip(mine, rows, strict=True)]
            variance = [others[s].variance(r[:, :-1]) for s, r in zip(mine, rows, strict=True)]
            single = LeftOut(
                sigma * np.concatenate(error), sigma**2 * np.concatenate(variance), np.repeat(mine, counts),
                np.ones(counts.sum(), dtype=np.int64), noisy=False,
            )  # fmt: skip
            return KindEvidence(
                left_out=single.pooled(),
                signal=sigma**2 * np.array([np.sum(r[:, :n_weights] ** 2) / len(r) for r in rows]),
                misfit=sigma**2 * float(sum(np.sum((r[:, :-1] @ whole.mean - r[:, -1]) ** 2) for r in rows)),
                freedom=float(sum(np.sum(whole.variance(r[:, :-1])) for r in rows)),
                noise=sigma,
            )

        having = {kind: [s for s in range(len(blocks)) if kind in blocks[s]] for kind in noise.kinds}
        return cls({kind: evidence(kind, mine) for kind, mine in having.items() if mine})

    def scales(self, signal: Mapping[str, float]) -> Scales:
        """Find the likeliest scale and floor of each kind; `signal` is the target's mean prior variance of each.

        The error of a structure s that was left out is modelled, kind by kind, as Gaussian with the variance
        ``scale² v_s + floor² g_s``: v_s is its posterior variance given the others, and g_s the prior variance of its
        rows over that of the target (1 for energies), as what a kernel cannot represent is larger where the signal is.
        Scale and floor maximise the likelihood times weak priors, all log-normal:

        - the scale of forces about 1, one e-fold wide; of other kinds about that of forces, 0.35 e-folds wide;
        - the floor of a kind with many more labels than they fix parameters (forces) about √(RSS/(n - degrees of
          freedom)) of the fit to the pilot (Hastie and Tibshirani 1990, section 3.5), 0.15 e-folds wide; else about
          what the stated noise and the floor of forces over `REACH` suggest, 0.7 e-folds wide.
        """
        kinds = sorted(self.kinds, key=lambda kind: kind != "forces")
        shape = {
            kind: self.kinds[kind].signal / signal[kind]
            if kind != "energy" and signal.get(kind, 0.0) > 0
            else np.ones(len(self.kinds[kind].left_out))
            for kind in kinds
        }
        residual = {
            kind: float(np.sqrt(one.misfit / one.left / max(float(one.left_out.mean(shape[kind])), _TINY)))
            for kind, one in self.kinds.items()
            if one.left >= _ENOUGH
        }

        def centres(x: Float[np.ndarray, " parameters"]) -> Float[np.ndarray, " parameters"]:
            first = x[0]
            scale = [0.0] + [first] * (len(kinds) - 1)
            floor = []
            for kind in kinds:
                guess = residual.get(kind)
                if guess is None:
                    guess = NOISE_SHARE * self.kinds[kind].noise
                    if kind == "energy" and kinds[0] == "forces":
                        guess = float(np.hypot(guess, REACH * np.exp(x[len(kinds)])))
                floor.append(np.log(max(guess, _TINY)))
            return np.array([*scale, *floor])

        widths = np.array(
            [_SCALE] + [_SHARED] * (len(kinds) - 1) + [_RESIDUAL if kind in residual else _GUESSED for kind in kinds]
        )

        def loss(x: Float[np.ndarray, " parameters"]) -> float:
            total = 0.5 * float(np.square((x - centres(x)) / widths).sum())
            for k, kind in enumerate(kinds):
                found, silent = self.kinds[kind].left_out, SILENT * self.kinds[kind].noise
                expected = np.exp(2 * x[k]) * found.variance + np.exp(2 * x[len(kinds) + k]) * shape[kind] + silent**2
                worth = np.minimum(found.rows, WITNESSES)
                total += 0.5 * float((worth * (np.log(expected) + found.squared / expected)).sum())
            return total

        start = centres(np.zeros(2 * len(kinds)))
        start = centres(start)
        simplex = np.vstack([start, start + 0.5 * np.eye(len(start))])
        found = minimize(
            loss, start, method="Nelder-Mead",
            options={"initial_simplex": simplex, "maxfev": 800 * len(start), "xatol": 1e-4, "fatol": 1e-6},
        ).x  # fmt: skip
        best = np.exp(found)
        return Scales(
            {kind: float(best[k]) for k, kind in enumerate(kinds)},
            {kind: float(best[len(kinds) + k]) for k, kind in enumerate(kinds)},
        )


def read_blocks(
    features: FeatureMap,
    structures: Sequence[Atoms],
    labels: Labels,
    kinds: Sequence[str],
    noise: Noise,
    amplitude: float,
) -> list[Blocks]:
    """Return the rows [B | y] of every structure, kind by kind, divided by their noise."""
    none = np.zeros(len(features.species))

    def of(s: int) -> Blocks:
        rows = labelled_rows(features, structures[s : s + 1], labels.take([s]), kinds=kinds, e0=none)
        return {
            kind: scale_rows(whiten_columns(features, block), features.n_weights, noise.sigma(kind), amplitude)
            for kind, block in rows.items()
            if len(block)
        }

    return [of(s) for s in range(len(structures))]


def without_baseline(blocks: Sequence[Blocks], n_weights: int) -> list[Blocks]:
    """Take a least-squares energy per element (the columns from `n_weights` on) off the energies of blocks."""
    energies = [block["energy"] for block in blocks if "energy" in block]
    if not energies:
        return list(blocks)
    baseline = least_squares_e0(np.concatenate(energies)[:, n_weights:])

    def rebased(rows: Float[np.ndarray, "rows columns"]) -> Float[np.ndarray, "rows columns"]:
        return np.column_stack([rows[:, :-1], rows[:, -1] - rows[:, n_weights:-1] @ baseline])

    return [{kind: rebased(rows) if kind == "energy" else rows for kind, rows in block.items()} for block in blocks]
