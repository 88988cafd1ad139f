"""The figure of one course: when which property of the optimum appeared."""

from iredinterp.analyses.difference.course_drawing import figure_timeline
from iredinterp.figures import save_figure
from iredinterp.runlog import run_log
from iredinterp.tables import read_table

if __name__ == "__main__":
    with run_log(snakemake.log[0], snakemake.threads):
        figure = figure_timeline(read_table(snakemake.input[0]), snakemake.wildcards.recipe)
        save_figure(figure, *snakemake.output)
