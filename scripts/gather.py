"""Concatenate the tables that the jobs of one analysis wrote, one per block."""

from iredinterp.provenance import provenance
from iredinterp.runlog import run_log
from iredinterp.tables import gather, write_table

if __name__ == "__main__":
    with run_log(snakemake.log[0], snakemake.threads):
        inputs = {f"block-{index}": path for index, path in enumerate(snakemake.input)}
        footer = provenance({}, inputs=inputs, code=snakemake.params.code)
        write_table(gather(snakemake.input), snakemake.output[0], footer)
