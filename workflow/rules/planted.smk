# Networks whose answers are known, and how well each analysis finds them.
rule planted_network:
    output:
        checkpoint="<results>/planted/{problems}.safetensors",
        truth="<results>/planted/{problems}/truth.parquet",
    log:
        "<logs>/planted_network/{problems}.log",
    conda:
        "../envs/iredinterp.yaml"
    threads: 1
    resources:
        mem_mb=4000,
        runtime=10,
    params:
        **code("planted"),
        spec=lookup("problems/{problems}", within=config),
        seed=config["planted"]["seed"],
    message:
        "Plant a network for {wildcards.problems}"
    script:
        "../../scripts/planted.py"


rule calibration:
    input:
        truth=rules.planted_network.output.truth,
        spectra="<results>/hessian/planted-{problems}/trained/spectra.parquet",
        metrics="<results>/hessian/planted-{problems}/trained/metrics.parquet",
        hypotheses=config["hypotheses"],
    output:
        "<results>/planted/{problems}/calibration.parquet",
    log:
        "<logs>/calibration/{problems}.log",
    conda:
        "../envs/iredinterp.yaml"
    threads: 1
    resources:
        mem_mb=4000,
        runtime=10,
    params:
        **code("calibration"),
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
