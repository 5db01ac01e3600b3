"""Law: measures the daemon for `imgmount stats`; each number is read when it is asked for.

measure() returns:
    {"version", "fastpath": bool, "memory": {"rss_bytes", "peak_rss_bytes"},
     "tree": {"nodes", "bytes"}, "descriptors": {"open", "limit"}, "requests": Stats.snapshot()}
"""

from __future__ import annotations

import os
import re
import resource
from pathlib import Path
from typing import Any

from fusemount import __version__, _native


def measure(tree: _native.Tree, stats: _native.Stats, *, fastpath: bool) -> dict[str, Any]:
    rss, peak = memory(Path("/proc/self/status").read_text())
    return {
        "version": __version__,
        "fastpath": fastpath,
        "memory": {"rss_bytes": rss, "peak_rss_bytes": peak},
        "tree": {"nodes": tree.nodes, "bytes": tree.nbytes},
        "descriptors": {
            "open": len(os.listdir("/proc/self/fd")) - 1,  # the listing's own
            "limit": resource.getrlimit(resource.RLIMIT_NOFILE)[0],
        },
        "requests": stats.snapshot(),
    }


def memory(status: str) -> tuple[int, int]:
    """(VmRSS, VmHWM) in bytes, of /proc/PID/status (proc_pid_status(5)); 0 for a missing line."""
    found = dict(re.findall(r"^(VmRSS|VmHWM):\s*(\d+) kB$", status, re.MULTILINE))
    return int(found.get("VmRSS", 0)) * 1024, int(found.get("VmHWM", 0)) * 1024
