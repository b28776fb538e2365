"""``docs/speed.md`` and its plot, from the figures of all benchmarks that have run. Measures nothing."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.goal_plot import Goal, number, plot
from benchmarks.results import DOCS, RESULTS, table

PAGE, PLOT = "speed.md", "speed.svg"
ORDER = ("cached_training", "against_peers", "data", "service", "latency", "polling", "streams", "growth")
_HEADINGS = ("question", "figure", "least to most", "repeats", "goal", "met", "what was done")

_HOW = """\
Each figure is the median of several repeats, in which what is compared was run in turn on the same machine; the spread
is the least and the most of the repeats. A ratio above 1 against another package means that ours is so many times
faster. Other packages run by their own training steps, in the same process and on as many threads, with the same
student and teacher, the same weights, batches, loss, AdamW, schedule and clipping. They are fed with our batches from
memory, so that nothing is said about loading pictures. Networks have random weights, which changes no time. The
student is a ViT of 0.7 million parameters (width 96, depth 6) on 32 × 32 pixels in patches of 4 pixels, unless a line
says otherwise.

Why a second job is faster: it reads what its teacher said. If the teacher takes *t* times as long as a step of the
student, a package that asks it every time takes 1 + *t*, a second job 1. A first job asks once for each view, so with
*V* views in *E* epochs it gains (1 + *t*) / (1 + *t V* / *E*): much where epochs are many, and nothing where every
epoch shows new views.

Not measured here: GPUs (see [gpu](gpu.md)), pictures of 224 pixels, several devices in one job, methods that tap the
teacher's features (their pages say what of it is stored), the peers' own data loading, and how good the students are
(see [quality](quality.md)).
"""


def main(arguments: Sequence[str]) -> int:
    """Write the page."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks speed_page", description=__doc__)
    parser.add_argument("--results", type=Path, default=RESULTS, help="the folder of results")
    parser.add_argument("--docs", type=Path, default=DOCS, help="the folder that the page goes to")
    options = parser.parse_args(arguments)
    documents = found(options.results)
    if not documents:
        print(f"{options.results} holds no figures; run the benchmarks first")
        return 1
    figures = [figure for document in documents.values() for figure in document["figures"]]
    (options.docs / PLOT).write_text(plot(figures), encoding="utf-8")
    (options.docs / PAGE).write_text(page(documents), encoding="utf-8")
    print(f"{options.docs / PAGE}: {len(figures)} figures of {', '.join(documents)}")
    return 0


def found(results: Path) -> dict[str, dict[str, Any]]:
    """The results that hold figures, by name, in the page's order."""
    documents = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted(results.glob("*.json"))}
    names = [name for name, document in documents.items() if isinstance(document, dict) and document.get("figures")]
    names.sort(key=lambda name: ORDER.index(name) if name in ORDER else len(ORDER))
    return {name: documents[name] for name in names}


def page(documents: Mapping[str, Mapping[str, Any]]) -> str:
    """The page's text."""
    parts = [
        "# How fast it is",
        "Made by `make bench`; `python -m benchmarks speed_page` writes it again from `benchmarks/results`.",
        _machines(documents),
        f"![Each figure with a goal, and how many times better than the goal it is]({PLOT})",
        table(
            _HEADINGS,
            [_cells(figure) for document in documents.values() for figure in document["figures"]],
            right=("figure", "least to most", "repeats", "goal"),
        ),
        "## How it was measured",
        _HOW.rstrip(),
        *(
            f"**`python -m benchmarks {name}`.** {_paragraph(document['about'])}"
            for name, document in documents.items()
            if document.get("about")
        ),
    ]
    return "\n\n".join(part.rstrip("\n") for part in parts) + "\n"


def _cells(figure: Mapping[str, Any]) -> tuple[str, ...]:
    goal = Goal.of(figure["goal"])
    least, most = figure["spread"]
    met = "" if goal is None else "yes" if goal.met(figure["value"]) else "no"
    value = f"{number(figure['value'])} {figure['unit']}"
    spread = f"{number(least)} to {number(most)}"
    shown = "" if goal is None else str(goal)
    return figure["question"], value, spread, str(figure["repeats"]), shown, met, str(figure.get("detail") or "")


def _machines(documents: Mapping[str, Mapping[str, Any]]) -> str:
    """On what it was measured, once where all agree."""
    told = {name: _machine(document.get("machine") or {}) for name, document in documents.items()}
    kinds = set(told.values())
    if len(kinds) == 1:
        return f"Machine: {kinds.pop()}."
    return "Machines:\n" + "".join(f"- {name}: {words}\n" for name, words in told.items())


def _machine(facts: Mapping[str, Any]) -> str:
    parts = [str(facts.get("processor", "not told")), f"{facts.get('cpus', '?')} CPUs"]
    parts += [str(facts["cuda"])] if facts.get("cuda") else ["no GPU"]
    parts += [f"{name} {facts[name]}" for name in ("python", "torch", "timm") if facts.get(name)]
    return ", ".join(parts)


def _paragraph(text: str) -> str:
    return " ".join(text.split())
