"""Leaderboard of circuit methods on planted networks."""

from iredinterp.leaderboard import render_leaderboard
from iredinterp.provenance import provenance
from iredinterp.runlog import run_log
from iredinterp.tables import gather, write_table

if __name__ == "__main__":
    inputs, output = snakemake.input, snakemake.output
    with run_log(snakemake.log[0], snakemake.threads):
        recovered, costs = gather(inputs.recovered), gather(inputs.costs)
        files = {f"recovered/{index}": path for index, path in enumerate(inputs.recovered)}
        write_table(recovered, output.table, provenance({}, inputs=files, code=snakemake.params.code))
        render_leaderboard(recovered, costs, output.page)
