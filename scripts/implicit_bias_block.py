"""EXP-007: which solution the sampler chooses, level by level, for one block of problems."""

from iredinterp.analyses.implicit_bias import implicit_bias_table
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
        options = params.inference | {"block": slice(start, start + params.block), "oracle": here.oracle}
        table = implicit_bias_table(here.energy, here.problems, keys, **options)
        settings = params.inference | {"condition": condition, "conditions": dict(params.conditions)}
        footer = provenance(settings, params.inference["seed"], dict(inputs.items()), params.code)
        write_table(table, snakemake.output[0], footer)
