"""The commands of `iredinterp` on bundled files, planted truths and what is wrong with a file."""

import json
import os
import pickle
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
import yaml
from click.testing import CliRunner
from snakemake.utils import validate

from iredinterp.analyses.sae.interop import load_saelens, save_saelens
from iredinterp.analyses.sae.model import SparseAutoencoder
from iredinterp.cards import score_model
from iredinterp.cli import selftests
from iredinterp.cli.doctor import FAILED, NOTE, OK, judged, package
from iredinterp.cli.program import main, program
from iredinterp.cluster import login
from iredinterp.cluster.laptop import merged
from iredinterp.config import check_config, expanded_models, selected_models
from iredinterp.ired.checkpoint import load_checkpoint
from iredinterp.ired.tasks import ProblemSpec, make_problems
from iredinterp.provenance import provenance
from iredinterp.tables import read_provenance, read_table, tensor_array, tensor_column, write_table
from iredinterp.truth.planted import planted, save_planted

ROOT = Path(__file__).parents[1]
COMPLETION = "resources/checkpoints/completion-n5-seed0.safetensors"
COMMANDS = [
    [],
    *([name] for name in ("cluster", "diff", "doctor", "inspect", "sae", "sample", "status", "tables")),
    *(["cluster", name] for name in ("submit", "status", "fetch", "orphans", "start")),
    ["sae", "export"],
]


@pytest.fixture(autouse=True)
def in_the_project(monkeypatch):
    monkeypatch.chdir(ROOT)


def told(*words, status=0):
    """What a command prints."""
    answer = CliRunner().invoke(program, [str(word) for word in words])
    assert answer.exit_code == status, answer.output
    assert answer.exception is None or isinstance(answer.exception, SystemExit)
    return answer.output


def refused(*words):
    """The one line of an error."""
    (line,) = told(*words, status=1).splitlines()
    assert line.startswith("error: ")
    return line


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_every_command_says_what_it_does(words):
    output = told(*words, "--help")
    assert output.startswith("Usage: program" + "".join(f" {word}" for word in words))
    assert len(output.split("\n\n")[1].strip()) > 10
    assert max(map(len, output.splitlines())) <= 80
    assert output == told(*words, "-h")


def test_the_list_of_commands_cuts_no_description_short():
    assert "..." not in told("--help").split("Commands:")[1]
    assert "\n  finished" not in told("cluster", "--help")


@pytest.mark.parametrize(
    ("words", "status"), [(["nothing"], 2), (["inspect"], 2), (["diff", "a", "b", "-x"], 2)]
)
def test_words_that_are_no_command_end_with_status_2(words, status, capsys):
    with pytest.raises(SystemExit) as end:
        main(words)
    assert end.value.code == status
    assert "Usage: iredinterp" in capsys.readouterr().err


def test_an_error_is_one_line_and_status_1(capsys):
    assert main(["inspect", "none.pt"]) == 1
    assert capsys.readouterr().err.startswith("error: none.pt: no such file; give the path")


def test_the_status_of_snakemake_is_that_of_the_run(monkeypatch):
    monkeypatch.setattr(login, "run", lambda *arguments: seen.append(arguments) or 3)
    seen = []
    assert main(["cluster", "run", "a", "--unlock", "b", "--", "--cores", "1"]) == 3
    assert [list(part) if isinstance(part, tuple | list) else part for part in seen[0]] == [
        ["a", "b"],
        ["--cores", "1"],
        "wait",
        True,
    ]


def test_an_interrupt_ends_with_status_130(monkeypatch):
    def interrupted():
        raise KeyboardInterrupt

    monkeypatch.setattr(login, "refuse_if_alive", interrupted)
    assert main(["cluster", "idle"]) == 130


def test_jobs_are_waited_for_or_cancelled_but_not_both(capsys):
    with pytest.raises(SystemExit):
        main(["cluster", "orphans", "--wait", "--cancel"])
    assert "not allowed with --wait" in capsys.readouterr().err


def test_the_command_line_loads_no_torch_until_it_needs_it():
    code = (
        "import sys; from iredinterp.__main__ import main; main(['--help']);"
        "print([m for m in ('torch', 'numpy', 'pandas', 'pyarrow', 'snakemake') if m in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.splitlines()[-1] == "[]"


def test_a_shell_completes_commands():
    words = {"_IREDINTERP_COMPLETE": "bash_complete", "COMP_WORDS": "iredinterp cluster s", "COMP_CWORD": "2"}
    command = [sys.executable, "-m", "iredinterp"]
    run = subprocess.run(command, env=os.environ | words, capture_output=True, text=True)
    assert run.stdout.split() == ["plain,start", "plain,status", "plain,submit"]


def test_a_checkpoint_is_told_by_its_sizes_its_record_and_its_hash(seed, tmp_path):
    path = tmp_path / "planted.safetensors"
    case = planted(50, 25, seed)
    save_planted(case, path)
    output = told("inspect", path)
    assert f"sha256    {load_checkpoint(path).sha256}" in output
    assert f"d_x = 50, d = 25, h = {case.model.hidden}" in output
    assert (
        f"{sum(value.numel() for value in case.model.parameters.values()):,} parameters in float64" in output
    )
    assert "fits      addition-n5\n" in output
    assert f"seed      {seed}\n" in output
    assert "planted   {decoys:" in output
    assert "10, the official schedule, σ from 1.000" in output


def test_both_weights_of_an_official_file_are_found(official):
    assert "weights   ema, raw (shown: ema)" in told("inspect", official.path)
    output = told("inspect", official.path, "--weights", "raw")
    assert "weights: raw}" in output
    assert "step      6,000" in output
    assert "of the problems that fit (inverse-n5, completion-n5), name those" in output
    assert "expected raw weights, found ema" in refused("inspect", COMPLETION, "--weights", "raw")


@pytest.mark.parametrize("name", [COMPLETION, "tests/data/official-inverse-n5.pt"])
def test_the_lines_that_it_suggests_are_a_valid_configuration_of_that_checkpoint(name):
    lines = told("inspect", name).partition("of these lines:\n\n")[2].splitlines()[:3]
    config = merged(
        yaml.safe_load((ROOT / "config/config.yaml").read_text()), yaml.safe_load("\n".join(lines))
    )
    validate(config, str(ROOT / "workflow/schemas/config.schema.yaml"))
    check_config(config)
    assert selected_models(config) == ["mine"]
    assert expanded_models(config)["mine"]["checkpoint"]["trained"] == name
    recorded = load_checkpoint(name).record.get("recipe", {}).get("problems")
    assert recorded in (
        None,
        ProblemSpec.from_dict(config["problems"][config["models"]["mine"]["problems"]]).to_dict(),
    )


class Evil:
    """Makes a file when unpickled."""

    def __reduce__(self):
        return os.system, ("touch pwned",)


def test_files_that_carry_code_are_refused_unopened(tmp_path, monkeypatch):
    (tmp_path / "a.pt").write_bytes(pickle.dumps(Evil(), protocol=2))
    torch.save({"model": Evil()}, tmp_path / "b.pt")
    monkeypatch.chdir(tmp_path)
    for name in ("a.pt", "b.pt"):
        assert "refused because loading them would run code" in refused("inspect", name)
        assert "refused because loading them would run code" in refused(
            "sample", name, "--task", "inverse", "--n", 5
        )
    assert not (tmp_path / "pwned").exists()


@pytest.mark.parametrize("command", ["inspect", "sample", "tables"])
def test_what_is_not_there_and_folders_are_refused(command, tmp_path):
    assert "no such file" in refused(command, tmp_path / "none")
    assert str(tmp_path) in refused(command, tmp_path)


def test_a_configuration_that_cannot_be_read_is_named(tmp_path):
    (tmp_path / "c.yaml").write_text("problems: 3")
    for name in ("c.yaml", "none.yaml"):
        assert f"{name}: no problems can be read" in refused(
            "inspect", COMPLETION, "--configfile", tmp_path / name
        )


def test_the_sampled_errors_are_those_of_the_competence_card(seed, tmp_path):
    path = tmp_path / "answers.parquet"
    output = told("sample", COMPLETION, "--count", 60, "--seed", seed, "--output", path)
    checkpoint = load_checkpoint(COMPLETION)
    spec = ProblemSpec.from_dict(checkpoint.record["recipe"]["problems"])
    result = score_model(checkpoint.model, spec, 60, seed)
    assert result.sentence() in output
    for score in result.scores:
        assert f"MSE {score.mse:.4g} ± {score.stderr:.1g}, {score.entries} entries" in output

    table, problems = read_table(path), make_problems(count=60, seed=seed, **spec.to_dict())
    assert torch.equal(tensor_column(table, "y_star"), problems.y_star)
    error = (tensor_column(table, "answer") - problems.y_star).square().mean(1)
    torch.testing.assert_close(tensor_column(table, "mse"), error)
    assert float(error.mean()) == pytest.approx(result.score("model", "all").mse)
    footer = read_provenance(path)
    assert footer["inputs"] == {"checkpoint": checkpoint.sha256}
    assert footer["parameters"]["spec"] == spec.to_dict()


def test_options_say_which_problems(official):
    assert "give --task and --n" in refused("sample", official.path)
    assert "MSE" in told("sample", official.path, "--task", "inverse", "--n", 5, "--count", 40, "--ood")
    wrong = refused("sample", official.path, "--task", "addition", "--n", 5)
    assert "takes (d_x, d) = (25, 25), but addition with n = 5 has (50, 25)" in wrong
    assert "rank: found 9" in refused("sample", COMPLETION, "--rank", 9)


def metrics(seed, **changed):
    """A metric table with random values."""
    rng = np.random.default_rng(seed)
    columns = {
        "problem": pa.array(range(6), pa.int32()),
        "metric": pa.array(["gap", "rank"] * 3),
        "value": pa.array(1 + rng.random(6)),
        "reason": pa.array([None] * 6, pa.string()),
        "vector": tensor_array(rng.random((6, 2, 3))),
    }
    return pa.table(columns | changed)


def written(table, path, parameters=None):
    write_table(table, path, provenance(parameters or {}, 0))
    return path


def test_a_table_is_told_by_its_columns_its_provenance_and_its_first_rows(seed, tmp_path):
    table = metrics(seed)
    path = written(table, tmp_path / "a.parquet", {"engine": "closed"})
    output = told("tables", path, "--head", 2)
    assert "6 rows" in output
    assert "value    double" in output
    assert "engine: closed" in output
    assert (
        f"row 0: problem = 0, metric = gap, value = {table['value'][0].as_py():.6g}, reason = null" in output
    )
    assert "row 1:" in output
    assert "row 2:" not in output


def test_as_json_everything_is_there(seed, tmp_path):
    path = written(metrics(seed, other=pa.array([np.nan, np.inf] * 3)), tmp_path / "a.parquet", {"a": 1})
    content = json.loads(told("tables", path, "--json", "--head", 3))
    assert (content["rows"], len(content["head"])) == (6, 3)
    assert content["provenance"]["parameters"] == {"a": 1}
    first = content["head"][0]
    assert (first["other"], content["head"][1]["other"]) == ("nan", "inf")
    np.testing.assert_array_equal(
        np.ravel(first["vector"]), tensor_column(read_table(path), "vector")[0].ravel()
    )


def test_a_parquet_file_of_others_is_refused(tmp_path):
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"a": [1]}), tmp_path / "a.parquet")
    assert "read files that write_table made" in refused("tables", tmp_path / "a.parquet")
    assert "read files that write_table made" in refused(
        "diff", tmp_path / "a.parquet", tmp_path / "a.parquet"
    )


def test_equal_tables_are_equal_whatever_their_order_and_provenance(seed, tmp_path):
    table = metrics(seed)
    a = written(table, tmp_path / "a.parquet", {"chunk": 1, "same": 0})
    b = written(table.take([3, 0, 5, 1, 4, 2]), tmp_path / "b.parquet", {"chunk": 2, "same": 0})
    output = told("diff", a, b)
    assert f"{a} = {b}" in output
    assert "provenance: parameters.chunk: 1 | 2" in output
    assert "same" not in output


def test_the_largest_differences_are_told_by_metric(seed, tmp_path):
    table = metrics(seed)
    values = table["value"].to_numpy().copy()
    values[0] += 0.25  # problem 0, gap
    values[3] *= 1 + 1e-10  # problem 3, rank
    a = written(table, tmp_path / "a.parquet")
    b = written(table.set_column(2, "value", pa.array(values)), tmp_path / "b.parquet")
    output = told("diff", a, b, status=1)
    assert f"gap value: at most 0.25 apart, relatively {0.25 / values[0]:.3g}; 1 beyond tolerance" in output
    assert "rank value: at most " in output
    assert "0 beyond tolerance" in output
    assert "vector" not in output
    told("diff", a, b, "--atol", "0.26")
    told("diff", a, b, "--rtol", "0.26")
    assert "2 beyond" not in told("diff", a, b, "--rtol", "0", "--atol", "0", status=1)


def test_undefined_values_infinities_tensors_and_reasons_count(seed, tmp_path):
    table = metrics(seed)
    vector = tensor_column(table, "vector").numpy().copy()
    vector[2, 1, 1] += 1
    value = [None, *table["value"].to_pylist()[1:]]
    reason = ["no gap", *[None] * 5]
    b = metrics(seed, value=pa.array(value), reason=pa.array(reason), vector=tensor_array(vector))
    output = told("diff", written(table, tmp_path / "a"), written(b, tmp_path / "b"), status=1)
    assert "gap value: 1 undefined in one of them" in output
    assert "gap reason: differs in 1 of 3 rows" in output
    assert "  vector: at most 1 apart" in output
    c = metrics(seed, value=pa.array([np.inf, *table["value"].to_pylist()[1:]]))
    assert "1 infinite in one" in told("diff", tmp_path / "a", written(c, tmp_path / "c"), status=1)
    told("diff", tmp_path / "c", tmp_path / "c")


def test_missing_columns_and_rows_are_told_with_an_example(seed, tmp_path):
    table = metrics(seed)
    a = written(table.drop_columns("vector").slice(0, 5), tmp_path / "a.parquet")
    b = written(table.append_column("new", pa.array([0.5] * 6)), tmp_path / "b.parquet")
    output = told("diff", a, b, status=1)
    assert "column vector: only in the second" in output
    assert "column new: only in the second" in output
    assert "rows: 1 only in the second, such as problem = 5, metric = rank" in output
    c = written(metrics(seed, problem=pa.array(range(6), pa.int64())), tmp_path / "c.parquet")
    d = written(table, tmp_path / "d.parquet")
    assert "column problem: int64 in the first, int32 in the second" in told("diff", c, d, status=1)


def test_keys_may_be_named_and_equal_keys_are_told_apart_by_their_order(seed, tmp_path):
    table = metrics(seed)
    moved = table.set_column(0, "problem", pa.array(range(100, 106), pa.int32()))
    a, b = written(table, tmp_path / "a.parquet"), written(moved, tmp_path / "b.parquet")
    assert "6 only in the first" in told("diff", a, b, status=1)
    output = told("diff", a, b, "--keys", "metric", status=1)
    assert "  problem: at most 100 apart" in output
    assert "value" not in output
    named = table.append_column("model", pa.array(["a"] * 6))
    renamed = table.append_column("model", pa.array(["b"] * 6))
    c, d = written(named, tmp_path / "c.parquet"), written(renamed, tmp_path / "d.parquet")
    assert "  model: differs in 6 of 6 rows" in told("diff", c, d, "--keys", "metric", status=1)
    assert "--keys: both tables need 'nothing'; they have problem" in refused(
        "diff", a, b, "--keys", "nothing"
    )


def test_empty_tables_are_equal_and_differ_from_others_by_their_rows(seed, tmp_path):
    a = written(metrics(seed).slice(0, 0), tmp_path / "a.parquet")
    b = written(metrics(seed), tmp_path / "b.parquet")
    assert " = " in told("diff", a, a)
    assert "rows: 6 only in the second" in told("diff", a, b, status=1)


def test_of_two_folders_every_table_is_compared(seed, tmp_path):
    for folder in ("a", "b"):
        written(metrics(seed), tmp_path / folder / "deep/same.parquet")
    assert told("diff", tmp_path / "a", tmp_path / "b").count(" = ") == 1
    written(metrics(seed), tmp_path / "a/only.parquet")
    assert "a/only.parquet: has no counterpart" in told("diff", tmp_path / "a", tmp_path / "b", status=1)
    assert "compare two tables or two folders" in refused("diff", tmp_path / "a", tmp_path / "a/only.parquet")
    (tmp_path / "c").mkdir()
    assert "no tables" in refused("diff", tmp_path / "c", tmp_path / "c")


def test_autoencoders_are_copied_as_they_are(generator, tmp_path):
    sae = SparseAutoencoder.random(6, 15, generator, "topk", 4, torch.zeros(6), None, torch.float32)
    sae = replace(sae, standardisation=None)
    for level in (3, 9):
        save_saelens(sae, tmp_path / f"run/saelens/level-{level}", {"task": "inverse", "level": level})
    output = told("sae", "export", tmp_path / "run", tmp_path / "out")
    assert "saelens/level-3: topk, k = 4, 15 latents of 6 dimensions; level 3" in output
    copy = load_saelens(tmp_path / "out/saelens/level-9")
    assert torch.equal(copy.W_dec, sae.W_dec)
    assert "exists; name a new folder" in refused("sae", "export", tmp_path / "run", tmp_path / "out")


def test_of_autoencoders_that_do_not_load_none_is_copied(generator, tmp_path):
    sae = SparseAutoencoder.random(6, 15, generator, "topk", 4, torch.zeros(6), None, torch.float32)
    sae = replace(sae, standardisation=None)
    for name in ("a", "b"):
        save_saelens(sae, tmp_path / "run" / name)
    (tmp_path / "run/b/cfg.json").unlink()
    assert "b: needs a readable cfg.json" in refused("sae", "export", tmp_path / "run", tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert "no autoencoder below" in refused("sae", "export", tmp_path / "none", tmp_path / "out")


def test_nothing_fails_in_this_environment():
    output = told("doctor")
    assert "FAILED" not in output
    assert output.endswith("all is well\n")
    for name in ("numpy", "torch", "geomstats", "OMP_NUM_THREADS", "disk", *selftests.SELFTESTS):
        assert name in output


def test_wrong_versions_and_missing_packages_are_told_with_what_to_do():
    from packaging.specifiers import SpecifierSet

    assert package("numpy", SpecifierSet("<2.5")).state == OK
    old = package("numpy", SpecifierSet(">=99"))
    assert old.state == FAILED
    assert "needed >=99 (geomstats 2.8.0 and NumPy 2.5 do not go together); make setup" in str(old)
    assert package("no-such-package", SpecifierSet()).state == FAILED
    optional = package("no-such-package", SpecifierSet("==1"), "reference")
    assert optional.state == NOTE
    assert "pip install no-such-package==1" in optional.remedy


@pytest.mark.parametrize("name", selftests.SELFTESTS)
def test_a_self_test_that_is_off_or_cannot_run_fails(name):
    test, tolerance, meaning = selftests.SELFTESTS[name]
    assert judged(name, test, tolerance, meaning).state == OK
    assert judged(name, lambda: 2 * tolerance + 1e-3, tolerance, meaning).state == FAILED
    assert judged(name, lambda: float("nan"), tolerance, meaning).state == FAILED
    broken = judged(name, lambda: {}[name], tolerance, meaning)
    assert broken.state == FAILED
    assert "KeyError" in broken.found


FAULTS = {
    "input Hessian": ("iredinterp.spectrum", "spectra", "eigenvalues"),
    "Bayes oracle": ("iredinterp.spectrum", "spectra", "eigenvalues"),
    "sampler": ("iredinterp.ired.sampler", "sample", "answers"),
    "minima": ("iredinterp.points", "minimum", "y"),
    "tangent kernels": ("iredinterp.analyses.ntk.kernels", "energy_kernel", ""),
    "schedule": ("iredinterp.ired.schedule", "cosine_schedule", "alphas_cumprod"),
    "problems": ("iredinterp.ired.tasks", "make_problems", "x"),
    "tangent space": ("iredinterp.geometry.fixed_rank", "tangent_normal", "ratio"),
    "Grassmann distance": ("iredinterp.geometry.subspace", "grassmann_distance", ""),
    "geomstats": ("iredinterp.geometry.geomstats_bridge", "grassmann_distance", ""),
    "tables": ("iredinterp.tables", "tensor_column", ""),
    "statistics": ("iredinterp.evidence.statistics", "sign_flip_test", ""),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_self_test_notices_a_part_that_is_slightly_off(name, monkeypatch, generator):
    module, function, field = FAULTS[name]
    original = getattr(__import__(module, fromlist=[function]), function)

    def faulty(*arguments, **options):
        result = original(*arguments, **options)
        value = torch.as_tensor(getattr(result, field) if field else result)
        off = value + 1e-6 * (1 + torch.rand(value.shape, generator=generator, dtype=value.dtype))
        return replace(result, **{field: off}) if field else off

    monkeypatch.setattr(f"{module}.{function}", faulty)
    assert judged(name, *selftests.SELFTESTS[name]).state == FAILED


def test_a_failure_gives_the_doctor_status_1(monkeypatch):
    monkeypatch.setitem(selftests.SELFTESTS, "tables", (lambda: 1.0, 0.0, "numbers off by"))
    output = told("doctor", status=1)
    assert output.endswith("1 FAILED\n")
    assert "FAILED  tables                 numbers off by 1.0e+00, allowed 0e+00" in output
