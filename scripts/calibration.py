"""How far an analysis is from the truth of a planted network."""

from iredinterp.evidence.calibration import calibration_table
from iredinterp.evidence.hypotheses import read_hypotheses
from iredinterp.provenance import provenance
from iredinterp.runlog import run_log
from iredinterp.tables import read_table, write_table

if __name__ == "__main__":
    inputs = snakemake.input
    with run_log(snakemake.log[0], snakemake.threads):
        spectra, metrics, truth = map(read_table, (inputs.spectra, inputs.metrics, inputs.truth))
        table = calibration_table(read_hypotheses(inputs.hypotheses), spectra, metrics, truth)
        footer = provenance({}, inputs=dict(inputs.items()), code=snakemake.params.code)
        write_table(table, snakemake.output[0], footer)
