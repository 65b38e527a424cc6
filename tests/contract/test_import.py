"""``import`` against real services: every line once, whatever breaks, and what it says.

A proxy before PostgreSQL holds one batch still, so that an import can be broken off at a
known point: the batches before it are acknowledged, and it is on its way.
"""

import json
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import psycopg
import pytest

from tests.contract.conftest import KEY
from tests.support.cluster import Cluster, Database
from tests.support.command_line import counterfoil, ending, started
from tests.support.proxy import Catch, Proxy, proxying
from tests.support.service import Service, running_service
from tests.support.waiting import WAIT_SECONDS_MAX, wait_for

PARTS = 5
"""Batches of the file; each line names the one that it is in."""


def line(number: int, **members: Any) -> str:
    payload = {"part": f"part_{number // 1_000 + 1}_", "n": number}
    event = {"agent_name": "importer", "event_type": "t", "payload": payload}
    return json.dumps(event | members) + "\n"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "events.ndjson"
    path.write_text("".join(line(number) for number in range(PARTS * 1_000)), encoding="utf-8")
    return path


def change(file: Path, number: int, text: str) -> None:
    """Write another line in the place of this one."""
    split = file.read_text(encoding="utf-8").splitlines(keepends=True)
    file.write_text("".join([*split[: number - 1], text, *split[number:]]), encoding="utf-8")


def progress_of(file: Path) -> Path:
    return file.with_name(file.name + ".import.json")


def written(database: Database) -> list[int]:
    """The numbers of the events in the book, in its order."""
    with psycopg.connect(database.url) as connection:
        rows = connection.execute(
            "select (payload ->> 'n')::int from counterfoil.events order by position"
        )
        return [number for (number,) in rows]


@pytest.fixture
def proxy(database: Database) -> Iterator[Proxy]:
    with proxying(database.url) as opened:
        yield opened


@pytest.fixture
def service(proxy: Proxy) -> Iterator[Service]:
    """A service that reaches its database through the proxy."""
    with running_service(proxy.url) as running:
        yield running


def run(service: Service, *arguments: object, **more: str) -> subprocess.CompletedProcess[str]:
    return counterfoil(
        "import", *map(str, arguments), **{"COUNTERFOIL_BASE_URL": service.url, **more}
    )


def summary(ended: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    assert ended.returncode == 0, ended.stderr
    document: dict[str, Any] = json.loads(ended.stdout)
    return document


def arrived(catch: Catch) -> None:
    """Wait until the batch that is to be held is held."""
    wait_for(lambda: catch.seen, "the batch to arrive at the proxy")


# --- Once -----------------------------------------------------------------------------------


@pytest.mark.promise("P5")
def test_a_file_is_written_in_its_order_and_once(
    service: Service, database: Database, file: Path
) -> None:
    first = summary(run(service, file, "-o", "json"))
    again = summary(run(service, file, "-o", "json"))
    progress_of(file).unlink()
    replayed = summary(run(service, file, "-o", "json"))
    moved = file.rename(file.with_name("moved.ndjson"))
    elsewhere = summary(run(service, moved, "-o", "json", "--connections", "4"))

    assert first["written"] == first["events"] == first["lines"] == 5_000
    assert (first["first_id"], first["last_id"]) == (1, 5_000)
    for later in (again, replayed, elsewhere):
        assert (later["written"], later["already_there"]) == (0, 5_000)
        assert (later["first_id"], later["last_id"]) == (1, 5_000)
    assert written(database) == list(range(5_000))


@pytest.mark.promise("P5")
def test_several_connections_write_each_line_once_and_keep_batches_whole(
    service: Service, database: Database, file: Path
) -> None:
    assert summary(run(service, file, "-c", "4", "-o", "json"))["written"] == 5_000

    numbers = written(database)
    assert sorted(numbers) == list(range(5_000))
    for first in range(0, 5_000, 1_000):
        assert numbers[first : first + 1_000] == list(range(numbers[first], numbers[first] + 1_000))


@pytest.mark.promise("P5")
@pytest.mark.parametrize("connections", [1, 4])
@pytest.mark.parametrize("kept", [True, False], ids=["progress kept", "progress lost"])
@pytest.mark.parametrize("reaches", [True, False], ids=["batch written", "batch lost"])
def test_an_import_that_was_killed_goes_on_and_writes_nothing_twice(
    service: Service,
    database: Database,
    proxy: Proxy,
    file: Path,
    connections: int,
    kept: bool,
    reaches: bool,
) -> None:
    catch = proxy.catch(b"part_3_")
    arguments = ("import", str(file), "--connections", str(connections))
    with started(*arguments, COUNTERFOIL_BASE_URL=service.url) as importing:
        arrived(catch)
        importing.kill()
        importing.wait(WAIT_SECONDS_MAX)
    if reaches:
        catch.forward()
        wait_for(lambda: 2_000 in written(database), "the batch on its way to be written")
        catch.answer()
    else:
        catch.cut()
    if not kept:
        progress_of(file).unlink()

    ended = run(service, file, "--connections", connections)

    assert ended.returncode == 0, ended.stderr
    numbers = written(database)
    assert sorted(numbers) == list(range(5_000))
    if connections == 1:
        assert numbers == list(range(5_000))
    assert "were there already" in ended.stdout


@pytest.mark.promise("P5")
@pytest.mark.parametrize("reaches", [True, False], ids=["batch written", "batch lost"])
def test_a_service_that_was_killed_and_is_back_is_waited_for(
    database: Database, proxy: Proxy, file: Path, reaches: bool
) -> None:
    catch = proxy.catch(b"part_3_")
    with running_service(proxy.url) as before:
        port = httpx2.URL(before.url).port
        assert port is not None
        with started("import", str(file), COUNTERFOIL_BASE_URL=before.url) as importing:
            arrived(catch)
            if reaches:
                catch.forward()
                wait_for(lambda: 2_000 in written(database), "the batch to be written")
            before.kill()
            catch.cut()
            with running_service(proxy.url, port=port):
                code, errors = ending(importing)

    assert code == 0, errors
    assert written(database) == list(range(5_000))


@pytest.mark.parametrize(
    ("sent", "code", "said"),
    [(signal.SIGINT, 130, "Interrupted."), (signal.SIGTERM, 143, "Stopped.")],
    ids=["Ctrl-C", "SIGTERM"],
)
def test_an_import_that_is_stopped_says_what_is_written_and_how_to_go_on(
    service: Service,
    database: Database,
    proxy: Proxy,
    file: Path,
    sent: signal.Signals,
    code: int,
    said: str,
) -> None:
    catch = proxy.catch(b"part_3_")
    with started("import", str(file), COUNTERFOIL_BASE_URL=service.url) as importing:
        arrived(catch)
        importing.send_signal(sent)
        ended = ending(importing)
    catch.cut()

    assert ended[0] == code
    assert ended[1].startswith(f"{said} In the book: lines 1 to 2,000. Run the same command again")
    assert json.loads(progress_of(file).read_text(encoding="utf-8"))["lines"] == 2_000
    assert run(service, file).returncode == 0
    assert written(database) == list(range(5_000))


# --- Refused --------------------------------------------------------------------------------


@pytest.mark.promise("P13")
@pytest.mark.parametrize(
    ("bad", "named"),
    [
        (
            line(1_041).replace("1041", "1e500"),
            "Line 1,042: /payload/n: A number may have at most 100 digits",
        ),
        (line(1_041, agent="a"), "Line 1,042: /agent: "),
        (line(1_041)[:-3] + "\n", "Line 1,042: A line must be exactly one JSON object, and it is"),
        (line(1_041)[:-1] + "," + line(1_041), "more follows after its object, at column "),
    ],
    ids=["value", "field", "not JSON", "two events"],
)
def test_a_line_that_is_refused_is_named_and_can_be_mended(
    service: Service, database: Database, file: Path, bad: str, named: str
) -> None:
    change(file, 1_042, bad)

    refused = run(service, file)

    assert refused.returncode == 1
    assert refused.stdout == ""
    assert named in refused.stderr
    assert "Lines 1,001 to 2,000 are one batch: none of them was written." in refused.stderr
    assert "In the book: lines 1 to 1,000." in refused.stderr
    assert written(database) == list(range(1_000))

    change(file, 1_042, line(1_041))
    progress_of(file).unlink()  # harmless

    assert "1,000 were there already" in run(service, file).stdout
    assert written(database) == list(range(5_000))


def test_a_refusal_is_a_document_for_programs(service: Service, file: Path) -> None:
    change(file, 1_042, line(1_041, agent_name=""))

    refused = run(service, file, "-o", "json")

    assert refused.returncode == 1
    document = json.loads(refused.stdout)
    assert document["status"] == "refused"
    assert [(error["line"], error["pointer"]) for error in document["errors"]] == [
        (1_042, "/agent_name")
    ]
    assert document["batch"] == [1_001, 2_000]
    assert document["written_lines"] == [[1, 1_000]]


@pytest.mark.promise("P5")
def test_what_was_written_behind_a_refused_line_is_not_written_again(
    service: Service, database: Database, file: Path
) -> None:
    change(file, 1_042, line(1_041, agent_name=""))
    refused = run(service, file, "-c", "4", "-o", "json")
    assert refused.returncode == 1
    behind = json.loads(refused.stdout)["written_lines"][1:]
    assert behind, "three other batches were on their way"
    assert "every line at its number" in refused.stderr

    file.write_text(line(-1) + file.read_text(encoding="utf-8"), encoding="utf-8")
    moved = run(service, file, "-c", "4")
    assert moved.returncode == 1
    assert "no longer what they were" in moved.stderr

    change(file, 1, "")
    change(file, 1_042, "\n")
    assert run(service, file, "-c", "4").returncode == 0
    assert sorted(written(database)) == [n for n in range(5_000) if n != 1_041]


@pytest.mark.promise("P5")
def test_a_file_that_was_edited_where_it_is_written_is_refused(
    service: Service, database: Database, file: Path
) -> None:
    assert run(service, file).returncode == 0
    change(file, 1_042, line(7))

    with_progress = run(service, file)
    progress_of(file).unlink()
    without = run(service, file)

    assert (with_progress.returncode, without.returncode) == (1, 1)
    assert "Lines 1 to 5,000 of" in with_progress.stderr
    assert "are no longer what they were" in with_progress.stderr
    assert "Lines 1,001 to 2,000 of" in without.stderr
    assert "were imported before with other content" in without.stderr
    assert written(database) == list(range(5_000))


@pytest.mark.promise("P5")
def test_a_file_that_has_grown_goes_on_or_is_refused_but_never_doubled(
    service: Service, database: Database, file: Path
) -> None:
    whole = file.read_text(encoding="utf-8").splitlines(keepends=True)
    file.write_text("".join(whole[:1_300]), encoding="utf-8")
    assert run(service, file).returncode == 0

    file.write_text("".join(whole[:1_700]), encoding="utf-8")
    assert "1,300 were there already" in run(service, file).stdout
    progress_of(file).unlink()
    refused = run(service, file)

    assert refused.returncode == 1
    assert "or before it grew" in refused.stderr
    assert written(database) == list(range(1_700))


def test_under_another_name_the_same_file_is_another_import(
    service: Service, database: Database, file: Path
) -> None:
    assert run(service, file).returncode == 0

    mixed_up = run(service, file, "--as", "second")
    second = run(service, file, "--as", "second", "--state", f"{file}.second")

    assert mixed_up.returncode == 2
    assert "is the progress of the import without a name" in mixed_up.stderr
    assert second.returncode == 0
    assert written(database) == list(range(5_000)) * 2


# --- What it reads and where it writes ------------------------------------------------------


def test_standard_input_is_read_too_and_numbers_keep_their_digits(service: Service) -> None:
    text = line(1).replace(": 1}", ": 12.30}") + "\r\n" + line(2).replace(": 2}", ": 1e2}")

    ended = counterfoil("import", "-", stdin="\ufeff" + text, COUNTERFOIL_BASE_URL=service.url)

    assert ended.returncode == 0
    assert ended.stdout.startswith("Imported 2 events: ids 1 to 2; ")
    read = httpx2.get(f"{service.url}/events").text
    assert '"n": 12.30' in read
    assert '"n": 100' in read


def test_a_file_can_be_looked_over_without_a_service(file: Path) -> None:
    right = counterfoil("import", str(file), "--check")
    change(file, 7, '{"agent_name": "a", "payload": {}}\n')
    change(file, 3_000, "[\n")
    wrong = counterfoil("import", str(file), "--check")
    document = counterfoil("import", str(file), "--check", "-o", "json")

    assert right.returncode == 0
    assert right.stdout.startswith("5,000 events in 5,000 lines")
    assert wrong.returncode == 1
    assert "Line 7: /event_type: It is missing." in wrong.stderr
    assert "Line 3,000: A line must be one JSON object, and" in wrong.stderr
    assert [error["line"] for error in json.loads(document.stdout)["errors"]] == [7, 3_000]
    assert not progress_of(file).exists()


def test_nothing_is_begun_without_the_right_key(locked_service: Service, file: Path) -> None:
    refused = run(locked_service, file, COUNTERFOIL_API_KEY="mistaken")

    assert refused.returncode == 1
    assert "COUNTERFOIL_API_KEY" in refused.stderr
    assert not progress_of(file).exists()
    assert run(locked_service, file, COUNTERFOIL_API_KEY=KEY).returncode == 0


def test_progress_that_cannot_be_kept_is_told_and_stops_nothing(
    service: Service, file: Path
) -> None:
    ended = run(service, file, "--state", "/dev/null/progress")

    assert ended.returncode == 2
    assert "cannot be read: Not a directory" in ended.stderr
    ended = run(service, file, "--state", file.parent / "nowhere" / "progress")
    assert ended.returncode == 0
    assert ended.stderr.count("Progress cannot be kept in") == 1


def test_a_service_that_is_not_there_is_told_at_once(file: Path) -> None:
    # Port 1 is reserved; nothing answers there.
    ended = counterfoil("import", str(file), COUNTERFOIL_BASE_URL="http://127.0.0.1:1")
    assert ended.returncode == 3
    assert "`counterfoil dev` starts one" in ended.stderr


# --- Restored books -------------------------------------------------------------------------


@pytest.mark.promise("P5")
def test_progress_from_before_a_restore_is_not_believed(
    service: Service, database: Database, file: Path
) -> None:
    assert run(service, file).returncode == 0
    assert counterfoil("recover", "--yes", DATABASE_URL=database.url).returncode == 0

    again = run(service, file)

    assert again.returncode == 0
    assert "from before this one was restored" in again.stderr
    assert again.stdout.startswith("Nothing to do: all 5,000 events were there already")
    assert written(database) == list(range(5_000))


@pytest.mark.promise("P5")
@pytest.mark.parametrize("recovered", [True, False], ids=["of its own", "a copy that lacks it"])
def test_progress_in_one_book_is_none_in_another(
    service: Service, cluster: Cluster, file: Path, recovered: bool
) -> None:
    assert run(service, file).returncode == 0
    with cluster.database() as elsewhere, running_service(elsewhere.url) as other:
        # All databases of a test run are copies of one: the same incarnation, until recovered.
        if recovered:
            assert counterfoil("recover", "--yes", DATABASE_URL=elsewhere.url).returncode == 0

        ended = run(other, file, "-o", "json")

        assert summary(ended)["written"] == 5_000
        assert "is another book's" in ended.stderr
        assert written(elsewhere) == list(range(5_000))


def test_a_book_that_is_restored_meanwhile_is_noticed(
    service: Service, database: Database, proxy: Proxy, file: Path
) -> None:
    catch = proxy.catch(b"part_3_")
    with started("import", str(file), COUNTERFOIL_BASE_URL=service.url) as importing:
        arrived(catch)
        recovered = counterfoil("recover", "--yes", DATABASE_URL=database.url)
        catch.forward()
        catch.answer()
        code, errors = ending(importing)

    assert recovered.returncode == 0
    assert code == 1
    assert "restored from a backup in the meantime" in errors
    assert run(service, file).returncode == 0
    assert written(database) == list(range(5_000))
