"""wrk, the closed-loop load generator: so many connections, each sending when it was answered.

One thread drives all connections: it is far from the limit of the subjects, which the suite
``limits`` shows by pointing the same script at a server that answers without work.

wrk 4 corrects its latencies for what a closed loop hides: an answer that took longer than
twice the usual interval counts also for those requests that would have been sent meanwhile.
So its p99 is never better than what was seen, and often worse.
"""

import json
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from benchmarks.harness.model import BenchmarkError

SCRIPTS: Final = Path(__file__).parent / "wrk"

WAIT_SECONDS_MAX: Final = 60
"""How long one answer may take before it counts as an error."""

_MARK: Final = "result "


@dataclass(frozen=True, slots=True)
class WrkResult:
    """What one run of wrk saw.

    Attributes:
        requests: answers, of any status.
        seconds: how long it ran.
        p50_milliseconds: and so on: time from sending a request to its whole answer.
        counts: what the script counted itself.
    """

    requests: int
    seconds: float
    p50_milliseconds: float
    p99_milliseconds: float
    p999_milliseconds: float
    max_milliseconds: float
    refused: int
    counts: dict[str, int]

    @property
    def per_second(self) -> float:
        """Answers per second."""
        return self.requests / self.seconds

    def latencies(self) -> dict[str, float]:
        """The figures of latency, by name."""
        return {
            "p50_milliseconds": self.p50_milliseconds,
            "p99_milliseconds": self.p99_milliseconds,
            "p999_milliseconds": self.p999_milliseconds,
            "max_milliseconds": self.max_milliseconds,
        }


def program() -> str:
    """Where wrk is. Raises BenchmarkError with the way out where it is not."""
    found = shutil.which("wrk")
    if found is None:
        raise BenchmarkError(
            "wrk is not installed. Debian and Ubuntu: apt install wrk; elsewhere: see "
            "https://github.com/wg/wrk"
        )
    return found


def run(
    url: str,
    script: str,
    arguments: Sequence[object],
    *,
    connections: int,
    seconds: int,
    refusals_allowed: bool = False,
) -> WrkResult:
    """Drive load for so many whole seconds.

    Args:
        url: the address; the path is the script's.
        script: the name of a file in ``wrk/``.
        arguments: the script's own, as text.
        connections: how many, all kept alive.
        seconds: at least 1.
        refusals_allowed: whether answers of 400 and above are what is wanted.

    Raises:
        BenchmarkError: wrk is missing or failed, a connection failed, or there were refusals
            that are not allowed.
    """
    command = [program(), "--threads", "1", "--connections", str(connections)]
    command += ["--duration", f"{max(1, seconds)}s", "--timeout", f"{WAIT_SECONDS_MAX}s"]
    command += ["--script", script, url, "--", *map(str, arguments)]
    done = subprocess.run(
        command,
        cwd=SCRIPTS,  # where the scripts find each other
        capture_output=True,
        text=True,
        check=False,
        timeout=seconds + 2 * WAIT_SECONDS_MAX,
    )
    if done.returncode:
        raise BenchmarkError(f"wrk failed: {(done.stderr or done.stdout).strip()}")
    return parse(done.stdout, refusals_allowed=refusals_allowed)


def parse(output: str, *, refusals_allowed: bool = False) -> WrkResult:
    """Read the line that our scripts print; raises as ``run`` does."""
    lines = [line for line in output.splitlines() if line.startswith(_MARK)]
    if len(lines) != 1:
        raise BenchmarkError(f"wrk printed no result:\n{output.strip()}")
    values: dict[str, Any] = json.loads(lines[0].removeprefix(_MARK))
    errors = {
        name: values.pop(name)
        for name in ("connect_errors", "read_errors", "write_errors", "timeouts")
    }
    if any(errors.values()):
        raise BenchmarkError(f"wrk lost connections or answers: {errors}")
    refused = values.pop("refused")
    if refused and not refusals_allowed:
        raise BenchmarkError(f"{refused} answers of {values['requests']} were refusals or failures")
    requests, microseconds = values.pop("requests"), values.pop("microseconds")
    if not requests or not microseconds:
        raise BenchmarkError("wrk got no answer at all")
    return WrkResult(
        requests=requests,
        seconds=microseconds / 1e6,
        p50_milliseconds=values.pop("p50") / 1e3,
        p99_milliseconds=values.pop("p99") / 1e3,
        p999_milliseconds=values.pop("p999") / 1e3,
        max_milliseconds=values.pop("max") / 1e3,
        refused=refused,
        counts={name: int(value) for name, value in values.items()},
    )
