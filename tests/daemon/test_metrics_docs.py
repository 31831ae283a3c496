"""What is written about the metrics, and what is made of them, names metrics that exist."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from ctfw.service.kinds import ALL
from ctfw.service.metric_families import FAMILIES, MOST_RULES

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "metrics.md").read_text()
DASHBOARD = json.loads((ROOT / "packaging" / "grafana" / "ctfw.json").read_text())
ALERTS = yaml.safe_load((ROOT / "packaging" / "prometheus" / "ctfw.rules.yml").read_text())
LABELS = {family.name: {*family.labels, "instance"} for family in FAMILIES}


def expressions(node: Any) -> list[str]:
    """Every `expr` below a node of JSON or YAML."""
    if isinstance(node, dict):
        own = [node["expr"]] if "expr" in node else []
        return own + [expr for value in node.values() for expr in expressions(value)]
    return [expr for one in node for expr in expressions(one)] if isinstance(node, list) else []


ALL_EXPRESSIONS = expressions(DASHBOARD) + expressions(ALERTS)


def test_the_table_is_that_of_the_code() -> None:
    rows = re.findall(r"^\| `(ctfw_\w+)` \| (\w+) \| (.*?) \| (.*) \|$", PAGE, re.MULTILINE)
    wanted = [(one.name, one.type, ", ".join(f"`{label}`" for label in one.labels), one.help) for one in FAMILIES]
    assert rows == wanted
    assert f"{MOST_RULES:,} have figures" in PAGE


def test_names_in_the_text_exist() -> None:
    assert set(re.findall(r"`(ctfw_\w+)`", PAGE)) <= set(LABELS)


@pytest.mark.parametrize("expr", ALL_EXPRESSIONS)
def test_expressions_use_metrics_and_labels_that_exist(expr: str) -> None:
    names = re.findall(r"\bctfw_\w+", expr)
    assert names and set(names) <= set(LABELS)
    for name, selector in re.findall(r"\b(ctfw_\w+)\{(.*?)\}", expr):
        assert set(re.findall(r"(\w+)=", selector)) <= LABELS[name], expr
    known = set().union(*(LABELS[name] for name in names))
    for group in re.findall(r"by \((.*?)\)", expr):
        assert set(re.split(r", *", group)) <= known, expr
    for name in names:
        counted = re.search(rf"(rate|increase)\({name}\b", expr) is not None
        assert counted == name.endswith("_total"), f"a counter is looked at by its rate, and nothing else is: {expr}"
    assert expr.count("(") == expr.count(")") and expr.count("{") == expr.count("}")


def test_the_dashboards_and_the_alerts_say_something() -> None:
    assert len(expressions(DASHBOARD)) > 25
    assert len(expressions(ALERTS)) >= 10


def test_panels_lie_side_by_side_and_have_names() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        place = panel["gridPos"]
        cells = {(place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])}
        assert place["x"] + place["w"] <= 24 and panel["title"]
        assert not cells & taken, panel["title"]
        taken |= cells
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(set(ids)) == len(ids)


def test_legends_and_annotations_name_labels_that_exist() -> None:
    for panel in DASHBOARD["panels"]:
        for target in panel.get("targets", []):
            (name, *_) = re.findall(r"\bctfw_\w+", target["expr"])
            assert set(re.findall(r"{{(\w+)}}", target["legendFormat"])) <= LABELS[name]
    for rule in ALERTS["groups"][0]["rules"]:
        text = " ".join(rule["annotations"].values())
        names = re.findall(r"\bctfw_\w+", rule["expr"])
        assert set(re.findall(r"\$labels\.(\w+)", text)) <= set().union(*(LABELS[name] for name in names))
        assert rule["labels"]["severity"] in ("page", "warning")
        assert set(re.findall(r"CTFW_EVENT=([\w-]+)", text)) <= {kind.name for kind in ALL}


def test_alerts_have_names_of_their_own() -> None:
    names = [rule["alert"] for rule in ALERTS["groups"][0]["rules"]]
    assert len(set(names)) == len(names) and all(re.fullmatch("Ctfw[A-Z][A-Za-z]+", name) for name in names)
