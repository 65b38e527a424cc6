"""What a book or a process is said to take."""

from benchmarks.harness.filling import bytes_per_event
from benchmarks.harness.memory import parse_rollup


def test_bytes_of_an_event_add_up_and_are_named_by_what_takes_them() -> None:
    sizes = {
        "events": 500_000,
        "events/events_pkey": 30_000,
        "events/toast": 8_192,
        "event_tags": 180_000,
        "event_tags/event_tags_pkey": 240_000,
        "idempotency_keys": 0,
        "idempotency_keys/idempotency_keys_pkey": 8_192,
    }
    figures = bytes_per_event(sizes, 1_000)
    assert figures["events_bytes_per_event"] == 500
    assert figures["events_pkey_bytes_per_event"] == 30
    assert figures["events_toast_bytes_per_event"] == 8.192
    assert figures["event_tags_pkey_bytes_per_event"] == 240
    assert "idempotency_keys_bytes_per_event" not in figures
    assert figures["total_bytes_per_event"] == sum(sizes.values()) / 1_000


def test_memory_is_read_in_kibibytes() -> None:
    memory = parse_rollup(
        "55d0c0000000-7ffd00000000 ---p 00000000 00:00 0      [rollup]\n"
        "Rss:               92160 kB\n"
        "Pss:               40960 kB\n"
        "Pss_Anon:          30720 kB\n"
    )
    assert (memory.rss, memory.pss) == (92_160 * 1024, 40_960 * 1024)
