"""Quantities that are linear in a model's weights, and how well labels would fix them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float

from kernelpot.design.criteria import Criterion, L, c
from kernelpot.design.information import Information
from kernelpot.design.precision import Precision
from kernelpot.errors import DataError, NotFittedError, ParameterError
from kernelpot.features.feature_map import E0_PRIOR, FeatureMap
from kernelpot.potentials.joint import JointEnergies

if TYPE_CHECKING:
    from ase import Atoms

    from kernelpot.potentials.sparse_gp import SparseGP


@dataclass(frozen=True, eq=False, repr=False)
class Quantities:
    """What a fitted model says about the quantities of a goal; unpacks as ``values, std``.

    Attributes
    ----------
    names
        Of every quantity.
    values, std
        Posterior means and standard deviations, in each quantity's unit.
    units
        Of every quantity.
    """

    names: tuple[str, ...]
    values: Float[np.ndarray, " q"]
    std: Float[np.ndarray, " q"]
    units: tuple[str, ...]

    def __iter__(self) -> Iterator[Float[np.ndarray, " q"]]:
        """Give the values, then the standard deviations."""
        return iter((self.values, self.std))

    def __getitem__(self, k: int) -> Float[np.ndarray, " q"]:
        """Return the values (0) or the standard deviations (1)."""
        return (self.values, self.std)[k]

    def __str__(self) -> str:
        """Return one line per quantity, to two digits of its standard deviation and at most twelve decimals."""
        width = max(len(name) for name in self.names)
        lines = []
        for name, value, std, unit in zip(self.names, self.values.tolist(), self.std.tolist(), self.units, strict=True):
            text = f"{value:.6g} ± {std:.2g}"
            if np.isfinite(std) and std > 0:
                decimals = min(max(1 - int(np.floor(np.log10(float(f"{std:.1e}")))), 0), 12)
                text = f"{value:.{decimals}f} ± {std:.{decimals}f}"
            lines.append(f"{name:<{width}}  {text} {unit}")
        return "\n".join(lines)

    def __repr__(self) -> str:
        """Return the same in one line."""
        return f"Quantities({'; '.join(' '.join(line.split()) for line in str(self).splitlines())})"


_NAMED = 6


def _features(model: SparseGP) -> FeatureMap:
    features = model.features_ if model.fitted_ is None else model.fitted_.features
    if features is None:
        raise NotFittedError(
            "the inducing environments are not fixed yet; call prepare(pool), which returns a model that has them."
        )
    return features


@dataclass(frozen=True)
class Origin:
    """The weights that rows speak about."""

    space: str  # Fingerprint of the feature map and the amplitude
    amplitude: float  # Prior standard deviation of a local energy that the rows carry, eV
    n_species: int  # Last columns, which carry E0

    @classmethod
    def of(cls, model: SparseGP) -> Origin:
        """Return the origin of rows that a prepared or fitted model makes now."""
        features = _features(model)
        amplitude = model.plan()[2]
        baseline = None if model.baseline is None else model.baseline.settings()
        digest = hashlib.blake2b(repr((features.settings(), features.species, baseline)).encode(), digest_size=16)
        for array in features.arrays().values():
            digest.update(np.ascontiguousarray(array).tobytes())
        return cls(digest.hexdigest(), float(amplitude), len(features.species))


@dataclass(frozen=True, eq=False)
class EnergySums:
    """Sums of total energies."""

    structures: tuple[Atoms, ...]  # Whose energies are added up
    coefficients: Float[np.ndarray, "q s"]  # One for each structure, one row for each sum

    def append(self, other: EnergySums) -> EnergySums:
        """Put other sums behind these."""
        (q, s), (r, t) = self.coefficients.shape, other.coefficients.shape
        joined = np.zeros((q + r, s + t))
        joined[:q, :s], joined[q:, s:] = self.coefficients, other.coefficients
        return EnergySums(self.structures + other.structures, joined)


@dataclass(frozen=True, eq=False)
class Goal:
    """Quantities to be known, each a linear functional of the weights.

    A design for one of them is c-optimal (Elfving 1952), for several L-optimal (Fedorov 1972; Pukelsheim 2006,
    ch. 2 and 9).

    Attributes
    ----------
    names, units
        Of every quantity.
    rows
        Linear functionals, in each quantity's own unit and not divided by any noise.
    scales
        Accuracy that is wanted of each quantity, in its unit; the criterion is Σ variance/scale².
    origin
        The weights that the rows speak about; None where they were made by hand.
    known
        Share of the model's baseline in each quantity, in its unit; None is zero.
    sums
        What the quantities are where all of them are sums of energies; None otherwise.

    Raises
    ------
    ParameterError
        Shapes do not agree, or a scale is not positive.
    DataError
        A row is not finite.
    """

    names: tuple[str, ...]
    units: tuple[str, ...]
    rows: Float[np.ndarray, "q d"]
    scales: Float[np.ndarray, " q"]
    origin: Origin | None = None
    known: Float[np.ndarray, " q"] | None = None
    sums: EnergySums | None = None

    def __post_init__(self) -> None:
        """Store read-only arrays and check them."""
        object.__setattr__(self, "names", tuple(self.names))
        object.__setattr__(self, "units", tuple(self.units))
        if self.known is None:
            object.__setattr__(self, "known", np.zeros(len(self.names)))
        for name in ("rows", "scales", "known"):
            array = np.array(getattr(self, name), dtype=np.float64)
            array.flags.writeable = False
            object.__setattr__(self, name, array)
        q = len(self.names)
        if q == 0 or self.rows.ndim != 2 or len(self.rows) != q or self.scales.shape != (q,) or len(self.units) != q:
            raise ParameterError(
                f"a goal of {q} quantities needs at least one of them, {q} units, rows of the shape ({q}, d) and {q} "
                f"scales; got {len(self.units)} units, {self.rows.shape} and {self.scales.shape}"
            )
        if self._share.shape != (q,):
            raise ParameterError(f"`known` must hold {q} numbers, one for each quantity, got {self._share.shape}")
        if not (np.isfinite(self.scales) & (self.scales > 0)).all():
            raise ParameterError(f"`scales` must be positive and finite, got {self.scales.tolist()}")
        bad = np.flatnonzero(~np.isfinite(self.rows).all(axis=1))
        if len(bad):
            raise DataError(f"the row of {self.names[bad[0]]} is not finite: check the structures it is made of")

    def __len__(self) -> int:
        """Count the quantities."""
        return len(self.names)

    def __add__(self, other: Goal) -> Goal:
        """Put other quantities behind these."""
        return self.append(other)

    def append(self, other: Goal) -> Goal:
        """Put other quantities behind these.

        Raises
        ------
        ParameterError
            The two speak about different weights.
        """
        if self.rows.shape[1] != other.rows.shape[1] or (
            self.origin is not None and other.origin is not None and self.origin != other.origin
        ):
            raise ParameterError(
                "only goals of one feature map and amplitude can be added; make both with the same prepared model"
            )
        return Goal(
            self.names + other.names,
            self.units + other.units,
            np.concatenate([self.rows, other.rows]),
            np.concatenate([self.scales, other.scales]),
            self.origin or other.origin,
            np.concatenate([self._share, other._share]),
            self.sums.append(other.sums) if self.sums is not None and other.sums is not None else None,
        )

    @property
    def _share(self) -> Float[np.ndarray, " q"]:
        return np.zeros(len(self)) if self.known is None else self.known

    def with_scales(self, scales: Sequence[float] | Float[np.ndarray, " q"] | float) -> Goal:
        """Return the same quantities with other accuracies wanted, in their units."""
        return replace(self, scales=np.broadcast_to(np.asarray(scales, dtype=np.float64), (len(self),)))

    def criterion(self) -> Criterion:
        """Return the criterion Σ variance/scale², smaller is better: "c" of one quantity, "L" of several."""
        rows = self.rows / self.scales[:, None]
        return c(rows[0]) if len(self) == 1 else L(rows)

    def covariance(self, known: Information | Precision | None = None) -> Float[np.ndarray, "q q"]:
        """Return the quantities' posterior covariance given labels.

        Parameters
        ----------
        known
            What labels tell, the prior included in a `Precision`; None is the prior alone.

        Raises
        ------
        ParameterError
            It speaks about other weights.
        """
        T = self._precision(known).whiten(self.rows)
        return T @ T.T

    def std(self, known: Information | Precision | None = None) -> Float[np.ndarray, " q"]:
        """Return each quantity's posterior standard deviation given labels, in its unit; see `covariance`."""
        T = self._precision(known).whiten(self.rows)
        result: np.ndarray = np.sqrt(np.einsum("qd,qd->q", T, T))
        return result

    def expected(self, space: SparseGP, structures: Sequence[Atoms]) -> Float[np.ndarray, " q"]:
        """Return each quantity's standard deviation once these structures are labelled; no label is looked at.

        ``print(goal.table(after=goal.expected(space, structures)))`` shows them with names and units.

        Parameters
        ----------
        space
            The prepared model that made this goal.
        structures
            To be labelled, every kind that has a noise.
        """
        self._check_model(space)
        return self.std(space.information(structures, truncate=0.0))

    def predict(self, model: SparseGP, *, spread: str = "weights") -> Quantities:
        """Return each quantity's posterior mean and standard deviation under a fitted model.

        The standard deviations are those of the bare posterior: without calibration, and without what inducing
        environments cannot see. Under noises smaller than what the fit leaves they are far too small: fit with
        ``noise="cv"`` and make the goal again with the fitted model.

        Parameters
        ----------
        model
            Fitted on the feature map and with the amplitude that made this goal.
        spread
            "weights": as above. Quantities that are sums of energies also have "calibrated", "latent" and "label", with
            what inducing environments cannot see: see `kernelpot.SparseGP.energy_covariance`.

        Raises
        ------
        NotFittedError
            The model was never fitted.
        ParameterError
            It has other features, or its fit found another amplitude: make the goal again with the fitted model. Or
            `spread` is not offered.
        DataError
            The model's baseline has no stress, and the goal needs one.
        """
        if model.fitted_ is None:
            raise NotFittedError("this model was never fitted; `expected` tells what labels would do, `predict` is for "
                                 "models that have them.")  # fmt: skip
        self._check_model(model)
        if not np.isfinite(self._share).all():
            lost = ", ".join(np.array(self.names)[~np.isfinite(self._share)])
            raise DataError(f"the model's baseline says nothing of {lost}: it has no stress; use one that has")
        posterior, state = model.fitted_.posterior, model.fitted_
        if spread != "weights":
            if self.sums is None:
                raise ParameterError(
                    f'`spread` must be "weights" unless all quantities are sums of energies, got {spread!r}; predict '
                    "those in a goal of their own."
                )
            joint = JointEnergies.of(state, self.sums.structures)
            covariance = joint.covariance(self.sums.coefficients, spread=spread)
            std = np.sqrt(np.maximum(np.diag(covariance), 0.0))
            return Quantities(self.names, self.sums.coefficients @ joint.mean, std, self.units)
        composition = self.rows[:, state.features.n_weights :] / E0_PRIOR
        mean = self.rows @ posterior.mean + composition @ state.e0_centre + self._share
        variance = posterior.variance(self.rows) + np.sum((composition @ state.unknown) ** 2, axis=1)
        return Quantities(self.names, mean, np.sqrt(variance), self.units)

    def table(self, **columns: Float[np.ndarray, " q"]) -> str:
        """Return a table for people: one line per quantity, with its unit, the accuracy wanted and these columns."""
        width = max(len(name) for name in (*self.names, "quantity"))
        unit = max(len(name) for name in (*self.units, "unit"))
        heads = [f"{name:>14}" for name in ("wanted", *columns)]
        lines = [f"{'quantity':<{width}}  {'unit':<{unit}}" + "".join(heads)]
        for k, name in enumerate(self.names):
            numbers = [f"{values[k]:>14.4g}" for values in (self.scales, *columns.values())]
            lines.append(f"{name:<{width}}  {self.units[k]:<{unit}}" + "".join(numbers))
        return "\n".join(lines)

    def __str__(self) -> str:
        """Return the quantities with the accuracies wanted."""
        return self.table()

    def __repr__(self) -> str:
        """Return one line."""
        wanted = ", ".join(
            f"{name} to {scale:.3g} {unit}"
            for name, scale, unit in zip(self.names[:_NAMED], self.scales, self.units, strict=False)
        )
        more = f" and {len(self) - _NAMED} more" if len(self) > _NAMED else ""
        return f"Goal({wanted}{more}; {self.rows.shape[1]} weights)"

    def _precision(self, known: Information | Precision | None) -> Precision:
        d = self.rows.shape[1]
        if isinstance(known, Precision):
            found = len(known.factor)
        else:
            found = d if known is None else known.d
            amplitude = None if known is None else known.description.get("amplitude")
            if self.origin is not None and amplitude is not None and not np.isclose(amplitude, self.origin.amplitude):
                raise ParameterError(
                    f"the goal was made at the amplitude {self.origin.amplitude:g} eV, the information at "
                    f"{amplitude:g}; make both with the same prepared model"
                )
        if found != d:
            raise ParameterError(
                f"the goal speaks about {d} weights, the information about {found}; make both with the same prepared "
                "model"
            )
        if isinstance(known, Precision):
            return known
        start = Precision.prior(d)
        return start if known is None else start.with_rows(known.rows)

    def _check_model(self, model: SparseGP) -> None:
        found = Origin.of(model)
        if self.origin is not None and self.origin != found:
            why = (
                f"its amplitude is {found.amplitude:g} eV and the goal's {self.origin.amplitude:g}"
                if found.space == self.origin.space
                else "its baseline, its inducing environments or its descriptor differ"
            )
            raise ParameterError(f"the goal was made with another model: {why}; make the goal again with this model")
        features = _features(model)
        if self.rows.shape[1] != (d := features.n_weights + len(features.species)):
            raise ParameterError(f"the goal speaks about {self.rows.shape[1]} weights, the model has {d}")
