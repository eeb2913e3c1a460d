"""Stand-ins for Python, Slurm and gcloud that write down what they were asked."""

import json
import os
import pathlib
import subprocess
import time

ROOT = pathlib.Path(__file__).parents[2]
LAUNCH = ROOT / "launch"

# Notes its arguments as a line of JSON, then does what the variable named after it says.
STAND_IN = """#!/usr/bin/env bash
jq_escape() { local text="${1//\\\\/\\\\\\\\}"; text="${text//\\"/\\\\\\"}"; printf '"%s"' "${text//$'\\n'/\\\\n}"; }
line="[$(jq_escape "NAME")"
for argument in "$@"; do line+=", $(jq_escape "$argument")"; done
echo "$line]" >> "$CALLS"
eval "${DO_NAME:-:}"
"""


class Stand:
    """A folder of stand-ins, first on the PATH."""

    def __init__(self, folder, *names):
        self.folder, self.calls_file = folder, folder / "calls"
        self.environment = os.environ | {
            "JAX_PLATFORMS": "cpu",  # the GPUs of the machine that runs the tests do not matter
            "PATH": f"{folder}:{os.environ['PATH']}", "CALLS": str(self.calls_file), "FOLDER": str(folder),
        }  # fmt: skip
        for name in names:
            path = folder / name
            path.write_text(STAND_IN.replace("NAME", name.replace("-", "_")))
            path.chmod(0o755)

    def does(self, **commands):
        self.environment |= {f"DO_{name}": command for name, command in commands.items()}

    def start(self, script, *arguments, **environment):
        return subprocess.Popen(
            ["bash", str(LAUNCH / script), *arguments],
            env=self.environment | environment,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    def run(self, script, *arguments, **environment):
        process = self.start(script, *arguments, **environment)
        try:
            output, errors = process.communicate(timeout=60)
        finally:
            process.kill()  # a watch that never ends would outlive its test
        return process.returncode, output, errors

    @property
    def calls(self):
        return [json.loads(line) for line in self.calls_file.read_text().splitlines()]


def wait_for(condition, seconds=30):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)
