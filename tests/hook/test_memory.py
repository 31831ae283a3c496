"""What is remembered of the hook, and `ctfw hook heal`: what something else took away comes back, nothing else does."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from daemon.running import RULES
from hook.hooked import command, everything, needs_both_iptables, needs_nft

from ctfw.service.hook import memory
from ctfw.service.hook.memory import Memory
from ctfw.service.hook.plan import Plan
from ctfw.service.hook.programs import HookError
from lab.net import Namespace

LAST = Memory(True, "auto", Plan(queue=7, bypass=True, chains=(1,), leave_alone=("docker0",), ssh_from=("fd00::/8",)))


def test_what_was_remembered_is_recalled(tmp_path: Path) -> None:
    assert memory.recall(str(tmp_path)) is None
    assert memory.remember(str(tmp_path), LAST) == ""
    assert memory.recall(str(tmp_path)) == LAST
    assert [path.name for path in tmp_path.iterdir()] == [memory.FILE]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "null",
        "7",
        "{}",
        '{"version": 2}',
        json.dumps({"version": 1, "wanted": True, "backend": "auto", "plan": {"unheard_of": 1}}),
        json.dumps({"version": 1, "wanted": True, "backend": "auto", "plan": None}),
        json.dumps({"version": 1, "wanted": 1, "backend": "auto", "plan": {}}),
        "\udcff",
        '{"version": 1, "wanted": true' + " " * memory.MAX_SIZE + "}",
    ],
)
def test_a_memory_that_is_not_ours_is_an_error_and_can_be_forgotten(tmp_path: Path, text: str) -> None:
    (tmp_path / memory.FILE).write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(HookError, match="apply"):
        memory.recall(str(tmp_path))
    assert memory.forget(str(tmp_path)) == ""
    forgotten = memory.recall(str(tmp_path))
    assert forgotten is not None and not forgotten.wanted


@pytest.mark.parametrize("field", Plan.__dataclass_fields__)
def test_each_field_of_the_plan_must_be_what_it_is(tmp_path: Path, field: str) -> None:
    memory.remember(str(tmp_path), LAST)
    data = json.loads((tmp_path / memory.FILE).read_text())
    data["plan"][field] = {"a": 1}
    (tmp_path / memory.FILE).write_text(json.dumps(data))
    with pytest.raises(HookError):
        memory.recall(str(tmp_path))


def test_what_an_older_ctfw_did_not_know_is_the_default(tmp_path: Path) -> None:
    memory.remember(str(tmp_path), LAST)
    data = json.loads((tmp_path / memory.FILE).read_text())
    del data["plan"]["reject_bit"]
    (tmp_path / memory.FILE).write_text(json.dumps(data))
    assert memory.recall(str(tmp_path)) == LAST


def test_nowhere_to_remember_is_no_obstacle(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    missing = str(tmp_path / "file" / "x")
    with memory.held(missing):
        assert "not remembered" in memory.remember(missing, LAST)
    with memory.held(""):
        assert memory.remember("", LAST) == "" == memory.forget("")
    assert memory.recall("") is None


# --- with a kernel ------------------------------------------------------------------------------


@pytest.fixture
def gateway() -> Iterator[Namespace]:
    namespace = Namespace()
    yield namespace
    namespace.close()


@pytest.mark.kernel
@needs_nft
@needs_both_iptables
def test_what_something_else_removed_is_put_back_and_what_the_admin_removed_is_not(
    gateway: Namespace, tmp_path: Path
) -> None:
    rules, kept = tmp_path / "rules.yaml", f"--memory={tmp_path / 'kept'}"
    rules.write_text(RULES)
    assert command(gateway, "heal", kept).stderr == ""  # nothing was applied yet
    assert everything(gateway) == ""

    command(gateway, "apply", kept, f"--rules={rules}")
    applied = everything(gateway)
    assert "NFQUEUE" in applied or "queue" in applied
    rules.write_text("version: [half an edit")
    healed = command(gateway, "heal", kept)
    assert healed.stderr + healed.stdout == ""

    for program in ("nft flush ruleset", "iptables-legacy -t security -F", "ip6tables-legacy -t security -F"):
        gateway.run(*program.split())
    healed = command(gateway, "heal", kept)
    assert "put back" in healed.stderr and "differed" in healed.stderr
    assert sorted(everything(gateway).splitlines()) == sorted(applied.splitlines())

    command(gateway, "remove", kept)
    assert everything(gateway) == ""
    assert command(gateway, "heal", kept).stderr == ""
    assert everything(gateway) == ""


@pytest.mark.kernel
@needs_nft
@needs_both_iptables
def test_the_last_good_hook_stands_in_for_a_broken_file(gateway: Namespace, tmp_path: Path) -> None:
    rules, kept = tmp_path / "rules.yaml", f"--memory={tmp_path / 'kept'}"
    options = ("apply", "--last-good", kept, f"--rules={rules}")
    rules.write_text("version: 1\nrules: 7\n")
    assert "rules.yaml:2" in command(gateway, *options, code=1).stderr  # none yet
    assert everything(gateway) == ""

    rules.write_text(RULES)
    command(gateway, *options)
    applied = everything(gateway)
    command(gateway, "remove", kept)
    rules.write_text("version: 1\nrules: 7\n")
    done = command(gateway, *options)
    assert "rules.yaml:2" in done.stderr and "last apply" in done.stderr
    assert sorted(everything(gateway).splitlines()) == sorted(applied.splitlines())
    assert "rules.yaml:2" in command(gateway, "apply", kept, f"--rules={rules}", code=1).stderr


@pytest.mark.kernel
def test_in_a_network_namespace_nothing_is_remembered_unless_told(gateway: Namespace) -> None:
    with gateway:
        assert memory.place(None) == ""
        assert memory.place("/x") == "/x"
