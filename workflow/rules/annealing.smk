# EXP-010: what annealing earns, level by level and against other ways through the levels.
rule annealing_block:
    input:
        checkpoint=entry("{model}/checkpoint/{condition}", of=CHECKPOINTS),
        problems=collect(
            "<results>/problems/{problems}.parquet",
            problems=entry("{model}/problems", of=CHECKPOINTS),
        ),
    output:
        "<results>/annealing/{model}/{condition}/blocks/{block}/metrics.parquet",
    log:
        "<logs>/annealing_block/{model}/{condition}/{block}.log",
    benchmark:
        "<benchmarks>/annealing_block/{model}/{condition}/{block}.jsonl"
    conda:
        "../envs/iredinterp.yaml"
    threads: 1
    resources:
        gpu=1,
        mem_mb=growing(8000),
        runtime=growing(60),
    params:
        **code("annealing_block"),
        spec=entry("{model}/spec", of=CHECKPOINTS),
        weights=entry("{model}/weights", of=CHECKPOINTS),
        device=config["device"],
        conditions=config["conditions"],
        block=config["sampling"]["block"],
        replicate=entry("{model}/replicate", of=CHECKPOINTS),
        annealing=config["annealing"],
    message:
        "Sampler runs of {wildcards.model} ({wildcards.condition}), block {wildcards.block}"
    script:
        "../../scripts/annealing_block.py"


rule annealing_figures:
    input:
        metrics=collect(
            "<results>/annealing/{model}/{condition}/blocks/{block}/metrics.parquet",
            condition=entry("{model}/conditions", of=CHECKPOINTS),
            block=BLOCKS,
            allow_missing=True,
        ),
        competence=rules.competence.output.table,
    output:
        report(
            "<results>/annealing/{model}/figures/card.svg",
            category="EXP-010 annealing",
            subcategory="{model}",
            caption="../report/annealing_card.rst",
            labels={"figure": "1 which levels pay"},
        ),
        report(
            "<results>/annealing/{model}/figures/ledger.svg",
            category="EXP-010 annealing",
            subcategory="{model}",
            caption="../report/annealing_ledger.rst",
            labels={"figure": "2 ledger of levels"},
        ),
        report(
            "<results>/annealing/{model}/figures/modes.svg",
            category="EXP-010 annealing",
            subcategory="{model}",
            caption="../report/annealing_modes.rst",
            labels={"figure": "3 errors by direction"},
        ),
        report(
            "<results>/annealing/{model}/figures/arms.svg",
            category="EXP-010 annealing",
            subcategory="{model}",
            caption="../report/annealing_arms.rst",
            labels={"figure": "4 other ways through the levels"},
        ),
        report(
            "<results>/annealing/{model}/figures/calibration.svg",
            category="EXP-010 annealing",
            subcategory="{model}",
            caption="../report/annealing_calibration.rst",
            labels={"figure": "5 what the energy knows of the error"},
        ),
        collect(
            "<results>/annealing/{model}/figures/{figure}.{format}",
            figure=["card", "ledger", "modes", "arms", "calibration"],
            format=FORMATS,
            allow_missing=True,
        ),
    log:
        "<logs>/annealing_figures/{model}.log",
    benchmark:
        "<benchmarks>/annealing_figures/{model}.jsonl"
    conda:
        "../envs/iredinterp.yaml"
    threads: 1
    resources:
        mem_mb=growing(4000),
        runtime=growing(10),
    params:
        **code("annealing_figures"),
    message:
        "EXP-010 figures of {wildcards.model}"
    script:
        "../../scripts/annealing_figures.py"


rule annealing:
    input:
        collect(rules.annealing_figures.output[0], model=MODELS),
        collect(
            "<results>/annealing/{model}/trained/{table}.parquet",
            model=MODELS,
            table=TABLES["annealing"],
        ),
    localrule: True
    message:
        "EXP-010 is in results/annealing"


rule exp010:
    input:
        rules.annealing.input,
        rules.cards.input,
    localrule: True
    message:
        "EXP-010 is in results/annealing"
