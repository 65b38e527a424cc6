"""How many examples Hypothesis makes, and that they are the same in every run.

A test run must say the same twice, and a committed mutant must be killed every time. To
look for new examples, set ``COUNTERFOIL_TEST_EXPLORE``: they are then random, and many.
"""

import os

from hypothesis import settings

EXPLORE_FACTOR = 20


def examples(count: int, **more: int) -> settings:
    """The settings of a property that is tried on ``count`` examples."""
    explore = bool(os.environ.get("COUNTERFOIL_TEST_EXPLORE"))
    return settings(
        max_examples=count * EXPLORE_FACTOR if explore else count,
        derandomize=not explore,
        deadline=None,  # a slow machine is no counterexample
        **more,  # type: ignore[arg-type]  # stateful_step_count, and nothing else by now
    )
