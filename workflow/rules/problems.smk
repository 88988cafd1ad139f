# Matrix problems, drawn once per distribution and shared by every model analysed on it.
rule problems:
    output:
        "<results>/problems/{problems}.parquet",
    log:
        "<logs>/problems/{problems}.log",
    benchmark:
        "<benchmarks>/problems/{problems}.jsonl"
    conda:
        "../envs/iredinterp.yaml"
    threads: 1
    resources:
        mem_mb=growing(2000),
        runtime=growing(10),
    params:
        **code("problems"),
        spec=entry("problems/{problems}", of=config),
        problem_count=config["sampling"]["count"],
        seed=config["sampling"]["seed"],
    message:
        "Draw the problems {wildcards.problems}"
    script:
        "../../scripts/problems.py"
