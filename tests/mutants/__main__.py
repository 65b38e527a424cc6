"""Try every mutant: ``python -m tests.mutants [part of a name ...]``.

First all the named tests are run on the unchanged source, where they must pass; then each
mutant's own are run on it, where one must fail. The exit code is 1 if any mutant lives.
"""

import os
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed

from tests.mutants.patches import Patch, UnusablePatchError, all_patches
from tests.mutants.trial import (
    UNCHANGED_SECONDS_MAX,
    Outcome,
    copied_tree,
    run_tests,
    try_mutant,
)
from tests.support.cluster import running_cluster

JOBS = os.cpu_count() or 1


def main(chosen: Sequence[str]) -> int:
    """Try the mutants whose names contain any of ``chosen``, or all; returns the exit code."""
    started = time.monotonic()
    patches = [
        patch for patch in all_patches() if not chosen or any(part in patch.name for part in chosen)
    ]
    if not patches:
        say(f"No mutant is named {' or '.join(chosen)}.")
        return 2
    # One server for all: each run makes its databases from the migrations of its own tree.
    with running_cluster() as cluster:
        if not passes_without(patches, cluster.url):
            return 1
        outcomes = tried(patches, cluster.url)
    alive = [outcome for outcome in outcomes if not outcome.killed]
    for outcome in alive:
        say(f"\n{outcome.patch.name}: {outcome.fate}\n    {outcome.patch.mistake}")
        say("    Should have been killed by " + ", ".join(outcome.patch.killed_by))
    seconds = time.monotonic() - started
    say(f"\n{len(outcomes) - len(alive)} of {len(outcomes)} mutants killed in {seconds:.0f} s.")
    return 1 if alive else 0


def passes_without(patches: Sequence[Patch], database_url: str) -> bool:
    """Whether the named tests pass where nothing is wrong: only then does a failure count."""
    tests = sorted({test for patch in patches for test in patch.killed_by})
    say(f"Running the {len(tests)} named tests on the unchanged source ...")
    started = time.monotonic()
    with copied_tree() as tree:
        run = run_tests(
            *(tree, database_url, tests, "-n", str(JOBS), "--dist", "loadgroup"),
            seconds_max=UNCHANGED_SECONDS_MAX,
        )
    if run.code != 0:
        say(run.output)
        say("They do not pass, so their failures would say nothing.")
        return False
    say(f"They pass ({time.monotonic() - started:.0f} s). Trying {len(patches)} mutants ...\n")
    return True


def tried(patches: Sequence[Patch], database_url: str) -> list[Outcome]:
    """Try the mutants, as many at once as there are processors, and tell as they end."""
    width = max(len(patch.name) for patch in patches)
    outcomes: list[Outcome] = []
    with ThreadPoolExecutor(JOBS) as pool:
        trials = [pool.submit(try_mutant, patch, database_url) for patch in patches]
        for number, trial in enumerate(as_completed(trials), 1):
            outcome = trial.result()
            outcomes.append(outcome)
            (first_line, *_) = outcome.fate.splitlines()
            fate = f"killed by {first_line}" if outcome.killed else f"ALIVE: {first_line}"
            say(
                f"{number:3}/{len(patches)}  {outcome.patch.name:{width}}  "
                f"{outcome.patch.promise:3}  {outcome.seconds:5.1f} s  {fate}"
            )
    return sorted(outcomes, key=lambda outcome: outcome.patch.name)


def say(text: str) -> None:
    """Print at once, also into a pipe."""
    print(text, flush=True)  # noqa: T201 - a command line prints


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except UnusablePatchError as error:
        say(str(error))
        sys.exit(1)
