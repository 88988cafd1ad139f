"""EXP-004: energies of displaced answers and along paths, for one block of problems."""

from iredinterp.analyses.grassmann import grassmann_tables
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
        tables = grassmann_tables(here.energy, here.problems, keys, block=block, **params.grassmann)
        settings = params.grassmann | {"condition": condition, "conditions": dict(params.conditions)}
        footer = provenance(settings, params.grassmann["seed"], dict(inputs.items()), params.code)
        for table, path in zip(tables, snakemake.output, strict=True):
            write_table(table, path, footer)
