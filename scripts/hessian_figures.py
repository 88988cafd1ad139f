"""EXP-001: figures of one model."""

from iredinterp.analyses.hessian.drawing import figures
from iredinterp.figures import save_figure
from iredinterp.panels import sentence_of
from iredinterp.runlog import run_log
from iredinterp.tables import read_table

if __name__ == "__main__":
    inputs = snakemake.input
    with run_log(snakemake.log[0], snakemake.threads):
        note = sentence_of(read_table(inputs.competence))
        tables = [read_table(path) for path in (inputs.spectra, inputs.metrics, inputs.tracking)]
        oracle = [read_table(path) for path in inputs.oracle]
        title = f"{snakemake.wildcards.model} ({snakemake.wildcards.condition})"
        for name, figure in figures(*tables, oracle, title, note).items():
            save_figure(figure, *(path for path in snakemake.output if f"/{name}." in path))
