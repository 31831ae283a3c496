"""The figures in a file: whole or not at all, and nothing that its disk does reaches the loop."""

import os
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from daemon.parts import Gateway
from daemon.running import wait_until
from prometheus_client.parser import text_string_to_metric_families

from ctfw.config import MetricsSettings
from ctfw.service.journal import Journal
from ctfw.service.kinds import SECOND, SINK_FAILED, SINK_WORKS
from ctfw.service.textfile import Textfile


class Told(Journal):
    def __init__(self) -> None:
        super().__init__("stderr", {})
        self.entries: list[tuple[str, dict[str, str]]] = []

    def _put(self, text: str, priority: int, fields: Mapping[str, str]) -> None:
        self.entries.append((text, dict(fields)))


@pytest.fixture
def gateway(tmp_path: Path) -> Iterator[Gateway]:
    made = Gateway(tmp_path)
    yield made
    made.close()


def settled(textfile: Textfile, now: int) -> None:
    """One turn, from its first piece of text to the end of its writer."""

    def is_over() -> bool:
        textfile.tick(now)
        return not (textfile._making or textfile._writer)

    textfile.tick(now)
    wait_until(is_over)


def test_it_is_written_when_it_is_time_and_removed_at_the_end(gateway: Gateway, tmp_path: Path) -> None:
    path = tmp_path / "out" / "ctfw.prom"
    path.parent.mkdir()
    before = os.umask(0o077)
    try:
        textfile = Textfile(gateway.parts, Told())
        textfile.configure(MetricsSettings(str(path), 15))
        settled(textfile, SECOND)
    finally:
        os.umask(before)
    assert path.stat().st_mode & 0o777 == 0o644  # the unit's umask is 0077, and node_exporter is somebody else
    assert len(list(text_string_to_metric_families(path.read_text()))) > 40
    assert os.listdir(path.parent) == ["ctfw.prom"]

    path.unlink()
    textfile.tick(15 * SECOND)
    assert textfile._making is None
    settled(textfile, 16 * SECOND)
    assert path.exists()
    textfile.close()
    assert os.listdir(path.parent) == []


def test_a_directory_that_cannot_be_written_is_said_once_and_so_is_its_return(gateway: Gateway, tmp_path: Path) -> None:
    log = Told()
    path = tmp_path / "missing" / "ctfw.prom"
    textfile = Textfile(gateway.parts, log)
    textfile.configure(MetricsSettings(str(path), 1))
    for second in range(1, 5):
        settled(textfile, second * SECOND)
    assert [fields["MESSAGE_ID"] for _, fields in log.entries] == [SINK_FAILED.id]
    assert log.entries[0][0] == f"metrics: {path}: cannot be written: No such file or directory"
    path.parent.mkdir()
    for second in range(5, 9):
        settled(textfile, second * SECOND)
    assert [fields["MESSAGE_ID"] for _, fields in log.entries] == [SINK_FAILED.id, SINK_WORKS.id]
    assert path.exists()


def test_a_link_in_its_place_is_not_followed(gateway: Gateway, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("precious")
    (tmp_path / ".ctfw.prom.new").symlink_to(victim)
    log = Told()
    textfile = Textfile(gateway.parts, log)
    textfile.configure(MetricsSettings(str(tmp_path / "ctfw.prom"), 1))
    settled(textfile, SECOND)
    assert victim.read_text() == "precious"
    assert "Too many levels of symbolic links" in log.entries[0][0]


def test_a_file_system_that_stalls_stalls_nobody(gateway: Gateway, tmp_path: Path) -> None:
    """A pipe that nobody reads, under the name of the draft: opening it for writing waits."""
    draft = tmp_path / ".ctfw.prom.new"
    os.mkfifo(draft)
    textfile = Textfile(gateway.parts, Told())
    textfile.configure(MetricsSettings(str(tmp_path / "ctfw.prom"), 1))
    for second in range(1, 5):
        begun = time.monotonic()
        for _ in range(20):
            textfile.tick(second * SECOND)
        assert time.monotonic() - begun < 2
    assert textfile.skipped == 3
    assert not (tmp_path / "ctfw.prom").exists()
    reader = os.open(draft, os.O_RDONLY | os.O_NONBLOCK)  # the writer goes on, and ends
    assert textfile._writer is not None
    for thread in threading.enumerate():
        if thread is textfile._writer:
            thread.join(5)
    os.close(reader)


def test_another_file_takes_the_place_of_the_one_before(gateway: Gateway, tmp_path: Path) -> None:
    first, second = tmp_path / "a.prom", tmp_path / "b.prom"
    textfile = Textfile(gateway.parts, Told())
    textfile.configure(MetricsSettings(str(first), 1))
    settled(textfile, SECOND)
    assert first.exists()
    textfile.configure(MetricsSettings(str(second), 1))
    wait_until(lambda: not first.exists())
    settled(textfile, 2 * SECOND)
    settled(textfile, 3 * SECOND)
    assert second.exists()
    textfile.configure(None)
    wait_until(lambda: not second.exists())


def test_what_was_wrong_with_the_file_before_is_not_said_of_the_next_one(gateway: Gateway, tmp_path: Path) -> None:
    log = Told()
    textfile = Textfile(gateway.parts, log)
    textfile.configure(MetricsSettings(str(tmp_path / "missing" / "a.prom"), 1))
    while textfile._writer is None:
        textfile.tick(SECOND)
    textfile._writer.join()
    textfile.configure(MetricsSettings(str(tmp_path / "b.prom"), 1))
    for second in range(2, 5):
        settled(textfile, second * SECOND)
    assert (tmp_path / "b.prom").exists()
    assert log.entries == []
