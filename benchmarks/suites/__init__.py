"""The suites, each a question.

To add one, write it beside the others, with the attributes and methods of
``harness.model.Suite``, and name it in ``all_suites``; the order there is the order of running
and of the report.
"""

from benchmarks.harness.model import Suite


def all_suites() -> tuple[Suite, ...]:
    """Every suite, in the order of running."""
    # Here and not above: a suite imports its subjects, and those what they need.
    from benchmarks.suites.appends import Appends

    return (Appends(),)
