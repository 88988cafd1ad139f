"""EXP-003: the gradient field of one model under one condition."""

from iredinterp.analyses.sae.collection import field_problems, gradient_batches
from iredinterp.conditions import setting
from iredinterp.energy import MLPEnergy, load_energy
from iredinterp.ired.tasks import ProblemSpec
from iredinterp.points import model_keys
from iredinterp.provenance import provenance
from iredinterp.runlog import run_log
from iredinterp.tables import write_stream

if __name__ == "__main__":
    inputs, params, wildcards = snakemake.input, snakemake.params, snakemake.wildcards
    with run_log(snakemake.log[0], snakemake.threads):
        model, sae = load_energy(inputs.checkpoint, params.weights, device=params.device), params.sae
        spec, condition = ProblemSpec.from_dict(params.spec), wildcards.condition
        problems = field_problems(spec, sae["problems"], sae["seed"])
        keys = model_keys(wildcards.model, model, spec, condition, **params.replicate)
        here = setting(condition, model, spec, problems, **params.conditions)
        sources = ["q_sample", "jump", "inner"] + ["minimum"] * sae["minima"]
        asked = {"sources": sources, "draws": sae["draws"], "oracle": here.oracle}
        asked["hidden"] = sae["hidden"] and isinstance(here.energy, MLPEnergy)
        batches = gradient_batches(here.energy, here.problems, keys, sae["seed"], **asked)
        settings = dict(sae) | {"condition": condition, "conditions": dict(params.conditions)}
        footer = provenance(settings, sae["seed"], dict(inputs.items()), params.code)
        write_stream(batches, snakemake.output[0], footer)
