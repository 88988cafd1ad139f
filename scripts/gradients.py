"""Energies and gradients of one model under one condition, at one block of points."""

from iredinterp.conditions import setting
from iredinterp.energy import load_energy
from iredinterp.ired.tasks import ProblemSpec
from iredinterp.points import gradients_table
from iredinterp.provenance import provenance
from iredinterp.runlog import run_log
from iredinterp.tables import read_table, write_table

if __name__ == "__main__":
    inputs, params, condition = snakemake.input, snakemake.params, snakemake.wildcards.condition
    with run_log(snakemake.log[0], snakemake.threads):
        model = load_energy(inputs.checkpoint, params.weights, device=params.device)
        spec, problems = ProblemSpec.from_dict(params.spec), read_table(inputs.problems[0])
        here = setting(condition, model, spec, problems, **params.conditions)
        settings = {"weights": params.weights, "condition": condition, "conditions": dict(params.conditions)}
        footer = provenance(settings, inputs=dict(inputs.items()), code=params.code)
        table = gradients_table(here.energy, read_table(inputs.points[0]), here.problems)
        write_table(table, snakemake.output[0], footer)
