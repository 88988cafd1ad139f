"""EXP-003: sparse autoencoders on the gradient field ∇_yE.

An autoencoder writes a vector as a sparse sum of unit atoms. It "explains" a quarter to a third of the
variance of white noise too, and ∇_yE at q_samples is trained to be white noise, so its fraction of variance
unexplained says little unless the same number for a null stands beside it.
"""

from iredinterp.analyses.sae.features import FeatureAnalyzer
from iredinterp.analyses.sae.model import SparseAutoencoder
from iredinterp.analyses.sae.training import SAERecipe, SAETrainer

__all__ = ["FeatureAnalyzer", "SAERecipe", "SAETrainer", "SparseAutoencoder"]
