# EXP-004: energy against displacements of equal norm, and along paths.
rule grassmann_block:
    input:
        checkpoint=entry("{model}/checkpoint/{condition}", of=CHECKPOINTS),
        problems=collect(
            "<results>/problems/{problems}.parquet",
            problems=entry("{model}/problems", of=CHECKPOINTS),
        ),
    output:
        metrics="<results>/grassmann/{model}/{condition}/blocks/{block}/metrics.parquet",
        displacements="<results>/grassmann/{model}/{condition}/blocks/{block}/displacements.parquet",
        paths="<results>/grassmann/{model}/{condition}/blocks/{block}/paths.parquet",
    log:
        "<logs>/grassmann_block/{model}/{condition}/{block}.log",
    benchmark:
        "<benchmarks>/grassmann_block/{model}/{condition}/{block}.jsonl"
    conda:
        "../envs/iredinterp.yaml"
    threads: 1
    resources:
        gpu=1,
        mem_mb=growing(4000),
        runtime=growing(60),
    params:
        **code("grassmann_block"),
        spec=entry("{model}/spec", of=CHECKPOINTS),
        weights=entry("{model}/weights", of=CHECKPOINTS),
        device=config["device"],
        conditions=config["conditions"],
        block=config["sampling"]["block"],
        replicate=entry("{model}/replicate", of=CHECKPOINTS),
        grassmann=config["grassmann"],
    message:
        "Displaced answers of {wildcards.model} ({wildcards.condition}), block {wildcards.block}"
    script:
        "../../scripts/grassmann_block.py"


rule grassmann_figures:
    input:
        metrics=collect(
            "<results>/grassmann/{model}/{condition}/blocks/{block}/metrics.parquet",
            condition=entry("{model}/conditions", of=CHECKPOINTS),
            block=BLOCKS,
            allow_missing=True,
        ),
        paths=collect(
            "<results>/grassmann/{model}/{condition}/blocks/{block}/paths.parquet",
            condition=entry("{model}/conditions", of=CHECKPOINTS),
            block=BLOCKS,
            allow_missing=True,
        ),
        displacements=collect(
            "<results>/grassmann/{model}/trained/blocks/{block}/displacements.parquet",
            block=BLOCKS,
            allow_missing=True,
        ),
        competence=rules.competence.output.table,
    output:
        report(
            "<results>/grassmann/{model}/figures/arms.svg",
            category="EXP-004 subspaces and energy",
            subcategory="{model}",
            caption="../report/grassmann_arms.rst",
            labels={"figure": "1 energy by arm"},
        ),
        report(
            "<results>/grassmann/{model}/figures/effect.svg",
            category="EXP-004 subspaces and energy",
            subcategory="{model}",
            caption="../report/grassmann_effect.rst",
            labels={"figure": "2 effect in all conditions"},
        ),
        report(
            "<results>/grassmann/{model}/figures/correlation.svg",
            category="EXP-004 subspaces and energy",
            subcategory="{model}",
            caption="../report/grassmann_correlation.rst",
            labels={"figure": "3 naive and controlled correlation"},
        ),
        report(
            "<results>/grassmann/{model}/figures/paths.svg",
            category="EXP-004 subspaces and energy",
            subcategory="{model}",
            caption="../report/grassmann_paths.rst",
            labels={"figure": "4 energy along paths"},
        ),
        collect(
            "<results>/grassmann/{model}/figures/{figure}.{format}",
            figure=["arms", "effect", "correlation", "paths"],
            format=FORMATS,
            allow_missing=True,
        ),
    log:
        "<logs>/grassmann_figures/{model}.log",
    benchmark:
        "<benchmarks>/grassmann_figures/{model}.jsonl"
    conda:
        "../envs/iredinterp.yaml"
    threads: 1
    resources:
        mem_mb=growing(4000),
        runtime=growing(10),
    params:
        **code("grassmann_figures"),
    message:
        "EXP-004 figures of {wildcards.model}"
    script:
        "../../scripts/grassmann_figures.py"


rule grassmann:
    input:
        collect(rules.grassmann_figures.output[0], model=MODELS),
        collect(
            "<results>/grassmann/{model}/trained/{table}.parquet",
            model=MODELS,
            table=TABLES["grassmann"],
        ),
    localrule: True
    message:
        "EXP-004 is in results/grassmann"


rule exp004:
    input:
        rules.grassmann.input,
        rules.cards.input,
    localrule: True
    message:
        "EXP-004 is in results/grassmann"
