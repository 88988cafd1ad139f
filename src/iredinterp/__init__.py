"""What do the energy landscapes of an IRED checkpoint know?

The names below load their modules on first use, so that importing the package costs nothing.
"""

from importlib import import_module

_PUBLIC = {
    "Energy": "iredinterp.energy",
    "MLPEnergy": "iredinterp.energy",
    "CallableEnergy": "iredinterp.energy",
    "load_energy": "iredinterp.energy",
    "EnergyMLP": "iredinterp.ired.model",
    "Schedule": "iredinterp.ired.schedule",
    "cosine_schedule": "iredinterp.ired.schedule",
    "ProblemSpec": "iredinterp.ired.tasks",
    "Problems": "iredinterp.ired.tasks",
    "make_problems": "iredinterp.ired.tasks",
    "Trajectory": "iredinterp.ired.sampler",
    "sample": "iredinterp.ired.sampler",
    "Recipe": "iredinterp.ired.training",
    "train": "iredinterp.ired.training",
    "competence": "iredinterp.ired.competence",
    "q_sample": "iredinterp.points",
    "minimum": "iredinterp.points",
    "problems_table": "iredinterp.points",
    "points_table": "iredinterp.points",
    "principal_angles": "iredinterp.linalg",
    "grassmann_distance": "iredinterp.geometry.subspace",
    "GrassmannPoints": "iredinterp.geometry.subspace",
    "FixedRankPoint": "iredinterp.geometry.fixed_rank",
    "tangent_normal": "iredinterp.geometry.fixed_rank",
    "Spectra": "iredinterp.spectrum",
    "spectra": "iredinterp.spectrum",
    "landscape_tables": "iredinterp.analyses.landscape",
    "HessianAnalyzer": "iredinterp.analyses.hessian",
    "GrassmannianAnalyzer": "iredinterp.analyses.grassmann",
    "score_table": "iredinterp.analyses.score",
    "implicit_bias_table": "iredinterp.analyses.implicit_bias",
    "ntk_table": "iredinterp.analyses.ntk",
    "annealing_table": "iredinterp.analyses.annealing",
    "circuits_tables": "iredinterp.analyses.circuits.study",
    "SparseAutoencoder": "iredinterp.analyses.sae",
    "SAERecipe": "iredinterp.analyses.sae",
    "SAETrainer": "iredinterp.analyses.sae",
    "FeatureAnalyzer": "iredinterp.analyses.sae",
    "BayesOracle": "iredinterp.truth.oracle",
    "planted": "iredinterp.truth.planted",
    "planted_energy": "iredinterp.truth.planted",
    "setting": "iredinterp.conditions",
    "verdict": "iredinterp.evidence.verdicts",
    "read_provenance": "iredinterp.tables",
    "read_table": "iredinterp.tables",
    "write_table": "iredinterp.tables",
}
__all__ = sorted(_PUBLIC)


def __getattr__(name: str):
    if name not in _PUBLIC:
        raise AttributeError(f"module 'iredinterp' has no attribute {name!r}")
    value = getattr(import_module(_PUBLIC[name]), name)
    globals()[name] = value
    return value


def __dir__():
    return sorted({*globals(), *_PUBLIC})
