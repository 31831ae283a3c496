"""/run is memory, and somebody else has filled it: the daemon lives, and does without what it would keep there."""

import subprocess
from pathlib import Path

import pytest
from daemon.running import COMMAND, RULES

from lab.net import Network

pytestmark = pytest.mark.kernel

# A file system of its own, full to the last byte; then the command, in it.
FULL = """
mount -t tmpfs -o size=64k,mode=700 none /run && cd /run || exit 9
cat /dev/zero >fill 2>/dev/null
exec "$0" "$@"
"""


def test_a_start_with_a_full_run(tmp_path: Path) -> None:
    rules = tmp_path / "rules.yaml"
    rules.write_text(RULES)
    with Network() as net:
        daemon = subprocess.Popen(
            ["nsenter", f"--net={net.gateway.path}", "unshare", "--mount", "sh", "-c", FULL,
             *COMMAND, "run", "--log", "stderr", "--rules", str(rules), "--socket", "/run/control.sock"],
            stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        with daemon:
            assert daemon.stderr is not None
            said = []
            for line in daemon.stderr:
                said.append(line)
                if "ctfw: started: " in line:
                    daemon.terminate()
            assert daemon.wait() == 0, said
            assert "ctfw: stopped: " in said[-1]
