"""Score the methods on planted truths and null replicates, drawn anew unless a seed is configured."""

import secrets

from iredinterp.evidence.hypotheses import read_hypotheses
from iredinterp.ired.checkpoint import load_checkpoint
from iredinterp.ired.tasks import ProblemSpec
from iredinterp.provenance import provenance
from iredinterp.runlog import run_log
from iredinterp.scorecard import render_scorecard, scorecard
from iredinterp.tables import read_table, write_table

if __name__ == "__main__":
    inputs, params, output = snakemake.input, snakemake.params, snakemake.output
    with run_log(snakemake.log[0], snakemake.threads):
        seed = secrets.randbits(32) if params.seed is None else params.seed
        specs = dict(zip(params.families, map(ProblemSpec.from_dict, params.specs), strict=True))
        widths = (load_checkpoint(path).model.hidden for path in inputs.checkpoints)
        hidden = dict(zip(params.families, widths, strict=True))
        samples = read_table(inputs.samples).to_pandas()
        settings = (params.engine, params.replicates, seed)
        table = scorecard(read_hypotheses(inputs.hypotheses), samples, specs, hidden, *settings)
        files = {"hypotheses": inputs.hypotheses, "samples": inputs.samples}
        write_table(table, output.table, provenance({"engine": params.engine}, seed, files, params.code))
        render_scorecard(table, seed, output.page)
