"""How far the analyses are from the truth of a planted network."""

from iredinterp.evidence.calibration import calibration_table
from iredinterp.evidence.hypotheses import read_hypotheses
from iredinterp.provenance import provenance
from iredinterp.runlog import run_log
from iredinterp.tables import read_table, write_table

if __name__ == "__main__":
    inputs, params = snakemake.input, snakemake.params
    with run_log(snakemake.log[0], snakemake.threads):
        registration = read_hypotheses(inputs.hypotheses)
        spectra, truth, expected = map(read_table, (inputs.spectra, inputs.truth, inputs.expected))
        metrics = {analysis: read_table(inputs[analysis]) for analysis in params.analyses}
        footer = provenance({}, inputs=dict(inputs.items()), code=params.code)
        table = calibration_table(registration, spectra, truth, metrics, expected)
        write_table(table, snakemake.output[0], footer)
