"""What the analyses have to find on a planted network."""

from iredinterp.energy import load_energy
from iredinterp.expected import expected_table
from iredinterp.ired.tasks import ProblemSpec
from iredinterp.points import model_keys
from iredinterp.provenance import provenance
from iredinterp.runlog import run_log
from iredinterp.tables import read_table, write_table
from iredinterp.truth.planted import read_planted_truth

if __name__ == "__main__":
    inputs, params = snakemake.input, snakemake.params
    with run_log(snakemake.log[0], snakemake.threads):
        network, spec = load_energy(inputs.checkpoint), ProblemSpec.from_dict(params.spec)
        keys = model_keys(params.model, network, spec, **params.replicate)
        settings = {name: dict(params[name]) for name in ("tangent", "grassmann", "annealing")}
        truth, problems = read_planted_truth(inputs.checkpoint), read_table(inputs.problems)
        footer = provenance(settings, inputs=dict(inputs.items()), code=params.code)
        write_table(expected_table(truth, problems, keys, **settings), snakemake.output[0], footer)
