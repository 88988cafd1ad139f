"""The landscapes of two networks for the same problems, side by side: two training seeds, steps or averages.

Both are looked at in the same places: the same x, the same noise, the same starts. A difference means little
by itself. Beside it stand how far each network is from the Bayes-optimal energy, and the same difference
between two untrained networks of the same shapes. Only differences of E within one (x, t) are compared.

`iredinterp.analyses.difference.course` asks, of a recipe trained anew, from which training step on a network
has the properties of the optimum. Figures are in `drawing` and `course_drawing`.
"""

from iredinterp.lazy import lazy

_PUBLIC = {
    "Settings": "iredinterp.analyses.difference.settings",
    "difference_tables": "iredinterp.analyses.difference.measures",
}
__getattr__, __dir__, __all__ = lazy(__name__, _PUBLIC)
