# Networks trained here, all seeds of a recipe in one vectorised run; the bundled checkpoints come from it.
rule train:
    output:
        checkpoints=directory("<results>/training/{recipe}/checkpoints"),
        history="<results>/training/{recipe}/history.parquet",
    log:
        "<logs>/train/{recipe}.log",
    benchmark:
        "<benchmarks>/train/{recipe}.jsonl"
    conda:
        "../envs/iredinterp.yaml"
    threads: 1
    resources:
        gpu=1,
        mem_mb=growing(4000),
        runtime=growing(240),
    params:
        **code("train"),
        recipe=entry("training/{recipe}", of=config),
        spec=entry("{recipe}", of=TRAINED_ON),
        device=config["device"],
    message:
        "Train {wildcards.recipe}"
    script:
        "../../scripts/train.py"


# One of them by itself, as a model under study; the path to give in the configuration.
rule network:
    input:
        rules.train.output.checkpoints,
    output:
        "<results>/networks/{recipe}-seed{seed}.safetensors",
    log:
        "<logs>/network/{recipe}-{seed}.log",
    localrule: True
    conda:
        "../envs/iredinterp.yaml"
    message:
        "Take seed {wildcards.seed} of {wildcards.recipe}"
    shell:
        "cp {input:q}/{wildcards.recipe:q}-seed{wildcards.seed:q}.safetensors {output:q} 2> {log:q}"


rule trained:
    input:
        collect(rules.train.output.history, recipe=sorted(config["training"])),
    localrule: True
    message:
        "Trained networks are in results/training"


# What a model can do, beside what can be done without one.
rule competence:
    input:
        checkpoint=entry("{model}/checkpoint/trained", of=CHECKPOINTS),
    output:
        table="<results>/competence/{model}.parquet",
        card=report(
            "<results>/competence/{model}.html",
            category="Competence cards",
            caption="../report/competence.rst",
            labels={"model": "{model}"},
        ),
    log:
        "<logs>/competence/{model}.log",
    benchmark:
        "<benchmarks>/competence/{model}.jsonl"
    conda:
        "../envs/iredinterp.yaml"
    threads: 1
    resources:
        gpu=1,
        mem_mb=growing(4000),
        runtime=growing(30),
    params:
        **code("competence"),
        spec=entry("{model}/spec", of=CHECKPOINTS),
        weights=entry("{model}/weights", of=CHECKPOINTS),
        device=config["device"],
        problem_count=config["competence"]["count"],
        seed=config["competence"]["seed"],
    message:
        "Score {wildcards.model} beside the baselines"
    script:
        "../../scripts/competence.py"


rule cards:
    input:
        collect(rules.competence.output.card, model=MODELS),
    localrule: True
    message:
        "Competence cards are in results/competence"
