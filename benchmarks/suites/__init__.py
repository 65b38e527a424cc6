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
    from benchmarks.suites.batches import Batches
    from benchmarks.suites.bulk import Bulk
    from benchmarks.suites.conditions import Conditions
    from benchmarks.suites.consumers import Consumers
    from benchmarks.suites.decisions import Decisions
    from benchmarks.suites.growth import Growth
    from benchmarks.suites.handover import Handover
    from benchmarks.suites.limits import Limits
    from benchmarks.suites.live import LiveStreams
    from benchmarks.suites.peers import Peers
    from benchmarks.suites.reads import Reads
    from benchmarks.suites.snapshot import HeldSnapshot
    from benchmarks.suites.start import Start
    from benchmarks.suites.tenants import Tenants

    return (
        Limits(),
        Appends(),
        Conditions(),
        Peers(),
        Batches(),
        Bulk(),
        Growth(),
        HeldSnapshot(),
        Reads(),
        LiveStreams(),
        Tenants(),
        Consumers(),
        Handover(),
        Decisions(),
        Start(),
    )
