"""EXP-004: does energy know the column space of an answer? Displacements of equal norm, and what confounds.

Distance between subspaces and energy both rise with the norm of a displacement, so they correlate in every
landscape, that of ‖Y − Y*‖² included. The primary analysis is therefore an intervention: four straight-line
displacements of exactly equal norm, which change singular values (core), turn the column space (column) or
the row space (row), or raise the rank (normal). The correlation over random displacements stands beside it.

Energies are differences from the right answer within one (x, t). Displacements are in units of σ_t√d, the
typical norm of the noise at level t. With H = I/σ_t, the Bayes-optimal energy where x determines the answer,
2σ_tΔE/‖ΔY‖² is 1 in every arm.

Figures are in `iredinterp.analyses.grassmann.drawing`.
"""

from iredinterp.lazy import lazy

_PUBLIC = {
    "GrassmannianAnalyzer": "iredinterp.analyses.grassmann.measures",
    "grassmann_tables": "iredinterp.analyses.grassmann.measures",
}
__getattr__, __dir__, __all__ = lazy(__name__, _PUBLIC)
