"""Write a planted network and the spectrum that analyses of it have to find."""

from iredinterp.ired.tasks import ProblemSpec
from iredinterp.provenance import provenance
from iredinterp.runlog import run_log
from iredinterp.tables import write_table
from iredinterp.truth.planted import EVERY_DECOY, planted, save_planted
from iredinterp.truth.planted.truth import spectrum_table

if __name__ == "__main__":
    params, output = snakemake.params, snakemake.output
    with run_log(snakemake.log[0], snakemake.threads):
        spec = ProblemSpec.from_dict(params.spec)
        symmetric = spec.task == "inverse"
        network = planted(spec.dim_x, spec.dim_y, params.seed, decoys=EVERY_DECOY, symmetric=symmetric)
        save_planted(network, output.checkpoint)
        footer = provenance(dict(network.construction), params.seed, code=params.code)
        write_table(spectrum_table(network.truth), output.truth, footer)
