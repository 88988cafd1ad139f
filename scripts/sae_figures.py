"""EXP-003: figures of one trained model."""

from iredinterp.analyses.sae.drawing import figures
from iredinterp.analyses.sae.pictures import read_shown
from iredinterp.figures import save_figure
from iredinterp.ired.tasks import ProblemSpec
from iredinterp.panels import sentence_of
from iredinterp.runlog import run_log
from iredinterp.tables import gather, read_table

if __name__ == "__main__":
    inputs, params = snakemake.input, snakemake.params
    with run_log(snakemake.log[0], snakemake.threads):
        note, title = sentence_of(read_table(inputs.competence)), snakemake.wildcards.model
        metrics, effects = gather(inputs.metrics), gather(inputs.effects)
        shape = ProblemSpec.from_dict(params.spec).shape
        shown = read_shown(metrics, inputs.examples, inputs.autoencoder, params.fields, shape)
        for name, figure in figures(metrics, effects, shown, title, note).items():
            save_figure(figure, *(path for path in snakemake.output if f"/{name}." in path))
