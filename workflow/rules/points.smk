# Where each landscape is looked at, one job per model and block of problems.
rule points:
    input:
        checkpoint=entry("{model}/checkpoint/{condition}", of=CHECKPOINTS),
        problems=collect(
            "<results>/problems/{problems}.parquet",
            problems=entry("{model}/problems", of=CHECKPOINTS),
        ),
    output:
        "<results>/points/{model}/{condition}/block-{block}.parquet",
    log:
        "<logs>/points/{model}/{condition}/block-{block}.log",
    benchmark:
        "<benchmarks>/points/{model}/{condition}/block-{block}.jsonl"
    conda:
        "../envs/iredinterp.yaml"
    threads: 1
    resources:
        gpu=1,
        mem_mb=growing(4000),
        runtime=growing(60),
    params:
        **code("points"),
        spec=entry("{model}/spec", of=CHECKPOINTS),
        weights=entry("{model}/weights", of=CHECKPOINTS),
        device=config["device"],
        conditions=config["conditions"],
        block=config["sampling"]["block"],
        replicate=entry("{model}/replicate", of=CHECKPOINTS),
        kinds=entry("{condition}", of=KINDS),
        draws=config["points"]["draws"],
        seed=config["points"]["seed"],
    message:
        "Points of {wildcards.model} ({wildcards.condition}), block {wildcards.block}"
    script:
        "../../scripts/points.py"


# Energies and gradients at those points.
rule gradients:
    input:
        checkpoint=entry("{model}/checkpoint/{condition}", of=CHECKPOINTS),
        problems=collect(
            "<results>/problems/{problems}.parquet",
            problems=entry("{model}/problems", of=CHECKPOINTS),
        ),
        points=rules.points.output,
    output:
        "<results>/gradients/{model}/{condition}/block-{block}.parquet",
    log:
        "<logs>/gradients/{model}/{condition}/block-{block}.log",
    benchmark:
        "<benchmarks>/gradients/{model}/{condition}/block-{block}.jsonl"
    conda:
        "../envs/iredinterp.yaml"
    threads: 1
    resources:
        gpu=1,
        mem_mb=growing(4000),
        runtime=growing(30),
    params:
        **code("gradients"),
        spec=entry("{model}/spec", of=CHECKPOINTS),
        weights=entry("{model}/weights", of=CHECKPOINTS),
        device=config["device"],
        conditions=config["conditions"],
    message:
        "Energies and gradients of {wildcards.model} ({wildcards.condition}), block {wildcards.block}"
    script:
        "../../scripts/gradients.py"
