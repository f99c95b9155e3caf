"""What the command line accepts; light enough that ``--help`` answers at once."""

from __future__ import annotations

import argparse

from kernelpot import __version__
from kernelpot.cli.options import Parser, add_command, add_keys, add_model, add_tuning
from kernelpot.cli.values import criterion, natural, noise, numbers, positive, positive_int, power, quota, seed

METHODS = (
    "greedy",
    "exchange",
    "relaxation",
    "stochastic",
    "pruning",
    "random",
    "fps",
    "kmeans",
    "stratified",
    "cur",
    "maxvol",
    "maxvol-environments",
    "maximin",
    "kdpp",
    "kdpp-greedy",
    "entropy",
    "quests",
)
"""What ``select --method`` takes: searches, then the names of `kernelpot.design.rivals.RIVALS`, too heavy to import."""
SEARCHES = 5
"""How many of them are searches."""

ABOUT = """\
Choose which atomic structures deserve a DFT calculation before any is run,
then fit a kernel potential that knows its own error."""

EXAMPLES = """\
examples:
  kernelpot demo
  kernelpot select pool.xyz.xz -n 50 --out chosen.xyz
  kernelpot assess train.xyz --pool pool.xyz
  kernelpot curate huge.xyz.xz --blocks huge.blocks -n 1000 --workers 4 --out chosen.xyz
  kernelpot fit labelled.xyz --out si.kp --test test.xyz
  kernelpot fit labelled.xyz --out si.kp --tune 10 --tune-table trials.csv
  kernelpot regress crystals.xyz --property gap --combine average --out gap.kp
  kernelpot evaluate si.kp test.xyz --json scores.json
  kernelpot predict si.kp new.xyz --out predicted.xyz
"""


def parser() -> Parser:
    """Return the parser of the whole command line."""
    top = Parser(
        prog="kernelpot",
        description=ABOUT,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    top.add_argument("--version", action="version", version=f"kernelpot {__version__}")
    commands = top.add_subparsers(
        dest="command", metavar="command", required=True, parser_class=Parser, title="commands"
    )
    _select(commands)
    _assess(commands)
    _curate(commands)
    _fit(commands)
    _regress(commands)
    _evaluate(commands)
    _predict(commands)
    _demo(commands)
    return top


def _select(commands: argparse._SubParsersAction[Parser]) -> None:
    command = add_command(
        commands,
        "select",
        "choose which structures to label; needs no labels",
        """
        Choose the structures of a pool whose labels would teach the model most.
        Labels in the pool are ignored.
        """,
    )
    command.add_argument("pool", nargs="+", metavar="POOL", help="files of structures, any format ASE reads")
    command.add_argument("-n", type=positive_int, metavar="N", help="how many structures to choose")
    command.add_argument(
        "--criterion",
        type=criterion,
        default="balanced",
        metavar="NAME",
        help=(
            "balanced: mean predicted variances of energies and forces over the pool or target, as a geometric mean "
            "(default); IV: their sum in units of the noises; V: the same, every label alike; G: variance"
            " of the worst structure; D: volume of all uncertainty; A, E: mean and largest variance of the model's"
            " weights; or a compound such as D=0.3,IV=0.7"
        ),
    )
    command.add_argument(
        "--method",
        choices=METHODS,
        default="greedy",
        metavar="NAME",
        help=(
            f"greedy (default), {', '.join(METHODS[1:SEARCHES])}; or a rival to compare with: "
            f"{', '.join(METHODS[SEARCHES:])}"
        ),
    )
    command.add_argument(
        "--existing", nargs="+", metavar="FILE", default=[], help="structures that are labelled already"
    )
    command.add_argument(
        "--target", nargs="+", metavar="FILE", default=[], help="structures that the model is for (default: the pool)"
    )
    command.add_argument(
        "--budget", type=positive, metavar="COST", help="limit of the summed costs, N_atoms³ each unless --cost-power"
    )
    command.add_argument(
        "--cost-power", type=power, default=3.0, metavar="P", help="a structure costs N_atoms^P (default: 3)"
    )
    command.add_argument(
        "--force", type=numbers, default=[], metavar="I,J-K", help="numbers of structures to choose in any case"
    )
    command.add_argument(
        "--forbid", type=numbers, default=[], metavar="I,J-K", help="numbers of structures never to choose"
    )
    command.add_argument(
        "--quota",
        type=quota,
        action="append",
        default=[],
        metavar="GROUP=LIMIT",
        help="at most LIMIT, or LEAST-MOST, of a config_type; may be repeated",
    )
    command.add_argument(
        "--certify", action="store_true", help="prove how close to the best possible the choice is (takes longer)"
    )
    command.add_argument(
        "--screen",
        action="store_true",
        help="set broken and outlying structures of the pool aside first, and list them (default: only a warning)",
    )
    command.add_argument(
        "--out", metavar="FILE", help="write the chosen structures, in order of choice, as extended XYZ"
    )
    add_model(command)
    add_keys(command)


def _assess(commands: argparse._SubParsersAction[Parser]) -> None:
    command = add_command(
        commands,
        "assess",
        "judge a training set: what it fixes, what is idle, what to add; needs no labels",
        """
        Judge a set of structures: whether a model can be trained on it, what each structure
        adds, which could go, which of a pool to add or swap in, and what error to expect.
        Labels that are there count; where there are none, those that are planned.
        """,
    )
    command.add_argument("train", nargs="+", metavar="TRAIN", help="files of the set, any format ASE reads")
    command.add_argument(
        "--pool", nargs="+", metavar="FILE", default=[], help="candidates for additions and swaps; labels ignored"
    )
    command.add_argument(
        "--target",
        nargs="+",
        metavar="FILE",
        default=[],
        help="structures that the model is for (default: the pool, or the set itself); labels ignored",
    )
    command.add_argument(
        "--next", type=natural, default=10, metavar="N", help="how many additions to propose (default: 10)"
    )
    command.add_argument("--swaps", type=natural, default=5, metavar="N", help="how many swaps to propose (default: 5)")
    command.add_argument(
        "--criterion",
        choices=["IV", "D", "A"],
        default="IV",
        help="by what structures are weighed: IV, mean predicted variance over the target (default); D; A",
    )
    add_model(command)
    add_keys(command)


def _curate(commands: argparse._SubParsersAction[Parser]) -> None:
    command = add_command(
        commands,
        "curate",
        "choose from a pool that does not fit in memory; resumes",
        """
        Like select, for a pool of any size: its blocks are written to a folder in chunks,
        and the choice is made chunk by chunk. Run the same command again after an
        interruption, or with another -n: it goes on with what is in the folder.
        """,
    )
    command.add_argument("pool", nargs="+", metavar="POOL", help="files of structures; extended XYZ is streamed")
    command.add_argument("--blocks", required=True, metavar="FOLDER", help="folder of the blocks, made or gone on with")
    command.add_argument("-n", type=positive_int, required=True, metavar="N", help="how many structures to choose")
    command.add_argument(
        "--criterion",
        choices=["balanced", "IV", "D", "A", "E"],
        default="balanced",
        help="as in select (default: balanced)",
    )
    command.add_argument(
        "--method",
        choices=["distributed", "stochastic"],
        default="distributed",
        help="greedy in parts and then over their choices (default), or the best of random samples",
    )
    command.add_argument(
        "--epsilon",
        type=positive,
        help="accuracy of stochastic greedy, 0 to 1 (default: 0.1); with distributed: search the parts that way",
    )
    command.add_argument(
        "--existing", nargs="+", metavar="FILE", default=[], help="structures that are labelled already"
    )
    command.add_argument(
        "--sample",
        type=positive_int,
        default=2000,
        help="structures drawn at random for the inducing environments (default: 2000)",
    )
    command.add_argument("--chunk", type=positive_int, default=2000, help="structures in a chunk (default: 2000)")
    command.add_argument(
        "--truncate", type=positive, default=0.01, help="share of a block's trace that may be dropped (default: 0.01)"
    )
    command.add_argument(
        "--workers", type=natural, help="worker processes; 0 is none (default: one per thread, none for one thread)"
    )
    command.add_argument("--scheduler", metavar="ADDRESS", help="a running Dask cluster instead, e.g. tcp://host:8786")
    command.add_argument("--memory", type=positive, default=4.0, help="GiB that the choice may use (default: 4)")
    command.add_argument(
        "--out", metavar="FILE", help="write the chosen structures, in order of choice, as extended XYZ"
    )
    add_model(command)
    add_keys(command)


def _fit(commands: argparse._SubParsersAction[Parser]) -> None:
    command = add_command(
        commands,
        "fit",
        "fit a potential to labelled structures",
        """
        Fit a sparse Gaussian process to energies, forces and stresses, and save it.
        """,
    )
    command.add_argument("train", nargs="+", metavar="TRAIN", help="files of labelled structures")
    command.add_argument("--out", required=True, metavar="MODEL", help="the model file to write, e.g. si.kp")
    command.add_argument(
        "--noise",
        type=noise,
        metavar="cv|evidence|tempered|E,F[,S]",
        help=(
            "cv (default): find noises and amplitude by cross-validation; evidence, tempered: by marginal"
            " likelihood, for comparison; or fixed: eV/atom, eV/Å and eV/Å³ ('none' leaves a kind out)"
        ),
    )
    command.add_argument(
        "--pool",
        nargs="+",
        metavar="FILE",
        default=[],
        help="choose the inducing environments from these too: unlabelled structures, such as the pool of `select`",
    )
    command.add_argument("--test", nargs="+", metavar="FILE", default=[], help="also score the model on these")
    command.add_argument(
        "--calibrate",
        action="store_true",
        help="measure standard deviations on training structures left out by folds (about two more fits)",
    )
    command.add_argument(
        "--zbl",
        action="store_true",
        help="learn the difference from the repulsion of nuclei, which keeps atoms apart where no label says so",
    )
    add_model(command, cutoff=None)
    add_tuning(command)
    add_keys(command)


def _regress(commands: argparse._SubParsersAction[Parser]) -> None:
    command = add_command(
        commands,
        "regress",
        "fit a model of one property of a structure, such as a band gap",
        """
        Fit a kernel ridge regression to one number for each structure, and save it. The
        property stands in the comment lines of extended XYZ, as in gap=1.2.
        """,
    )
    command.add_argument("train", nargs="+", metavar="TRAIN", help="files of structures with the property")
    command.add_argument("--property", required=True, metavar="NAME", help="name of the property in the files")
    command.add_argument("--out", required=True, metavar="MODEL", help="the model file to write, e.g. gap.kp")
    command.add_argument("--test", nargs="+", metavar="FILE", default=[], help="also score the model on these")
    command.add_argument(
        "--combine",
        choices=("sum", "average", "rematch"),
        default="sum",
        help="how kernels of environments make one of structures: sum for extensive properties (default); "
        "average or rematch (best match) for intensive ones",
    )
    command.add_argument(
        "--baseline",
        choices=("composition", "mean", "none"),
        help="subtracted first: composition, linear in the numbers of atoms (default with sum); mean (else)",
    )
    command.add_argument(
        "--alpha", type=positive, help="regularisation in units of the kernel (default: by left-out errors)"
    )
    add_model(command, potential=False)


def _evaluate(commands: argparse._SubParsersAction[Parser]) -> None:
    command = add_command(
        commands,
        "evaluate",
        "score a model on labelled structures",
        """
        Compare predictions with labels: errors, worst cases, and whether the predicted
        standard deviations are honest.
        """,
    )
    command.add_argument("model", metavar="MODEL", help="a model file that `kernelpot fit` or `regress` wrote")
    command.add_argument("files", nargs="+", metavar="FILE", help="files of labelled structures")
    add_keys(command)


def _predict(commands: argparse._SubParsersAction[Parser]) -> None:
    command = add_command(
        commands,
        "predict",
        "predict energies, forces, stresses and their standard deviations",
        """
        Write structures with predicted energy, forces and stress, and the standard
        deviation of each, as extended XYZ.
        """,
    )
    command.add_argument("model", metavar="MODEL", help="a model file that `kernelpot fit` or `regress` wrote")
    command.add_argument("files", nargs="+", metavar="FILE", help="files of structures")
    command.add_argument("--out", required=True, metavar="FILE", help="the extended XYZ file to write")


def _demo(commands: argparse._SubParsersAction[Parser]) -> None:
    command = add_command(
        commands,
        "demo",
        "the whole job on made-up Cu-Au data, with a report; needs no file",
        """
        Make a pool of Cu-Au structures, choose 25 without labels, label them with ASE's EMT
        potential (the stand-in for DFT), fit, compare with 25 random ones, run molecular
        dynamics, and write report.html.
        """,
    )
    command.add_argument("--out", metavar="FILE", default="report.html", help="the report (default: report.html)")
    command.add_argument("--pool", type=positive_int, default=300, help="structures in the pool (default: 300)")
    command.add_argument("-n", type=positive_int, default=25, metavar="N", help="structures to choose (25)")
    command.add_argument("--seed", type=seed, default=0, help="seed of everything random (default: 0)")
