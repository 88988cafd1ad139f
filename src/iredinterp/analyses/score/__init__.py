"""EXP-006: singular vectors of the score, three objects of that name kept apart.

* The gradient at one point as a matrix, G = mat(∇_yE): its diagonal share in the singular basis of the
  answer.
* Many scores around one answer at the sharpest level: their singular values tell directions that leave the
  manifold of answers from directions within it.
* The Jacobian of the denoiser D(y) = (y − σ_t∇_yE)/√ᾱ_t,

      ∇D = (I − σ_tH)/√ᾱ_t,    of the Bayes-optimal energy (√ᾱ_t/σ_t²) Cov[y₀ | y, x],

  whose leading eigenvectors are what the network takes for the principal components of the answer's
  posterior.

∇D of an energy is symmetric for free; positive semidefinite it is not. Where x determines the answer the
optimal ∇D is 0, and whatever a network has there is error.

Figures are in `iredinterp.analyses.score.drawing`.

Source: Kadkhodaie et al. 2024 (arXiv:2310.02557) and Manor & Michaeli 2024 (arXiv:2309.13598) for the
Jacobian, Stanczuk et al. 2024 (arXiv:2212.12611) for the normal bundle.
"""

from iredinterp.lazy import lazy

_PUBLIC = {
    "agreement_table": "iredinterp.analyses.score.measures",
    "score_table": "iredinterp.analyses.score.measures",
}
__getattr__, __dir__, __all__ = lazy(__name__, _PUBLIC)
