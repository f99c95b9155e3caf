"""The commands and their options; light enough that ``--help`` answers at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

import kernelpot as kp
from kernelpot.cli.parsing import (
    Option,
    criterion,
    keys,
    natural,
    noise,
    numbers,
    positive,
    positive_int,
    positive_or_none,
    power,
    quota,
    seed,
    symbols,
)
from kernelpot.errors import ParameterError

SEARCHES = ("greedy", "exchange", "relaxation", "stochastic", "pruning")
RIVALS = ("random", "fps", "kmeans", "stratified", "cur", "maxvol", "maxvol-environments", "maximin", "kdpp",
          "kdpp-greedy", "entropy", "quests")  # fmt: skip
"""What ``select --method`` takes besides, the names of `kernelpot.design.rivals.RIVALS` (too heavy to import)."""

Positive = Annotated[float, positive]
PositiveInt = Annotated[int, positive_int]
Natural = Annotated[int, natural]
NoiseStd = Annotated[float | None, positive_or_none]
Numbers = Annotated[tuple[int, ...], numbers]
Files = tuple[str, ...]

Existing = Annotated[Files, Option("structures that are labelled already", "FILE")]
Test = Annotated[Files, Option("also score the model on these", "FILE")]
Chosen = Annotated[str | None, Option("write the chosen structures, in order of choice, as extended XYZ", "FILE")]
ModelFile = Annotated[str, Option("a model file that `kernelpot fit` or `regress` wrote", "MODEL", positional=True)]
Keys = Annotated[
    dict[str, str | None] | None,
    keys,
    Option("where labels stand, e.g. energy=dft_energy,forces=dft_forces; 'none' ignores a kind", "KIND=NAME,..."),
]
Format = Annotated[
    str | None,
    Option("format of the files, such as mtp, ml_ab or one of ASE's names", "NAME", default="by name and first bytes"),
]
Types = Annotated[
    tuple[str, ...] | None, symbols, Option("elements of the types 0, 1, … of a format that numbers them", "X,Y,...")
]
Seed = Annotated[int, seed, Option("seed of everything random")]


@dataclass(frozen=True, kw_only=True)
class EnvironmentOptions:
    """Descriptor of environments and kernel between them."""

    descriptor: Annotated[Literal["soap", "acsf"], Option("soap, or acsf: symmetry functions, n-max radial ones")] = (
        "soap"
    )
    gaussian: Annotated[
        Positive | None,
        Option("Gaussian kernel of this length between unit vectors, instead of a power; 1 to 2 suits acsf", "LENGTH"),
    ] = None
    cutoff: Annotated[Positive, Option("reach of an environment, Å")] = 5.0
    n_max: Annotated[PositiveInt, Option("radial functions")] = 8
    l_max: Annotated[Natural, Option("soap: largest angular momentum")] = 6
    n_angular: Annotated[PositiveInt, Option("acsf: widths of angular functions")] = 2
    sigma: Annotated[Positive, Option("soap: width of an atom's density, Å")] = 0.5
    zeta: Annotated[PositiveInt, Option("power of the kernel")] = 2
    n_inducing: int | None = None
    amplitude: Annotated[Positive, Option("prior std of a local energy, eV")] = 1.0
    seed: Seed = 0
    given: frozenset[str] = frozenset()

    def check(self) -> None:
        """Refuse options that the descriptor or the kernel has no use for."""
        acsf = self.descriptor == "acsf"
        idle = [name for name in (("l_max", "sigma") if acsf else ("n_angular",)) if name in self.given]
        if idle:
            owner, change = ("SOAP", "leave --descriptor acsf out") if acsf else ("acsf", "add --descriptor acsf")
            raise ParameterError(f"`--{idle[0].replace('_', '-')}` belongs to {owner}; leave it out, or {change}")
        if self.gaussian is not None and "zeta" in self.given:
            raise ParameterError("`--zeta` is the power of the kernel that --gaussian replaces; give one or the other")

    def describing(self) -> kp.SOAP | kp.ACSF:
        """Make the descriptor."""
        if self.descriptor == "acsf":
            return kp.ACSF.spaced(self.cutoff, n_radial=self.n_max, n_angular=self.n_angular)
        return kp.SOAP(cutoff=self.cutoff, n_max=self.n_max, l_max=self.l_max, sigma=self.sigma)

    def comparing(self) -> kp.DotProduct | kp.Gaussian:
        """Make the kernel of environments."""
        if self.gaussian is not None:
            return kp.Gaussian(self.gaussian, self.amplitude)
        return kp.DotProduct(zeta=self.zeta, amplitude=self.amplitude)

    def as_dict(self) -> dict[str, Any]:
        """Return the settings that count, for JSON."""
        sizes = ["descriptor", "n_angular"] if self.descriptor == "acsf" else ["l_max", "sigma"]
        kernel = "zeta" if self.gaussian is None else "gaussian"
        return {n: getattr(self, n) for n in ("cutoff", "n_max", *sizes, kernel, "n_inducing", "amplitude", "seed")}


@dataclass(frozen=True, kw_only=True)
class PotentialOptions(EnvironmentOptions):
    """Settings of a potential, with the noises of its labels."""

    cutoff: Annotated[
        Positive, Option("reach of an environment, Å", default="from the distances between atoms in the data")
    ] = 5.0
    n_inducing: Annotated[PositiveInt, Option("inducing environments at most")] = 500
    noise_energy: Annotated[NoiseStd, Option("noise of energy, eV/atom, or 'none'", "STD")] = 0.002
    noise_forces: Annotated[NoiseStd, Option("noise of forces, eV/Å, or 'none'", "STD")] = 0.1
    noise_stress: Annotated[NoiseStd, Option("noise of stress, eV/Å³, or 'none'", "STD", default="none")] = None

    def noises(self) -> dict[str, float | None]:
        """Return the noise of each kind, to plan with before any label can tell."""
        return {"energy": self.noise_energy, "forces": self.noise_forces, "stress": self.noise_stress}

    def given_noises(self) -> list[str]:
        """Name the noises that the user gave."""
        return [name for name in ("noise_energy", "noise_forces", "noise_stress") if name in self.given]

    def spec(self, noise: kp.Noise | str | None = None, *, zbl: bool = False) -> kp.SparseGP:
        """Make the model, with the planned noises unless others are given."""
        self.check()
        return kp.SparseGP(
            self.describing(),
            self.comparing(),
            n_inducing=self.n_inducing,
            noise=kp.Noise(**self.noises()) if noise is None else noise,
            seed=self.seed,
            baseline=kp.ZBL() if zbl else None,
        )


@dataclass(frozen=True, kw_only=True)
class SpaceOptions(PotentialOptions):
    """Settings of a potential to plan with, or a fitted one that has them."""

    model: Annotated[str | None, Option("a fitted potential that settles all but --n-inducing (new ones)", "MODEL")] = (
        None
    )


@dataclass(frozen=True, kw_only=True)
class RegressionOptions(EnvironmentOptions):
    """Settings of a model of one property."""

    n_inducing: Annotated[PositiveInt | None, Option("inducing structures", default="all")] = None


@dataclass(frozen=True, kw_only=True)
class TuningOptions:
    """Settings that are given stay as given; the others are searched: terms, cutoff, n-max, l-max, sigma, zeta, with
    --descriptor acsf cutoff, n-max, n-angular and gaussian; a pair term is tried with either.
    """

    budget: Annotated[
        Positive | None,
        Option("choose the settings by left-out frames and compositions, fit and calibrate within so long", "MINUTES"),
    ] = None
    tune: Annotated[
        Positive | None,
        Option("the same by its former name (10 where no number follows)", "MINUTES", bare=10.0),
    ] = None
    tune_fits: Annotated[PositiveInt | None, Option("at most N fits: alone, exactly repeatable", "N")] = None
    tune_groups: Annotated[bool, Option("leave out each config_type in turn alone")] = False
    tune_table: Annotated[str | None, Option("write the table of all trials, as CSV", "FILE")] = None
    tune_resume: Annotated[str | None, Option("keep trials here; an interrupted search goes on from it", "FILE")] = None

    @property
    def asked(self) -> bool:
        """Whether there is to be a search."""
        return self.minutes is not None or self.tune_fits is not None

    @property
    def minutes(self) -> float | None:
        """How long the search may take."""
        return self.tune if self.budget is None else self.budget

    def outputs(self) -> dict[str, str | None]:
        """Return what a search writes, by option."""
        return {"--tune-table": self.tune_table, "--tune-resume": self.tune_resume}


@dataclass(frozen=True, kw_only=True)
class Command:
    """What every command has."""

    json: Annotated[str | None, Option("write the numbers as JSON; '-' is standard output", "FILE")] = None
    quiet: Annotated[bool, Option("no progress on standard error")] = False


@dataclass(frozen=True, kw_only=True)
class Reading(Command):
    """What every command has that reads files of structures as a whole."""

    format: Format = None
    species: Types = None


@dataclass(frozen=True, kw_only=True)
class Select(Reading):
    """Choose which structures to label; needs no labels.

    Choose the structures of a pool whose labels would teach the model most.
    Labels in the pool are ignored.
    """

    pool: Annotated[Files, Option("files of structures, any format ASE reads", "POOL", positional=True)]
    n: Annotated[PositiveInt | None, Option("how many structures to choose", "N")] = None
    criterion: Annotated[
        str | dict[str, float],
        criterion,
        Option(
            "balanced: mean predicted variances of energies and forces over the pool or target, as a geometric mean;"
            " IV: their sum in units of the noises; V: the same, every label alike; G: variance of the worst"
            " structure; D: volume of all uncertainty; A, E: mean and largest variance of the model's weights; or a"
            " compound such as D=0.3,IV=0.7",
            "NAME",
        ),
    ] = "balanced"
    method: Annotated[
        str,
        Option(
            f"{', '.join(SEARCHES)}; or a rival to compare with: {', '.join(RIVALS)}",
            "NAME",
            choices=SEARCHES + RIVALS,
        ),
    ] = "greedy"
    existing: Existing = ()
    target: Annotated[Files, Option("structures that the model is for", "FILE", default="the pool")] = ()
    budget: Annotated[
        Positive | None, Option("limit of the summed costs, N_atoms³ each unless --cost-power", "COST")
    ] = None
    cost_power: Annotated[float, power, Option("a structure costs N_atoms^P", "P")] = 3.0
    force: Annotated[Numbers, Option("numbers of structures to choose in any case", "I,J-K")] = ()
    forbid: Annotated[Numbers, Option("numbers of structures never to choose", "I,J-K")] = ()
    quota: Annotated[
        tuple[tuple[str, int | tuple[int, int]], ...],
        quota,
        Option("at most LIMIT, or LEAST-MOST, of a config_type; may be repeated", "GROUP=LIMIT", append=True),
    ] = ()
    certify: Annotated[bool, Option("prove how close to the best possible the choice is (takes longer)")] = False
    screen: Annotated[
        bool,
        Option("set broken and outlying structures of the pool aside first, and list them", default="only a warning"),
    ] = False
    strict: Annotated[bool, Option("fewer than -n is an error")] = False
    out: Chosen = None
    model: SpaceOptions = SpaceOptions()
    keys: Keys = None


@dataclass(frozen=True, kw_only=True)
class Assess(Reading):
    """Judge a training set: what it fixes, what is idle, what to add; needs no labels.

    Judge a set of structures: whether a model can be trained on it, what each structure
    adds, which could go, which of a pool to add or swap in, and, where labels tell, what error to expect.
    Labels that are there count; where there are none, those that are planned.
    """

    train: Annotated[Files, Option("files of the set, any format ASE reads", "TRAIN", positional=True)]
    pool: Annotated[Files, Option("candidates for additions and swaps; labels ignored", "FILE")] = ()
    target: Annotated[
        Files,
        Option("structures that the model is for; labels ignored", "FILE", default="the pool, or the set itself"),
    ] = ()
    next: Annotated[Natural, Option("how many additions to propose", "N")] = 10
    swaps: Annotated[Natural, Option("how many swaps to propose", "N")] = 5
    criterion: Annotated[
        Literal["IV", "D", "A"],
        Option("by what structures are weighed: IV, mean predicted variance over the target; D; A"),
    ] = "IV"
    model: SpaceOptions = SpaceOptions()
    keys: Keys = None


@dataclass(frozen=True, kw_only=True)
class Curate(Command):
    """Choose from a pool that does not fit in memory; resumes.

    Like select, for a pool of any size: its blocks are written to a folder in chunks,
    and the choice is made chunk by chunk. Run the same command again after an
    interruption, or with another -n: it goes on with what is in the folder.
    """

    pool: Annotated[Files, Option("files of structures; extended XYZ is streamed", "POOL", positional=True)]
    blocks: Annotated[str, Option("folder of the blocks, made or gone on with", "FOLDER")]
    n: Annotated[PositiveInt, Option("how many structures to choose", "N")]
    criterion: Annotated[Literal["balanced", "IV", "D", "A", "E"], Option("as in select")] = "balanced"
    method: Annotated[
        Literal["distributed", "stochastic"],
        Option("greedy in parts and then over their choices, or the best of random samples"),
    ] = "distributed"
    epsilon: Annotated[
        Positive | None,
        Option("accuracy of stochastic greedy, 0 to 1 (else 0.1); with distributed: search the parts that way"),
    ] = None
    existing: Existing = ()
    sample: Annotated[PositiveInt, Option("structures drawn at random for the inducing environments")] = 2000
    chunk: Annotated[PositiveInt, Option("structures in a chunk")] = 2000
    truncate: Annotated[Positive, Option("share of a block's trace that may be dropped")] = 0.01
    workers: Annotated[
        Natural | None,
        Option("worker processes; 0 is none", default="one per thread, none for one thread"),
    ] = None
    scheduler: Annotated[str | None, Option("a running Dask cluster instead, e.g. tcp://host:8786", "ADDRESS")] = None
    memory: Annotated[Positive, Option("GiB that the choice may use")] = 4.0
    out: Chosen = None
    model: PotentialOptions = PotentialOptions()
    keys: Keys = None


@dataclass(frozen=True, kw_only=True)
class Fit(Reading):
    """Fit a potential to labelled structures.

    Fit a sparse Gaussian process to energies, forces and stresses, and save it.
    """

    train: Annotated[Files, Option("files of labelled structures", "TRAIN", positional=True)]
    out: Annotated[str, Option("the model file to write, e.g. si.kp", "MODEL")]
    noise: Annotated[
        str | tuple[float | None, ...] | None,
        noise,
        Option(
            "cv: find noises and amplitude by cross-validation; evidence, tempered: by marginal likelihood, for"
            " comparison; or fixed: eV/atom, eV/Å and eV/Å³ ('none' leaves a kind out)",
            "cv|evidence|tempered|E,F[,S]",
            default="cv",
        ),
    ] = None
    pool: Annotated[
        Files,
        Option(
            "choose the inducing environments from these too: unlabelled structures, such as the pool of `select`",
            "FILE",
        ),
    ] = ()
    test: Test = ()
    calibrate: Annotated[
        bool,
        Option("measure standard deviations on training structures left out by folds (about two more fits)"),
    ] = False
    suspects: Annotated[
        Literal["warn", "drop", "robust", "ignore"],
        Option(
            "labels that do not fit the others: fit them and warn, drop their structures, weigh them down, or ignore"
        ),
    ] = "warn"
    drop_suspects: Annotated[bool, Option("short for --suspects drop")] = False
    zbl: Annotated[
        bool,
        Option("learn the difference from the repulsion of nuclei, which keeps atoms apart where no label says so"),
    ] = False
    model: PotentialOptions = PotentialOptions()
    tuning: TuningOptions = TuningOptions()
    keys: Keys = None

    def check(self) -> None:
        """Refuse an option of the search without a search, and one that the model or the search has no use for."""
        self.model.check()
        if self.drop_suspects and self.suspects not in ("warn", "drop"):
            raise ParameterError(
                f"`--drop-suspects` says what --suspects {self.suspects} denies; give one or the other"
            )
        if self.tuning.budget is not None and self.tuning.tune is not None:
            raise ParameterError("`--tune` is the former name of `--budget`; give one or the other")
        if not self.tuning.asked:
            options = self.tuning.outputs() | {"--tune-groups": self.tuning.tune_groups}
            idle = [name for name, value in options.items() if value]
            if idle:
                raise ParameterError(f"`{idle[0]}` needs a search: add --budget MINUTES or --tune-fits N")
        elif self.noise not in (None, "cv") or self.model.given_noises():
            raise ParameterError("`--budget` compares settings with noises by cross-validation: leave --noise out")

    def noises(self) -> kp.Noise | str:
        """Return the noises that are given, or how to find them."""
        given = self.model.given_noises()
        if self.noise is None:
            return kp.Noise(**self.model.noises()) if given else "cv"
        if given:
            names = ", ".join(f"--{name.replace('_', '-')}" for name in given)
            raise ParameterError(f"`--noise` already says what {names} says; give one or the other")
        return self.noise if isinstance(self.noise, str) else kp.Noise(*self.noise)


@dataclass(frozen=True, kw_only=True)
class Check(Reading):
    """Find labels that are wrong: units, signs, another structure's; before a fit.

    Predict every label by models that did not see its structure, and name those whose
    error is many times the usual, each with the likeliest reason.
    """

    files: Annotated[Files, Option("files of labelled structures", "FILE", positional=True)]
    model: Annotated[str | None, Option("judge by this model, which was not fitted to these labels", "MODEL")] = None
    out: Annotated[str | None, Option("write the structures without a suspect, as extended XYZ", "FILE")] = None
    keys: Keys = None


@dataclass(frozen=True, kw_only=True)
class Regress(Reading):
    """Fit a model of one property of a structure, such as a band gap.

    Fit a kernel ridge regression to one number for each structure, and save it. The
    property stands in the comment lines of extended XYZ, as in gap=1.2.
    """

    train: Annotated[Files, Option("files of structures with the property", "TRAIN", positional=True)]
    property: Annotated[str, Option("name of the property in the files", "NAME")]
    out: Annotated[str, Option("the model file to write, e.g. gap.kp", "MODEL")]
    test: Test = ()
    combine: Annotated[
        Literal["sum", "average", "rematch"],
        Option(
            "how kernels of environments make one of structures: sum for extensive properties; average or rematch"
            " (best match) for intensive ones"
        ),
    ] = "sum"
    baseline: Annotated[
        Literal["composition", "mean", "none"] | None,
        Option(
            "subtracted first: composition, linear in the numbers of atoms; or their mean",
            default="composition with sum, else mean",
        ),
    ] = None
    alpha: Annotated[Positive | None, Option("regularisation in units of the kernel", default="by left-out errors")] = (
        None
    )
    model: RegressionOptions = RegressionOptions()


@dataclass(frozen=True, kw_only=True)
class Evaluate(Reading):
    """Score a model on labelled structures.

    Compare predictions with labels: errors, worst cases, and whether the predicted
    standard deviations are honest.
    """

    model: ModelFile
    files: Annotated[Files, Option("files of labelled structures", "FILE", positional=True)]
    keys: Keys = None


@dataclass(frozen=True, kw_only=True)
class Predict(Reading):
    """Predict energies, forces, stresses and their standard deviations.

    Write structures with predicted energy, forces and stress, and the standard
    deviation of each, as extended XYZ.
    """

    model: ModelFile
    files: Annotated[Files, Option("files of structures", "FILE", positional=True)]
    out: Annotated[str, Option("the extended XYZ file to write", "FILE")]


@dataclass(frozen=True, kw_only=True)
class Demo(Command):
    """The whole job on made-up Cu-Au data, with a report; needs no file.

    Make a pool of Cu-Au structures, choose 25 without labels, label them with ASE's EMT
    potential (the stand-in for DFT), fit, compare with 25 random ones, run molecular
    dynamics, and write report.html.
    """

    out: Annotated[str, Option("the report", "FILE")] = "report.html"
    pool: Annotated[PositiveInt, Option("structures in the pool")] = 300
    n: Annotated[PositiveInt, Option("structures to choose", "N")] = 25
    seed: Seed = 0
