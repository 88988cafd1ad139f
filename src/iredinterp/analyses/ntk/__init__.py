"""EXP-008: the neural tangent kernels of an energy and of its gradient field.

Three kernels, never mixed: Θ_E of the energy; Θ_r of the outputs whose squares it sums; and Θ_g of the
gradient field g = ∇_yE, the one that drives score matching. Kernels are those of the standard parametrisation
at the given weights: they say what one small step of gradient descent does, not what a training by Adam does.

An offset c(x, t) of the energy that depends on parameters enters Θ_E but not Θ_g.

Figures are in `iredinterp.analyses.ntk.drawing`.
"""

from iredinterp.analyses.ntk.kernels import (
    energy_kernel,
    gradient_kernel_blocks,
    gradient_kernel_trace,
    output_kernel,
)
from iredinterp.analyses.ntk.measures import ntk_table

__all__ = [
    "energy_kernel",
    "gradient_kernel_blocks",
    "gradient_kernel_trace",
    "ntk_table",
    "output_kernel",
]
