from pathlib import Path

from flows.environment import DATABASE_URL, prefect_environment, worker_environment


def test_runs_stay_in_the_workspace_and_nothing_is_sent(tmp_path: Path) -> None:
    environment = prefect_environment(tmp_path, given={"PREFECT_HOME": "/elsewhere"})
    assert environment["PREFECT_HOME"] == str(tmp_path / "prefect")
    assert environment["PREFECT_SERVER_ANALYTICS_ENABLED"] == "false"
    assert environment["DO_NOT_TRACK"] == "1"
    assert environment["MLFLOW_DISABLE_TELEMETRY"] == "true"
    assert "PREFECT_API_URL" not in environment


def test_what_the_user_sets_wins(tmp_path: Path) -> None:
    given = {"PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "60", "PREFECT_LOGGING_EXTRA_LOGGERS": "ltxcore,mine"}
    environment = prefect_environment(tmp_path, given=given)
    assert {name: environment[name] for name in given} == given


def test_the_loopback_is_never_behind_a_proxy(tmp_path: Path) -> None:
    assert prefect_environment(tmp_path, given={})["NO_PROXY"] == "127.0.0.1,localhost"
    given = {"no_proxy": "corp.example,localhost"}
    assert prefect_environment(tmp_path, given=given)["no_proxy"] == "corp.example,localhost,127.0.0.1"


def test_workers_run_without_the_plugin(tmp_path: Path) -> None:
    assert prefect_environment(tmp_path, given={})["PREFECT_PLUGINS_ENABLED"] == "true"
    worker = worker_environment(tmp_path, given={"PREFECT_PLUGINS_ENABLED": "true"})
    assert worker["PREFECT_PLUGINS_ENABLED"] == "false"
    assert worker["PREFECT_WORKER_QUERY_SECONDS"] == "2"


def test_a_workspace_keeps_its_database(tmp_path: Path) -> None:
    own = prefect_environment(tmp_path / "a?b", given={})[DATABASE_URL]
    assert own == f"sqlite+aiosqlite:///file:{tmp_path}/a%3Fb/prefect/prefect.db?uri=true"
    others = prefect_environment(tmp_path / "other", given={})
    assert prefect_environment(tmp_path / "a?b", given=others)[DATABASE_URL] == own
