"""EXP-006: gradients, scores and denoiser Jacobians at one block of points."""

from iredinterp.analyses.score import score_table
from iredinterp.conditions import setting
from iredinterp.energy import load_energy
from iredinterp.ired.tasks import ProblemSpec
from iredinterp.provenance import provenance
from iredinterp.runlog import run_log
from iredinterp.tables import read_table, write_table

if __name__ == "__main__":
    inputs, params, condition = snakemake.input, snakemake.params, snakemake.wildcards.condition
    with run_log(snakemake.log[0], snakemake.threads):
        model = load_energy(inputs.checkpoint, params.weights, device=params.device)
        spec, problems = ProblemSpec.from_dict(params.spec), read_table(inputs.problems[0])
        here = setting(condition, model, spec, problems, **params.conditions)
        settings = params.score | {"condition": condition, "conditions": dict(params.conditions)}
        footer = provenance(settings, params.score["seed"], dict(inputs.items()), params.code)
        points = read_table(inputs.points[0])
        table = score_table(here.energy, points, here.problems, oracle=here.oracle, **params.score)
        write_table(table, snakemake.output[0], footer)
