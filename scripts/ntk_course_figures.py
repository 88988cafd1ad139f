"""EXP-008: the figure of one course."""

from iredinterp.analyses.ntk.course_drawing import figure_course
from iredinterp.figures import save_figure
from iredinterp.runlog import run_log
from iredinterp.tables import read_table

if __name__ == "__main__":
    with run_log(snakemake.log[0], snakemake.threads):
        figure = figure_course(read_table(snakemake.input[0]), snakemake.wildcards.recipe)
        save_figure(figure, *snakemake.output)
