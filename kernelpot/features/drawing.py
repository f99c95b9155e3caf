"""Draws from the part of the prior that inducing environments cannot see."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from kernelpot.features.gradients import EnergyForm
from kernelpot.features.kernel_space import KernelSpace


def drawn_form(
    features: KernelSpace, weights: Float[np.ndarray, " m"], rng: np.random.Generator, scale: float
) -> EnergyForm:
    """Return Σ_m α_m k(x, z_m) + scale · r(x), with r a draw of covariance k(x, y) - φ(x)ᵀφ(y).

    A prior draw is f(x) = a·x for zeta 1 and xᵀAx for zeta 2, with independent standard normal entries, as
    E[(xᵀAx)(yᵀAy)] = (x·y)². Its part outside the inducing environments is r(x) = f(x) - k(x, Z) K_ZZ⁻¹ f(Z), pathwise
    (Matheron's rule; Wilson et al. (2020)), and collapses to one vector or matrix together with the weights. Other
    kernels add nothing.
    """
    power = features.kernel.form
    if power is None or scale == 0.0:
        return EnergyForm.from_weights(features, weights)
    forms: list[np.ndarray | None] = []
    for a, (z, w) in enumerate(zip(features.inducing, features.whitening, strict=True)):
        f = z.shape[1]
        alpha = weights[features.starts[a] : features.starts[a + 1]]
        if power == 1:
            line = rng.standard_normal(f)
            alpha = alpha - scale * (w @ (w.T @ (z @ line)))
            forms.append((scale * line + z.T @ alpha)[:, None])
            continue
        drawn = rng.standard_normal(f * f).reshape(f, f)
        drawn = 0.5 * (drawn + drawn.T)
        alpha = alpha - scale * (w @ (w.T @ np.einsum("mf,mf->m", z @ drawn, z)))
        forms.append(scale * drawn + (z.T * alpha) @ z)
    return EnergyForm(features, weights, tuple(forms))
