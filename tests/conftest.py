"""The `--long` option, and one small real review for every test that needs one."""

import os
import sys

import pytest
from hypothesis import settings

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
if ROOT not in sys.path:  # for `pytest`; `python -m pytest` does so itself
    sys.path.insert(0, ROOT)


# Chance finds faults at a desk; where a change waits for the answer, the same change must get the same answer.
settings.register_profile("ci", derandomize=True)
if os.environ.get("CI"):
    settings.load_profile("ci")


def pytest_addoption(parser):
    parser.addoption("--long", action="store_true", help="run the tests marked long, with their full counts")


def pytest_collection_modifyitems(config, items):
    if not config.getoption("--long"):
        skip = pytest.mark.skip(reason="needs --long")
        for item in items:
            if "long" in item.keywords:
                item.add_marker(skip)


@pytest.fixture(scope="session")
def review_bodies():
    """The bodies of real reviews, as an API server sent them."""
    with open(os.path.join(ROOT, "tests", "data", "reviews.ndjson"), "rb") as file:
        return [line + b"\n" for line in file.read().splitlines()]
