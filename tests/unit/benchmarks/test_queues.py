"""Queues that are taken from: their scripts, and whom they are compared with."""

import pytest

from benchmarks.harness import cpu, rounds
from benchmarks.harness.cpu import Usage
from benchmarks.harness.model import BenchmarkError, Cell, Effort
from benchmarks.harness.records import CellRecord
from benchmarks.report.series import Measured
from benchmarks.report.tables import suite_tables
from benchmarks.subjects import bookkeeping, consuming, consuming_functions
from benchmarks.subjects.bookkeeping import Sample, Table
from benchmarks.subjects.queues import Script, Turn, placed


def record(cell: str, rate: float) -> CellRecord:
    figures = {"events_per_second": rate, "p50_milliseconds": 1.0, "events": 1.0}
    return CellRecord("r", cell.partition("/")[0], cell, 1, "", figures, 1.0, {})


LOAD = "consumers/acknowledged/batch-50/8-holders"


def measured() -> Measured:
    rates = {"counterfoil-2-workers": 300.0, "pgmq": 200.0, "pgqueuer": 100.0}
    others = {"counterfoil-2-workers": 50.0, "pgmq": 10.0, "pgqueuer": 100.0}
    return Measured.of(
        [record(f"{LOAD}/{name}", rate) for name, rate in rates.items()]
        + [record(f"{LOAD}0/{name}", rate) for name, rate in others.items()]
    )


def test_consumers_are_compared_with_the_peer_that_is_fastest_under_the_same_load() -> None:
    found = measured()
    assert found.fastest_peer(LOAD) == f"{LOAD}/pgmq"
    assert found.fastest_peer(f"{LOAD}0") == f"{LOAD}0/pgqueuer"
    assert found.fastest_peer("consumers/acknowledged/batch-50") is None
    ratios = {
        name: found.to_reference(found.cells[f"{LOAD}/{name}"])
        for name in ("counterfoil-2-workers", "pgmq", "pgqueuer")
    }
    assert ratios["pgmq"] is None
    assert ratios["pgqueuer"] is not None
    assert ratios["pgqueuer"].median == 0.5
    assert ratios["counterfoil-2-workers"] is not None
    assert ratios["counterfoil-2-workers"].median == 1.5
    assert "÷ the fastest peer" in suite_tables(found, "consumers", cores=2)


def test_without_a_peer_there_is_nothing_to_compare_with() -> None:
    alone = Measured.of([record(f"{LOAD}/counterfoil-2-workers", 300.0)])
    assert alone.to_reference(alone.cells[f"{LOAD}/counterfoil-2-workers"]) is None


def test_bookkeeping_is_shown_by_interval_and_for_the_whole() -> None:
    def sample(seconds: float, put_out: int, dead: int) -> Sample:
        return Sample(seconds, put_out, Table(9, dead, 8_192, 1), Table(1, 5, 8_192, 0))

    samples = [sample(0.0, 1_000, 0), sample(5.0, 11_000, 900), sample(10.0, 31_000, 300)]
    figures = bookkeeping.figures(samples)
    assert figures["at_5_s_events_per_second"] == 2_000
    assert figures["at_10_s_events_per_second"] == 4_000
    assert (figures["at_5_s_dead_rows"], figures["dead_rows_at_most"]) == (900, 900)
    assert figures["progress_dead_rows_at_most"] == 5
    assert bookkeeping.figures([]) == {}
    figures |= {"held_seconds": 60.0, "before_events_per_second": 2_000.0}
    figures |= {"held_events_per_second": 1_000.0, "after_events_per_second": 2_000.0}
    cell = CellRecord("r", "handover", "handover/old-snapshot", 1, "", figures, 10.0, {})
    text = suite_tables(Measured.of([cell]), "handover", cores=2)
    assert "held for 60.0 s" in text
    assert "| held | 1,000 | 0.50 |" in text
    assert "| 10 s | 4,000 | 9.00 | 300 | 8,190 |" in text
    assert "| dead rows at most | 900 |" in text


def counts(**changed: int) -> dict[str, int]:
    counted = {"claims": 10, "claims_answered": 9, "acks": 8, "acks_answered": 6, "sent": 400}
    return {**counted, **changed}


def test_acknowledged_is_what_was_answered() -> None:
    assert consuming.acknowledged(counts(), "ack") == 300
    assert consuming.acknowledged(counts(), "done") == 360
    assert consuming.acknowledged(counts(acks=0, acks_answered=0, sent=0), "next") == 0


def test_claims_that_came_back_full_need_no_word() -> None:
    full = {"claimed": 500, "claims_answered": 10, "empty_claims": 0}
    assert consuming.fullness(full, 50) == {}
    assert consuming.fullness({**full, "claimed": 400, "empty_claims": 2}, 50) == {
        "events_per_claim": 40.0,
        "empty_claims_percent": 20.0,
    }


PROGRESS = {"done": 380, "held": 30, "waiting": 9, "reached": 1_000}


def test_what_was_acknowledged_is_gone() -> None:
    consuming.check_progress(PROGRESS, sent=400, unanswered=20, later_attempts=20)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"done": 401}, "401 events are done"),
        ({"done": 379}, "of 400 the acknowledgement was sent"),
        ({"later_attempts": 21}, "21 deliveries came in a later attempt"),
        ({"held": 41}, "41 deliveries are still held"),
    ],
)
def test_deliveries_that_do_not_add_up_refuse_the_figures(wrong: dict[str, int], said: str) -> None:
    with pytest.raises(BenchmarkError, match=said):
        consuming.check_progress(
            {**PROGRESS, **wrong},
            sent=400,
            unanswered=20,
            later_attempts=wrong.get("later_attempts", 0),
        )


def test_a_turn_claims_into_variables_and_acknowledges_what_they_hold() -> None:
    script = Script("select 1 as id", "select done(:id)", {})
    assert script.text == "select 1 as id\n\\gset\nselect done(:id);\n"


def test_parameters_of_a_products_own_statement_get_names() -> None:
    names = [f"p{number}" for number in range(1, 11)]
    assert placed("limit $1 or $10 and a = ANY($2::int[])", names) == (
        "limit :p1 or :p10 and a = ANY(:p2::int[])"
    )


def test_what_a_run_uses_up_is_made_before_it_and_not_measured(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    done: list[str] = []

    def run(seconds: float) -> dict[str, float]:
        done.append(f"run {seconds}")
        return {}

    monkeypatch.setattr(cpu, "snapshot", lambda _: done.append("clock"))
    monkeypatch.setattr(cpu, "usage", lambda *_: Usage(1.0, {}))
    rounds.run_rounds(
        run="r",
        suite="s",
        cells=[Cell("s/1", run, prepare=lambda seconds: done.append(f"prepare {seconds}"))],
        effort=lambda _: Effort(rounds=1, seconds=2.0),
        cores=2,
        before_each=lambda: done.append("checkpoint"),
        keep=lambda _: None,
        show=lambda *_: None,
    )
    assert done == ["prepare 2.0", "checkpoint", "clock", "run 2.0", "clock"]


# --- Counterfoil's functions, called as the queues are --------------------------------


def test_a_turn_is_one_call_and_with_outcomes_two() -> None:
    alone = consuming_functions.script(outcomes=False)
    assert alone.count("counterfoil.consume_v2(") == 1
    assert "append_v4" not in alone
    written = consuming_functions.script(outcomes=True)
    assert written.count("counterfoil.consume_v2(") == 1
    # A claim that finds nothing has nothing to write.
    assert written.index("\\gset") < written.index("\\if :held > 0") < written.index("append_v4")


def progress(*, done: int, held: int) -> dict[str, int]:
    return {"done": done, "held": held, "waiting": 0, "reached": 100}


def test_tables_add_up_where_nothing_is_held_but_the_last_claims() -> None:
    once, outcomes = Turn(2, 5), Turn(2, 5, outcomes=True)
    consuming_functions.check(progress(done=50, held=10), once, written=0)
    consuming_functions.check(progress(done=50, held=0), outcomes, written=50)


@pytest.mark.parametrize(
    ("done", "held", "outcomes", "written", "fault"),
    [
        (50, 11, False, 0, "11 deliveries are still held"),
        (50, 1, True, 50, "1 deliveries are still held"),
        (50, 0, True, 49, "49 outcomes were written, and 50"),
        (50, 0, False, 1, "1 outcomes were written, and 0"),
        (0, 0, False, 0, "Nothing was acknowledged"),
    ],
)
def test_tables_that_do_not_add_up_end_the_run(
    done: int, held: int, outcomes: bool, written: int, fault: str
) -> None:
    with pytest.raises(BenchmarkError, match=fault):
        consuming_functions.check(
            progress(done=done, held=held), Turn(2, 5, outcomes=outcomes), written=written
        )
