"""EXP-003: sparse autoencoders on one field of one model under one condition; a stopped run goes on."""

import shutil

from iredinterp.analyses.sae.collection import field_problems
from iredinterp.analyses.sae.study import Plan, recipe_of, study_of_file, write
from iredinterp.conditions import setting
from iredinterp.energy import load_energy
from iredinterp.ired.tasks import ProblemSpec
from iredinterp.points import model_keys
from iredinterp.provenance import provenance
from iredinterp.runlog import progress, run_log

if __name__ == "__main__":
    inputs, params, wildcards = snakemake.input, snakemake.params, snakemake.wildcards
    condition, full = wildcards.condition, wildcards.condition == "trained"
    with run_log(snakemake.log[0], snakemake.threads):
        model, sae = load_energy(inputs.checkpoint, params.weights, device=params.device), params.sae
        spec, saved = ProblemSpec.from_dict(params.spec), f"{snakemake.output.history}.state"
        problems = field_problems(spec, sae["problems"], sae["seed"])
        keys = model_keys(wildcards.model, model, spec, condition, **params.replicate)
        here = setting(condition, model, spec, problems, **params.conditions)
        recipe, plan = recipe_of(sae, int(wildcards.width), full), Plan.of(sae, full)
        place = (inputs.field[0], wildcards.field, here.energy, here.problems, keys, recipe, plan)
        settings = dict(sae) | {"condition": condition, "conditions": dict(params.conditions)}
        footer = provenance(settings, sae["seed"], {"field": inputs.field[0]}, params.code)
        found = study_of_file(*place, saved=saved, progress=progress)
        write(found, dict(snakemake.output.items()), keys, footer)
        shutil.rmtree(saved)
