# EXP-005: gradient and curvature along and across the manifold of answers.
rule tangent_block:
    input:
        checkpoint=entry("{model}/checkpoint/{condition}", of=CHECKPOINTS),
        problems=collect(
            "<results>/problems/{problems}.parquet",
            problems=entry("{model}/problems", of=CHECKPOINTS),
        ),
        points=rules.points.output,
    output:
        "<results>/tangent/{model}/{condition}/blocks/{block}/metrics.parquet",
    log:
        "<logs>/tangent_block/{model}/{condition}/{block}.log",
    benchmark:
        "<benchmarks>/tangent_block/{model}/{condition}/{block}.jsonl"
    conda:
        "../envs/iredinterp.yaml"
    threads: 1
    resources:
        gpu=1,
        mem_mb=growing(8000),
        runtime=growing(60),
    params:
        **code("tangent_block"),
        spec=entry("{model}/spec", of=CHECKPOINTS),
        weights=entry("{model}/weights", of=CHECKPOINTS),
        device=config["device"],
        conditions=config["conditions"],
        tangent=config["tangent"],
    message:
        "Tangent and normal parts of {wildcards.model} ({wildcards.condition}), block {wildcards.block}"
    script:
        "../../scripts/tangent_block.py"


rule tangent_figures:
    input:
        metrics=collect(
            "<results>/tangent/{model}/{condition}/blocks/{block}/metrics.parquet",
            condition=entry("{model}/conditions", of=CHECKPOINTS),
            block=BLOCKS,
            allow_missing=True,
        ),
        competence=rules.competence.output.table,
    output:
        report(
            "<results>/tangent/{model}/figures/ratios.svg",
            category="EXP-005 tangent and normal",
            subcategory="{model}",
            caption="../report/tangent_ratios.rst",
            labels={"figure": "1 ratios against their nulls"},
        ),
        report(
            "<results>/tangent/{model}/figures/shares.svg",
            category="EXP-005 tangent and normal",
            subcategory="{model}",
            caption="../report/tangent_shares.rst",
            labels={"figure": "2 shares of the gradient"},
        ),
        report(
            "<results>/tangent/{model}/figures/conditions.svg",
            category="EXP-005 tangent and normal",
            subcategory="{model}",
            caption="../report/tangent_conditions.rst",
            labels={"figure": "3 all conditions"},
        ),
        collect(
            "<results>/tangent/{model}/figures/{figure}.{format}",
            figure=["ratios", "shares", "conditions"],
            format=FORMATS,
            allow_missing=True,
        ),
    log:
        "<logs>/tangent_figures/{model}.log",
    benchmark:
        "<benchmarks>/tangent_figures/{model}.jsonl"
    conda:
        "../envs/iredinterp.yaml"
    threads: 1
    resources:
        mem_mb=growing(4000),
        runtime=growing(10),
    params:
        **code("tangent_figures"),
    message:
        "EXP-005 figures of {wildcards.model}"
    script:
        "../../scripts/tangent_figures.py"


rule tangent:
    input:
        collect(rules.tangent_figures.output[0], model=MODELS),
        collect(
            "<results>/tangent/{model}/trained/{table}.parquet",
            model=MODELS,
            table=TABLES["tangent"],
        ),
    localrule: True
    message:
        "EXP-005 is in results/tangent"


rule exp005:
    input:
        rules.tangent.input,
        rules.cards.input,
    localrule: True
    message:
        "EXP-005 is in results/tangent"
