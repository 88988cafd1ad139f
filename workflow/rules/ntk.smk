# EXP-008: the tangent kernels of the energy, of its gradient field and of the outputs below it.
rule ntk_block:
    input:
        checkpoint=entry("{model}/checkpoint/{condition}", of=CHECKPOINTS),
        problems=collect(
            "<results>/problems/{problems}.parquet",
            problems=entry("{model}/problems", of=CHECKPOINTS),
        ),
        points=rules.points.output,
    output:
        "<results>/ntk/{model}/{condition}/blocks/{block}/metrics.parquet",
    log:
        "<logs>/ntk_block/{model}/{condition}/{block}.log",
    benchmark:
        "<benchmarks>/ntk_block/{model}/{condition}/{block}.jsonl"
    conda:
        "../envs/iredinterp.yaml"
    threads: 1
    resources:
        gpu=1,
        mem_mb=growing(8000),
        runtime=growing(60),
    params:
        **code("ntk_block"),
        spec=entry("{model}/spec", of=CHECKPOINTS),
        weights=entry("{model}/weights", of=CHECKPOINTS),
        device=config["device"],
        conditions=config["conditions"],
        kernels=config["ntk"]["kernels"],
    message:
        "Tangent kernels of {wildcards.model} ({wildcards.condition}), block {wildcards.block}"
    script:
        "../../scripts/ntk_block.py"


rule ntk_figures:
    input:
        metrics=collect(
            "<results>/ntk/{model}/{condition}/blocks/{block}/metrics.parquet",
            condition=entry("{model}/conditions", of=CHECKPOINTS),
            block=BLOCKS,
            allow_missing=True,
        ),
        competence=rules.competence.output.table,
    output:
        report(
            "<results>/ntk/{model}/figures/spectrum.svg",
            category="EXP-008 tangent kernels",
            subcategory="{model}",
            caption="../report/ntk_spectrum.rst",
            labels={"figure": "1 size and spectra of the kernels"},
        ),
        report(
            "<results>/ntk/{model}/figures/coupling.svg",
            category="EXP-008 tangent kernels",
            subcategory="{model}",
            caption="../report/ntk_coupling.rst",
            labels={"figure": "2 which levels learn together"},
        ),
        report(
            "<results>/ntk/{model}/figures/alignment.svg",
            category="EXP-008 tangent kernels",
            subcategory="{model}",
            caption="../report/ntk_alignment.rst",
            labels={"figure": "3 layers and alignment"},
        ),
        collect(
            "<results>/ntk/{model}/figures/{figure}.{format}",
            figure=["spectrum", "coupling", "alignment"],
            format=FORMATS,
            allow_missing=True,
        ),
    log:
        "<logs>/ntk_figures/{model}.log",
    benchmark:
        "<benchmarks>/ntk_figures/{model}.jsonl"
    conda:
        "../envs/iredinterp.yaml"
    threads: 1
    resources:
        mem_mb=growing(4000),
        runtime=growing(10),
    params:
        **code("ntk_figures"),
    message:
        "EXP-008 figures of {wildcards.model}"
    script:
        "../../scripts/ntk_figures.py"


# No checkpoint under study is looked at here, but a recipe trained anew.
rule ntk_course:
    output:
        "<results>/ntk/courses/{recipe}/metrics.parquet",
    log:
        "<logs>/ntk_course/{recipe}.log",
    benchmark:
        "<benchmarks>/ntk_course/{recipe}.jsonl"
    conda:
        "../envs/iredinterp.yaml"
    threads: 1
    resources:
        gpu=1,
        mem_mb=growing(8000),
        runtime=growing(240),
    params:
        **code("ntk_course"),
        recipe=entry("training/{recipe}", of=config),
        spec=entry("{recipe}", of=TRAINED_ON),
        device=config["device"],
        course={
            key: value
            for key, value in config["ntk"]["course"].items()
            if key != "recipes"
        },
    message:
        "Course of {wildcards.recipe}: how its kernel moves"
    script:
        "../../scripts/ntk_course.py"


rule ntk_course_figures:
    input:
        rules.ntk_course.output,
    output:
        report(
            "<results>/ntk/courses/{recipe}/figures/course.svg",
            category="EXP-008 tangent kernels",
            subcategory="course of {recipe}",
            caption="../report/ntk_course.rst",
            labels={"figure": "4 kernel and linearisation in training"},
        ),
        collect(
            "<results>/ntk/courses/{recipe}/figures/course.{format}",
            format=FORMATS,
            allow_missing=True,
        ),
    log:
        "<logs>/ntk_course_figures/{recipe}.log",
    benchmark:
        "<benchmarks>/ntk_course_figures/{recipe}.jsonl"
    conda:
        "../envs/iredinterp.yaml"
    threads: 1
    resources:
        mem_mb=growing(4000),
        runtime=growing(10),
    params:
        **code("ntk_course_figures"),
    message:
        "EXP-008 figure of the course of {wildcards.recipe}"
    script:
        "../../scripts/ntk_course_figures.py"


rule ntk:
    input:
        collect(
            rules.ntk_course_figures.output[0],
            recipe=config["ntk"]["course"]["recipes"],
        ),
        collect(rules.ntk_figures.output[0], model=MODELS),
        collect(
            "<results>/ntk/{model}/trained/{table}.parquet",
            model=MODELS,
            table=TABLES["ntk"],
        ),
    localrule: True
    message:
        "EXP-008 is in results/ntk"


rule exp008:
    input:
        rules.ntk.input,
        rules.cards.input,
    localrule: True
    message:
        "EXP-008 is in results/ntk"
