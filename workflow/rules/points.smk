# Where each landscape is looked at, one job per model and block of problems.
rule points:
    input:
        checkpoint=lookup("{model}/checkpoint/{condition}", within=CHECKPOINTS),
        problems=collect(
            "<results>/problems/{problems}.parquet",
            problems=lookup("{model}/problems", within=CHECKPOINTS),
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
        spec=lookup(
            "problems/{name}",
            within=config,
            name=lookup("{model}/problems", within=CHECKPOINTS),
        ),
        weights=lookup("{model}/weights", within=CHECKPOINTS),
        device=config["device"],
        conditions=config["conditions"],
        block=config["sampling"]["block"],
        replicate=lookup("{model}/replicate", within=CHECKPOINTS),
        kinds=lookup("{condition}", within=KINDS),
        draws=config["points"]["draws"],
        seed=config["points"]["seed"],
    message:
        "Points of {wildcards.model} ({wildcards.condition}), block {wildcards.block}"
    script:
        "../../scripts/points.py"


# Energies and gradients at those points.
rule gradients:
    input:
        checkpoint=lookup("{model}/checkpoint/{condition}", within=CHECKPOINTS),
        problems=collect(
            "<results>/problems/{problems}.parquet",
            problems=lookup("{model}/problems", within=CHECKPOINTS),
        ),
        points=rules.points.output,
    output:
        "<results>/gradients/{model}/{condition}/block-{block}.parquet",
    log:
        "<logs>/gradients/{model}/{condition}/block-{block}.log",
    conda:
        "../envs/iredinterp.yaml"
    threads: 1
    resources:
        gpu=1,
        mem_mb=growing(4000),
        runtime=growing(30),
    params:
        **code("gradients"),
        spec=lookup(
            "problems/{name}",
            within=config,
            name=lookup("{model}/problems", within=CHECKPOINTS),
        ),
        weights=lookup("{model}/weights", within=CHECKPOINTS),
        device=config["device"],
        conditions=config["conditions"],
    message:
        "Energies and gradients of {wildcards.model} ({wildcards.condition}), block {wildcards.block}"
    script:
        "../../scripts/gradients.py"
