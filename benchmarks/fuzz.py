"""Does any file that somebody else made crash forgetcast, run code, hang it, or fill its memory?

    python benchmarks/fuzz.py --inputs 100000 --seed 0      # about 40 minutes on 2 cores
    python benchmarks/fuzz.py --inputs 100000 --loader corpus --restart      # one loader anew
    python benchmarks/fuzz.py --show corpus 1234 /tmp/input      # writes input 1234 of the corpus and reads it

Valid small files of every kind (``tests/helpers/hostile_seeds.py``) are damaged at random
(``tests/helpers/hostile_mutations.py``: bytes, fields of lengths, JSON values, Parquet columns and metadata,
archives, bombs, links, pipes), in seven of ten cases with hashes made right again where there are any, and read in
worker processes with limited memory. Allowed is that an input is read and used, or refused by a ``ForgetcastError``
whose message is one printable line of at most 2000 characters. Findings are other exceptions, the death of the
process, more than 10 s, more than 1 GiB of memory, warnings, output, and code that ran. Every input follows from
seed, loader and number alone. Counters are kept in the folder ``--work``; a run that was stopped goes on where it
was. Writes ``fuzz.csv`` and ``fuzz.md``; exits with 1 on findings.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import random
import resource
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "tests" / "helpers"))

SECONDS = 10.0
"""What one input may take."""
ADDRESS_SPACE = 6 << 30
"""Bytes of address space of a worker; torch and pyarrow take 2 to 3 GiB of it without using them."""
COLUMNS = ("loader", "inputs", "accepted", "refused", "findings", "seconds", "peak_mib")


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--inputs", type=int, default=100_000, help="over all loaders")
    arguments.add_argument("--seed", type=int, default=0)
    arguments.add_argument("--loader", action="append", help="only this one; may be given several times")
    arguments.add_argument("--work", type=Path, default=Path(tempfile.gettempdir(), "forgetcast-fuzz"))
    arguments.add_argument("--restart", action="store_true", help="forget the counters of the loaders named")
    arguments.add_argument("--show", nargs=3, metavar=("LOADER", "NUMBER", "FOLDER"))
    arguments.add_argument("--out", type=Path, default=HERE)
    arguments.add_argument("--worker", nargs=4, help=argparse.SUPPRESS)
    given = arguments.parse_args()
    if given.worker:
        worker(*given.worker, seed=given.seed, work=given.work)
        return 0
    if given.show:
        return show(*given.show, seed=given.seed)
    from hostile_seeds import LOADERS, SHARES

    names = given.loader or list(LOADERS)
    shares = sum(SHARES.values())
    given.work.mkdir(parents=True, exist_ok=True)
    for name in names:
        state = given.work / f"{name}-{given.seed}.json"
        if given.restart:
            state.unlink(missing_ok=True)
        drive(name, -(-given.inputs * SHARES[name] // shares), given.seed, given.work, state)
    return report(given.work, given.seed, given.inputs, given.out, list(LOADERS))


# -- the parent -----------------------------------------------------------------------------------------------


def drive(name: str, inputs: int, seed: int, work: Path, state: Path) -> None:
    """Feed one loader until it has read so many inputs."""
    fresh_state = {"next": 0, "accepted": 0, "refused": 0, "seconds": 0.0, "peak_mib": 0, "findings": []}
    counts: dict[str, Any] = json.loads(state.read_text()) if state.exists() else fresh_state
    while counts["next"] < inputs:
        stop = min(inputs, counts["next"] + 3000)
        began = time.perf_counter()
        follow(name, counts, stop, seed, work)
        counts["seconds"] = round(counts["seconds"] + time.perf_counter() - began, 1)
        draft = state.with_suffix(".part")
        draft.write_text(json.dumps(counts, indent=1))
        os.replace(draft, state)
        print(f"{name}: {counts['next']} of {inputs}, {len(counts['findings'])} findings", file=sys.stderr, flush=True)


def follow(name: str, counts: dict[str, Any], stop: int, seed: int, work: Path) -> None:
    """One worker over inputs up to ``stop``, or until it dies or hangs."""
    told, tell = os.pipe()
    command = [sys.executable, __file__, "--seed", str(seed), "--work", str(work)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [*command, "--worker", name, str(counts["next"]), str(stop), str(tell)],
        pass_fds=[tell],
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    os.close(tell)
    with os.fdopen(told, "rb", buffering=0) as pipe:
        buffered, ready = b"", False
        while True:
            if not select.select([pipe], [], [], SECONDS if ready else 120.0)[0]:
                process.kill()
                process.wait()
                if not ready:
                    raise RuntimeError(f"the worker of {name} did not start")
                _found(counts, f"more than {SECONDS:g} s")
                return
            chunk = pipe.read(65536)
            if not chunk:
                break
            buffered += chunk
            *lines, buffered = buffered.split(b"\n")
            for line in lines:
                outcome, peak, said = json.loads(line)
                ready = True
                if outcome == "ready":
                    continue
                counts["peak_mib"] = max(counts["peak_mib"], peak)
                if outcome == "finding":
                    _found(counts, said)
                else:
                    counts[outcome] += 1
                    counts["next"] += 1
    _, errors = process.communicate()
    if process.returncode:
        if not ready:
            raise RuntimeError(f"the worker of {name} did not start: {errors.decode(errors='replace')[-1000:]}")
        code = process.returncode
        died = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        _found(counts, f"the process died: {died} {errors.decode(errors='replace')[-200:]}")


def _found(counts: dict[str, Any], said: str) -> None:
    counts["findings"].append([counts["next"], said])
    counts["next"] += 1


# -- the worker -----------------------------------------------------------------------------------------------


def prepared(name: str, number: int, seed: int, valid: Path, folder: Path, canary: Path) -> str:
    """Make input ``number`` of a loader in ``folder``; returns what was done to it."""
    from hostile_mutations import fresh, mutate
    from hostile_seeds import LOADERS

    rng = random.Random(f"{seed}/{name}/{number}")
    fresh(valid, folder)
    done = mutate(folder, rng, canary)
    repair = LOADERS[name].repair
    if repair is not None and rng.random() < 0.7:
        repair(folder)
        done += ", hashes repaired"
    return done


def worker(name: str, start: str, stop: str, tell: str, *, seed: int, work: Path) -> None:
    """Read inputs one after another and say of each what came of it."""
    from hostile_judge import judge, peak_memory
    from hostile_seeds import LOADERS

    loader = LOADERS[name]
    area = Path("/dev/shm" if os.access("/dev/shm", os.W_OK) else tempfile.gettempdir())
    with tempfile.TemporaryDirectory(dir=area, prefix="forgetcast-fuzz-") as scratch, os.fdopen(int(tell), "w") as pipe:
        valid, folder = Path(scratch, "valid"), Path(scratch, "inputs", "folder")
        valid.mkdir()
        folder.parent.mkdir()
        canary = Path(scratch, "canary")
        loader.make(valid)
        loader.read(valid)  # whatever is imported late
        shutil.rmtree(valid)
        valid.mkdir()
        loader.make(valid)
        resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE, ADDRESS_SPACE))
        leaked = os.open(Path(scratch, "output"), os.O_RDWR | os.O_CREAT)
        kept = os.dup(2)
        pipe.write('["ready", 0, ""]\n')
        pipe.flush()
        for number in range(int(start), int(stop)):
            prepared(name, number, seed, valid, folder, canary)
            os.dup2(leaked, 1)
            os.dup2(leaked, 2)
            outcome, said = judge(loader.read, folder, canary)
            sys.stdout.flush()
            sys.stderr.flush()
            os.dup2(kept, 2)
            if size := os.fstat(leaked).st_size:
                output = os.pread(leaked, 200, 0).decode(errors="replace")
                os.ftruncate(leaked, 0)
                os.lseek(leaked, 0, os.SEEK_SET)
                if outcome != "finding":
                    outcome, said = "finding", f"{size} bytes of output: {output!r}"
            pipe.write(json.dumps([outcome, peak_memory() >> 20, said]) + "\n")
            pipe.flush()


def show(name: str, number: str, place: str, *, seed: int) -> int:
    """Write an input to ``place``, and read it without any net."""
    import hostile_seeds

    folder = Path(place)
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        hostile_seeds.LOADERS[name].make(Path(scratch))
        print(prepared(name, int(number), seed, Path(scratch), folder / "input", folder.parent / "canary"))
    hostile_seeds.LOADERS[name].read(folder / "input")
    print("accepted")
    return 0


# -- the report -----------------------------------------------------------------------------------------------


def report(work: Path, seed: int, inputs: int, out: Path, names: list[str]) -> int:
    rows, findings = [], []
    for name in names:
        state = work / f"{name}-{seed}.json"
        if state.exists():
            counts = json.loads(state.read_text())
            found = counts["findings"]
            rows.append(
                (
                    name,
                    counts["next"],
                    counts["accepted"],
                    counts["refused"],
                    len(found),
                    counts["seconds"],
                    counts["peak_mib"],
                )
            )
            findings += [(name, *finding) for finding in found]
    rows.append(("all", *(round(sum(row[place] for row in rows), 1) for place in range(1, 6)), max(r[6] for r in rows)))
    with (out / "fuzz.csv").open("w", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([COLUMNS, *rows])
    lines = [
        "# Hostile input",
        "",
        f"`python benchmarks/fuzz.py --inputs {inputs} --seed {seed}`: every kind of file that somebody else made,",
        "damaged at random and read in a process of limited memory. What counts as a finding is in [fuzz.py](fuzz.py).",
        "Seconds are wall time with making the inputs; the peak is that of the whole process, libraries included.",
        "",
        "| loader | inputs | accepted | refused | findings | seconds | peak MiB |",
        "| --- | --- | --- | --- | --- | --- | --- |",
        *("| " + " | ".join(map(str, row)) + " |" for row in rows),
        "",
        "## Findings" if findings else "No findings.",
        *(["", *(f"- {name} {number}: `{said[:300]}`" for name, number, said in findings[:50])] if findings else []),
    ]
    (out / "fuzz.md").write_text("\n".join(lines) + "\n")
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())
