"""Write the report from the results that are there."""

from iredinterp.report import read_pages, write_report
from iredinterp.runlog import run_log

if __name__ == "__main__":
    inputs, params = snakemake.input, snakemake.params
    with run_log(snakemake.log[0], snakemake.threads):
        write_report(
            snakemake.output[0],
            pages=inputs.pages,
            results={page.id: inputs.get(page.id, ()) for page in read_pages(inputs.pages)},
            verdicts=inputs.verdicts,
            contrasts=inputs.contrasts,
            hypotheses=inputs.hypotheses,
            cards=inputs.cards,
            config=params.config,
            calibrations=inputs.calibrations,
            recovered=inputs.recovered,
            costs=inputs.costs,
            scorecard=inputs.scorecard,
        )
