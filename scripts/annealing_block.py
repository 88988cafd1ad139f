"""EXP-010: runs of the sampler, level by level and by other ways, for one block of problems."""

from iredinterp.analyses.annealing import annealing_table
from iredinterp.conditions import setting
from iredinterp.energy import load_energy
from iredinterp.ired.tasks import ProblemSpec
from iredinterp.points import model_keys
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
        start = int(wildcards.block) * params.block
        block = slice(start, start + params.block)
        table = annealing_table(here.energy, here.problems, keys, block=block, **params.annealing)
        settings = params.annealing | {"condition": condition, "conditions": dict(params.conditions)}
        footer = provenance(settings, params.annealing["seed"], dict(inputs.items()), params.code)
        write_table(table, snakemake.output[0], footer)
