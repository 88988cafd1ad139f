"""EXP-002: figures of one model under all conditions."""

from iredinterp.analyses.landscape.drawing import figures
from iredinterp.figures import save_figure
from iredinterp.panels import sentence_of
from iredinterp.runlog import run_log
from iredinterp.tables import gather, read_table

if __name__ == "__main__":
    inputs = snakemake.input
    with run_log(snakemake.log[0], snakemake.threads):
        note, title = sentence_of(read_table(inputs.competence)), snakemake.wildcards.model
        tables = [gather(paths) for paths in (inputs.metrics, inputs.grid, inputs.tracks)]
        for name, figure in figures(*tables, title, note).items():
            save_figure(figure, *(path for path in snakemake.output if f"/{name}." in path))
