"""Points of one model under one condition, for one block of problems."""

from iredinterp.conditions import setting
from iredinterp.energy import load_energy
from iredinterp.ired.tasks import ProblemSpec
from iredinterp.points import model_keys, points_table
from iredinterp.provenance import provenance
from iredinterp.runlog import run_log
from iredinterp.tables import read_table, write_table

if __name__ == "__main__":
    inputs, params, wildcards = snakemake.input, snakemake.params, snakemake.wildcards
    with run_log(snakemake.log[0], snakemake.threads):
        model = load_energy(inputs.checkpoint, params.weights, device=params.device)
        spec, condition = ProblemSpec.from_dict(params.spec), wildcards.condition
        keys = model_keys(wildcards.model, model, spec, condition, **params.replicate)
        here = setting(condition, model, spec, read_table(inputs.problems[0]), **params.conditions)
        problems = here.problems.slice(int(wildcards.block) * params.block, params.block)
        points = {"kinds": list(params.kinds), "draws": params.draws, "seed": params.seed}
        table = points_table(here.energy, problems, keys, **points)
        settings = points | {"condition": condition, "conditions": dict(params.conditions)}
        footer = provenance(settings, params.seed, dict(inputs.items()), params.code)
        write_table(table, snakemake.output[0], footer)
