"""EXP-008: tangent kernels over the problems of one block, at each level and between levels."""

from iredinterp.analyses.ntk import ntk_table
from iredinterp.conditions import setting
from iredinterp.energy import load_energy
from iredinterp.ired.tasks import ProblemSpec
from iredinterp.provenance import provenance
from iredinterp.runlog import run_log
from iredinterp.tables import read_table, write_table

if __name__ == "__main__":
    inputs, params, wildcards = snakemake.input, snakemake.params, snakemake.wildcards
    with run_log(snakemake.log[0], snakemake.threads):
        model = load_energy(inputs.checkpoint, params.weights, device=params.device)
        spec, problems = ProblemSpec.from_dict(params.spec), read_table(inputs.problems[0])
        here = setting(wildcards.condition, model, spec, problems, **params.conditions)
        settings = params.kernels | {"condition": wildcards.condition, "conditions": dict(params.conditions)}
        footer = provenance(settings, params.kernels["seed"], dict(inputs.items()), params.code)
        points, options = read_table(inputs.points[0]), params.kernels | {"block": int(wildcards.block)}
        write_table(ntk_table(here.energy, points, here.problems, **options), snakemake.output[0], footer)
