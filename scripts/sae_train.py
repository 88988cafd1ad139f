"""EXP-003: sparse autoencoders on one field of one model under one condition."""

from iredinterp.analyses.sae.study import export, field_problems, recipe_of, study_of_file
from iredinterp.conditions import setting
from iredinterp.energy import load_energy
from iredinterp.ired.tasks import ProblemSpec
from iredinterp.points import model_keys
from iredinterp.provenance import provenance
from iredinterp.runlog import run_log
from iredinterp.tables import write_table

if __name__ == "__main__":
    inputs, params, wildcards = snakemake.input, snakemake.params, snakemake.wildcards
    output = snakemake.output
    with run_log(snakemake.log[0], snakemake.threads):
        model, sae = load_energy(inputs.checkpoint, params.weights, device=params.device), params.sae
        spec, condition = ProblemSpec.from_dict(params.spec), wildcards.condition
        problems = field_problems(spec, sae["problems"], sae["seed"])
        here = setting(condition, model, spec, problems, **params.conditions)
        keys = model_keys(wildcards.model, model, spec, condition, **params.replicate)
        recipe = recipe_of(sae, int(wildcards.width), condition == "trained")
        place = (inputs.field[0], wildcards.field, here.energy, here.problems, keys)
        found = study_of_file(*place, recipe, sae, condition == "trained")
        settings = dict(sae) | {"condition": condition, "conditions": dict(params.conditions)}
        footer = provenance(settings, sae["seed"], {"field": inputs.field[0]}, params.code)
        write_table(found.metrics, output.metrics, footer)
        write_table(found.history, output.history, footer)
        export(found, output.autoencoder, keys)
