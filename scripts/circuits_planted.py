"""EXP-009: which methods find circuits planted among decoys."""

from functools import partial

from iredinterp.analyses.circuits.search import METHODS
from iredinterp.ired.tasks import ProblemSpec
from iredinterp.leaderboard import leaderboard
from iredinterp.provenance import provenance
from iredinterp.runlog import run_log
from iredinterp.tables import write_table

if __name__ == "__main__":
    output, params = snakemake.output, snakemake.params
    with run_log(snakemake.log[0], snakemake.threads):
        board, registered = dict(params.board), f"{params.method} {params.ablation}"
        names = dict.fromkeys([registered, *board.pop("methods")])
        parts = {name: name.split() for name in names}
        methods = {name: partial(METHODS[way], ablation=ablation) for name, (way, ablation) in parts.items()}
        spec, problems = ProblemSpec.from_dict(params.spec), snakemake.wildcards.problems
        tables = leaderboard(methods, registered, problems, spec, seed=params.seed, **board)
        footer = provenance(dict(params.board) | {"registered": registered}, params.seed, code=params.code)
        for table, path in zip(tables, (output.recovered, output.costs), strict=True):
            write_table(table, path, footer)
