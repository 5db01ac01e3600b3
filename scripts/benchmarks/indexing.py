"""Times how long an archive takes to become a tree for look-ups, with nothing mounted.

Law: each run is a process of its own, which takes the time itself, so that the interpreter's start
does not count.  The archive is in the page cache.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass

from benchmarks.contestants import Contestant
from benchmarks.tools import TOP, output, without_imgmount
from benchmarks.works import Bench, Found

OURS = """
import json, os, resource, sys, time
from fusemount import _native
fd = os.open(sys.argv[1], os.O_RDONLY)
start = time.perf_counter()
index = _native.LayerIndex.scan(fd, 0, os.fstat(fd).st_size)
tree = _native.Tree()
tree.add_layer(index, fd, 0)
tree.seal()
seconds = time.perf_counter() - start
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
print(json.dumps({"seconds": seconds, "memory": peak}))
"""

VERIFIED = """
import hashlib, json, os, resource, sys, time
from fusemount import _native
start = time.perf_counter()
scanner, digest = _native.Scanner(), hashlib.sha256()
with open(sys.argv[1], "rb", buffering=0) as f:
    while piece := f.read(1 << 20):
        digest.update(piece)
        scanner.feed(piece)
index = scanner.finish()
tree = _native.Tree()
tree.add_layer(index, os.open(sys.argv[1], os.O_RDONLY), 0)
tree.seal()
seconds = time.perf_counter() - start
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
print(json.dumps({"seconds": seconds, "memory": peak}))
"""

RATARMOUNT = """
import json, resource, sys, time
from ratarmountcore.mountsource.formats.tar import SQLiteIndexedTar
start = time.perf_counter()
tar = SQLiteIndexedTar(sys.argv[1], writeIndex=False, indexFilePath=":memory:")
assert tar.lookup("/usr") is not None
seconds = time.perf_counter() - start
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
print(json.dumps({"seconds": seconds, "memory": peak}))
"""


@dataclass(frozen=True)
class IndexWork:
    """For imgmount: scan and tree, as with --no-verify; its measure `hashed` also verifies in the
    same pass, as the first mount does.  For ratarmount: SQLiteIndexedTar with its index in memory.
    """

    name: str
    image: str
    title: str

    def takes(self, contestant: Contestant) -> bool:
        return contestant.name in ("imgmount", "ratarmount")

    def visit(self, contestant: Contestant, bench: Bench) -> Found:
        measure = f"index of {self.title}"
        if contestant.name == "ratarmount":
            python = bench.tools.ratarmount() / "python"
            seconds, memory = self._run(str(python), RATARMOUNT, bench)
            return Found({measure: seconds}, memory)
        seconds, memory = self._run(sys.executable, OURS, bench)
        hashed, _ = self._run(sys.executable, VERIFIED, bench)
        return Found({measure: seconds, f"{measure}, hashed too": hashed}, memory)

    def _run(self, python: str, code: str, bench: Bench) -> tuple[float, int]:
        printed = output(
            [python, "-c", code, bench.images[self.image].tar], bench.timeout, cwd=TOP,
            environment=without_imgmount() | {"PYTHONPATH": str(TOP)},
        )  # fmt: skip
        found = json.loads(printed.splitlines()[-1])
        return float(found["seconds"]), int(found["memory"])


INDEX_WORKS = [
    IndexWork("index", "tree", "70,000 files, 2 GB"),
    IndexWork("index-million", "million", "1,000,000 empty files"),
]
