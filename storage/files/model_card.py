"""The model card of an export: Markdown for people, made of its provenance alone.

    model_card(read_provenance(folder), rest="provenance.json")

Numbers and pictures first, then how to use it, then where it comes from.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from storage.files.certificate_words import certificate_lines
from storage.files.markdown import (
    describe_basis,
    escape_markup,
    format_code,
    format_count,
    format_picture,
    format_rows,
    format_table,
)

HARDLY = 0.01  # share by which a model's error is below the baseline's, and no more


def model_card(about: Mapping[str, Any], *, rest: str) -> str:
    """Return the card of the export with the provenance ``about``.

    rest: the name of the file that holds the whole provenance
    """
    images = about["images"]
    parts = [
        f"# {escape_markup(about['study'])}, rank {about['rank']}",
        f"{escape_markup(about['model'])} with {about['model_parameters']:,} parameters, trained "
        f"on {escape_markup(about['data'])}\n({images['train']:,} training, "
        f"{images['valid']:,} validation, {format_count(images['test'], 'test image')}).",
        *_warnings(about),
        _scores(about),
        *_certificate(about),
        *([_verdict(about["verdict"])] if about.get("verdict") else []),
        *map(format_table, about["tables"]),
        *(format_picture(*pair) for pair in about["pictures"].items()),
        _use(about),
        "## Configuration",
        format_rows(["parameter", "value"], _exact_values(about["parameters"])),
        _origin(about),
        f"The rest, with the learning curve and every file's SHA-256, is in `{rest}`.",
    ]
    return "\n\n".join(parts) + "\n"


def warnings_of(about: Mapping[str, Any]) -> list[str]:
    """Return the lines that nobody who takes the export with the provenance ``about`` may miss."""
    nothing_learned = compare_with_baseline(about)
    return [*([nothing_learned] if nothing_learned else []), *about.get("remarks", ())]


def compare_with_baseline(about: Mapping[str, Any]) -> str:
    """Say that the model is no better than what it has to beat; empty where it is better.

    about: the provenance of its export
    """
    baseline, metric = about.get("baseline"), str(about["metric"])
    part = "valid" if about["test"] is None else "test"
    if not baseline or part not in baseline:
        return ""
    value, beaten = about[part][metric], baseline[part]
    lower = about["direction"] == "minimize"
    if value < beaten * (1 - HARDLY) if lower else value > beaten:
        return ""
    return (
        f"this model has learned next to nothing: its {metric} is {value:.6g}, and "
        f"{baseline['what']} has {beaten:.6g}"
    )


def _warnings(about: Mapping[str, Any]) -> list[str]:
    lines = [f"- **{escape_markup(line)}**" for line in warnings_of(about)]
    return ["\n".join(lines)] if lines else []


def _scores(about: Mapping[str, Any]) -> str:
    metric, baseline = str(about["metric"]), about.get("baseline") or {}
    shown = {"valid": "validation", "test": "test, judged once"}
    beaten = [escape_markup(baseline["what"])] if baseline else []
    rows = []
    for part, name in shown.items():
        if about[part] is not None:
            others = [f"{baseline[part]:.6f}" if part in baseline else "-" for _ in beaten]
            rows.append([name, f"{about[part][metric]:.6f}", *others])
    table = format_rows(["images", escape_markup(metric), *beaten], rows)
    return f"{table}\n\n{escape_markup(describe_scores(about))}"


def describe_scores(about: Mapping[str, Any]) -> str:
    """Say what stands behind the validation and the test value of an export: one run, and images
    or samples."""
    judge, parts = about.get("judge") or {}, {"valid": "validation", "test": "test"}
    if about["metric"] in judge.get("floor", {}) and "samples" in judge:
        measured_on = f"{judge['samples']:,} samples"
    else:
        known = [part for part in parts if about[part] is not None]
        counts = [f"{about['images'][part]:,} {parts[part]}" for part in known]
        measured_on = f"{' and '.join(counts)} images"
    return describe_basis({"seeds": 1, "measured_on": f"{measured_on}, of the exported run"})


def _certificate(about: Mapping[str, Any]) -> list[str]:
    """Return what several seeds say of the configuration, which one number does not."""
    lines = [f"- {escape_markup(line)}" for line in certificate_lines(about)]
    return ["\n".join(["How sure that is:", "", *lines])] if lines else []


def _exact_values(parameters: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return the parameters with all their digits: people copy them."""
    return [(escape_markup(name), escape_markup(str(value))) for name, value in parameters.items()]


def _use(about: Mapping[str, Any]) -> str:
    """Say how the model is used: the programs, and lines that run as they stand."""
    parts = ["## Use"]
    if about.get("programs"):
        largest = max(about["output_differences"].values())
        programs = [
            [escape_markup(cell) for cell in (f"{name}.onnx, {name}.pt2", *sides)]
            for name, *sides in about["programs"]
        ]
        parts += [
            format_rows(["program", "takes", "gives"], programs),
            "N is free. Loaded back, all outputs equal the live model's to "
            f"{largest:.1e} of the largest.\n"
            "The files say the same in their metadata, and how images are prepared.",
        ]
    if about.get("attributes"):
        ranges = [(escape_markup(name), *ends) for name, ends in about["attributes"].items()]
        parts.append(format_rows(["attribute", "lowest, as 0", "highest, as 1"], ranges))
    if about.get("onnx_usage"):
        reads = any("example.png" in line for line in about["onnx_usage"])
        example = " Pillow reads `example.png`, one of the images; any file does." if reads else ""
        parts.append(f"In this folder, with onnxruntime and numpy alone.{example}")
        parts.append(_code(about["onnx_usage"]))
    if about.get("loading"):
        parts += ["With genstudy:", _code(about["loading"])]
    return "\n\n".join(parts)


def _code(lines: Sequence[str]) -> str:
    return format_code("\n".join(lines), "python")


def _origin(about: Mapping[str, Any]) -> str:
    rows = [
        ("epochs",
         f"{about['epochs']}, ended by {about['ended_by']}; weights of epoch "
         f"{about['best_epoch']}"),
        ("seed", _seed(about)),
        ("trained on", f"{about['device']}, {about['seconds']:.0f} s"),
        ("code", about["revision"]),
        ("made", about["made"]),
    ]  # fmt: skip
    trial = (
        f"Trial {about['trial']} of the study (value {about['trial_value']:.6f}), trained again:"
    )
    shown = [(name, escape_markup(str(value))) for name, value in rows]
    return f"## Where it comes from\n\n{trial}\n\n{format_rows(['', ''], shown)}"


def _seed(about: Mapping[str, Any]) -> str:
    """Return the seed of the weights, and which of several it is."""
    certificate = about.get("certificate") or {"values": [0]}
    count = len(certificate["values"])
    return f"{about['seed']}" + (f" ({about['repeat']} of {count})" if count > 1 else "")


def _verdict(verdict: Mapping[str, Any]) -> str:
    """Say in one line how the training went."""
    kind = str(verdict["verdict"]).replace("d_won", "D won").replace("g_won", "G won")
    word = "best in" if kind == "healthy" else "since"
    when = f"{word} epoch {verdict['verdict_epoch']}"
    why = escape_markup(verdict["verdict_reason"])
    return f"How the training ended: {escape_markup(kind)}, {when}. {why}"
