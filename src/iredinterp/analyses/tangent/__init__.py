"""EXP-005: gradient and curvature along and across the manifold that the answers of a task lie on.

Completion: the matrices of rank r, at the right answer; inverse: the symmetric matrices; addition: none.

What is called the curvature ratio of gradients elsewhere, ‖P_N g‖/‖P_T g‖, involves no curvature and counts
dimensions: √(dim N/dim T) for a gradient that points anywhere. Reported here are the ratio per dimension,
`normal_tangent_ratio`, with its exact null law F(dim N, dim T), and beside it the ratio of actual curvatures,
`curvature_ratio`.

Where x determines the answer the Bayes-optimal H is I/σ_t and curves as much along as across. Where answers
vary along a linear manifold by a standard deviation s, across it not at all, C = (ᾱ_t s² + σ_t²)/σ_t².

Figures are in `iredinterp.analyses.tangent.drawing`.
"""

from iredinterp.lazy import lazy

_PUBLIC = {
    "tangent_table": "iredinterp.analyses.tangent.measures",
}
__getattr__, __dir__, __all__ = lazy(__name__, _PUBLIC)
