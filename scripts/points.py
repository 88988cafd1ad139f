"""Points of one model for one block of problems."""

from iredinterp.energy import load_energy
from iredinterp.ired.tasks import ProblemSpec
from iredinterp.points import model_keys, points_table
from iredinterp.provenance import provenance
from iredinterp.runlog import run_log
from iredinterp.tables import read_table, write_table

if __name__ == "__main__":
    params, wildcards = snakemake.params, snakemake.wildcards
    with run_log(snakemake.log[0], snakemake.threads):
        energy = load_energy(snakemake.input.checkpoint, params.weights, device=params.device)
        start = int(wildcards.block) * params.block
        problems = read_table(snakemake.input.problems[0]).slice(start, params.block)
        keys = model_keys(wildcards.model, energy, ProblemSpec.from_dict(params.spec))
        write_table(
            points_table(energy, problems, keys, **params.points),
            snakemake.output[0],
            provenance(params.points, params.points["seed"], dict(snakemake.input.items()), params.code),
        )
