"""Draw the problems of one distribution."""

import torch

from iredinterp.ired.tasks import ProblemSpec, draw_problems
from iredinterp.points import problems_table
from iredinterp.provenance import provenance
from iredinterp.runlog import run_log
from iredinterp.tables import write_table

if __name__ == "__main__":
    params = snakemake.params
    with run_log(snakemake.log[0], snakemake.threads):
        spec = ProblemSpec.from_dict(params.spec)
        problems = draw_problems(spec, params.problem_count, torch.Generator().manual_seed(params.seed))
        footer = provenance(
            spec.to_dict() | {"count": params.problem_count}, seed=params.seed, code=params.code
        )
        write_table(problems_table(problems), snakemake.output[0], footer)
