"""EXP-002: the denoising loss between two training seeds, and between networks that learnt nothing."""

import pyarrow as pa

from iredinterp.analyses.landscape.weights import connectivity_table
from iredinterp.conditions import setting
from iredinterp.energy import load_energy
from iredinterp.ired.tasks import ProblemSpec
from iredinterp.points import model_keys
from iredinterp.provenance import provenance
from iredinterp.runlog import run_log
from iredinterp.tables import read_table, write_table

if __name__ == "__main__":
    inputs, params, name = snakemake.input, snakemake.params, snakemake.wildcards.model
    with run_log(snakemake.log[0], snakemake.threads):
        paths = (inputs.checkpoint, inputs.other[0])
        models = [load_energy(path, params.weights, device=params.device) for path in paths]
        spec, problems, tables = ProblemSpec.from_dict(params.spec), read_table(inputs.problems[0]), []
        for condition in ("trained", "random_init", "permuted_weights"):
            keys = model_keys(name, models[0], spec, condition, **params.replicate)
            here = [setting(condition, model, spec, problems, **params.conditions) for model in models]
            pair = [place.energy for place in here]
            tables.append(connectivity_table(*pair, spec, keys, **params.connectivity))
        record = params.connectivity | {"conditions": dict(params.conditions)}
        footer = provenance(record, params.connectivity["seed"], dict(inputs.items()), params.code)
        write_table(pa.concat_tables(tables), snakemake.output[0], footer)
