"""EXP-008: the neural tangent kernels of an energy and of its gradient field.

Three kernels, never mixed: Θ_E of the energy; Θ_r of the outputs whose squares it sums; and Θ_g of the
gradient field g = ∇_yE, the one that drives score matching. Kernels are those of the standard parametrisation
at the given weights: they say what one small step of gradient descent does, not what a training by Adam does.

An offset c(x, t) of the energy that depends on parameters enters Θ_E but not Θ_g.

Figures are in `iredinterp.analyses.ntk.drawing`.
"""

from iredinterp.lazy import lazy

_PUBLIC = {
    "energy_kernel": "iredinterp.analyses.ntk.kernels",
    "gradient_kernel_blocks": "iredinterp.analyses.ntk.kernels",
    "gradient_kernel_trace": "iredinterp.analyses.ntk.kernels",
    "output_kernel": "iredinterp.analyses.ntk.kernels",
    "ntk_table": "iredinterp.analyses.ntk.measures",
}
__getattr__, __dir__, __all__ = lazy(__name__, _PUBLIC)
