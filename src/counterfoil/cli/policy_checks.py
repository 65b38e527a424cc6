"""``policies lint``, ``test`` and ``diff``: what can be said of a policy before it decides."""

import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from rich.text import Text

from counterfoil import Counterfoil
from counterfoil.cli import arguments, policy_judging
from counterfoil.cli.connection import connected
from counterfoil.cli.exits import ExitCode
from counterfoil.cli.output import Format, print_json, print_line, remark, results, visible
from counterfoil.cli.policy_diff import Change, changes
from counterfoil.cli.policy_judging import PolicyFault, PolicyFaults, Row, Trial, Tried
from counterfoil.cli.tables import Cell, show_table

File = Annotated[str, typer.Argument(metavar="FILE", help="A policy as JSON; - is standard input.")]

_PUBLISHED: Final = re.compile(r"(?P<name>[^@/]+)@(?P<version>[1-9][0-9]{0,9})")

_SIGNS: Final = {"added": "+", "removed": "-", "changed": "~", "moved": "~"}
_STYLES: Final = {"added": "green", "removed": "red", "changed": "yellow", "moved": "yellow"}


# --- lint ---------------------------------------------------------------------------------


def lint(
    files: Annotated[
        list[str], typer.Argument(metavar="FILE…", help="Policies as JSON; - is standard input.")
    ],
    *,
    output: arguments.Output = Format.TEXT,
) -> None:
    """Say what is wrong with a policy, as the service would when it is published.

    Each fault is one line: the file, where in it (a JSON pointer), and what is wrong. The
    policy's own examples are run, too; a warning tells which rows none of them reaches. Ends
    with 1 if there are faults.

    No service is needed, but its installation: `pip install '.[server]'`.

    For example:

        counterfoil policies lint credit.json

        counterfoil policies lint policies/*.json
    """
    judged = [_linted(file, output) for file in files]
    if not all(judged):
        raise typer.Exit(ExitCode.REFUSED)


def _linted(file: str, output: Format) -> bool:
    try:
        fine = policy_judging.lint(policy_judging.read_file(file))
    except PolicyFaults as faulty:
        _show_faults(file, faulty, output)
        return False
    if output is Format.JSON:
        print_json(
            {
                "file": file,
                "status": "fine",
                "digest": fine.digest,
                "examples": fine.examples,
                "unreached": _as_json(fine.unreached),
            }
        )
        return True
    for row in fine.unreached:
        remark(f"{file}: warning: {_unreached(row)}")
    passed = "its example passes" if fine.examples == 1 else f"its {fine.examples} examples pass"
    print_line(visible(f"{file}: fine, and {passed}; digest {fine.digest}"))
    return True


def fault_lines(file: str, faults: Sequence[PolicyFault]) -> list[str]:
    """Each fault on a line: the file, the place in it, and what is wrong there."""
    return [
        visible(": ".join(filter(None, (file, fault.pointer, fault.message)))) for fault in faults
    ]


def _show_faults(file: str, faulty: PolicyFaults, output: Format) -> None:
    if output is Format.JSON:
        errors = [{"pointer": each.pointer, "message": each.message} for each in faulty.faults]
        print_json({"file": file, "status": "refused", "errors": errors})
        return
    for line in fault_lines(file, faulty.faults):
        print_line(line)


# --- test ---------------------------------------------------------------------------------


def run_examples(file: File, *, output: arguments.Output = Format.TEXT) -> None:
    """Run the examples of a policy, and show what comes of each.

    All are run, also when one does not come out as it says, as while the rules are being
    written. Below stand the rows that no example reaches. Ends with 1 if an example fails.

    No service is needed, but its installation: `pip install '.[server]'`.

    For example:

        counterfoil policies test credit.json

        counterfoil policies test credit.json -o json | jq '.examples[] | select(.ok | not)'
    """
    try:
        trial = policy_judging.try_examples(policy_judging.read_file(file))
    except PolicyFaults as faulty:
        _show_faults(file, faulty, output)
        raise typer.Exit(ExitCode.REFUSED) from None
    if output is Format.JSON:
        print_json(_trial_document(file, trial))
    else:
        _show_trial(trial)
    if not trial.passed:
        raise typer.Exit(ExitCode.REFUSED)


def _trial_document(file: str, trial: Trial) -> dict[str, Any]:
    return {
        "file": file,
        "status": "passed" if trial.passed else "failed",
        "examples": [
            {
                "name": each.name,
                "expected": {
                    "outcome": each.expected.outcome,
                    "reasons": list(each.expected.reasons),
                },
                "got": None
                if each.got is None
                else {"outcome": each.got.outcome, "reasons": list(each.got.reasons)},
                "refused": each.refused,
                "matched": _as_json(each.matched),
                "ok": each.passed,
            }
            for each in trial.examples
        ],
        "unreached": _as_json(trial.unreached),
    }


def _show_trial(trial: Trial) -> None:
    show_table(
        ("EXAMPLE", "EXPECTED", "GOT", "ROWS", "RESULT"),
        [_trial_row(each) for each in trial.examples],
    )
    for row in trial.unreached:
        print_line(visible(_unreached(row)))
    failed = sum(not each.passed for each in trial.examples)
    counted = f"{len(trial.examples)} example{'' if len(trial.examples) == 1 else 's'}"
    remark(f"{counted}, {failed} of them failed." if failed else f"{counted}, none failed.")


def _trial_row(each: Tried) -> tuple[Cell, ...]:
    return (
        each.name,
        str(each.expected),
        each.refused or str(each.got),
        ", ".join(f"{table} {row}" for table, row in each.matched) or "-",
        Text("ok", style="green") if each.passed else Text("FAILED", style="bold red"),
    )


def _unreached(row: Row) -> str:
    return f"no example reaches row {row[1]} of table {row[0]}"


def _as_json(rows: Sequence[Row]) -> list[dict[str, Any]]:
    return [{"table": table, "row": row} for table, row in rows]


# --- diff ---------------------------------------------------------------------------------


def diff(
    old: Annotated[
        str,
        typer.Argument(metavar="A", help="A file, NAME@VERSION, or NAME for the active version."),
    ],
    new: Annotated[str, typer.Argument(metavar="B", help="What it became; the same.")],
    *,
    base_url: arguments.BaseUrl = None,
    api_key: arguments.ApiKey = None,
    output: arguments.Output = Format.TEXT,
) -> None:
    """Show what changed from one policy to another.

    Inputs, outcomes and forbidden inputs stand under their names; decision tables row by row, a
    row being the one with the same `_id`, wherever it stands; everything else by its JSON
    pointer. `+` is new, `-` is gone, `~` is another. Between two files no service is needed.

    For example:

        counterfoil policies diff credit credit.json

        counterfoil policies diff credit@2 credit@3
    """
    with connected(base_url, api_key) as cf:
        before, after = _policy(cf, old), _policy(cf, new)
    found = changes(before, after)
    if output is Format.JSON:
        print_json({"a": old, "b": new, "same": not found, "changes": list(map(_document, found))})
    elif found:
        _show_changes(old, new, found)
    else:
        print_line(visible(f"{old} and {new} are the same policy."))


def _policy(cf: Counterfoil, source: str) -> Mapping[str, Any]:
    """The document that an argument stands for: a file if there is one, else a published one."""
    if source == "-" or Path(source).exists() or "/" in source or source.endswith(".json"):
        return arguments.read_object(
            policy_judging.read_file(source), "policy", example='{"subject": "application", …}'
        )
    found = _PUBLISHED.fullmatch(source)
    if found is None:
        return cf.policies.get(source).policy or {}
    return cf.policies.get(found["name"], version=int(found["version"])).policy or {}


def _document(change: Change) -> dict[str, Any]:
    return {
        "part": change.part,
        "kind": change.kind,
        "name": change.name,
        "pointer": change.pointer,
        "old": change.old,
        "new": change.new,
    }


def _show_changes(old: str, new: str, found: Sequence[Change]) -> None:
    console = results()
    for line in _change_lines(old, new, found):
        console.print(line)


def _change_lines(old: str, new: str, found: Sequence[Change]) -> Iterator[Text]:
    yield Text(visible(f"--- {old}"), style="bold red")
    yield Text(visible(f"+++ {new}"), style="bold green")
    for part, those in groupby(found, key=lambda change: change.part):
        shown = list(those)
        width = max(len(visible(change.name)) for change in shown)
        yield Text("")
        yield Text(visible(part), style="bold")
        for change in shown:
            line = (
                f"  {_SIGNS[change.kind]} {visible(change.name):<{width}}  {visible(change.detail)}"
            )
            yield Text(line.rstrip(), style=_STYLES[change.kind])
