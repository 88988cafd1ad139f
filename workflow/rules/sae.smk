# EXP-003: sparse autoencoders on the gradient field.
rule sae_field:
    input:
        checkpoint=entry("{model}/checkpoint/{condition}", of=CHECKPOINTS),
    output:
        "<results>/sae/{model}/{condition}/field.parquet",
    log:
        "<logs>/sae_field/{model}/{condition}.log",
    benchmark:
        "<benchmarks>/sae_field/{model}/{condition}.jsonl"
    conda:
        "../envs/iredinterp.yaml"
    threads: 1
    resources:
        gpu=1,
        mem_mb=growing(8000),
        runtime=growing(120),
    params:
        **code("sae_field"),
        spec=entry("{model}/spec", of=CHECKPOINTS),
        weights=entry("{model}/weights", of=CHECKPOINTS),
        device=config["device"],
        conditions=config["conditions"],
        replicate=entry("{model}/replicate", of=CHECKPOINTS),
        sae=config["sae"],
    message:
        "Gradient field of {wildcards.model} ({wildcards.condition})"
    script:
        "../../scripts/sae_field.py"


rule sae_train:
    input:
        checkpoint=entry("{model}/checkpoint/{condition}", of=CHECKPOINTS),
        field=rules.sae_field.output,
    output:
        metrics="<results>/sae/{model}/{condition}/{field}/width-{width}/metrics.parquet",
        examples="<results>/sae/{model}/{condition}/{field}/width-{width}/examples.parquet",
        effects="<results>/sae/{model}/{condition}/{field}/width-{width}/effects.parquet",
        history="<results>/sae/{model}/{condition}/{field}/width-{width}/history.parquet",
        autoencoder=directory(
            "<results>/sae/{model}/{condition}/{field}/width-{width}/saelens"
        ),
    log:
        "<logs>/sae_train/{model}/{condition}/{field}/{width}.log",
    benchmark:
        "<benchmarks>/sae_train/{model}/{condition}/{field}/{width}.jsonl"
    conda:
        "../envs/iredinterp.yaml"
    threads: 1
    resources:
        gpu=1,
        mem_mb=growing(8000),
        runtime=growing(120),
    params:
        **code("sae_train"),
        spec=entry("{model}/spec", of=CHECKPOINTS),
        weights=entry("{model}/weights", of=CHECKPOINTS),
        device=config["device"],
        conditions=config["conditions"],
        replicate=entry("{model}/replicate", of=CHECKPOINTS),
        sae=config["sae"],
    message:
        "Sparse autoencoders on {wildcards.field} of {wildcards.model} ({wildcards.condition})"
    script:
        "../../scripts/sae_train.py"


rule sae_figures:
    input:
        **{
            name: collect(
                f"<results>/sae/{{model}}/trained/{{field}}/width-{{width}}/{file}",
                field=config["sae"]["fields"],
                width=config["sae"]["widths"][0],
                allow_missing=True,
            )
            for name, file in {
                "metrics": "metrics.parquet",
                "effects": "effects.parquet",
                "examples": "examples.parquet",
                "autoencoder": "saelens",
            }.items()
        },
        competence=rules.competence.output.table,
    output:
        report(
            "<results>/sae/{model}/figures/frontier.svg",
            category="EXP-003 sparse autoencoders",
            subcategory="{model}",
            caption="../report/sae_frontier.rst",
            labels={"figure": "1 frontier against nulls"},
        ),
        report(
            "<results>/sae/{model}/figures/atoms.svg",
            category="EXP-003 sparse autoencoders",
            subcategory="{model}",
            caption="../report/sae_atoms.rst",
            labels={"figure": "2 atoms"},
        ),
        report(
            "<results>/sae/{model}/figures/examples.svg",
            category="EXP-003 sparse autoencoders",
            subcategory="{model}",
            caption="../report/sae_examples.rst",
            labels={"figure": "3 what latents are active on"},
        ),
        report(
            "<results>/sae/{model}/figures/density.svg",
            category="EXP-003 sparse autoencoders",
            subcategory="{model}",
            caption="../report/sae_density.rst",
            labels={"figure": "4 how often latents are used"},
        ),
        report(
            "<results>/sae/{model}/figures/stability.svg",
            category="EXP-003 sparse autoencoders",
            subcategory="{model}",
            caption="../report/sae_stability.rst",
            labels={"figure": "5 stability and shape"},
        ),
        report(
            "<results>/sae/{model}/figures/concepts.svg",
            category="EXP-003 sparse autoencoders",
            subcategory="{model}",
            caption="../report/sae_concepts.rst",
            labels={"figure": "6 concepts"},
        ),
        report(
            "<results>/sae/{model}/figures/fidelity.svg",
            category="EXP-003 sparse autoencoders",
            subcategory="{model}",
            caption="../report/sae_fidelity.rst",
            labels={"figure": "7 fidelity in the sampler"},
        ),
        report(
            "<results>/sae/{model}/figures/effects.svg",
            category="EXP-003 sparse autoencoders",
            subcategory="{model}",
            caption="../report/sae_effects.rst",
            labels={"figure": "8 effects of single latents"},
        ),
        collect(
            "<results>/sae/{model}/figures/{figure}.{format}",
            figure=[
                "frontier",
                "atoms",
                "examples",
                "density",
                "stability",
                "concepts",
                "fidelity",
                "effects",
            ],
            format=FORMATS,
            allow_missing=True,
        ),
    log:
        "<logs>/sae_figures/{model}.log",
    benchmark:
        "<benchmarks>/sae_figures/{model}.jsonl"
    conda:
        "../envs/iredinterp.yaml"
    threads: 1
    resources:
        mem_mb=growing(4000),
        runtime=growing(10),
    params:
        **code("sae_figures"),
        fields=config["sae"]["fields"],
        spec=entry("{model}/spec", of=CHECKPOINTS),
    message:
        "EXP-003 figures of {wildcards.model}"
    script:
        "../../scripts/sae_figures.py"


rule sae:
    input:
        collect(rules.sae_figures.output[0], model=MODELS),
        collect(
            rules.sae_train.output.metrics,
            model=MODELS,
            condition="trained",
            field=config["sae"]["fields"],
            width=config["sae"]["widths"],
        ),
    localrule: True
    message:
        "EXP-003 is in results/sae"


rule exp003:
    input:
        rules.sae.input,
        rules.cards.input,
    localrule: True
    message:
        "EXP-003 is in results/sae"
