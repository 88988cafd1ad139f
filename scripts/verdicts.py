"""Judge the registered hypotheses and write their tables and page."""

import pyarrow as pa

from iredinterp.evidence.calibration import gates
from iredinterp.evidence.hypotheses import read_hypotheses
from iredinterp.evidence.page import render_verdicts
from iredinterp.evidence.samples import read_samples
from iredinterp.evidence.verdicts import contrast_table, judge, verdict_table
from iredinterp.provenance import provenance
from iredinterp.runlog import run_log
from iredinterp.tables import read_table, write_table

if __name__ == "__main__":
    inputs, params, output = snakemake.input, snakemake.params, snakemake.output
    with run_log(snakemake.log[0], snakemake.threads):
        registration = read_hypotheses(inputs.hypotheses)
        calibrations = dict(zip(params.families, map(read_table, inputs.calibrations), strict=True))
        undefined = {(entry["family"], entry["condition"]): entry["reason"] for entry in params.undefined}
        samples = read_samples(registration, {name: inputs[name] for name in params.analyses})
        found = judge(registration, samples, gates(registration, calibrations), undefined)
        footer = provenance({"families": params.families}, inputs=dict(inputs.items()), code=params.code)
        write_table(pa.Table.from_pandas(samples, preserve_index=False), output.samples, footer)
        write_table(verdict_table(found, registration, params.reproduce), output.verdicts, footer)
        write_table(contrast_table(found), output.contrasts, footer)
        render_verdicts(found, registration, params.reproduce, output.page)
