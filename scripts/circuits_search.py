"""EXP-009: circuits of one network under one condition."""

from iredinterp.analyses.circuits.study import circuits_tables
from iredinterp.conditions import setting
from iredinterp.energy import load_energy
from iredinterp.ired.tasks import ProblemSpec
from iredinterp.provenance import provenance
from iredinterp.runlog import run_log
from iredinterp.tables import gather, read_table, write_table

if __name__ == "__main__":
    inputs, params, condition = snakemake.input, snakemake.params, snakemake.wildcards.condition
    with run_log(snakemake.log[0], snakemake.threads):
        model = load_energy(inputs.checkpoint, params.weights, device=params.device)
        spec, problems = ProblemSpec.from_dict(params.spec), read_table(inputs.problems[0])
        here = setting(condition, model, spec, problems, **params.conditions)
        settings = params.search | {"condition": condition, "conditions": dict(params.conditions)}
        files = {"checkpoint": inputs.checkpoint, "problems": inputs.problems[0]}
        files |= {f"points/{index}": path for index, path in enumerate(inputs.points)}
        footer = provenance(settings, params.search["seed"], files, params.code)
        tables = circuits_tables(here.energy, gather(inputs.points), here.problems, spec, **params.search)
        for name, table in tables._asdict().items():
            write_table(table, snakemake.output[name], footer)
