"""How often a property is tried: the one idiom for what `--long` adds."""

import pytest


def counts(ordinary, full):
    """Give a test its ``count``: an ordinary one always, the full one under `--long` as well."""
    return pytest.mark.parametrize("count", [ordinary, pytest.param(full, marks=pytest.mark.long)])


def seeds(count, *found):
    """Return the first ``count`` seeds, and of those that once ``found`` a fault the others."""
    return [*range(count), *(seed for seed in found if seed >= count)]
