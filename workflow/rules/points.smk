# Where each landscape is looked at, one job per model and block of problems.
rule points:
    input:
        checkpoint=lookup("models/{model}/checkpoint", within=config),
        problems=collect(
            "<results>/problems/{problems}.parquet",
            problems=lookup("models/{model}/problems", within=config),
        ),
    output:
        "<results>/points/{model}/block-{block}.parquet",
    log:
        "<logs>/points/{model}/block-{block}.log",
    benchmark:
        "<benchmarks>/points/{model}/block-{block}.jsonl"
    conda:
        "../envs/iredinterp.yaml"
    threads: 1
    resources:
        gpu=1,
        mem_mb=4000,
        runtime=60,
    params:
        **code("points"),
        spec=lookup(
            "problems/{name}",
            within=config,
            name=lookup("models/{model}/problems", within=config),
        ),
        weights=lookup("models/{model}/weights", within=config),
        device=config["device"],
        block=config["sampling"]["block"],
        points=config["points"],
    message:
        "Points of {wildcards.model}, block {wildcards.block}"
    script:
        "../../scripts/points.py"


# Energies and gradients at those points.
rule gradients:
    input:
        checkpoint=lookup("models/{model}/checkpoint", within=config),
        problems=collect(
            "<results>/problems/{problems}.parquet",
            problems=lookup("models/{model}/problems", within=config),
        ),
        points=rules.points.output,
    output:
        "<results>/gradients/{model}/block-{block}.parquet",
    log:
        "<logs>/gradients/{model}/block-{block}.log",
    conda:
        "../envs/iredinterp.yaml"
    threads: 1
    resources:
        gpu=1,
        mem_mb=4000,
        runtime=30,
    params:
        **code("gradients"),
        weights=lookup("models/{model}/weights", within=config),
        device=config["device"],
    message:
        "Energies and gradients of {wildcards.model}, block {wildcards.block}"
    script:
        "../../scripts/gradients.py"
