"""EXP-005: gradients and Hessians along and across the manifold of answers, at one block of points."""

from iredinterp.analyses.tangent import tangent_table
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
        settings = params.tangent | {"condition": condition, "conditions": dict(params.conditions)}
        footer = provenance(settings, inputs=dict(inputs.items()), code=params.code)
        table = tangent_table(here.energy, read_table(inputs.points[0]), here.problems, **params.tangent)
        write_table(table, snakemake.output[0], footer)
