"""List the jobs of the configured study, without running any, and say what they take."""

from pathlib import Path

from snakemake.api import SnakemakeApi
from snakemake.logging import logger
from snakemake.settings.types import ConfigSettings, DAGSettings, OutputSettings, Quietness, ResourceSettings

from iredinterp.plan import JobListing, plan_page
from iredinterp.runlog import run_log

if __name__ == "__main__":
    with run_log(snakemake.log[0]), SnakemakeApi(OutputSettings(quiet={Quietness.ALL})) as api:
        study = api.workflow(
            resource_settings=ResourceSettings(cores=1),
            config_settings=ConfigSettings(config=snakemake.config),
            snakefile=Path("workflow/Snakefile"),
        ).dag(DAGSettings(targets=set(snakemake.params.study), forceall=True))
        listing = JobListing(Path())
        logger.addHandler(listing)
        study.execute_workflow(executor="dryrun")
        print(plan_page(listing.jobs))
