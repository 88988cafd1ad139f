"""EXP-001: eigenspectra of the input Hessian H = ∇²_yE over the levels.

Spectra are reported as σ_tλ. Where x determines y (addition, inverse) the Bayes-optimal energy has H = I/σ_t:
every σ_tλ is 1, no direction is preferred, and I − σ_tH is the error of the model. Elsewhere the optimal
I − σ_tH is (ᾱ_t/σ_t²)·Cov[y₀ | y, x] (second-order Tweedie: Efron 2011; Manor & Michaeli 2024,
arXiv:2309.13598).

The unit of replication is the training seed. Problems of one model share its weights, so an interval over
problems says nothing about another training run.

Figures are in `iredinterp.analyses.hessian.drawing`, which is loaded only where something is drawn.
"""

from iredinterp.lazy import lazy

_PUBLIC = {
    "HessianAnalyzer": "iredinterp.analyses.hessian.measures",
    "level_overlap": "iredinterp.analyses.hessian.tracking",
    "spectral_metrics": "iredinterp.analyses.hessian.measures",
    "spectrum_tables": "iredinterp.analyses.hessian.measures",
}
__getattr__, __dir__, __all__ = lazy(__name__, _PUBLIC)
