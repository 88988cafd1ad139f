"""Shared fixtures: a fresh seed per test, single-threaded arithmetic, and the official code's outputs."""

import secrets

import official as official_outputs
import pytest
import torch


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


@pytest.fixture
def seed(record_property) -> int:
    """A seed drawn anew on every run; pytest prints it with a failing test's captured output."""
    value = secrets.randbelow(2**31)
    record_property("seed", value)
    print(f"seed = {value}")
    return value


@pytest.fixture
def generator(seed) -> torch.Generator:
    """A torch generator seeded with the test's fresh seed."""
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="session")
def official() -> official_outputs.Official:
    """A really trained official checkpoint and what the official code computes from it."""
    return official_outputs.bundled()
