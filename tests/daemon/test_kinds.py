"""Each kind of line has an identity for ever, and a word about it in the journal's catalog."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

import ctfw
from ctfw.service import kinds

ROOT = Path(__file__).parents[2]
CATALOG = ROOT / "packaging" / "systemd" / "ctfw.catalog"
PAGE = (ROOT / "docs" / "health.md").read_text()
PACKAGE = Path(ctfw.__file__).parent
ENVIRONMENT = {"CTFW_SOCKET"}  # named so, and no field

LOSSES = {"CTFW_COUNT"}
FIELDS = {
    kinds.PACKET: {"CTFW_RULE", "CTFW_ORIGIN", "CTFW_VERDICT"},
    kinds.TABLE_FULL: LOSSES,
    kinds.SOURCE_FULL: LOSSES,
    kinds.QUEUE_OVERRUN: LOSSES,
    kinds.FAILURE_POLICY: LOSSES,
    kinds.ALTERED: {"CTFW_UID", "CTFW_METHOD"},
    kinds.CONTROL_REFUSED: {"CTFW_UID"},
    kinds.SUPPRESSED: {"CTFW_SUPPRESSED", "CTFW_ABOUT"},
}


def entries() -> dict[str, str]:
    """The catalog's entries by id, in its order."""
    parts = re.split(r"^-- (.*)\n", CATALOG.read_text(), flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def test_ids_and_names_are_unique_and_well_formed() -> None:
    assert len({kind.id for kind in kinds.ALL}) == len({kind.name for kind in kinds.ALL}) == len(kinds.ALL) > 20
    for kind in kinds.ALL:
        assert re.fullmatch("[0-9a-f]{32}", kind.id)
        assert re.fullmatch("[a-z]+(-[a-z]+)*", kind.name)


def test_ids_are_those_of_the_first_release() -> None:
    """Alarms out there match on them: changing one is an incompatible change."""
    assert {kind.name: kind.id for kind in (kinds.STARTED, kinds.TABLE_FULL, kinds.PACKET)} == {
        "started": "825a7df1cf88428fb9d8a23acf0195b5",
        "table-full": "7bc11916dfe4477983d00bb54f1f1d85",
        "packet": "3379a90db4e543d1a354bff224f71c35",
    }


def test_the_catalog_explains_every_kind() -> None:
    assert list(entries()) == [kind.id for kind in kinds.ALL]


def test_each_entry_has_a_subject_and_a_text() -> None:
    for name, text in entries().items():
        head, _, body = text.partition("\n\n")
        assert re.fullmatch(r"Subject: .+\nDefined-By: ctfw\nDocumentation: man:ctfw(-rules)?\([58]\)", head), name
        assert body.strip(), name
        assert re.findall("@(.*?)@", body) == re.findall("@(CTFW_[A-Z]+)@", body)


@pytest.mark.skipif(shutil.which("journalctl") is None, reason="needs journalctl")
def test_systemd_reads_the_catalog(tmp_path: Path) -> None:
    catalogs = tmp_path / "usr" / "lib" / "systemd" / "catalog"
    catalogs.mkdir(parents=True)
    (tmp_path / "var" / "lib" / "systemd" / "catalog").mkdir(parents=True)
    shutil.copy(CATALOG, catalogs)
    done = subprocess.run(
        ["journalctl", "--update-catalog", f"--root={tmp_path}"], capture_output=True, text=True, timeout=20
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    listed = subprocess.run(
        ["journalctl", "--list-catalog", f"--root={tmp_path}"], capture_output=True, text=True, timeout=20
    )
    told = {line.split()[0]: line.split(" ", 1)[1].strip() for line in listed.stdout.splitlines()}
    subjects = {name: re.search("Subject: (.*)", text) for name, text in entries().items()}
    assert {name: f"ctfw: {found[1]}" for name, found in subjects.items() if found} == told


def test_the_documentation_has_every_kind_and_its_limit() -> None:
    rows = re.findall(r"^\| `([a-z-]+)` \| ([0-9a-f]{32}) \| (.*?) \|$", PAGE, re.MULTILINE)
    limits = {kind: f"{kind.burst}, then one each {kind.interval // kinds.SECOND} s" for kind in kinds.ALL}
    assert rows == [(kind.name, kind.id, limits[kind] if kind.interval else "") for kind in kinds.ALL]


def test_the_documentation_has_every_field() -> None:
    written = {name for path in PACKAGE.rglob("*.py") for name in re.findall(r'"(CTFW_[A-Z]+)"', path.read_text())}
    cells = re.findall(r"^\| (`CTFW_.*?) \|", PAGE, re.MULTILINE)
    explained = {name for cell in cells for name in re.findall("CTFW_[A-Z]+", cell)}
    assert explained == written - {"CTFW_EVENT", *ENVIRONMENT}
    assert "`CTFW_EVENT`" in PAGE


def test_the_catalog_uses_fields_that_its_kind_has() -> None:
    for name, text in entries().items():
        (kind,) = [kind for kind in kinds.ALL if kind.id == name]
        assert set(re.findall("@(CTFW_[A-Z]+)@", text)) <= FIELDS.get(kind, set()), kind.name
