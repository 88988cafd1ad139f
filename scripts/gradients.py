"""Energies and gradients at one block of points."""

from iredinterp.energy import load_energy
from iredinterp.points import gradients_table
from iredinterp.provenance import provenance
from iredinterp.runlog import run_log
from iredinterp.tables import read_table, write_table

if __name__ == "__main__":
    inputs, params = snakemake.input, snakemake.params
    with run_log(snakemake.log[0], snakemake.threads):
        energy = load_energy(inputs.checkpoint, params.weights, device=params.device)
        write_table(
            gradients_table(energy, read_table(inputs.points[0]), read_table(inputs.problems[0])),
            snakemake.output[0],
            provenance({"weights": params.weights}, inputs=dict(inputs.items()), code=params.code),
        )
