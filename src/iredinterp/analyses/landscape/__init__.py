"""EXP-002: what lies in a landscape besides its right answer: slices, minima, and barriers between minima.

Where x determines the answer the Bayes-optimal landscape is a bowl with one minimum at every level; whatever
else is found there is an error of the model. E has an unidentified offset c(x, t), so only differences within
one (x, t) are looked at, in nats: the Bayes-optimal E/σ_t is −ln p_t(y|x). Untrained networks have smooth
slices too, and paths between their minima: no picture means anything without that of the null beside it.

Figures are in `iredinterp.analyses.landscape.drawing`. What lies between two networks is in
`iredinterp.analyses.landscape.connectivity`, as a table in `weights`, drawn in `weights_drawing`.
"""

from iredinterp.lazy import lazy

_PUBLIC = {
    "landscape_tables": "iredinterp.analyses.landscape.measures",
    "Settings": "iredinterp.analyses.landscape.settings",
}
__getattr__, __dir__, __all__ = lazy(__name__, _PUBLIC)
