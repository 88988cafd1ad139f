"""EXP-003: sparse autoencoders on the gradient field ∇_yE.

An autoencoder writes a vector as a sparse sum of unit atoms. It "explains" a quarter to a third of the
variance of white noise too, and ∇_yE at q_samples is trained to be white noise, so its fraction of variance
unexplained says little unless the same number for a null stands beside it.
"""

from iredinterp.lazy import lazy

_PUBLIC = {
    "FeatureAnalyzer": "iredinterp.analyses.sae.features",
    "SparseAutoencoder": "iredinterp.analyses.sae.model",
    "SAERecipe": "iredinterp.analyses.sae.recipe",
    "SAETrainer": "iredinterp.analyses.sae.training",
}
__getattr__, __dir__, __all__ = lazy(__name__, _PUBLIC)
