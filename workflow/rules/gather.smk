# Tables that the jobs of an analysis wrote block by block, as one.
rule gather:
    input:
        collect(
            "<results>/{analysis}/{model}/{condition}/blocks/{block}/{table}.parquet",
            block=BLOCKS,
            allow_missing=True,
        ),
    output:
        "<results>/{analysis}/{model}/{condition}/{table}.parquet",
    log:
        "<logs>/gather/{analysis}/{model}/{condition}/{table}.log",
    benchmark:
        "<benchmarks>/gather/{analysis}/{model}/{condition}/{table}.jsonl"
    conda:
        "../envs/iredinterp.yaml"
    threads: 1
    resources:
        mem_mb=growing(4000),
        runtime=growing(10),
    params:
        **code("gather"),
    message:
        "Gather the {wildcards.table} of {wildcards.analysis} on {wildcards.model} ({wildcards.condition})"
    script:
        "../../scripts/gather.py"
