"""Time and memory of SOAP with its gradients, beside DScribe, featomic and quippy."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from benchmarks.child import Outcome, measure, peak_memory, resident_memory
from benchmarks.harness import REFERENCE_GEMM, Report, Settings, cpu_median, gemm_rate
from benchmarks.systems import ALLOY, alloy, moved, silicon

if TYPE_CHECKING:
    from ase import Atoms

N_MAX, L_MAX, CUTOFF, SIGMA = 8, 6, 5.0, 0.5
SYSTEMS = ("Si 64", "Si 512", "alloy 500")
QUICK = ("Si 8",)
TARGETS = {("Si 512", "values"): 30.0, ("Si 512", "gradients"): 200.0}
PEERS = ("featomic", "dscribe", "quippy")
PIECE = 12e6
"""Bytes of derivatives that are handed over at a time, as small as the library's own use of them."""


def run(settings: Settings) -> Report:
    """Time values and gradients of every system by everyone, each in a process of its own."""
    report = Report()
    for system in QUICK if settings.quick else SYSTEMS:
        for task in ("values", "gradients"):
            _compare(settings, report, system, task)
    report.note(
        f"n_max {N_MAX}, l_max {L_MAX}, cutoff {CUTOFF} Å, periodic, neighbour list included, every atom moved before "
        f"each timing, {settings.threads} thread(s); peak memory of the whole process, imports included"
    )
    report.note(
        "gradients: values too, for every atom and neighbour; "
        f"`in pieces` hands them over {PIECE / 1e6:.0f} MB at a time, "
        "`kept` holds all at once as the rivals do; strain derivatives are included in ours only"
    )
    return report


def _compare(settings: Settings, report: Report, system: str, task: str) -> None:
    def measured(who: str, how: str) -> Outcome:
        outcome = measure(
            f"benchmarks.descriptor:{who}", threads=settings.threads, timeout=400, system=system, task=how
        )
        report.details[f"{system}, {how}, {who}"] = {**(outcome.value or {}), "why": outcome.why, "peak": outcome.peak}
        return outcome

    peers = {name: measured(name, task) for name in PEERS if name != "dscribe" or task == "values"}
    times = {name: peer.value["us_per_atom"] for name, peer in peers.items() if peer.value}
    peaks = {name: peer.peak for name, peer in peers.items() if peer.value}
    for name, peer in peers.items():
        if not peer.value:
            report.note(f"{name}, {system}, {task}: skipped: {peer.reason}")
    ways = ["values"] if task == "values" else ["gradients in pieces", "gradients kept"]
    if system == "alloy 500":
        ways = ways[:1]
    target = TARGETS.get((system, task))
    for way in ways:
        mine = measured("ours", way)
        found = mine.known
        report.add(f"{system}: {way}, time", found["us_per_atom"], "µs/atom", rivals=times, target=target)
        if target:
            scaled = found["us_per_atom"] * found["gemm"] / REFERENCE_GEMM
            report.add(f"{system}: {way}, on a core of 45 GFLOP/s", scaled, "µs/atom", target=target)
        report.add(f"{system}: {way}, peak", mine.peak, "MiB", rivals=peaks, note=f"growth: {_growth(mine, peers)}")


def _growth(mine: Outcome, peers: dict[str, Outcome]) -> str:
    """Say how far memory rose above what it was before the first call."""
    everyone = {"ours": mine, **{name: peer for name, peer in peers.items() if peer.value}}
    return ", ".join(f"{name} {o.known['growth_mib']:.0f}" for name, o in everyone.items())


def _system(name: str) -> Atoms:
    return {"Si 8": lambda: silicon(1), "Si 64": lambda: silicon(2), "Si 512": lambda: silicon(4), "alloy 500": alloy}[
        name
    ]()


def _numbers(atoms: Atoms) -> tuple[int, ...]:
    return tuple(sorted({int(z) for z in atoms.numbers}))


def _timed(call: Callable[[Any], object], system: str, *, heavy: bool, warm: Callable[[], object]) -> dict[str, Any]:
    """Time a call on moved copies of a system, after warming up on something small."""
    atoms = _system(system)
    warm()
    before = resident_memory()
    seconds = cpu_median(call, lambda k: moved(atoms, k), repeats=3 if heavy else 7)
    growth = peak_memory() - before
    return {"us_per_atom": 1e6 * seconds / len(atoms), "growth_mib": growth, "gemm": gemm_rate(n=512)}


def ours(system: str, task: str) -> dict[str, Any]:
    """Time kernelpot's SOAP."""
    import kernelpot as kp
    from kernelpot.data.batch import Batch

    soap = kp.SOAP(CUTOFF, N_MAX, L_MAX, SIGMA).with_species(_numbers(_system(system)))

    def values(atoms: Atoms) -> Any:
        return soap.environments(Batch.from_structures([atoms], CUTOFF))

    def pieces(atoms: Atoms) -> float:
        found, total = values(atoms), 0.0
        each = 24 * soap.n_features * (len(found.batch.first) / len(atoms) + 3)
        size = max(1, int(PIECE / each))
        for start in range(0, len(atoms), size):
            # Something is read of each piece, so that none can be skipped.
            total += found.displacements(start, min(start + size, len(atoms))).rows[0, 0, 0]
        return total

    def kept(atoms: Atoms) -> Any:
        return values(atoms).displacements(0, len(atoms))

    call = {"values": values, "gradients in pieces": pieces, "gradients kept": kept}[task]
    few = _system(system)[: 4 if system == "Si 8" else 16]
    return _timed(call, system, heavy=task != "values", warm=lambda: kept(few))


def dscribe(system: str, task: str) -> dict[str, Any]:  # noqa: ARG001 (peers are called alike)
    """Time DScribe's GTO SOAP; its periodic gradients are numerical (14,500 µs/atom), so values only."""
    from dscribe.descriptors import SOAP

    soap = SOAP(
        species=[ALLOY, ("Si",)][system.startswith("Si")], r_cut=CUTOFF, n_max=N_MAX, l_max=L_MAX, sigma=SIGMA,
        rbf="gto", periodic=True,
    )  # fmt: skip
    few = _system(system)[:4]
    return _timed(lambda atoms: soap.create(atoms), system, heavy=False, warm=lambda: soap.create(few))


def featomic(system: str, task: str) -> dict[str, Any]:
    """Time featomic's SOAP power spectrum."""
    from featomic import SoapPowerSpectrum

    calculator = SoapPowerSpectrum(
        cutoff={"radius": CUTOFF, "smoothing": {"type": "ShiftedCosine", "width": 0.5}},
        density={"type": "Gaussian", "width": SIGMA},
        basis={"type": "TensorProduct", "max_angular": L_MAX, "radial": {"type": "Gto", "max_radial": N_MAX - 1}},
    )
    gradients = ["positions"] if task == "gradients" else []
    small = _system(system)[:4]
    return _timed(
        lambda atoms: calculator.compute(atoms, gradients=gradients), system, heavy=bool(gradients),
        warm=lambda: calculator.compute(small),
    )  # fmt: skip


def quippy(system: str, task: str) -> dict[str, Any]:
    """Time quippy's SOAP."""
    from quippy.descriptors import Descriptor

    numbers = _numbers(_system(system))
    each = " ".join(str(z) for z in numbers)
    soap = Descriptor(
        f"soap cutoff={CUTOFF} cutoff_transition_width=1.0 n_max={N_MAX} l_max={L_MAX} atom_sigma={SIGMA} "
        f"n_species={len(numbers)} species_Z={{{each}}} n_Z={len(numbers)} Z={{{each}}}"
    )
    gradients = task == "gradients"
    small = _system(system)[:4]
    return _timed(lambda atoms: soap.calc(atoms, grad=gradients), system, heavy=True, warm=lambda: soap.calc(small))
