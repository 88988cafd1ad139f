"""EXP-010: what annealing earns, level by level and against other ways of spending the same gradients.

Where x determines the answer the Bayes-optimal H is I/σ_t, the first jump y − σ_t∇E lands on the answer at
any level, and every way through the levels ends alike. Annealing pays where answers stay uncertain: along a
posterior standard deviation s a jump keeps the share 1 − σ_tλ = ᾱ_t s²/(ᾱ_t s² + σ_t²) of the error, much of
it at the sharpest levels and little at the noisiest.

That large singular values are right first is bookkeeping where errors are divided by the singular values:
isotropic errors give it to any directions. `coarse_first_exponent` therefore is that of absolute errors.

Figures are in `iredinterp.analyses.annealing.drawing`.
"""

from iredinterp.lazy import lazy

_PUBLIC = {
    "annealing_table": "iredinterp.analyses.annealing.measures",
}
__getattr__, __dir__, __all__ = lazy(__name__, _PUBLIC)
