# Networks whose answers are known, and how well each analysis finds them.
rule planted_network:
    output:
        checkpoint="<results>/planted/{problems}.safetensors",
        truth="<results>/planted/{problems}/truth.parquet",
    log:
        "<logs>/planted_network/{problems}.log",
    benchmark:
        "<benchmarks>/planted_network/{problems}.jsonl"
    conda:
        "../envs/iredinterp.yaml"
    threads: 1
    resources:
        mem_mb=growing(4000),
        runtime=growing(10),
    params:
        **code("planted"),
        spec=entry("problems/{problems}", of=config),
        seed=config["planted"]["seed"],
    message:
        "Plant a network for {wildcards.problems}"
    script:
        "../../scripts/planted.py"


rule expected:
    input:
        checkpoint=rules.planted_network.output.checkpoint,
        problems="<results>/problems/{problems}.parquet",
    output:
        "<results>/planted/{problems}/expected.parquet",
    log:
        "<logs>/expected/{problems}.log",
    benchmark:
        "<benchmarks>/expected/{problems}.jsonl"
    conda:
        "../envs/iredinterp.yaml"
    threads: 1
    resources:
        mem_mb=growing(4000),
        runtime=growing(10),
    params:
        **code("expected"),
        spec=entry("problems/{problems}", of=config),
        model="planted-{problems}",
        replicate=entry("planted-{problems}/replicate", of=CHECKPOINTS),
        tangent=config["tangent"],
        grassmann=config["grassmann"],
        annealing=config["annealing"],
    message:
        "What is to be found on the planted network of {wildcards.problems}"
    script:
        "../../scripts/expected.py"


rule planted_dictionary:
    output:
        "<results>/planted/{problems}/dictionary.parquet",
    log:
        "<logs>/planted_dictionary/{problems}.log",
    benchmark:
        "<benchmarks>/planted_dictionary/{problems}.jsonl"
    conda:
        "../envs/iredinterp.yaml"
    threads: 1
    resources:
        mem_mb=growing(4000),
        runtime=growing(30),
    params:
        **code("planted_dictionary"),
        spec=entry("problems/{problems}", of=config),
        model="planted-{problems}",
        seed=config["planted"]["seed"],
        sae=config["sae"],
    message:
        "Find a planted dictionary of the dimension of {wildcards.problems}"
    script:
        "../../scripts/planted_dictionary.py"


rule calibration:
    input:
        **PLANTED_METRICS,
        truth=rules.planted_network.output.truth,
        expected=rules.expected.output[0],
        spectra="<results>/hessian/planted-{problems}/trained/spectra.parquet",
        hypotheses=config["hypotheses"],
    output:
        "<results>/planted/{problems}/calibration.parquet",
    log:
        "<logs>/calibration/{problems}.log",
    benchmark:
        "<benchmarks>/calibration/{problems}.jsonl"
    conda:
        "../envs/iredinterp.yaml"
    threads: 1
    resources:
        mem_mb=growing(4000),
        runtime=growing(10),
    params:
        **code("calibration"),
        analyses=list(STUDY_METRICS),
    message:
        "Compare what was found on the planted network of {wildcards.problems} with the truth"
    script:
        "../../scripts/calibration.py"


rule planted:
    input:
        collect(rules.calibration.output, problems=PROBLEMS),
    localrule: True
    message:
        "What was found on planted networks, and how far off it is, is in results/planted"
