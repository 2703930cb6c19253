import pytest

from flows.plugin import expand

PREFECT = "/somewhere/bin/prefect"


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ([PREFECT, "deployment", "run", "train-ltx2"], "train-ltx2/train-ltx2"),
        ([PREFECT, "deployment", "run", "train-ltx2", "--watch"], "train-ltx2/train-ltx2"),
        ([PREFECT, "deployment", "inspect", "probe-media"], "probe-media/probe-media"),
        (["/lib/prefect/__main__.py", "deployment", "run", "a"], "a/a"),
        ([PREFECT, "deployment", "run", "a/b"], "a/b"),
        ([PREFECT, "deployment", "run", "--id"], "--id"),
        ([PREFECT, "deployment", "ls", "a"], "a"),
        ([PREFECT, "work-pool", "inspect", "cpu"], "cpu"),
        (["/somewhere/bin/pytest", "deployment", "run", "a"], "a"),
        (["/other/__main__.py", "deployment", "run", "a"], "a"),
    ],
)
def test_a_bare_name_becomes_flow_and_deployment(given: list[str], wanted: str) -> None:
    assert expand(given) == [*given[:3], wanted, *given[4:]]


@pytest.mark.parametrize("given", [[], [PREFECT], [PREFECT, "deployment", "run"]])
def test_short_command_lines_are_left(given: list[str]) -> None:
    assert expand(given) == given
