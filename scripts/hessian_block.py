"""EXP-001: input-Hessian spectra of one model under one condition, at one block of points."""

from iredinterp.analyses.hessian import spectrum_tables
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
        points = read_table(inputs.points[0])
        settings = params.hessian | {"condition": condition, "conditions": dict(params.conditions)}
        footer = provenance(settings, inputs=dict(inputs.items()), code=params.code)
        tables = spectrum_tables(here.energy, points, here.problems, oracle=here.oracle, **params.hessian)
        for table, path in zip(tables, snakemake.output, strict=True):
            write_table(table, path, footer)
