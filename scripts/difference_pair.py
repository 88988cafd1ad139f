"""How the landscapes of two networks differ, trained or under a condition."""

from iredinterp.analyses.difference import Settings, difference_tables
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
        spec, problems = ProblemSpec.from_dict(params.spec), read_table(inputs.problems[0])
        model = load_energy(inputs.checkpoint, params.weights, device=params.device)
        other = load_energy(inputs.other, params.other_weights, device=params.device)
        keys = model_keys(wildcards.model, model, spec, wildcards.condition, **params.replicate)
        others = model_keys(wildcards.other, other, spec, wildcards.condition, **params.other_replicate)
        here = setting(wildcards.condition, model, spec, problems, **params.conditions)
        # Another seed: two ways to average one checkpoint have different untrained networks beside them, too.
        apart = params.conditions | {"seed": params.conditions["seed"] + 1}
        there = setting(wildcards.condition, other, spec, problems, **apart)
        pair, settings = (here.energy, there.energy), Settings(**params.landscapes)
        tables = difference_tables(*pair, problems, keys, others, settings, here.oracle)
        record = params.landscapes | {"condition": wildcards.condition, "conditions": dict(params.conditions)}
        footer = provenance(record, settings.seed, dict(inputs.items()), params.code)
        for name, path in snakemake.output.items():
            write_table(tables[name], path, footer)
