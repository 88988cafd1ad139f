"""EXP-007: figures of one course."""

from iredinterp.analyses.implicit_bias.training_drawing import figures
from iredinterp.figures import save_figure
from iredinterp.runlog import run_log
from iredinterp.tables import read_table

if __name__ == "__main__":
    inputs = snakemake.input
    with run_log(snakemake.log[0], snakemake.threads):
        metrics, times = read_table(inputs.metrics), read_table(inputs.mode_times)
        for name, figure in figures(metrics, times, snakemake.wildcards.recipe).items():
            save_figure(figure, *(path for path in snakemake.output if f"/{name}." in path))
