"""Broken inputs for every command, made from a few small files: what `python -m benchmarks break` runs."""

from __future__ import annotations

import gzip
import io
import json
import lzma
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator
from ase.db import connect
from ase.io import write

from benchmarks.broken_models import NASTY, broken_models, changed, cut, flipped, places

SOAP = ("--cutoff", "3", "--n-max", "3", "--l-max", "2")
MODEL = (*SOAP, "--n-inducing", "20", "--quiet")
COMMANDS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "select": (("select", "@", "-n", "2", *MODEL, "--out", "o.xyz"), ("o.xyz",)),
    "assess": (("assess", "@", "--pool", "pool.xyz", *MODEL, "--json", "o.json"), ("o.json",)),
    "curate": (
        ("curate", "@", "--blocks", "b", "-n", "2", "--chunk", "4", "--workers", "0", *MODEL, "--out", "o.xyz"),
        ("b", "o.xyz"),
    ),
    "fit": (("fit", "@", "--noise", "0.002,0.1", *MODEL, "--out", "o.kp"), ("o.kp",)),
    "regress": (("regress", "@", "--property", "gap", *SOAP, "--quiet", "--out", "o.kp"), ("o.kp",)),
    "evaluate": (("evaluate", "m.kp", "@", "--quiet", "--json", "o.json"), ("o.json",)),
    "predict": (("predict", "m.kp", "@", "--quiet", "--out", "o.xyz"), ("o.xyz",)),
    "demo": (("demo", "--pool", "12", "-n", "2", "--quiet", "--out", "o.html"), ("o.html",)),
}
"""Arguments of each command with ``@`` for the input, and what a success writes."""


@dataclass(frozen=True)
class Case:
    """One run of the command line in a fresh folder."""

    fault: str  # Kind of fault, a row of the table
    name: str
    argv: tuple[str, ...]
    outputs: tuple[str, ...] = ()  # What a success may leave in the folder
    files: Mapping[str, bytes] = field(default_factory=dict)  # Put into the folder first, beside base files it names
    prepare: Callable[[Path], None] | None = None  # What no bytes can say: links, folders
    pipes: Mapping[str, bytes] = field(default_factory=dict)  # FIFOs with what a writer sends; "" is standard input
    stdout: str | None = None  # Where standard output goes; "" closes it
    fresh: bool = False  # A Python of its own, not a fork of a warm one
    size: int | None = None  # Largest file it may write, bytes
    seconds: float = 20.0


def case(command: str, fault: str, name: str, source: str = "t.xyz", extra: Sequence[str] = (), **more: Any) -> Case:
    """Make a case of a command with an input."""
    words, outputs = COMMANDS[command]
    argv = (*(source if word == "@" else word for word in words), *extra)
    return Case(fault, f"{command}: {name}", argv, **{"outputs": outputs, **more})


def valid(command: str, **more: Any) -> Case:
    """Make a case that must succeed."""
    return case(command, "valid", "valid", seconds=120.0, **more)


def frames(count: int = 12) -> list[Atoms]:
    """Make labelled copper-gold cells of 4 to 8 atoms."""
    rng, found = np.random.default_rng(0), []
    for k in range(count):
        atoms = bulk("Cu", cubic=True) * ((2, 1, 1) if k % 4 == 3 else (1, 1, 1))
        atoms.numbers[rng.random(len(atoms)) < 0.4] = 79
        atoms.set_cell(atoms.cell * (1 + 0.05 * rng.random()), scale_atoms=True)
        atoms.rattle(0.1, seed=k)
        found.append(labelled(atoms))
    return found


def labelled(atoms: Atoms, energy: float | None = None) -> Atoms:
    """Return a structure with labels by EMT, or with an energy and no forces to speak of; and a property `gap`."""
    if energy is None:
        atoms.calc = EMT()
        results = {name: atoms.calc.get_property(name, atoms) for name in ("energy", "forces")}
    else:
        results = {"energy": energy, "forces": np.zeros((len(atoms), 3))}
    atoms.calc = SinglePointCalculator(atoms, **results)
    atoms.info["gap"] = results["energy"] / len(atoms)
    return atoms


def xyz(structures: Sequence[Atoms]) -> bytes:
    """Return extended XYZ."""
    text = io.StringIO()
    write(text, list(structures), format="extxyz")
    return text.getvalue().encode()


def base_files(folder: Path) -> dict[str, bytes]:
    """Make the small inputs that all cases start from; models and blocks come from valid runs."""
    good = frames()
    text = xyz(good)
    with connect(folder / "t.db") as database:
        for atoms in good:
            database.write(atoms, key_value_pairs={"gap": atoms.info["gap"]})
    return {
        "t.xyz": text,
        "pool.xyz": xyz(frames(6)),
        "t.xyz.xz": lzma.compress(text),
        "t.xyz.gz": gzip.compress(text, mtime=0),
        "t.db": (folder / "t.db").read_bytes(),
    }


# ---- structures

HEADERS = {
    "lattice of words": ("Lattice=", 'Lattice="a b c d e f g h i" was='),
    "lattice of three": ("Lattice=", 'Lattice="1 2 3" was='),
    "lattice of eight": ("Lattice=", 'Lattice="4 0 0 0 4 0 0 0" was='),
    "lattice of zeros": ("Lattice=", 'Lattice="0 0 0 0 0 0 0 0 0" was='),
    "lattice flat": ("Lattice=", 'Lattice="4 0 0 8 0 0 0 0 4" was='),
    "lattice left-handed": ("Lattice=", 'Lattice="0 4 0 4 0 0 0 0 4" was='),
    "lattice 1e300": ("Lattice=", 'Lattice="1e300 0 0 0 4 0 0 0 4" was='),
    "lattice nan": ("Lattice=", 'Lattice="nan 0 0 0 4 0 0 0 4" was='),
    "lattice 1e-9": ("Lattice=", 'Lattice="1e-9 0 0 0 1e-9 0 0 0 1e-9" was='),
    "pbc a word": ('pbc="T T T"', 'pbc="maybe"'),
    "pbc of two": ('pbc="T T T"', 'pbc="T T"'),
    "columns nonsense": ("Properties=", "Properties=nonsense was="),
    "columns empty": ("Properties=", 'Properties="" was='),
    "positions of two": ("pos:R:3", "pos:R:2:x:R:1"),
    "positions of 1e9": ("pos:R:3", "pos:R:1000000000"),
    "positions negative": ("pos:R:3", "pos:R:-3"),
    "positions text": ("pos:R:3", "pos:S:3"),
    "species numbers": ("species:S:1", "species:R:1"),
    "species twice": ("species:S:1:pos:R:3", "species:S:1:species:R:3"),
    "forces text": ("forces:R:3", "forces:S:3"),
    "forces flags": ("forces:R:3", "forces:L:3"),
    "energy a word": ("energy=", "energy=high was="),
    "energy a flag": ("energy=", "energy=T was="),
    "energy a list": ("energy=", 'energy="1 2 3" was='),
    "energy json": ("energy=", 'energy="_JSON {\\"a\\": 1}" was='),
    "energy empty": ("energy=", "energy= was="),
    "gap a list": ("gap=", 'gap="1 2 3" was='),
    "gap nan": ("gap=", "gap=nan was="),
    "gap 1e300": ("gap=", "gap=1e300 was="),
    "stress of two": ("energy=", 'stress="1 2" energy='),
    "stress of words": ("energy=", 'stress="a b c d e f" energy='),
    "stress 1e300": ("energy=", 'stress="1e300 0 0 0 1 0 0 0 1" energy='),
    "stress and virial": ("energy=", 'stress="1 0 0 0 1 0 0 0 1" virial="1 0 0 0 1 0 0 0 1" energy='),
    "quote open": ("energy=", 'note="never closed energy='),
    "null byte": ("energy=", "a\0b=1 energy="),
    "long word": ("energy=", f"{'a' * 1_000_000}=1 energy="),
    "config_type a list": ("energy=", 'config_type="1 2 3" energy='),
    "config_type line breaks": ("energy=", 'config_type="\u2028\x85" energy='),
    "positions array in header": ("energy=", 'positions="1 2 3" numbers="1" energy='),
}
COUNTS = ("-4", "4.0", "4 4", "0", "5", "3", "10" + "0" * 11, "9" * 30, "9" * 5000, "four", "", "0x4", "٤")
NUMBERS = ("1e300", "-1e300", "nan", "inf", "-inf", "1e-300", "1e6", "1e400", "1e15", "9" * 400, "True", "1,5", "*****")


def broken_structures(base: Mapping[str, bytes], rng: np.random.Generator) -> Iterator[tuple[str, str, str, bytes]]:
    """Yield fault, name, file name and content of every broken file of structures."""
    for file, times in (("t.xyz", 4), ("t.xyz.xz", 3), ("t.xyz.gz", 3), ("t.db", 4)):
        for k in range(times):
            yield "cut off", f"{file} {k}", file, cut(base[file], rng)
            yield "bits flipped", f"{file} {k}", file, flipped(base[file], rng)
    for name, content in {
        "empty": b"", "one line break": b"\n", "null bytes": bytes(4096), "noise": rng.bytes(4096),
        "UTF-16": base["t.xyz"].decode().encode("utf-16"), "byte order mark": b"\xef\xbb\xbf" + base["t.xyz"],
        "Mac line breaks": base["t.xyz"].replace(b"\n", b"\r"), "HTML": b"<html><body>404</body></html>\n",
        "xz within": base["t.xyz.xz"], "no line break": base["t.xyz"][:-1], "blank lines": b"\n\n" + base["t.xyz"],
    }.items():  # fmt: skip
        yield "other content", name, "t.xyz", content
    for file in ("t.xyz.xz", "t.xyz.gz", "t.db", "t.traj", "t.json", "POSCAR", "t.cif", "t.kp"):
        yield "other content", f"text named {file}", file, base["t.xyz"]
    yield "other content", "bomb of 1 GiB", "t.xyz.xz", bomb()
    text = base["t.xyz"].decode()
    for name, (old, new) in HEADERS.items():
        for every in (False, True):
            yield (
                "header",
                f"{name}{' everywhere' * every}",
                "t.xyz",
                text.replace(old, new, -1 if every else 1).encode(),
            )
    for count in COUNTS:
        yield "atom counts", f"{count[:14]!r}", "t.xyz", f"{count}\n{text.split(chr(10), 1)[1]}".encode()
    lines = text.split("\n")
    for number in NUMBERS:
        for place, column in (("position", 1), ("force", -1)):
            words = lines[2].split()
            words[column] = number
            yield (
                "numbers",
                f"{place} {number[:9]}",
                "t.xyz",
                "\n".join([*lines[:2], " ".join(words), *lines[3:]]).encode(),
            )
        energy = f"energy={number} was_energy="
        yield "numbers", f"energy {number[:9]}", "t.xyz", text.replace("energy=", energy, 1).encode()
        yield "numbers", f"energies {number[:9]}", "t.xyz", text.replace("energy=", energy).encode()
    for species in ("Xx", "X", "29", "Cu79", "Uuo", "999", "-1", "Og"):
        yield "species", species, "t.xyz", text.replace("\nCu", f"\n{species}", 1).encode()
    rest = frames(6)
    for name, structures in geometries().items():
        yield "geometry", name, "t.xyz", xyz(structures)
        yield "geometry", f"{name} among others", "t.xyz", xyz([*rest, *structures])


def bomb() -> bytes:
    """Return 1 GiB of nothing, compressed to about 200 kB."""
    return lzma.compress(bytes(1 << 22)) * 256


def geometries() -> dict[str, list[Atoms]]:
    """Return structures whose shape asks for trouble, with labels."""

    def pair(distance: float, axis: Sequence[float] = (1.0, 0.0, 0.0), **more: Any) -> Atoms:
        return labelled(Atoms("CuAu", [[0, 0, 0], distance * np.array(axis)], **more), -1.0)

    def scaled(factor: float) -> list[Atoms]:
        found = frames(6)
        for atoms in found:
            atoms.set_cell(atoms.cell * factor, scale_atoms=True)
        return [labelled(atoms, -1.0) for atoms in found]

    return {
        "3,000 Å apart, one direction periodic": [pair(3000, (0, 1, 1), cell=[4, 1, 1], pbc=[True, False, False])],
        "9e4 Å apart along the periodic direction": [pair(9e4, cell=[1e5, 0, 0], pbc=[True, False, False])],
        "1e9 Å apart, free": [pair(1e9)],
        "0.11 Å apart": [pair(0.11, cell=[6, 6, 6], pbc=True)],
        "0.01 Å apart": [pair(0.01)],
        "at one place": [pair(0.0, cell=[6, 6, 6], pbc=True)],
        "lengths in nm": scaled(0.1),
        "lengths in pm": scaled(100.0),
        "one atom": [labelled(Atoms("Cu"), -1.0)],
        "needle cell": [pair(2.5, cell=[0.3, 300, 300], pbc=True)],
        "sheared cell": [pair(2.5, cell=[[4, 0, 0], [4000, 4, 0], [0, 4000, 4]], pbc=True)],
        "far outside its cell": [pair(1e7, cell=[6, 6, 6], pbc=True)],
        "1,000 atoms at random": [labelled(Atoms("Cu1000", np.random.default_rng(1).random((1000, 3)) * 9), -1.0)],
        "an energy of 1e6 eV": [labelled(Atoms("CuAu", [[0, 0, 0], [2.5, 0, 0]], cell=[6, 6, 6], pbc=True), 1e6)],
        "periodic without a cell": [pair(2.5, pbc=True)],
    }


# ---- all cases

ARGUMENTS: dict[str, tuple[tuple[str, ...], ...]] = {
    "select": (
        ("--force", "0-99999999999"), ("--force", "0-9", "--forbid", "0-9"), ("--quota", "=1"), ("--quota", "a=-1"),
        ("-n", "1" + "0" * 18), ("--budget", "1e300"), ("--budget", "1e-300"), ("--budget", "nan"),
        ("--criterion", "D=1e300,IV=1e-300"), ("--criterion", "D=0"), ("--method", "kdpp"), ("--method", "maxvol"),
        ("--cost-power", "10"), ("--keys", "energy=,"), ("--json", "o.xyz"), ("--out", "t.xyz"), ("--out", "."),
        ("--out", "none/o.xyz"), ("--out", "o" * 300), ("--out", "a\0b"), ("--target", "absent.xyz"),
    ),
    "curate": (
        ("--memory", "1e-9"), ("--memory", "1e300"), ("--chunk", "1" + "0" * 18), ("--sample", "1" + "0" * 18),
        ("--epsilon", "5", "--method", "stochastic"), ("--truncate", "5"), ("--truncate", "1e-300"),
        ("--scheduler", "nonsense"), ("--blocks", "t.xyz"), ("--blocks", "/dev/null"), ("--blocks", "/proc/x"),
        ("--blocks", "b" * 300), ("-n", "1" + "0" * 18),
    ),
    "fit": (
        ("--cutoff", "1e300"), ("--cutoff", "1e-300"), ("--cutoff", "nan"), ("--cutoff", "60"), ("--n-max", "1000000"),
        ("--n-max", "60"), ("--l-max", "1000"), ("--zeta", "1000000"), ("--sigma", "1e-10"), ("--sigma", "1e10"),
        ("--gaussian", "1e-200"), ("--gaussian", "1e200"), ("--amplitude", "1e300"), ("--amplitude", "1e-300"),
        ("--seed", "9" * 30), ("--n-inducing", "1" + "0" * 18), ("--noise", "1e-300,1e300"), ("--noise", "1e300,1e300"),
        ("--noise", "none,none"), ("--noise", "evidence"), ("--noise", "cv"), ("--calibrate",), ("--zbl",),
        ("--descriptor", "acsf"), ("--tune-table", "x.csv"), ("--budget", "1e-9"), ("--keys", "energy=absent"),
        ("--pool", "o.kp"), ("--json", "-"), ("--n-max", "9" * 5000),
    ),
    "regress": (
        ("--alpha", "1e300"), ("--alpha", "1e-300"), ("--property", "absent"), ("--property", ""),
        ("--property", "pbc"), ("--combine", "rematch"), ("--n-inducing", "1" + "0" * 18), ("--gaussian", "1e-200"),
    ),
}  # fmt: skip
NAMES = (
    os.fsdecode(b"caf\xe9\xff.xyz"), "a\nb.xyz", " a b .xyz", "-", "--out.xyz", "a@0.xyz", "a@:.xyz", "*.xyz",
    "x" * 250 + ".xyz", "ü" * 100 + ".xyz", "%s{0}.xyz", "~.xyz", "t.XYZ", "noending", "a\x1b[2J.xyz",
)  # fmt: skip
READERS = tuple(name for name in COMMANDS if name != "demo")
OTHERS = tuple(name for name in READERS if name != "curate")


def cases(base: Mapping[str, bytes], blocks: Path, seed: int, *, whole: bool = False) -> list[Case]:
    """Return the cases, in the same order for the same seed; where not the whole, broken files meet three commands."""
    rng = np.random.default_rng(seed)
    found: list[Case] = []
    for k, (fault, name, file, content) in enumerate(broken_structures(base, rng)):
        # `curate` reads by itself; the others share a reader.
        some = READERS if whole or fault == "geometry" else {"curate", OTHERS[k % 6], OTHERS[(k + 2) % 6]}
        found += [case(c, fault, name, file, files={file: content}) for c in READERS if c in some]
    found += [case(c, "file names", repr(n)[:40], n, files={n: base["t.xyz"]}) for n in NAMES for c in READERS]
    fresh = [NAMES[0], NAMES[1]]
    found += [
        case(c, "file names", f"{n!r}, own process", n, files={n: base["t.xyz"]}, fresh=True, seconds=90.0)
        for n in fresh
        for c in ("select", "predict")
    ]
    found += [each for c in READERS for each in odd_inputs(c, base)]
    found += [each for c in COMMANDS for each in full_disks(c)]
    for file, headers in (("m.kp", 60), ("r.kp", 40)):
        for k, (fault, name, content) in enumerate(broken_models(base[file], rng, headers)):
            command = ("predict", "evaluate")[k % 2]
            found.append(case(command, fault, f"{file} {name}", files={"m.kp": content}))
    found += broken_blocks(blocks, rng)
    for command, lists in ARGUMENTS.items():
        found += [case(command, "arguments", " ".join(more)[:60], extra=more) for more in lists]
    return found


def odd_inputs(command: str, base: Mapping[str, bytes]) -> list[Case]:
    """Return cases whose input is no plain file."""
    text, words = base["t.xyz"], ("loop.xyz", "dangling.xyz", "folder.xyz")

    def links(folder: Path) -> None:
        (folder / words[0]).symlink_to(words[0])
        (folder / words[1]).symlink_to("absent.xyz")
        (folder / words[2]).mkdir()

    one = replace(case(command, "odd inputs", ""), prepare=links)

    def named(source: str) -> tuple[str, ...]:
        return tuple(source if word == "t.xyz" else word for word in one.argv)

    found = [
        replace(one, name=f"{command}: {word}", argv=named(word)) for word in (*words, "absent.xyz", "", ".", "a\0b")
    ]
    found += [
        replace(one, name=f"{command}: {word}", argv=named(word))
        for word in ("/dev/null", "/dev/zero", "/proc/self/mem")
    ]
    found += [replace(one, name=f"{command}: FIFO", argv=named("fifo.xyz"), pipes={"fifo.xyz": text})]
    found += [replace(one, name=f"{command}: FIFO closed at once", argv=named("fifo.xyz"), pipes={"fifo.xyz": b""})]
    found += [
        replace(one, name=f"{command}: pipe on {w}", argv=named(w), pipes={"": text}) for w in ("/dev/stdin", "-")
    ]
    if command in ("evaluate", "predict"):
        found += [
            replace(
                one, name=f"{command}: model {w}", argv=(command, w, *one.argv[2:]), pipes={"fifo.xyz": base["m.kp"]}
            )
            for w in (*words, "/dev/null", "fifo.xyz", ".", "", "t.xyz")
        ]
    return found


def full_disks(command: str) -> list[Case]:
    """Return cases in which an output cannot be written."""
    seconds = 60.0 if command == "demo" else 20.0
    one = replace(case(command, "full disks", ""), seconds=seconds)
    output = one.outputs[-1]

    def to(target: str) -> tuple[str, ...]:
        return tuple(target if word == output else word for word in one.argv)

    found = [replace(one, name=f"{command}: files of {n} bytes at most", size=n) for n in (0, 100, 3000)]
    found.append(replace(one, name=f"{command}: output to /dev/full", argv=to("/dev/full")))
    found.append(replace(one, name=f"{command}: output to /dev/null", argv=to("/dev/null")))
    if command in ("select", "fit"):
        slow = replace(one, fresh=True, seconds=90.0)
        found.append(replace(slow, name=f"{command}: standard output full", stdout="/dev/full"))
        found.append(replace(slow, name=f"{command}: standard output closed", stdout=""))
    return found


def broken_blocks(blocks: Path, rng: np.random.Generator) -> list[Case]:
    """Return cases that go on with a folder of blocks in which one file is broken; the pool stays where it was."""
    whole = {f"b/{p.relative_to(blocks)}": p.read_bytes() for p in sorted(blocks.rglob("*")) if p.is_file()}
    source = str(blocks.parent / "pool.xyz")
    one = case("curate", "blocks", "", source, files=whole)
    names = [name for name, content in whole.items() if content]
    found = [replace(one, name="curate: blocks as they were")]
    for k in range(30):
        name = names[0] if not k else names[int(rng.integers(len(names)))]
        manifest = "b/manifest.json"
        for what, file, content in (
            ("cut", name, cut(whole[name], rng)),
            ("flipped", name, flipped(whole[name], rng)),
            ("flipped", manifest, flipped(whole[manifest], rng)),
        ):
            found.append(replace(one, name=f"curate: {file} {what} {k}", files={**whole, file: content}))
        gone = {n: c for n, c in whole.items() if n != name}
        found.append(replace(one, name=f"curate: {name} gone {k}", files=gone))
    header = json.loads(whole["b/manifest.json"])
    everywhere = list(places(header))
    for k in range(20):
        path, new = everywhere[int(rng.integers(len(everywhere)))], NASTY[k % len(NASTY)]
        content = json.dumps(changed(header, path, new)).encode()
        name = f"curate: manifest {'.'.join(map(str, path))} = {new!r}"
        found.append(replace(one, name=name, files={**whole, "b/manifest.json": content}))
    return found
