"""Many command lines of `soda_jax.main`, each in a fork of one process that has imported the program already."""

import json
import os
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).parents[1]
SERVER = """
import json, os, sys, time
from soda_jax import main
import soda_jax.training.loop
ends = {}
for name, arguments in json.load(open(sys.argv[1])).items():
    begin, log = time.monotonic(), f"{sys.argv[1]}.{len(ends)}.log"
    child = os.fork()
    if not child:
        output = os.open(log, os.O_WRONLY | os.O_CREAT)
        os.dup2(output, 1), os.dup2(output, 2)
        sys.argv = ["main", *arguments]
        main.main()
    while not (done := os.waitpid(child, os.WNOHANG))[0]:
        if time.monotonic() - begin > 60:
            os.kill(child, 9)
        time.sleep(0.01)
    ends[name] = done[1], open(log, errors="replace").read()
json.dump(ends, open(sys.argv[1], "w"))
"""


def ends(lines: dict[str, list[str]], folder: pathlib.Path) -> dict[str, tuple[int, str]]:
    """{name: (wait status, output)} of the arguments of every name, run one after the other from the repository.

    Args:
      folder: to work in; what is left there are files called lines*.
    """
    (folder / "lines").write_text(json.dumps(lines))
    environment = os.environ | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    subprocess.run([sys.executable, "-c", SERVER, str(folder / "lines")], cwd=ROOT, env=environment, check=True)
    return json.loads((folder / "lines").read_text())
