"""EXP-003: figures of one trained model."""

from iredinterp.analyses.sae.drawing import figures
from iredinterp.analyses.sae.interop import load_saelens
from iredinterp.cards import sentence_of
from iredinterp.figures import save_figure
from iredinterp.ired.tasks import ProblemSpec
from iredinterp.runlog import run_log
from iredinterp.tables import gather, read_table

if __name__ == "__main__":
    inputs = snakemake.input
    with run_log(snakemake.log[0], snakemake.threads):
        note, title = sentence_of(read_table(inputs.competence)), snakemake.wildcards.model
        shape = ProblemSpec.from_dict(snakemake.params.spec).shape
        atoms = load_saelens(f"{inputs.autoencoder[0]}/level-0").W_dec.unflatten(1, shape)
        for name, figure in figures(gather(inputs.metrics), atoms, title, note).items():
            save_figure(figure, *(path for path in snakemake.output if f"/{name}." in path))
