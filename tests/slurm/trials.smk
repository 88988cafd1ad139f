# Small jobs that a cluster cuts short, for the tests of profiles/slurm. Each waits for what it is told to wait for,
# never for the clock.
rule hungry:  # needs 600 MB and twice 500 is enough
    output:
        "hungry.txt",
    resources:
        mem_mb=lambda wildcards, attempt: 500 * attempt,
        runtime=10,
    shell:
        "python -c 'import time; held = b\"x\" * 600_000_000; time.sleep(4)' && touch {output}"


rule slow:  # never done within a minute, done at once where there are two
    output:
        "slow.txt",
    resources:
        mem_mb=1000,
        runtime=lambda wildcards, attempt: attempt,
    shell:
        "[ {resources.runtime} -ge 2 ] || sleep 600; touch {output}"


rule gated:
    output:
        "gated-{name}.txt",
    resources:
        mem_mb=1000,
        runtime=10,
    shell:
        "echo begun > {output}; until [ -e gate-{wildcards.name} ]; do sleep 0.5; done; echo {wildcards.name} > {output}"


rule hour:  # as long as gpu_test allows, and no GPU
    output:
        "hour.txt",
    resources:
        mem_mb=4000,
        runtime=60,
    shell:
        "touch {output}"


rule unstated:  # takes what the profile gives
    output:
        "unstated.txt",
    shell:
        "touch {output}"


rule surroundings:  # what a job finds on its node
    output:
        "surroundings.json",
    resources:
        mem_mb=1000,
        runtime=10,
    shell:
        "python -c 'import json, matplotlib, os, sys, tempfile; "
        'found = {{"prefix": sys.prefix, "temporary": tempfile.gettempdir(), "cache": matplotlib.get_cachedir()}}; '
        "print(json.dumps(found | dict(os.environ)))' > {output}"


rule whole:
    input:
        "gated-adopted.txt",
        "gated-cancelled.txt",
    output:
        "whole.txt",
    shell:
        "cat {input} > {output}"
