"""Figures of two landscapes side by side, beside those of two untrained networks."""

from iredinterp.analyses.difference.drawing import figures
from iredinterp.figures import save_figure
from iredinterp.panels import sentence_of
from iredinterp.runlog import run_log
from iredinterp.tables import gather, read_table

if __name__ == "__main__":
    inputs, (model, other) = snakemake.input, snakemake.wildcards
    with run_log(snakemake.log[0], snakemake.threads):
        notes = [sentence_of(read_table(path)) for path in inputs.competence]
        note = f"{model}: {notes[0]}; {other}: {notes[1]}"
        for name, figure in figures(gather(inputs.metrics), f"{model} and {other}", note).items():
            save_figure(figure, *(path for path in snakemake.output if f"/{name}." in path))
