"""What labels of many structures would tell about the weights of a model, before any label exists."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from kernelpot.design.blocks import (
    KINDS,
    Environments,
    Joined,
    Subset,
    check_block,
    check_shapes,
    check_values,
    compress_block,
)
from kernelpot.errors import ParameterError
from kernelpot.linalg.subsets import SAME, equal_vectors
from kernelpot.rules import names, numbers, real, reals, shown, whole, wholes

_CHUNK = 1 << 14

PROPERTY = "property"
"""What the description calls labels that are neither energies nor forces nor stresses, but a property of structures."""


@dataclass(frozen=True, eq=False)
class Information:
    """Blocks of rows, one block per structure, in the weights of a whitened feature map.

    A row is a label's linear functional of the weights divided by the label's noise; the prior precision of
    the weights is I, so the information of a set S is ``I + Σ_{s∈S} B_sᵀ B_s``. Arrays are read-only views.

    Parameters
    ----------
    rows
        All blocks stacked; the rows of a structure are contiguous.
    kinds
        Label kind of every row: 0 energy, 1 forces, 2 stress (positions in `KINDS`).
    offsets
        Block s is ``rows[offsets[s]:offsets[s + 1]]``; it may be empty.
    counts
        True number of rows of each kind, before any compression.
    sigma
        Noise that each row was divided by: eV/atom, eV/Å or eV/Å³.
    n_atoms
        Number of atoms of each structure.
    groups
        Name of the group of each structure (empty where there is none).
    means
        Mean descriptor of each structure, for rivals and duplicates; may have no columns.
    discarded
        Trace of ``B_sᵀ B_s`` lost to compression, for each structure and kind.
    description
        The settings behind the rows, printed with results, such as noises and amplitude.
    environments
        Called without arguments, it makes ``(vectors, offsets)``: the descriptor of every environment, in float32 or
        float64, those of structure s in ``vectors[offsets[s]:offsets[s + 1]]``. None where there are no
        environments. Only the rivals that compare environments call it, so memory is needed only then.

    Raises
    ------
    DataError
        If rows or means are not finite; the message names the structure.
    ParameterError
        If shapes do not agree, a kind is unknown, or a noise or count is not positive.
    """

    rows: Float[np.ndarray, "rows d"]
    kinds: Int[np.ndarray, " rows"]
    offsets: Int[np.ndarray, " structures+1"]
    counts: Int[np.ndarray, "structures 3"]
    sigma: Float[np.ndarray, " rows"]
    n_atoms: Int[np.ndarray, " structures"]
    groups: tuple[str, ...]
    means: Float[np.ndarray, "structures F"]
    discarded: Float[np.ndarray, "structures 3"]
    description: Mapping[str, Any] = field(default_factory=dict)
    environments: Environments | None = None

    def __post_init__(self) -> None:
        """Store read-only views and check that they agree."""
        for name, dtype in _DTYPES.items():
            # A view, not a copy: rows may fill most of the memory.
            checked = (wholes if dtype is np.int64 else reals)(getattr(self, name), name)
            array = np.ascontiguousarray(checked, dtype=dtype).view()
            array.flags.writeable = False
            object.__setattr__(self, name, array)
        object.__setattr__(self, "groups", names(self.groups, "groups"))
        if not isinstance(self.description, Mapping):
            raise ParameterError(f"`description` must be a mapping, got {shown(self.description)}")
        object.__setattr__(self, "description", MappingProxyType(dict(self.description)))
        arrays = {name: getattr(self, name) for name in _DTYPES}
        check_shapes(arrays, len(self.groups))
        check_values(arrays)

    def __repr__(self) -> str:
        """Return one line: sizes and settings."""
        true = dict(zip(KINDS, self.counts.sum(axis=0).tolist(), strict=True))
        kinds = ", ".join(f"{count} {kind}" for kind, count in true.items() if count)
        kept = f", {len(self.rows)} after compression" if len(self.rows) != sum(true.values()) else ""
        settings = "".join(f"; {key} {value}" for key, value in self.description.items())
        return (
            f"Information({len(self)} structures, {self.d} weights, {sum(true.values())} rows"
            f"{': ' if kinds else ''}{kinds}{kept}{settings})"
        )

    @classmethod
    def from_blocks(
        cls,
        blocks: Iterable[tuple[Float[np.ndarray, "rows d"], Int[np.ndarray, " rows"], Float[np.ndarray, " rows"]]],
        *,
        n_atoms: Sequence[int] | Int[np.ndarray, " structures"],
        means: Float[np.ndarray, "structures F"] | None = None,
        groups: Sequence[str] | None = None,
        truncate: float = 0.0,
        description: Mapping[str, Any] | None = None,
        environments: Environments | None = None,
    ) -> Information:
        """Stack blocks that arrive one at a time, each compressed before the next is asked for.

        Parameters
        ----------
        blocks
            ``(rows, kinds, sigma)`` of each structure, with the rows already divided by sigma.
        n_atoms, means, groups, description, environments
            As in `Information`; no means and no groups are allowed.
        truncate
            Share of each kind's trace that compression may drop, as in `truncated`.
        """
        truncate = real(truncate, "truncate", most=1.0)
        parts = []
        counts = []
        d: int | None = None
        if not isinstance(blocks, Iterable):
            raise ParameterError(f"`blocks` must be (rows, kinds, sigma) of each structure, got {shown(blocks)}")
        for s, block in enumerate(blocks):
            block_rows, codes, sigmas = check_block(s, block, d)
            d = block_rows.shape[1]
            counts.append(np.bincount(codes, minlength=len(KINDS)))
            parts.append(compress_block(block_rows, codes, sigmas, truncate))
        if not parts:
            raise ParameterError("`blocks` must hold at least one structure, got none")
        rows, kinds, sigma, discarded = zip(*parts, strict=True)
        n = len(parts)
        return cls(
            rows=np.concatenate(rows),
            kinds=np.concatenate(kinds),
            offsets=np.concatenate([[0], np.cumsum([len(block) for block in rows])]),
            counts=np.array(counts),
            sigma=np.concatenate(sigma),
            n_atoms=wholes(n_atoms, "n_atoms"),
            groups=names(groups, "groups") if groups is not None else ("",) * n,
            means=means if means is not None else np.empty((n, 0)),
            discarded=np.array(discarded),
            description=description or {},
            environments=environments,
        )

    @classmethod
    def from_rows(cls, X: Float[np.ndarray, "candidates d"], *, sigma: float = 1.0, prior: float = 1.0) -> Information:
        """Make every row of plain linear regression a candidate of its own (of kind "energy", with one atom).

        Parameters
        ----------
        X
            Candidate rows; they are also the means that rivals look at.
        sigma
            Noise of one observation.
        prior
            Prior precision of every weight. Weights are measured in prior standard deviations: with
            ``Λ = prior·I + XᵀX/σ²`` the D curve is ``logdet Λ - d·log prior``, the A curve ``prior·tr Λ⁻¹``.
        """
        sigma, prior = real(sigma, "sigma", above=True), real(prior, "prior", above=True)
        X = reals(X, "X").astype(np.float64, copy=False)
        if X.ndim != 2:
            raise ParameterError(f"`X` must have the shape (candidates, d), got {X.shape}")
        n = len(X)
        counts = np.zeros((n, len(KINDS)), dtype=np.int64)
        counts[:, 0] = 1
        return cls(
            rows=X / (sigma * np.sqrt(prior)),
            kinds=np.zeros(n, dtype=np.int64),
            offsets=np.arange(n + 1),
            counts=counts,
            sigma=np.full(n, sigma),
            n_atoms=np.ones(n, dtype=np.int64),
            groups=("",) * n,
            means=X,
            discarded=np.zeros((n, len(KINDS))),
            description={"sigma": sigma, "prior": prior},
        )

    def __len__(self) -> int:
        """Return the number of structures."""
        return len(self.offsets) - 1

    @property
    def d(self) -> int:
        """Number of weights."""
        return int(self.rows.shape[1])

    @property
    def structure(self) -> Int[np.ndarray, " rows"]:
        """Structure number of every row."""
        return np.repeat(np.arange(len(self)), np.diff(self.offsets))

    def block(self, s: int) -> Float[np.ndarray, "rows_s d"]:
        """Rows of structure s."""
        if not -len(self) <= whole(s, "s", least=-len(self)) < len(self):
            raise ParameterError(f"structure {s} asked for, but there are {len(self)}")
        s %= len(self)
        return self.rows[self.offsets[s] : self.offsets[s + 1]]

    def only(self, *kinds: str) -> Information:
        """Keep the rows of some label kinds, as if the others were never computed.

        Parameters
        ----------
        kinds
            Names from `KINDS`, such as ``only("energy", "forces")``.
        """
        wanted = np.zeros(len(KINDS), dtype=bool)
        wanted[[_code(kind) for kind in kinds]] = True
        keep = wanted[self.kinds]
        return self._with(
            rows=self.rows[keep],
            kinds=self.kinds[keep],
            offsets=np.concatenate([[0], np.cumsum(keep)])[self.offsets],
            counts=self.counts * wanted,
            sigma=self.sigma[keep],
            discarded=self.discarded * wanted,
        )

    def take(self, indices: Sequence[int] | Int[np.ndarray, " chosen"]) -> Information:
        """Keep some structures, in the order given.

        Parameters
        ----------
        indices
            Structure numbers; negative ones count from the end.

        Raises
        ------
        ParameterError
            If a number is outside the set, or there is a mask or a float; `np.flatnonzero` turns masks into numbers.
        """
        chosen = numbers(np.atleast_1d(indices) if isinstance(indices, int | np.integer) else indices, "indices")
        if len(chosen) and not (-len(self) <= chosen.min() and chosen.max() < len(self)):
            raise ParameterError(f"`indices` must lie in [{-len(self)}, {len(self)}), got {chosen.tolist()}")
        chosen = chosen % max(len(self), 1)
        lengths = np.diff(self.offsets)[chosen]
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        picked = np.repeat(self.offsets[chosen] - offsets[:-1], lengths) + np.arange(offsets[-1])
        return self._with(
            rows=self.rows[picked],
            kinds=self.kinds[picked],
            offsets=offsets,
            counts=self.counts[chosen],
            sigma=self.sigma[picked],
            n_atoms=self.n_atoms[chosen],
            groups=tuple(self.groups[s] for s in chosen),
            means=self.means[chosen],
            discarded=self.discarded[chosen],
            environments=None if self.environments is None else Subset(self.environments, chosen),
        )

    def _with(self, **parts: Any) -> Information:
        """Take parts of arrays that were checked before, and need not be again."""
        made = object.__new__(Information)
        for name in self.__dataclass_fields__:
            value = parts.get(name, getattr(self, name))
            if isinstance(value, np.ndarray):
                value = value.view()
                value.flags.writeable = False
            object.__setattr__(made, name, value)
        return made

    def append(self, other: Information) -> Information:
        """Put the structures of another set behind these.

        Parameters
        ----------
        other
            Information in the same weights and with means of the same length. Environments stay where both have some.

        Raises
        ------
        ParameterError
            If the two were made by different feature maps.
        """
        require(other, "other")
        if self.d != other.d or self.means.shape[1] != other.means.shape[1]:
            raise ParameterError(
                "only information of one feature map can be appended: found "
                f"{self.d} and {other.d} weights, means of {self.means.shape[1]} and {other.means.shape[1]} "
                "components; make both with the same prepared model"
            )
        joined = {
            name: np.concatenate([getattr(self, name), getattr(other, name)]) for name in _DTYPES if name != "offsets"
        }
        one, two = self.environments, other.environments
        return Information(
            environments=None if one is None or two is None else Joined(one, two),
            offsets=np.concatenate([self.offsets, self.offsets[-1] + other.offsets[1:]]),
            groups=self.groups + other.groups,
            description={**other.description, **self.description},
            **joined,
        )

    def target(self, weights: Mapping[str, float] | None = None) -> Float[np.ndarray, "d d"]:
        """Second moment of the labels to be predicted: ``V = Σ_kind ω_kind · mean over rows of rowᵀ row``.

        Rows are in units of their noise, and the mean runs over the true rows of each kind, so that one
        energy is not drowned by hundreds of force components.

        Parameters
        ----------
        weights
            ω of each label kind by name, 1 where not given.

        Raises
        ------
        ParameterError
            If a name is unknown or a weight is negative or not finite.
        """
        V = np.zeros((self.d, self.d))
        for scaled in self._target_rows(weights):
            V += scaled.T @ scaled
        return V

    def target_root(self, weights: Mapping[str, float] | None = None) -> Float[np.ndarray, "d d"]:
        """Triangular L with ``L Lᵀ`` the second moment of `target`, without squaring its condition number.

        Parameters
        ----------
        weights
            As in `target`.
        """
        R = np.zeros((0, self.d))
        for scaled in self._target_rows(weights):
            R = np.asarray(np.linalg.qr(np.concatenate([R, scaled]), mode="r"))
        return R.T

    def target_rows(self) -> Float[np.ndarray, "rows d"]:
        """Rows scaled so that those of structure t make ``V_t = Σ_kind mean over its rows of rowᵀ row``."""
        scale = 1.0 / np.sqrt(np.maximum(self.counts, 1))[self.structure, self.kinds]
        return self.rows * scale[:, None]

    def _target_rows(self, weights: Mapping[str, float] | None) -> Iterator[Float[np.ndarray, "chunk d"]]:
        """Rows scaled so that the sum of their squares is the target's second moment, in chunks."""
        omega = np.ones(len(KINDS))
        if not isinstance(weights, Mapping | None):
            raise ParameterError(f"`weights` must be a mapping such as {{'energy': 2.0}}, got {shown(weights)}")
        for kind, weight in (weights or {}).items():
            omega[_code(kind)] = real(weight, f"weights[{kind!r}]")
        factor = np.sqrt(omega / np.maximum(self.counts.sum(axis=0), 1))[self.kinds]
        for start in range(0, len(self.rows), _CHUNK):
            part = slice(start, start + _CHUNK)
            yield self.rows[part] * factor[part, None]

    def truncated(self, share: float = 1e-4) -> Information:
        """Compress every block, each label kind by itself, and record the trace that is lost.

        Parameters
        ----------
        share
            Largest share of the present trace of a structure's kind that may be dropped, in [0, 1).
            With 0, kinds with more rows than weights become triangular factors and nothing is lost.
        """
        share = real(share, "share", most=1.0)
        bounds = list(zip(self.offsets[:-1], self.offsets[1:], strict=True))
        short = Information.from_blocks(
            ((self.rows[a:b], self.kinds[a:b], self.sigma[a:b]) for a, b in bounds),
            n_atoms=self.n_atoms,
            means=self.means,
            groups=self.groups,
            truncate=share,
            description=self.description,
            environments=self.environments,
        )
        return replace(short, counts=self.counts, discarded=self.discarded + short.discarded)


_DTYPES = {
    "rows": np.float64,
    "kinds": np.int64,
    "offsets": np.int64,
    "counts": np.int64,
    "sigma": np.float64,
    "n_atoms": np.int64,
    "means": np.float64,
    "discarded": np.float64,
}


def _code(kind: str) -> int:
    """Position of a kind's name."""
    if kind not in KINDS:
        raise ParameterError(f"unknown label kind {kind!r}; the kinds are {', '.join(KINDS)}")
    return KINDS.index(kind)


def require(value: object, name: str) -> None:
    """Refuse what is no Information, by the argument's name."""
    if not isinstance(value, Information):
        raise ParameterError(
            f"`{name}` must be an Information, got a {type(value).__name__}; space.information(structures) makes one"
        )


def duplicates(info: Information, *, tolerance: float = SAME) -> Int[np.ndarray, " structures"]:
    """Group structures that have equal mean descriptors and equal numbers of atoms.

    Parameters
    ----------
    info
        The structures. Without mean descriptors each is a group of its own.
    tolerance
        Largest distance of two mean descriptors, relative to the larger norm.

    Returns
    -------
    groups
        Group number of every structure, counted in the order of first members. Groups are chains: a member
        is within the tolerance of some other member.

    Raises
    ------
    ParameterError
        If `tolerance` is negative or not finite.
    """
    if not (np.isfinite(tolerance) and tolerance >= 0):
        raise ParameterError(f"`tolerance` must be finite and not negative, got {tolerance}")
    return equal_vectors(info.means, info.n_atoms, tolerance)
