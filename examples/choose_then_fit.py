"""Choose which structures to label before any label exists, then fit on those alone."""

from __future__ import annotations

import kernelpot as kp
from kernelpot.demo import label, structures


def main() -> None:
    pool = structures(80, seed=1)  # no labels; from a file: pool = kp.read("pool.xyz.xz")
    test = label(structures(30, seed=2))

    soap = kp.SOAP(cutoff=5.0, n_max=6, l_max=4, sigma=0.6)
    noise = kp.Noise(energy=0.002, forces=0.1)
    space = kp.SparseGP(soap, kp.DotProduct(zeta=2), n_inducing=150, noise=noise).prepare(pool)
    info = space.information(pool)

    for name, choice in {
        "IV": kp.design.select(info, n=12, criterion="IV"),
        "random": kp.design.select(info, n=12, method="random", seed=3),
    }.items():
        labelled = label([pool[k] for k in choice.indices])  # here DFT would run
        model = space.fit(labelled)
        print(f"chosen by {name}: {[int(k) for k in choice.indices]}")
        print(kp.evaluate(model, test), "\n")


if __name__ == "__main__":
    main()
