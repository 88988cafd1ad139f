"""Geometry of subspaces and of matrices: kernels in basis form, batched, in float64."""
