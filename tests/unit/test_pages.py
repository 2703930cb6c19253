"""Templates of all packages: strangers' text stays text, and what an installed package needs is in it."""

from __future__ import annotations

import tomllib
from html.parser import HTMLParser
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jinja2 import DictLoader, UndefinedError
from markdown_it import MarkdownIt

from ltxcore.pages import environment
from ltxcore.pages.markdown import escaped

ROOT = Path(__file__).parents[2]
PACKAGES = (
    "flows.guard",
    "ltxcore.pages",
    "ltxcore.publishing",
    "ltxcore.jobs.begin",
    "ltxcore.jobs.report",
    "ltxcore.stages.judge_lora",
    "ltxcore.validation",
)


class Read(HTMLParser):
    """The tags and the text of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.text = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)

    def handle_data(self, data: str) -> None:
        self.text += data


MARKS = st.text(st.sampled_from(list("aZ1 \n\t<>&\"'`*_[]()!|~$#+-=.\\:{}%/é")), max_size=40)


@given(MARKS)
def test_any_text_is_itself_in_markdown(text: str) -> None:
    line = " ".join(text.split())
    reader = MarkdownIt("commonmark").enable(["table", "strikethrough"])
    for before, after, tags in (
        ("", "", {"p"}),
        ("> ", "", {"blockquote", "p"}),
        ("**a ", " z**", {"p", "strong"}),
        ("| a |\n|---|\n| ", " |", {"table", "thead", "tbody", "tr", "th", "td"}),
    ):
        read = Read(reader.render(f"{before}{escaped(text)}{after}\n"))
        assert set(read.tags) <= tags
        assert line in " ".join(read.text.split())


def test_names_of_files_stay_readable_in_markdown() -> None:
    assert escaped("ltx2_lora_comfyui.safetensors") == "ltx2_lora_comfyui.safetensors"
    assert escaped("_private_") == r"\_private\_"


@pytest.mark.parametrize("make", [environment.html, environment.markdown])
def test_a_value_is_escaped_once_and_a_missing_one_is_an_error(make: object) -> None:
    found = make("ltxcore.pages").overlay(loader=DictLoader({"a": "{{ value }} {{ value | safe }}"}))  # type: ignore[operator]
    assert found.get_template("a").render(value="<b>{{ 7*7 }}</b>").startswith("&lt;b&gt;{{ 7")
    assert found.get_template("a").render(value="<b>").endswith(" <b>")
    with pytest.raises(UndefinedError, match="value"):
        found.get_template("a").render()


def test_data_in_a_page_cannot_end_its_element() -> None:
    found = environment.html("ltxcore.pages").overlay(loader=DictLoader({"a": "{{ value | tojson }}"}))
    assert found.get_template("a").render(value={"a": "</script>é"}) == '{"a":"\\u003c/script\\u003eé"}'


@pytest.mark.parametrize("package", PACKAGES)
def test_styles_and_scripts_do_not_end_their_elements(package: str) -> None:
    folder = ROOT / package.replace(".", "/") / "templates"
    assets = [file for file in folder.iterdir() if file.suffix in (".css", ".js")]
    assert not [file for file in assets if "</" in file.read_text()]


def test_an_installed_package_has_its_templates() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    packed = project["tool"]["setuptools"]["package-data"]["*"]
    folders = [folder for top in ("flows", "tasks", "ltxcore") for folder in (ROOT / top).rglob("templates")]
    assert {".".join(folder.parent.relative_to(ROOT).parts) for folder in folders} == set(PACKAGES)
    for folder in folders:
        assert (folder.parent / "__init__.py").is_file()
        matched = {file for pattern in packed for file in folder.parent.glob(pattern)}
        assert {file for file in folder.rglob("*") if file.is_file()} <= matched
