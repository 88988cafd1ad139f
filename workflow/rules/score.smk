# EXP-006: singular vectors of the score and of the denoiser's Jacobian.
rule score_block:
    input:
        checkpoint=entry("{model}/checkpoint/{condition}", of=CHECKPOINTS),
        problems=collect(
            "<results>/problems/{problems}.parquet",
            problems=entry("{model}/problems", of=CHECKPOINTS),
        ),
        points=rules.points.output,
    output:
        "<results>/score/{model}/{condition}/blocks/{block}/metrics.parquet",
    log:
        "<logs>/score_block/{model}/{condition}/{block}.log",
    benchmark:
        "<benchmarks>/score_block/{model}/{condition}/{block}.jsonl"
    conda:
        "../envs/iredinterp.yaml"
    threads: 1
    resources:
        gpu=1,
        mem_mb=growing(8000),
        runtime=growing(60),
    params:
        **code("score_block"),
        spec=entry("{model}/spec", of=CHECKPOINTS),
        weights=entry("{model}/weights", of=CHECKPOINTS),
        device=config["device"],
        conditions=config["conditions"],
        score=config["score"],
    message:
        "Scores and denoiser Jacobians of {wildcards.model} ({wildcards.condition}), block {wildcards.block}"
    script:
        "../../scripts/score_block.py"


# Problems are drawn anew at every training step, so that two seeds see different data.
rule score_pair:
    input:
        checkpoint=entry("{model}/checkpoint/{condition}", of=CHECKPOINTS),
        other=entry("{model}/partner", of=CHECKPOINTS),
        problems=collect(
            "<results>/problems/{problems}.parquet",
            problems=entry("{model}/problems", of=CHECKPOINTS),
        ),
        points=collect(
            "<results>/points/{model}/{condition}/block-{block}.parquet",
            block=BLOCKS,
            allow_missing=True,
        ),
    output:
        "<results>/score/{model}/{condition}/agreement.parquet",
    log:
        "<logs>/score_pair/{model}/{condition}.log",
    benchmark:
        "<benchmarks>/score_pair/{model}/{condition}.jsonl"
    wildcard_constraints:
        condition="trained",
    conda:
        "../envs/iredinterp.yaml"
    threads: 1
    resources:
        gpu=1,
        mem_mb=growing(8000),
        runtime=growing(60),
    params:
        **code("score_pair"),
        weights=entry("{model}/weights", of=CHECKPOINTS),
        device=config["device"],
        score=config["score"],
    message:
        "Agreement of {wildcards.model} with another training seed"
    script:
        "../../scripts/score_pair.py"


rule score_figures:
    input:
        metrics=collect(
            "<results>/score/{model}/{condition}/blocks/{block}/metrics.parquet",
            condition=entry("{model}/conditions", of=CHECKPOINTS),
            block=BLOCKS,
            allow_missing=True,
        ),
        agreement=collect(
            "<results>/score/{model}/{condition}/agreement.parquet",
            condition=entry("{model}/paired", of=CHECKPOINTS),
            allow_missing=True,
        ),
        competence=rules.competence.output.table,
    output:
        report(
            "<results>/score/{model}/figures/overlap.svg",
            category="EXP-006 score and Jacobian",
            subcategory="{model}",
            caption="../report/score_overlap.rst",
            labels={"figure": "1 where the Jacobian leads"},
        ),
        report(
            "<results>/score/{model}/figures/eigenmatrices.svg",
            category="EXP-006 score and Jacobian",
            subcategory="{model}",
            caption="../report/score_eigenmatrices.rst",
            labels={"figure": "2 its leading eigenvectors"},
        ),
        report(
            "<results>/score/{model}/figures/shares.svg",
            category="EXP-006 score and Jacobian",
            subcategory="{model}",
            caption="../report/score_shares.rst",
            labels={"figure": "3 gradients, eigenvalues, scores"},
        ),
        collect(
            "<results>/score/{model}/figures/{figure}.{format}",
            figure=["overlap", "eigenmatrices", "shares"],
            format=FORMATS,
            allow_missing=True,
        ),
    log:
        "<logs>/score_figures/{model}.log",
    benchmark:
        "<benchmarks>/score_figures/{model}.jsonl"
    conda:
        "../envs/iredinterp.yaml"
    threads: 1
    resources:
        mem_mb=growing(4000),
        runtime=growing(10),
    params:
        **code("score_figures"),
    message:
        "EXP-006 figures of {wildcards.model}"
    script:
        "../../scripts/score_figures.py"


rule score:
    input:
        collect(rules.score_figures.output[0], model=MODELS),
        collect(
            "<results>/score/{model}/trained/{table}.parquet",
            model=MODELS,
            table=TABLES["score"],
        ),
    localrule: True
    message:
        "EXP-006 is in results/score"


rule exp006:
    input:
        rules.score.input,
        rules.cards.input,
    localrule: True
    message:
        "EXP-006 is in results/score"
