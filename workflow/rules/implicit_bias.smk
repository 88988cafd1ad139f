# EXP-007: which of several solutions is chosen, and when what is learnt.
rule implicit_bias_block:
    input:
        checkpoint=entry("{model}/checkpoint/{condition}", of=CHECKPOINTS),
        problems=collect(
            "<results>/problems/{problems}.parquet",
            problems=entry("{model}/problems", of=CHECKPOINTS),
        ),
    output:
        "<results>/implicit_bias/{model}/{condition}/blocks/{block}/metrics.parquet",
    log:
        "<logs>/implicit_bias_block/{model}/{condition}/{block}.log",
    benchmark:
        "<benchmarks>/implicit_bias_block/{model}/{condition}/{block}.jsonl"
    conda:
        "../envs/iredinterp.yaml"
    threads: 1
    resources:
        gpu=1,
        mem_mb=growing(8000),
        runtime=growing(60),
    params:
        **code("implicit_bias_block"),
        spec=entry("{model}/spec", of=CHECKPOINTS),
        weights=entry("{model}/weights", of=CHECKPOINTS),
        device=config["device"],
        conditions=config["conditions"],
        block=config["sampling"]["block"],
        replicate=entry("{model}/replicate", of=CHECKPOINTS),
        inference=config["implicit_bias"]["inference"],
    message:
        "Solutions chosen by {wildcards.model} ({wildcards.condition}), block {wildcards.block}"
    script:
        "../../scripts/implicit_bias_block.py"


rule implicit_bias_figures:
    input:
        metrics=collect(
            "<results>/implicit_bias/{model}/{condition}/blocks/{block}/metrics.parquet",
            condition=entry("{model}/conditions", of=CHECKPOINTS),
            block=BLOCKS,
            allow_missing=True,
        ),
        competence=rules.competence.output.table,
    output:
        report(
            "<results>/implicit_bias/{model}/figures/spectrum.svg",
            category="EXP-007 implicit bias",
            subcategory="{model}",
            caption="../report/implicit_bias_spectrum.rst",
            labels={"figure": "1 how the answer's spectrum forms"},
        ),
        report(
            "<results>/implicit_bias/{model}/figures/solution.svg",
            category="EXP-007 implicit bias",
            subcategory="{model}",
            caption="../report/implicit_bias_solution.rst",
            labels={"figure": "2 which solution is chosen"},
        ),
        collect(
            "<results>/implicit_bias/{model}/figures/{figure}.{format}",
            figure=["spectrum", "solution"],
            format=FORMATS,
            allow_missing=True,
        ),
    log:
        "<logs>/implicit_bias_figures/{model}.log",
    benchmark:
        "<benchmarks>/implicit_bias_figures/{model}.jsonl"
    conda:
        "../envs/iredinterp.yaml"
    threads: 1
    resources:
        mem_mb=growing(4000),
        runtime=growing(10),
    params:
        **code("implicit_bias_figures"),
    message:
        "EXP-007 figures of {wildcards.model}"
    script:
        "../../scripts/implicit_bias_figures.py"


# The training clock: no checkpoint under study is looked at here, but a recipe trained anew.
rule implicit_bias_course:
    output:
        metrics="<results>/implicit_bias/courses/{recipe}/metrics.parquet",
        mode_times="<results>/implicit_bias/courses/{recipe}/mode_times.parquet",
    log:
        "<logs>/implicit_bias_course/{recipe}.log",
    benchmark:
        "<benchmarks>/implicit_bias_course/{recipe}.jsonl"
    conda:
        "../envs/iredinterp.yaml"
    threads: 1
    resources:
        gpu=1,
        mem_mb=growing(8000),
        runtime=growing(240),
    params:
        **code("implicit_bias_course"),
        recipe=entry("training/{recipe}", of=config),
        spec=entry("{recipe}", of=TRAINED_ON),
        device=config["device"],
        course={
            key: value
            for key, value in config["implicit_bias"]["course"].items()
            if key != "recipes"
        },
    message:
        "Course of {wildcards.recipe}: what is learnt when"
    script:
        "../../scripts/implicit_bias_course.py"


rule implicit_bias_course_figures:
    input:
        metrics=rules.implicit_bias_course.output.metrics,
        mode_times=rules.implicit_bias_course.output.mode_times,
    output:
        report(
            "<results>/implicit_bias/courses/{recipe}/figures/modes.svg",
            category="EXP-007 implicit bias",
            subcategory="course of {recipe}",
            caption="../report/implicit_bias_modes.rst",
            labels={"figure": "3 when modes are learnt"},
        ),
        report(
            "<results>/implicit_bias/courses/{recipe}/figures/training.svg",
            category="EXP-007 implicit bias",
            subcategory="course of {recipe}",
            caption="../report/implicit_bias_training.rst",
            labels={"figure": "4 errors, curvature and weights"},
        ),
        collect(
            "<results>/implicit_bias/courses/{recipe}/figures/{figure}.{format}",
            figure=["modes", "training"],
            format=FORMATS,
            allow_missing=True,
        ),
    log:
        "<logs>/implicit_bias_course_figures/{recipe}.log",
    benchmark:
        "<benchmarks>/implicit_bias_course_figures/{recipe}.jsonl"
    conda:
        "../envs/iredinterp.yaml"
    threads: 1
    resources:
        mem_mb=growing(4000),
        runtime=growing(10),
    params:
        **code("implicit_bias_course_figures"),
    message:
        "EXP-007 figures of the course of {wildcards.recipe}"
    script:
        "../../scripts/implicit_bias_course_figures.py"


rule implicit_bias:
    input:
        collect(
            rules.implicit_bias_course_figures.output[0],
            recipe=config["implicit_bias"]["course"]["recipes"],
        ),
        collect(rules.implicit_bias_figures.output[0], model=MODELS),
        collect(
            "<results>/implicit_bias/{model}/trained/{table}.parquet",
            model=MODELS,
            table=TABLES["implicit_bias"],
        ),
    localrule: True
    message:
        "EXP-007 is in results/implicit_bias"


rule exp007:
    input:
        rules.implicit_bias.input,
        rules.cards.input,
    localrule: True
    message:
        "EXP-007 is in results/implicit_bias"
