"""Every key of the configuration and of the registration with a value it must not have."""

from __future__ import annotations

import json

import pytest
from bad_input import configs
from bad_input.damage import cuts, flips
from bad_input.judging import all_refused, by_key, complaint, drawn, none_of, refused, unless_refused
from hypothesis import given
from hypothesis import strategies as st
from snakemake.common.configfile import load_configfile
from snakemake.exceptions import WorkflowError
from snakemake.utils import validate

from iredinterp.config import REAL, check_config
from iredinterp.errors import ConfigError, TaskError
from iredinterp.evidence.hypotheses import Registration, read_hypotheses
from iredinterp.ired.tasks import ProblemSpec


@pytest.fixture(scope="module")
def schema(tmp_path_factory):
    """The schema as JSON, which Snakemake reads sooner than YAML."""
    path = tmp_path_factory.mktemp("schema") / "config.schema.json"
    path.write_text(json.dumps(configs.SCHEMA))
    return path


@pytest.fixture
def configured(schema, monkeypatch):
    """What the workflow does with a configuration."""
    monkeypatch.chdir(configs.ROOT)

    def validated_and_checked(config):
        validate(config, schema)
        check_config(config)

    return validated_and_checked


def key_complaint(configured, config, path):
    """Nothing if the configuration is refused and the message names the key; else what happened."""
    as_snakemake, as_we = configs.spelled(path)
    try:
        configured(config)
    except WorkflowError as caught:
        return "" if as_snakemake in str(caught) else f"{path} not in: {caught}"
    except ConfigError as caught:
        return "" if as_we in str(caught) else f"{path} not in: {caught}"
    return "accepted"


def test_the_default_configuration_is_accepted(configured):
    configured(configs.assigned(("device",), "cpu"))


SECTIONS = sorted({path[0] for path, _ in configs.WRONG})


@pytest.mark.parametrize("section", SECTIONS)
def test_every_wrong_value_of_every_key_is_refused_by_its_key(section, configured):
    complaints = {
        f"{path} = {value!r}": key_complaint(configured, configs.assigned(path, value), path)
        for path, value in configs.WRONG
        if path[0] == section
    }
    none_of(complaints)


@pytest.mark.parametrize("path", configs.REQUIRED, ids=str)
def test_a_missing_key_is_named(path, configured):
    config = configs.without(path)
    with pytest.raises(WorkflowError, match=f"'{path[-1]}' is a required property"):
        configured(config)


@pytest.mark.parametrize(("change", "key", "says"), configs.INCONSISTENT, ids=lambda value: str(value)[:40])
def test_parts_that_do_not_fit_together_are_refused(change, key, says, configured):
    config = configs.CONFIG | change
    config["problems"] = configs.CONFIG["problems"] | config["problems"]
    with pytest.raises(ConfigError) as caught:
        configured(config)
    assert str(caught.value).startswith(f"{key}: ")
    assert says in str(caught.value)


@drawn(60)
@given(
    law=st.fixed_dictionaries(
        {"task": st.sampled_from(["addition", "inverse", "completion"]), "n": st.integers(2, 5)},
        optional={
            "rank": st.none() | st.integers(1, 6),
            "kappa": st.none() | st.sampled_from([2, 10.0]),
            "ood": st.booleans(),
            "factors": st.sampled_from(["normal", "positive"]),
            "observed": st.sampled_from([0.5, 0.8]),
            "noise": st.sampled_from([0, 0.1]),
        },
    )
)
def test_the_configuration_takes_exactly_the_problems_that_there_are(law, configured):
    config = configs.assigned(("problems", "law"), dict(law))
    try:
        ProblemSpec.from_dict(law)
    except TaskError:
        with pytest.raises(ConfigError, match=r"problems\.law\.\w+: found"):
            configured(config)
    else:
        configured(config)


def test_the_numbers_that_need_not_be_whole_are_those_of_the_schema():
    def types(entry):
        return {*([entry["type"]] if isinstance(entry["type"], str) else entry["type"])}

    found = {
        path[-1]
        for path, entry in configs.keys(configs.SCHEMA)
        if "number" in types(entry) | types(entry.get("items", {"type": []}))
    }
    assert found == REAL


@by_key(configs.UNPARSABLE)
def test_a_configuration_that_is_not_yaml_is_refused(case, tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text(case)
    with pytest.raises(WorkflowError, match=r"not valid JSON or YAML|with keys at top level"):
        load_configfile(str(path))


WRONG_REGISTRATIONS = list(configs.wrong_registrations())


def test_every_wrong_value_of_every_key_of_a_registration_is_refused_by_its_key(tmp_path):
    path, complaints = tmp_path / "hypotheses.yaml", {}
    for key, value in WRONG_REGISTRATIONS:
        path.write_text(configs.registration(key, value))
        found = complaint(ConfigError, path, lambda: read_hypotheses(path), *key[-1:])
        complaints[f"{key} = {value!r}"] = found
    none_of(complaints)


def test_registrations_that_are_no_registrations_are_refused(tmp_path):
    path = tmp_path / "hypotheses.yaml"
    refused(ConfigError, path, lambda: read_hypotheses(path), "cannot be read")
    refused(ConfigError, tmp_path, lambda: read_hypotheses(tmp_path), "cannot be read")
    binary = [
        b"",
        b"\xff\xfe\xfa",
        b"\x00" * 40,
        b"[" * 20_000,
        b"a: &a [*a]",
        b"--- 1\n--- 2\n",
        b"&a {b: *a}",
    ]
    files = {repr(text): text for text in binary}
    files |= {name: text.encode() for name, text in configs.UNPARSABLE.items()}
    all_refused(ConfigError, path, lambda: read_hypotheses(path), files)


@drawn(80)
@given(data=st.data(), damage=st.sampled_from([flips, cuts]))
def test_a_damaged_registration_is_refused_or_read_whole(data, damage, tmp_path):
    path = tmp_path / "hypotheses.yaml"
    path.write_bytes(data.draw(damage(configs.registration((), configs.REGISTRATION).encode())))
    found = unless_refused(ConfigError, path, lambda: read_hypotheses(path))
    assert found is None or (isinstance(found, Registration) and len(found.hypotheses) == 1)
