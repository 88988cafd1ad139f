"""EXP-002: figure of the loss between two training seeds."""

from iredinterp.analyses.landscape.weights_drawing import figure_connectivity
from iredinterp.figures import save_figure
from iredinterp.panels import sentence_of
from iredinterp.runlog import run_log
from iredinterp.tables import read_table

if __name__ == "__main__":
    inputs = snakemake.input
    with run_log(snakemake.log[0], snakemake.threads):
        note, title = sentence_of(read_table(inputs.competence)), snakemake.wildcards.model
        figure = figure_connectivity(read_table(inputs.table), title, note)
        save_figure(figure, *snakemake.output)
