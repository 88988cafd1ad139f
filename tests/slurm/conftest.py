"""The scheduler that the tests of this folder submit to."""

import pytest
from lab import NoLabError, logs, shared_lab


@pytest.fixture(scope="session")
def slurm():
    try:
        with shared_lab() as folder:
            yield folder
    except NoLabError as reason:
        pytest.skip(f"NO SLURM, so profiles/slurm is not tested: {reason}")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item):
    report = yield
    if report.failed and "slurm" in item.fixturenames:
        report.sections.append(("SLURM daemons", logs()))
    return report
