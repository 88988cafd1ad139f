"""EXP-001: input-Hessian spectra of one model at one block of points."""

from iredinterp.analyses.hessian import spectrum_tables
from iredinterp.energy import load_energy
from iredinterp.provenance import provenance
from iredinterp.runlog import run_log
from iredinterp.tables import read_table, write_table

if __name__ == "__main__":
    inputs, params = snakemake.input, snakemake.params
    with run_log(snakemake.log[0], snakemake.threads):
        energy = load_energy(inputs.checkpoint, params.weights, device=params.device)
        points, problems = read_table(inputs.points[0]), read_table(inputs.problems[0])
        footer = provenance(params.hessian, inputs=dict(inputs.items()), code=params.code)
        tables = spectrum_tables(energy, points, problems, **params.hessian)
        for table, path in zip(tables, snakemake.output, strict=True):
            write_table(table, path, footer)
