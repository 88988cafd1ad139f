"""EXP-006: how far two training seeds agree on the denoiser's Jacobian."""

from iredinterp.analyses.score import agreement_table
from iredinterp.energy import load_energy
from iredinterp.provenance import provenance
from iredinterp.runlog import run_log
from iredinterp.tables import gather, read_table, write_table

if __name__ == "__main__":
    inputs, params = snakemake.input, snakemake.params
    with run_log(snakemake.log[0], snakemake.threads):
        paths = (inputs.checkpoint, inputs.other[0])
        pair = [load_energy(path, params.weights, device=params.device) for path in paths]
        points, problems = gather(inputs.points), read_table(inputs.problems[0])
        settings = {name: params.score[name] for name in ("vectors", "floor", "chunk")}
        footer = provenance(settings, inputs=dict(inputs.items()), code=params.code)
        write_table(agreement_table(*pair, points, problems, **settings), snakemake.output[0], footer)
