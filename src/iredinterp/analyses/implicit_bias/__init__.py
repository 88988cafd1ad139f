"""EXP-007: which solution is chosen where several fit, and what is learnt when.

Two clocks, kept apart. On that of inference (level t) noise has full rank, so effective rank, nuclear over
Frobenius norm and tail energy of a sampler's answer fall as its error falls, whatever the model: each stands
beside its mean over isotropic errors of the same size around the right answer, and only the excess is the
model's. Where observed entries leave several completions open, the answer is compared with those of least
nuclear norm, of rank r, of least Frobenius norm, and with the posterior mean.

Figures are in `iredinterp.analyses.implicit_bias.drawing`.
"""

from iredinterp.lazy import lazy

_PUBLIC = {
    "implicit_bias_table": "iredinterp.analyses.implicit_bias.inference",
}
__getattr__, __dir__, __all__ = lazy(__name__, _PUBLIC)
