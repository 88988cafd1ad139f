"""The plan of a study: jobs counted, hours summed, nothing claimed of what never ran."""

import json
import logging
import re

import numpy as np
import pytest

from iredinterp.plan import Job, JobListing, measured_minutes, plan_page


def totals(page):
    return page.strip().splitlines()[-1]


def row(page, rule):
    (found,) = re.findall(rf"^\| {rule} \|(.*)\|$", page, re.MULTILINE)
    return [cell.strip() for cell in found.split("|")]


def test_hours_are_the_mean_of_what_ran_times_all_jobs(seed):
    rng = np.random.default_rng(seed)
    times = rng.uniform(1, 50, 7)
    jobs = [Job("look", 1, 60, time) for time in times] + [Job("look", 1, 60, None)] * 13
    count, gpus, measured, minutes, hours, at_most = row(plan_page(jobs), "look")
    assert (count, gpus, measured, at_most) == ("20", "1", "7", "20")
    assert float(minutes) == pytest.approx(sum(times) / 7, rel=0.05)
    assert float(hours) == pytest.approx(20 * sum(times) / 7 / 60, abs=0.05)


def test_of_a_rule_that_never_ran_only_its_limit_is_known():
    page = plan_page([Job("look", 1, 90, 6.0), *[Job("draw", 0, 10, None)] * 12])
    assert row(page, "draw") == ["12", "", "0", "", "", "2"]
    assert totals(page) == (
        "13 jobs. 1 with a GPU: 0.1 hours by what was measured, 2 at most in all; "
        "12 without: 2 hours at most."
    )


def test_what_ran_and_what_never_did_are_told_apart_in_the_totals():
    page = plan_page([Job("look", 1, 90, 30.0), Job("look", 1, 90, None), Job("train", 1, 240, None)])
    assert totals(page) == (
        "3 jobs. 3 with a GPU: 1.0 hours by what was measured, 4 at most for rules never run, 7 at most in all; "
        "0 without: 0 hours at most."
    )


def test_what_needs_the_gpu_longest_comes_first():
    page = plan_page(
        [
            Job("short", 1, 10, None),
            Job("cpu", 0, 600, None),
            Job("long", 1, 60, None),
            Job("short", 1, 10, None),
        ]
    )
    assert re.findall(r"^\| (\w+)", page, re.MULTILINE)[1:] == ["long", "short", "cpu"]


def test_a_benchmark_file_tells_the_last_run_and_none_tells_nothing(tmp_path):
    path = tmp_path / "a.jsonl"
    assert measured_minutes(path) is None
    path.write_text("".join(json.dumps({"s": seconds, "h:m:s": "?"}) + "\n" for seconds in (30.0, 90.0)))
    assert measured_minutes(path) == 1.5


def announced(**fields):
    return logging.makeLogRecord({"rule_name": "look", "benchmark": None, "resources": {}} | fields)


def test_jobs_are_heard_of_from_the_log_of_a_dry_run(tmp_path):
    (tmp_path / "ran.jsonl").write_text('{"s": 120.0}\n')
    listing = JobListing(tmp_path)
    listing.emit(logging.makeLogRecord({"msg": "Building DAG of jobs..."}))
    listing.emit(announced(rule_name="all"))
    listing.emit(announced(resources={"runtime": 30, "gpu": 1}, benchmark="ran.jsonl"))
    listing.emit(announced(resources={"runtime": 10}, benchmark="never.jsonl"))
    assert listing.jobs == [Job("look", 1, 30, 2.0), Job("look", 0, 10, None)]
