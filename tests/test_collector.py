"""The garbage collector: left alone in other processes, paused and stopped in the command line's own."""

from __future__ import annotations

import gc
import subprocess
import sys

import pytest

from reasongenrm import collector

pytestmark = pytest.mark.unit

OWNED = """
import gc, weakref
from reasongenrm import collector

class Node: pass

def cycle(ends):
    node = Node()
    node.me = node
    weakref.finalize(node, ends.append, 1)

gc.collect()
collector.own_process()
ends = []
try:
    with collector.paused():
        assert not gc.isenabled() and gc.get_freeze_count() == 0
        cycle(ends)
        collector.skip_loaded()
        frozen = gc.get_freeze_count()
        assert frozen > 1000
        gc.collect()
        assert not ends  # what was loaded is not visited, even where a library collects
        cycle(ends)
        gc.collect()
        assert ends == [1]  # what came later is
        with collector.paused():  # of a library inside another
            pass
        assert not gc.isenabled() and gc.get_freeze_count() <= frozen
        loaded = [[] for _ in range(1000)]
        raise KeyError
except KeyError:
    pass
assert gc.isenabled() and gc.get_freeze_count() > frozen + 500
cycle(ends)
collector.stop()
gc.unfreeze()  # as vLLM does when it closes
gc.collect()
assert ends == [1]
print("done")
"""


def test_the_command_line_pauses_its_collector_and_stops_it() -> None:
    done = subprocess.run([sys.executable, "-c", OWNED], capture_output=True, text=True, check=False)
    assert done.stdout == "done\n", done.stderr


def test_other_processes_keep_their_collector() -> None:
    before, frozen = (gc.isenabled(), list(gc.callbacks)), gc.get_freeze_count()
    with collector.paused():
        assert gc.isenabled()
        collector.skip_loaded()
    collector.stop()
    assert (gc.isenabled(), list(gc.callbacks)) == before
    assert gc.get_freeze_count() <= frozen, "fewer where a frozen object has ended meanwhile"
