"""Twenty kills at random moments, and the corpus that comes out of them against an undisturbed one.

    python benchmarks/kill_test.py                 # about 3 minutes on 2 cores

``forgetcast generate`` runs in a process group of its own and is killed (SIGKILL, workers and all) after a random time;
the same command is started again until it ends by itself after the last kill. Every file of the two corpus folders must
be the same, byte for byte, shards included.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path


def command(folder: Path) -> list[str]:
    """One small target, both objectives, four unlearners."""
    return [
        *(sys.executable, "-m", "forgetcast", "generate", "--recipe", "digits-mlp", "--out", str(folder)),
        *("--instances", "60", "--unlearners", "gradient_ascent,random_relabelling,influence,ssd"),
        *("--oracle-groups", "10", "--oracle-seeds", "4", "--jobs", "2", "-q"),
    ]


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    rng = random.Random(arguments.seed)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with tempfile.TemporaryDirectory() as root:
        whole, killed = Path(root, "whole"), Path(root, "killed")
        began = time.perf_counter()
        subprocess.run(command(whole), check=True, env=environment)
        alone = time.perf_counter() - began
        kills = runs = 0
        moments = []
        while True:
            runs += 1
            process = subprocess.Popen(command(killed), env=environment, start_new_session=True)
            try:
                # From the first import to the last file: the work left shrinks, so later moments are drawn earlier.
                wait = rng.uniform(0.1, 0.75) * alone if kills < arguments.kills else None
                process.wait(wait)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
                kills += 1
                moments.append(len(list(killed.rglob("*.sha256"))))
                continue
            if kills >= arguments.kills:
                break
            for path in rng.sample(sorted(killed.rglob("*.sha256")), 8):  # done too early: take work away again
                path.unlink()
        same = contents(whole) == contents(killed)
        print(f"undisturbed run: {alone:.0f} s; {kills} kills in {runs} runs, at {moments} finished shards")
        print(f"left over drafts: {len(list(killed.rglob('*.part')))}; corpora identical: {same}")
        sys.exit(0 if same else 1)


if __name__ == "__main__":
    main()
