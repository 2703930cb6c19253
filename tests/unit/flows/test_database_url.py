"""Which database `ltx2 serve` takes, what it says of the others, and that a password is never told."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
from typer.testing import CliRunner

from flows.cli.app import app
from flows.database_url import DatabaseRefused, asked_database, check_reachable, shown_database
from flows.environment import ASKED_DATABASE, DATABASE_URL, prefect_environment, worker_environment
from ltxcore.store.sqlite_url import sqlite_url

SECRET = "pa%2Fss"
POSTGRES = "postgresql+asyncpg://ltx2@db.example:5433/prefect"
WITH_SECRET = POSTGRES.replace("@", f":{SECRET}@", 1)


def test_the_option_goes_before_the_variable_and_that_before_prefects_own() -> None:
    given = {ASKED_DATABASE: WITH_SECRET, DATABASE_URL: "postgresql+asyncpg://other/prefect"}
    assert asked_database(POSTGRES, given) == POSTGRES
    assert asked_database("", given) == WITH_SECRET
    assert asked_database("", {**given, ASKED_DATABASE: ""}) == given[DATABASE_URL]
    assert asked_database("", {}) == ""
    # The servers of another workspace set this one for their children.
    assert asked_database("", {DATABASE_URL: sqlite_url(Path("/other/prefect.db"), "sqlite+aiosqlite")}) == ""


@pytest.mark.parametrize("scheme", ["sqlite", "sqlite+aiosqlite"])
def test_a_sqlite_file_may_lie_elsewhere(scheme: str, tmp_path: Path) -> None:
    path = tmp_path / "100%" / "runs.db"
    path.parent.mkdir()
    assert asked_database(f"{scheme}:///{path}", {}) == sqlite_url(path, "sqlite+aiosqlite")


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("prefect.db", "is not the address of a database. Write postgresql"),
        (
            "postgresql+asyncpg://u:s3cr3t@host:port/name",
            "is not the address of a database. Write postgresql",
        ),
        ("postgresql://u:s3cr3t@host/name", r"Write postgresql\+asyncpg:// and the rest as it is"),
        ("postgres://u:s3cr3t@host/name", r"Write postgresql\+asyncpg:// and the rest as it is"),
        ("postgresql+psycopg2://u:s3cr3t@host/name", r"Write postgresql\+asyncpg:// and the rest as it is"),
        ("mysql://u:s3cr3t@host/name", "mysql://, and Prefect keeps its runs in PostgreSQL or SQLite"),
        ("postgresql+asyncpg://u:p@s3cr3t@host/name", "Write it as %40"),
        ("postgresql+asyncpg://u:s3cr3t@host", "names no database. Write postgresql"),
        ("sqlite://", "keeps nothing. Write the whole path"),
        ("sqlite:///:memory:", "keeps nothing. Write the whole path"),
        ("sqlite:///runs.db", "relative to no folder. Write the whole path"),
        ("sqlite:////no/such/folder/runs.db", "there is no folder /no/such/folder"),
        ("sqlite:////tmp", "/tmp is a folder. Name a file in it"),
        ("sqlite:////tmp/runs.db?mode=ro", r"options behind a \?"),
    ],
)
@pytest.mark.parametrize("place", ["option", ASKED_DATABASE])
def test_a_wrong_address_is_refused_with_what_to_write(place: str, address: str, message: str) -> None:
    with pytest.raises(DatabaseRefused, match=message) as refused:
        asked_database(*([address, {}] if place == "option" else ["", {ASKED_DATABASE: address}]))
    assert ("--database" if place == "option" else place) in str(refused.value)
    assert "s3cr3t" not in str(refused.value)


@pytest.mark.parametrize("address", [WITH_SECRET, f"{POSTGRES}?password={SECRET}"])
def test_a_password_on_the_command_line_is_refused(address: str) -> None:
    with pytest.raises(DatabaseRefused, match=f"Set the variable {ASKED_DATABASE}") as refused:
        asked_database(address, {})
    assert SECRET not in str(refused.value)


def test_serve_refuses_before_it_starts_anything(tmp_path: Path) -> None:
    datasets = tmp_path / "datasets.yaml"
    datasets.write_text(
        "[{id: clips, dataset_type: video, instance_data_dir: .}, {id: text, dataset_type: text_embeds}]"
    )
    words = [
        "serve",
        "--workspace",
        str(tmp_path / "w"),
        "--datasets",
        str(datasets),
        "--database",
        WITH_SECRET,
    ]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 2
    assert ASKED_DATABASE in done.stderr
    assert SECRET not in done.output
    assert not (tmp_path / "w").exists()


def test_what_is_shown_holds_no_secret() -> None:
    assert shown_database(WITH_SECRET) == POSTGRES
    assert shown_database(f"{POSTGRES}?password={SECRET}") == POSTGRES


@pytest.mark.parametrize("name", [ASKED_DATABASE, DATABASE_URL])
def test_only_the_server_is_given_the_address(name: str, tmp_path: Path) -> None:
    for environment in (prefect_environment, worker_environment):
        variables = {name: WITH_SECRET, **environment(tmp_path, given={name: WITH_SECRET})}
        assert not [value for value in variables.values() if SECRET in value]
        assert asked_database("", variables) == ""


def test_nobody_at_the_address_is_reported_without_the_secret() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        address = f"postgresql+asyncpg://ltx2:{SECRET}@127.0.0.1:{taken.getsockname()[1]}/prefect"
        with pytest.raises(DatabaseRefused, match=r"ltx2@127\.0\.0\.1:.*Start that server") as refused:
            check_reachable(address)
    assert SECRET not in str(refused.value)
    assert "pa/ss" not in str(refused.value)
