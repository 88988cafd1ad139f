"""EXP-002: minima, barriers and slices, for one block of problems."""

from iredinterp.analyses.landscape import Settings, landscape_tables
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
        settings = Settings(**params.landscape)
        tables = landscape_tables(here.energy, here.problems, keys, settings, here.oracle, block)
        record = params.landscape | {"condition": condition, "conditions": dict(params.conditions)}
        footer = provenance(record, settings.seed, dict(inputs.items()), params.code)
        for name, path in snakemake.output.items():
            write_table(tables[name], path, footer)
