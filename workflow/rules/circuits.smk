# EXP-009: which hidden units the gradient needs. The units of a network are ranked once for all problems, so there is
# one job per network and condition, not one per block.
rule circuits_search:
    input:
        checkpoint=entry("{model}/checkpoint/{condition}", of=CHECKPOINTS),
        problems=collect(
            "<results>/problems/{problems}.parquet",
            problems=entry("{model}/problems", of=CHECKPOINTS),
        ),
        points=collect(rules.points.output, block=BLOCKS, allow_missing=True),
    output:
        metrics="<results>/circuits/{model}/{condition}/metrics.parquet",
        nodes="<results>/circuits/{model}/{condition}/nodes.parquet",
        edges="<results>/circuits/{model}/{condition}/edges.parquet",
        circuits="<results>/circuits/{model}/{condition}/circuits.parquet",
    log:
        "<logs>/circuits_search/{model}/{condition}.log",
    benchmark:
        "<benchmarks>/circuits_search/{model}/{condition}.jsonl"
    conda:
        "../envs/iredinterp.yaml"
    threads: 1
    resources:
        gpu=1,
        mem_mb=growing(8000),
        runtime=growing(120),
    params:
        **code("circuits_search"),
        spec=entry("{model}/spec", of=CHECKPOINTS),
        weights=entry("{model}/weights", of=CHECKPOINTS),
        device=config["device"],
        conditions=config["conditions"],
        search=config["circuits"]["search"],
    message:
        "Circuits of {wildcards.model} ({wildcards.condition})"
    script:
        "../../scripts/circuits_search.py"


rule circuits_figures:
    input:
        metrics=collect(
            rules.circuits_search.output.metrics,
            condition=entry("{model}/conditions", of=CHECKPOINTS),
            allow_missing=True,
        ),
        checkpoint=entry("{model}/checkpoint/trained", of=CHECKPOINTS),
        trained="<results>/circuits/{model}/trained/metrics.parquet",
        nodes="<results>/circuits/{model}/trained/nodes.parquet",
        circuits="<results>/circuits/{model}/trained/circuits.parquet",
        competence=rules.competence.output.table,
    output:
        report(
            "<results>/circuits/{model}/figures/curves.svg",
            category="EXP-009 circuits",
            subcategory="{model}",
            caption="../report/circuits_curves.rst",
            labels={"figure": "1 faithfulness against size"},
        ),
        report(
            "<results>/circuits/{model}/figures/levels.svg",
            category="EXP-009 circuits",
            subcategory="{model}",
            caption="../report/circuits_levels.rst",
            labels={"figure": "2 units and gates by level"},
        ),
        report(
            "<results>/circuits/{model}/figures/circuit.svg",
            category="EXP-009 circuits",
            subcategory="{model}",
            caption="../report/circuits_circuit.rst",
            labels={"figure": "3 the circuit drawn"},
        ),
        report(
            "<results>/circuits/{model}/figures/interchange.svg",
            category="EXP-009 circuits",
            subcategory="{model}",
            caption="../report/circuits_interchange.rst",
            labels={"figure": "4 where the answer is"},
        ),
        collect(
            "<results>/circuits/{model}/figures/{figure}.{format}",
            figure=["curves", "levels", "circuit", "interchange"],
            format=FORMATS,
            allow_missing=True,
        ),
        graph="<results>/circuits/{model}/circuit.graphml",
    log:
        "<logs>/circuits_figures/{model}.log",
    benchmark:
        "<benchmarks>/circuits_figures/{model}.jsonl"
    conda:
        "../envs/iredinterp.yaml"
    threads: 1
    resources:
        mem_mb=growing(4000),
        runtime=growing(10),
    params:
        **code("circuits_figures"),
        spec=entry("{model}/spec", of=CHECKPOINTS),
        weights=entry("{model}/weights", of=CHECKPOINTS),
        method=config["circuits"]["search"]["method"],
        level=config["circuits"]["drawn"],
    message:
        "EXP-009 figures of {wildcards.model}"
    script:
        "../../scripts/circuits_figures.py"


# Whether the methods find circuits that were planted among decoys; the gate of the hypothesis on circuits.
rule circuits_planted:
    output:
        recovered="<results>/planted/{problems}/circuits.parquet",
        costs="<results>/planted/{problems}/circuit_costs.parquet",
    log:
        "<logs>/circuits_planted/{problems}.log",
    benchmark:
        "<benchmarks>/circuits_planted/{problems}.jsonl"
    conda:
        "../envs/iredinterp.yaml"
    threads: 1
    resources:
        mem_mb=growing(4000),
        runtime=growing(60),
    params:
        **code("circuits_planted"),
        spec=entry("problems/{problems}", of=config),
        seed=config["planted"]["seed"],
        method=config["circuits"]["search"]["method"],
        ablation=config["circuits"]["search"]["ablation"],
        board=config["circuits"]["planted"],
    message:
        "Find planted circuits of the shapes of {wildcards.problems}"
    script:
        "../../scripts/circuits_planted.py"


rule leaderboard:
    input:
        recovered=collect(rules.circuits_planted.output.recovered, problems=PROBLEMS),
        costs=collect(rules.circuits_planted.output.costs, problems=PROBLEMS),
    output:
        table="<results>/leaderboard.parquet",
        page=report(
            "<results>/leaderboard.html",
            category="EXP-009 circuits",
            caption="../report/leaderboard.rst",
            labels={"figure": "leaderboard of methods on planted circuits"},
        ),
    log:
        "<logs>/leaderboard.log",
    benchmark:
        "<benchmarks>/leaderboard.jsonl"
    conda:
        "../envs/iredinterp.yaml"
    threads: 1
    resources:
        mem_mb=growing(2000),
        runtime=growing(10),
    params:
        **code("leaderboard"),
    message:
        "Leaderboard of circuit methods"
    script:
        "../../scripts/leaderboard.py"


rule circuits:
    input:
        collect(rules.circuits_figures.output[0], model=MODELS),
        rules.leaderboard.output.page,
    localrule: True
    message:
        "EXP-009 is in results/circuits"


rule exp009:
    input:
        rules.circuits.input,
        rules.cards.input,
    localrule: True
    message:
        "EXP-009 is in results/circuits"
