# EXP-002: minima of the landscapes, what lies between them, and slices.
rule landscape_block:
    input:
        checkpoint=entry("{model}/checkpoint/{condition}", of=CHECKPOINTS),
        problems=collect(
            "<results>/problems/{problems}.parquet",
            problems=entry("{model}/problems", of=CHECKPOINTS),
        ),
    output:
        metrics="<results>/landscape/{model}/{condition}/blocks/{block}/metrics.parquet",
        minima="<results>/landscape/{model}/{condition}/blocks/{block}/minima.parquet",
        paths="<results>/landscape/{model}/{condition}/blocks/{block}/paths.parquet",
        grid="<results>/landscape/{model}/{condition}/blocks/{block}/grid.parquet",
        tracks="<results>/landscape/{model}/{condition}/blocks/{block}/tracks.parquet",
    log:
        "<logs>/landscape_block/{model}/{condition}/{block}.log",
    benchmark:
        "<benchmarks>/landscape_block/{model}/{condition}/{block}.jsonl"
    conda:
        "../envs/iredinterp.yaml"
    threads: 1
    resources:
        gpu=1,
        mem_mb=growing(8000),
        runtime=growing(120),
    params:
        **code("landscape_block"),
        spec=entry("{model}/spec", of=CHECKPOINTS),
        weights=entry("{model}/weights", of=CHECKPOINTS),
        device=config["device"],
        conditions=config["conditions"],
        block=config["sampling"]["block"],
        replicate=entry("{model}/replicate", of=CHECKPOINTS),
        landscape={
            key: value
            for key, value in config["landscape"].items()
            if key != "connectivity"
        },
    message:
        "Minima and slices of {wildcards.model} ({wildcards.condition}), block {wildcards.block}"
    script:
        "../../scripts/landscape_block.py"


rule landscape_figures:
    input:
        metrics=collect(
            "<results>/landscape/{model}/{condition}/blocks/{block}/metrics.parquet",
            condition=entry("{model}/conditions", of=CHECKPOINTS),
            block=BLOCKS,
            allow_missing=True,
        ),
        grid=collect(
            "<results>/landscape/{model}/trained/blocks/{block}/grid.parquet",
            block=BLOCKS,
            allow_missing=True,
        ),
        tracks=collect(
            "<results>/landscape/{model}/trained/blocks/{block}/tracks.parquet",
            block=BLOCKS,
            allow_missing=True,
        ),
        competence=rules.competence.output.table,
    output:
        report(
            "<results>/landscape/{model}/figures/slices.svg",
            category="EXP-002 landscapes",
            subcategory="{model}",
            caption="../report/landscape_slices.rst",
            labels={"figure": "1 slices around the right answer"},
        ),
        report(
            "<results>/landscape/{model}/figures/minima.svg",
            category="EXP-002 landscapes",
            subcategory="{model}",
            caption="../report/landscape_minima.rst",
            labels={"figure": "2 minima and what leads to them"},
        ),
        report(
            "<results>/landscape/{model}/figures/barriers.svg",
            category="EXP-002 landscapes",
            subcategory="{model}",
            caption="../report/landscape_barriers.rst",
            labels={"figure": "3 barriers between minima"},
        ),
        collect(
            "<results>/landscape/{model}/figures/{figure}.{format}",
            figure=["slices", "minima", "barriers"],
            format=FORMATS,
            allow_missing=True,
        ),
    log:
        "<logs>/landscape_figures/{model}.log",
    benchmark:
        "<benchmarks>/landscape_figures/{model}.jsonl"
    conda:
        "../envs/iredinterp.yaml"
    threads: 1
    resources:
        mem_mb=growing(4000),
        runtime=growing(10),
    params:
        **code("landscape_figures"),
    message:
        "EXP-002 figures of {wildcards.model}"
    script:
        "../../scripts/landscape_figures.py"


# One job for the trained pair and its nulls: no barrier is there without that of untrained networks.
rule landscape_connectivity:
    input:
        checkpoint=entry("{model}/checkpoint/trained", of=CHECKPOINTS),
        other=entry("{model}/partner", of=CHECKPOINTS),
        problems=collect(
            "<results>/problems/{problems}.parquet",
            problems=entry("{model}/problems", of=CHECKPOINTS),
        ),
    output:
        table="<results>/landscape/{model}/connectivity.parquet",
    log:
        "<logs>/landscape_connectivity/{model}.log",
    benchmark:
        "<benchmarks>/landscape_connectivity/{model}.jsonl"
    conda:
        "../envs/iredinterp.yaml"
    threads: 1
    resources:
        gpu=1,
        mem_mb=growing(8000),
        runtime=growing(30),
    params:
        **code("landscape_connectivity"),
        spec=entry("{model}/spec", of=CHECKPOINTS),
        weights=entry("{model}/weights", of=CHECKPOINTS),
        device=config["device"],
        conditions=config["conditions"],
        replicate=entry("{model}/replicate", of=CHECKPOINTS),
        connectivity=config["landscape"]["connectivity"],
    message:
        "Loss between {wildcards.model} and another training seed"
    script:
        "../../scripts/landscape_connectivity.py"


rule landscape_connectivity_figure:
    input:
        table=rules.landscape_connectivity.output.table,
        competence=rules.competence.output.table,
    output:
        report(
            "<results>/landscape/{model}/figures/connectivity.svg",
            category="EXP-002 landscapes",
            subcategory="{model}",
            caption="../report/landscape_connectivity.rst",
            labels={"figure": "4 between two training seeds"},
        ),
        collect(
            "<results>/landscape/{model}/figures/connectivity.{format}",
            format=FORMATS,
            allow_missing=True,
        ),
    log:
        "<logs>/landscape_connectivity_figure/{model}.log",
    benchmark:
        "<benchmarks>/landscape_connectivity_figure/{model}.jsonl"
    conda:
        "../envs/iredinterp.yaml"
    threads: 1
    resources:
        mem_mb=growing(4000),
        runtime=growing(10),
    params:
        **code("landscape_connectivity_figure"),
    message:
        "EXP-002 figure of {wildcards.model} and another training seed"
    script:
        "../../scripts/landscape_connectivity_figure.py"


rule landscape:
    input:
        collect(rules.landscape_figures.output[0], model=MODELS),
        collect(
            rules.landscape_connectivity_figure.output[0],
            model=[model for model in MODELS if CHECKPOINTS[model]["partner"]],
        ),
        collect(
            "<results>/landscape/{model}/trained/{table}.parquet",
            model=MODELS,
            table=TABLES["landscape"],
        ),
    localrule: True
    message:
        "EXP-002 is in results/landscape"


rule exp002:
    input:
        rules.landscape.input,
        rules.cards.input,
    localrule: True
    message:
        "EXP-002 is in results/landscape"
