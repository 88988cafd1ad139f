# Two networks for the same problems: two training seeds, steps or averages of the weights.
rule difference_pair:
    input:
        checkpoint=entry("{model}/checkpoint/{condition}", of=CHECKPOINTS),
        other=entry("{other}/checkpoint/{condition}", of=CHECKPOINTS),
        problems=collect(
            "<results>/problems/{problems}.parquet",
            problems=entry("{model}/problems", of=CHECKPOINTS),
        ),
    output:
        metrics="<results>/difference/{model}/{other}/{condition}/metrics.parquet",
        matches="<results>/difference/{model}/{other}/{condition}/matches.parquet",
    log:
        "<logs>/difference_pair/{model}/{other}/{condition}.log",
    benchmark:
        "<benchmarks>/difference_pair/{model}/{other}/{condition}.jsonl"
    wildcard_constraints:
        other=r"[^/]+",
        condition="trained|random_init",
    conda:
        "../envs/iredinterp.yaml"
    threads: 1
    resources:
        gpu=1,
        mem_mb=growing(8000),
        runtime=growing(120),
    params:
        **code("difference_pair"),
        spec=entry("{model}/spec", of=CHECKPOINTS),
        weights=entry("{model}/weights", of=CHECKPOINTS),
        other_weights=entry("{other}/weights", of=CHECKPOINTS),
        replicate=entry("{model}/replicate", of=CHECKPOINTS),
        other_replicate=entry("{other}/replicate", of=CHECKPOINTS),
        device=config["device"],
        conditions=config["conditions"],
        landscapes=config["difference"]["landscapes"],
    message:
        "Landscapes of {wildcards.model} and {wildcards.other} ({wildcards.condition})"
    script:
        "../../scripts/difference_pair.py"


rule difference_figures:
    input:
        metrics=collect(
            "<results>/difference/{model}/{other}/{condition}/metrics.parquet",
            condition=["trained", "random_init"],
            allow_missing=True,
        ),
        competence=[
            "<results>/competence/{model}.parquet",
            "<results>/competence/{other}.parquet",
        ],
    output:
        report(
            "<results>/difference/{model}/{other}/figures/spectra.svg",
            category="Differences",
            subcategory="{model}, {other}",
            caption="../report/difference_spectra.rst",
            labels={"figure": "1 spectra side by side"},
        ),
        report(
            "<results>/difference/{model}/{other}/figures/summary.svg",
            category="Differences",
            subcategory="{model}, {other}",
            caption="../report/difference_summary.rst",
            labels={"figure": "2 fields, minima and barriers"},
        ),
        collect(
            "<results>/difference/{model}/{other}/figures/{figure}.{format}",
            figure=["spectra", "summary"],
            format=FORMATS,
            allow_missing=True,
        ),
    log:
        "<logs>/difference_figures/{model}/{other}.log",
    benchmark:
        "<benchmarks>/difference_figures/{model}/{other}.jsonl"
    wildcard_constraints:
        other=r"[^/]+",
    conda:
        "../envs/iredinterp.yaml"
    threads: 1
    resources:
        mem_mb=growing(4000),
        runtime=growing(10),
    params:
        **code("difference_figures"),
    message:
        "Figures of {wildcards.model} and {wildcards.other}"
    script:
        "../../scripts/difference_figures.py"


# No checkpoint under study is looked at here, but a recipe trained anew.
rule difference_course:
    output:
        "<results>/difference/courses/{recipe}/metrics.parquet",
    log:
        "<logs>/difference_course/{recipe}.log",
    benchmark:
        "<benchmarks>/difference_course/{recipe}.jsonl"
    conda:
        "../envs/iredinterp.yaml"
    threads: 1
    resources:
        gpu=1,
        mem_mb=growing(8000),
        runtime=growing(240),
    params:
        **code("difference_course"),
        recipe=entry("training/{recipe}", of=config),
        spec=entry("{recipe}", of=TRAINED_ON),
        device=config["device"],
        course={
            key: value
            for key, value in config["difference"]["course"].items()
            if key != "recipes"
        },
    message:
        "Course of {wildcards.recipe}: which property of the optimum appears when"
    script:
        "../../scripts/difference_course.py"


rule difference_course_figures:
    input:
        rules.difference_course.output,
    output:
        report(
            "<results>/difference/courses/{recipe}/figures/timeline.svg",
            category="Differences",
            subcategory="course of {recipe}",
            caption="../report/difference_timeline.rst",
            labels={"figure": "3 when properties of the optimum appear"},
        ),
        collect(
            "<results>/difference/courses/{recipe}/figures/timeline.{format}",
            format=FORMATS,
            allow_missing=True,
        ),
    log:
        "<logs>/difference_course_figures/{recipe}.log",
    benchmark:
        "<benchmarks>/difference_course_figures/{recipe}.jsonl"
    conda:
        "../envs/iredinterp.yaml"
    threads: 1
    resources:
        mem_mb=growing(4000),
        runtime=growing(10),
    params:
        **code("difference_course_figures"),
    message:
        "Figure of the course of {wildcards.recipe}"
    script:
        "../../scripts/difference_course_figures.py"


rule difference:
    input:
        collect(
            rules.difference_figures.output[0],
            zip,
            model=[model for model, _ in config["difference"]["pairs"]],
            other=[other for _, other in config["difference"]["pairs"]],
        ),
        collect(
            rules.difference_course_figures.output[0],
            recipe=config["difference"]["course"]["recipes"],
        ),
    localrule: True
    message:
        "Differences between networks are in results/difference"
