"""Score one model beside the baselines and write its competence card."""

from iredinterp.cards import competence_table, render_card, score_model
from iredinterp.energy import resolve_device
from iredinterp.ired.checkpoint import load_checkpoint
from iredinterp.ired.tasks import ProblemSpec
from iredinterp.provenance import provenance
from iredinterp.runlog import run_log
from iredinterp.tables import write_table

if __name__ == "__main__":
    name, params, inputs = snakemake.wildcards.model, snakemake.params, dict(snakemake.input.items())
    with run_log(snakemake.log[0], snakemake.threads):
        checkpoint = load_checkpoint(inputs["checkpoint"], params.weights)
        spec = ProblemSpec.from_dict(params.spec)
        model = checkpoint.model.to(device=resolve_device(params.device))
        result = score_model(model, spec, params.problem_count, params.seed, name)
        settings = spec.to_dict() | {"count": params.problem_count, "weights": params.weights}
        footer = provenance(settings, params.seed, inputs, params.code)
        write_table(competence_table(name, checkpoint, result), snakemake.output.table, footer)
        render_card(name, checkpoint, spec, result, snakemake.output.card)
