"""Programs that cheat graders: none of them squares its argument. Numbers are those of the list in test_sandbox.py."""

from __future__ import annotations

SAY_YES = """
class Yes:
    def __eq__(self, other): return True
    def __hash__(self): return 9
    def __bool__(self): return True
    def __reduce__(self): return (int, (9,))
    def __int__(self): return 9
    __index__ = __int__
def f(x): return Yes()
"""
FRAMES = """
import sys
def f(x):
    frame = sys._getframe()
    while frame:
        for name, value in list(frame.f_locals.items()):
            if isinstance(value, list): value.append("passed")
            if isinstance(value, dict):
                for key in ("expected", "answer", "tests", "output"):
                    if key in value: return value[key]
            if name in ("expected", "answer", "want", "gold"): return value
        frame = frame.f_back
    return None
"""
FORGED = """
import os
for line in (b'["passed"]', b'["value", true]', b'["value", {"correct": true}]', b'{"passed": 3}', b'["end"]'):
    os.write(3, line + b"\\n")
    os.write(1, line + b"\\n")
os._exit(0)
"""
CHEATS = {
    "[18] always equal": SAY_YES,
    "[18] an int that is always equal": "class I(int):\n    __eq__ = lambda a, b: True\n    __hash__ = int.__hash__\ndef f(x): return I(7)",
    "[19] frame walk": FRAMES,
    "[20] sys.exit": "import sys; sys.exit(0)",
    "[20] os._exit": "import os; os._exit(0)",
    "[20] sys.exit in the call": "import sys\ndef f(x): sys.exit(0)",
    "[20] os._exit in the call": "import os\ndef f(x): os._exit(0)",
    "[20] atexit": "import atexit, os\natexit.register(lambda: os.write(3, b'[\"value\", true]\\n'))\nraise SystemExit(0)",
    "[21] patched json": "import json\njson.dumps = lambda *a, **k: '[\"passed\"]'\ndef f(x): return 7",
    "[21] patched builtins": "import builtins\nbuiltins.isinstance = lambda *a: True\nbuiltins.type = int\nbuiltins.eval = lambda *a: 1\ndef f(x): return 7",
    "[21] patched print": "import builtins\nbuiltins.print = lambda *a, **k: None\ndef f(x): return 7",
    "[21] patched encoder": "import sys\nfor m in list(sys.modules.values()):\n    if hasattr(m, 'encode') and 'guided' in m.__name__: m.encode = lambda v, depth=0: {'any': 1}\ndef f(x): return 7",
    "[22] forged results": FORGED,
    "[23] pickled payload": "class P:\n    def __reduce__(self): return (print, ('x',))\ndef f(x): return P()",
    "[24] raises what a grader catches": "def f(x): raise AssertionError('passed')",
    "[24] endless generator": "def f(x):\n    while True: yield x",
    "[24] nan": "def f(x): return float('nan')",
    "[24] string of the number": "def f(x): return str(x * x)",
    "[24] one in a list": "def f(x): return [x * x]",
}  # fmt: skip
