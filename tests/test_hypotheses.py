"""The registration: what is declared is read as declared, and every mistake is refused at its line."""

import hashlib
import math
import subprocess
import sys
from pathlib import Path

import pytest

from iredinterp.errors import ConfigError
from iredinterp.evidence.hypotheses import CONDITIONS, STATISTIC_NAMES, TASKS, VERDICTS, Gate, read_hypotheses
from iredinterp.evidence.statistics import STATISTICS, smallest_p

REGISTERED = Path(__file__).parents[1] / "config/hypotheses.yaml"

MINIMAL = """\
alpha: 0.05
confidence: 0.95
bootstrap: {draws: 500, seed: 3}
minimum_seeds: 6
hypotheses:
  rising:
    experiment: EXP-001
    claim: "It rises."
    analysis: hessian
    metric: condition_number
    component: ""
    point_kind: q_sample
    statistic: log_slope
    unit: "1"
    sesoi: 0.1
    nulls:
      naive: [random_init]
      artefact: [oracle_noise]
    oracle: true
    tasks: [inverse]
    gate: {method: hessian, metric: slope_error, tolerance: 0.01}
    expected: {inverse: PREDICTED}
"""


@pytest.fixture
def write(tmp_path):
    def write(text):
        path = tmp_path / "hypotheses.yaml"
        path.write_text(text)
        return path

    return write


def test_a_declaration_is_read_as_declared(write):
    path = write(MINIMAL)
    registration = read_hypotheses(path)
    assert registration.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert (registration.alpha, registration.confidence, registration.minimum_seeds) == (0.05, 0.95, 6)
    assert (registration.draws, registration.bootstrap_seed) == (500, 3)
    (rising,) = registration.hypotheses
    assert rising is registration["rising"]
    assert (rising.id, rising.experiment, rising.claim, rising.unit) == (
        "rising",
        "EXP-001",
        "It rises.",
        "1",
    )
    assert (rising.analysis, rising.metric, rising.component) == ("hessian", "condition_number", "")
    assert (rising.point_kind, rising.statistic, rising.sesoi, rising.oracle) == (
        "q_sample",
        "log_slope",
        0.1,
        True,
    )
    assert (rising.naive, rising.artefact) == (("random_init",), ("oracle_noise",))
    assert rising.nulls == ("random_init", "oracle_noise")
    assert rising.conditions == ("trained", "random_init", "oracle_noise", "oracle")
    assert (rising.tasks, rising.expected) == (("inverse",), {"inverse": "PREDICTED"})
    assert rising.gate == Gate("hessian", "slope_error", 0.01)


def test_any_change_of_the_file_is_another_registration(write):
    first = read_hypotheses(write(MINIMAL)).sha256
    assert read_hypotheses(write(MINIMAL + "# a remark\n")).sha256 != first


def test_the_hypotheses_are_registered():
    registration = read_hypotheses(REGISTERED)
    experiments = {hypothesis.id: hypothesis.experiment for hypothesis in registration.hypotheses}
    assert experiments == {
        "spectrum_progression": "EXP-001",
        "grassmann_energy": "EXP-004",
        "monosemantic_gradients": "EXP-003",
        "manifold_curvature": "EXP-005",
        "coarse_to_fine": "EXP-010",
        "relative_coarse_to_fine": "EXP-010",
        "circuits": "EXP-009",
    }
    for hypothesis in registration.hypotheses:
        assert set(hypothesis.conditions) <= set(CONDITIONS)
        assert set(hypothesis.tasks) <= set(TASKS)
        assert hypothesis.statistic in STATISTICS
        assert set(hypothesis.expected.values()) <= {*VERDICTS, None}
    for ratio in ("grassmann_energy", "manifold_curvature"):
        assert registration[ratio].sesoi == pytest.approx(math.log(1.1), rel=1e-3)


def test_the_fewest_seeds_registered_are_the_fewest_that_can_reject():
    registration = read_hypotheses(REGISTERED)
    assert (
        smallest_p(registration.minimum_seeds)
        <= registration.alpha
        < smallest_p(registration.minimum_seeds - 1)
    )


@pytest.mark.parametrize(
    ("old", "new", "line", "message"),
    [
        ("statistic: log_slope", "statistic: slope", 13, "hypotheses.rising.statistic: found 'slope'; change it to one of log_slope, log_mean"),
        ("[random_init]", "[random]", 17, "hypotheses.rising.nulls.naive: found 'random'; change it to one of random_init, permuted_weights"),
        ("[random_init]", "[oracle]", 17, "found 'oracle'; change it to one of random_init"),
        ("[random_init]", "[]", 17, r"nulls.naive: found \[\]; change it to a list, each one of random_init"),
        ("[random_init]", "random_init", 17, "found 'random_init'; change it to a list"),
        ("[random_init]", "[random_init, random_init]", 17, "found 'random_init' twice; remove one"),
        ("[oracle_noise]", "[random_init]", 17, "nulls: 'random_init' is both naive and artefact; keep it in one"),
        ("tasks: [inverse]", "tasks: [inversion]", 20, "tasks: found 'inversion'; change it to one of addition, inverse, completion"),
        ("tasks: [inverse]", "tasks: [inverse, addition]", 22, "expected: found inverse; name each of the tasks, inverse, addition"),
        ("PREDICTED", "TRUE_ENOUGH", 22, "expected.inverse: found 'TRUE_ENOUGH'; change it to one of INVALID"),
        ("sesoi: 0.1", "sesoi: 0", 15, "sesoi: found 0; change it to a number above 0"),
        ("sesoi: 0.1", "sesoi: .inf", 15, "sesoi: found inf"),
        ("sesoi: 0.1", "sesoi: 1e-3", 15, "sesoi: found '1e-3'; change it to a number above 0 .write 0.001"),
        ("sesoi: 0.1", "sesoi: true", 15, "sesoi: found True"),
        ("    sesoi: 0.1\n", "", 7, r"hypotheses.rising.sesoi: missing; add it \(a number above 0"),
        ("    oracle: true", "    oracel: true", 19, "hypotheses.rising.oracel: unknown key; remove it or use one of experiment, claim"),
        ("oracle: true", "oracle: maybe", 19, "oracle: found 'maybe'; change it to true or false"),
        ("tolerance: 0.01", "tolerance: -1", 21, "gate.tolerance: found -1"),
        ("{method: hessian, metric: slope_error, tolerance: 0.01}", "hessian", 21, "gate: found 'hessian'; change it to a mapping of method, metric, tolerance"),
        ("EXP-001", "EXP-1", 7, "experiment: found 'EXP-1'; change it to EXP- and three digits"),
        ("q_sample", "sample", 12, "point_kind: found 'sample'; change it to one of q_sample"),
        ('"It rises."', '""', 8, "claim: found ''; change it to a text of one line"),
        ("  rising:", "  Rising One:", 6, "hypotheses: found 'Rising One'; change it to a name of small letters"),
        ("alpha: 0.05", "alpha: 5", 1, "alpha: found 5; change it to a number between 0 and 0.5"),
        ("draws: 500", "draws: 10", 3, "bootstrap.draws: found 10; change it to an integer, at least 100"),
        ("draws: 500", "draws: 500.0", 3, "bootstrap.draws: found 500.0"),
        ("minimum_seeds: 6", "minimum_seeds: 6\nminimum_seeds: 2", 5, "minimum_seeds: declared twice; remove one"),
        ("    unit:", "    claim: again\n    unit:", 14, "hypotheses.rising.claim: declared twice; remove one"),
        ("alpha: 0.05", "alpha: 0.05\nbeta: 0.2", 2, "beta: unknown key; remove it or use one of alpha, confidence"),
        ("alpha: 0.05", "? [a]\n: 0.05", 1, r"found \['a'\] as a key; change it to a plain name"),
        ("alpha: 0.05", "alpha: !!python/object:os.system 1", 1, "cannot be read as tag:yaml.org,2002:python/object:os.system"),
        ("tasks: [inverse]", "tasks: [inverse", 21, r"not YAML \(.*\); correct this line"),
    ],
)  # fmt: skip
def test_a_mistake_is_refused_with_file_line_key_and_remedy(old, new, line, message, write):
    assert MINIMAL.count(old) == 1
    path = write(MINIMAL.replace(old, new))
    with pytest.raises(ConfigError, match=rf"hypotheses\.yaml:{line}: .*{message}"):
        read_hypotheses(path)


def test_an_empty_or_absent_file_is_refused(write, tmp_path):
    with pytest.raises(
        ConfigError, match=r"hypotheses\.yaml:1: the file is empty; declare alpha, confidence"
    ):
        read_hypotheses(write("# nothing\n"))
    with pytest.raises(ConfigError, match=r"none\.yaml: cannot be read \(No such file or directory\); give"):
        read_hypotheses(tmp_path / "none.yaml")
    with pytest.raises(
        ConfigError, match=r"hypotheses: found None; change it to a mapping of at least one name"
    ):
        read_hypotheses(write(MINIMAL.split("  rising:")[0]))


def test_every_statistic_that_may_be_registered_is_computed():
    assert set(STATISTIC_NAMES) == set(STATISTICS)


def test_reading_a_configuration_loads_neither_torch_nor_scipy():
    loads = "import sys, iredinterp.config, iredinterp.provenance, iredinterp.evidence.hypotheses; print(*sys.modules)"
    modules = subprocess.run([sys.executable, "-c", loads], capture_output=True, text=True, check=True).stdout
    assert not {"torch", "scipy", "pandas", "numpy"} & set(modules.split())
