"""How exactly EXP-003 finds the atoms of a planted dictionary."""

from functools import partial

from iredinterp.analyses.sae.study import recipe_of, recovery_table
from iredinterp.ired.schedule import cosine_schedule
from iredinterp.ired.tasks import ProblemSpec
from iredinterp.provenance import provenance
from iredinterp.runlog import run_log
from iredinterp.tables import write_table
from iredinterp.truth.dictionary import mmcs, planted_vectors

if __name__ == "__main__":
    params = snakemake.params
    with run_log(snakemake.log[0], snakemake.threads):
        spec, sae = ProblemSpec.from_dict(params.spec), params.sae
        recipe = recipe_of(sae, sae["widths"][0], False)
        levels = cosine_schedule().levels
        count = levels * sae["problems"] * sae["draws"]
        dictionary, x = planted_vectors(spec.dim_y, sae["k"][0], count, params.seed)
        keys = {"model": params.model, "family": params.model, "condition": "trained", "task": spec.task}
        score = partial(mmcs, dictionary.atoms)
        table = recovery_table(score, x, levels, keys, recipe, sae["seeds"][0])
        footer = provenance(dict(sae), params.seed, code=params.code)
        write_table(table, snakemake.output[0], footer)
