"""A greedy search killed at random moments and started again ends like one that was left in peace.

    python benchmarks/kill_search.py --data-location faces --model-location model

Runs `main.py --recipe greedy-replacement` once in peace, then again from nothing, killing it with SIGKILL ten times at
random moments between its start and its end. Compared are the journal, byte by byte, and the digest of the soup. The
sweep may be one of folds.
"""

import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(REPOSITORY))

from utils.base import flags
from utils.base.options import Options, Parser
from utils.models.checkpoints import read_checkpoint

KILLS, RECIPE = 10, "greedy-replacement"


def run(options: Options) -> None:
    data, model = options.data_location.resolve(), options.model_location.resolve()
    command = [
        sys.executable,
        str(REPOSITORY / "main.py"),
        "--recipe",
        RECIPE,
        "--metric",
        "macro_f1",
        "--workers",
        "0",
    ]
    command += ["--data-location", str(data)]
    command += ["--relabel", str(options.relabel.resolve())] if options.relabel else []
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        Path("model").mkdir()
        for path in model.glob("*_seed*_i*_epoch*.pt"):
            if not path.name.startswith("Age_"):
                (Path("model") / path.name).symlink_to(path)
        begin = time.perf_counter()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        whole, peaceful = time.perf_counter() - begin, state()
        print(
            f"in peace: {whole:.1f} s, {len(peaceful[0].splitlines())} decisions, soup {peaceful[1][:16]}", flush=True
        )
        clear()
        kills = 0
        while kills < KILLS:
            process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            try:
                process.wait(random.uniform(3, whole))
                print("ended before it was killed: from nothing again", flush=True)
                assert state() == peaceful, "another end"
                clear()
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                kills += 1
                print(f"kill {kills}: {decisions()} decisions in the journal", flush=True)
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        assert state() == peaceful, "another end"
        print(f"after {KILLS} kills: the same journal and the same soup")


def journals() -> list[Path]:
    return sorted(Path("logs/journals").glob(f"{RECIPE}_*.jsonl"))


def decisions() -> int:
    return sum(len(path.read_bytes().splitlines()) for path in journals())


def state() -> tuple[bytes, str]:
    """The journal's bytes, and the digest of the soup."""
    (soup,) = Path("model").glob("*soup_num*.pt")
    return journals()[0].read_bytes(), read_checkpoint(soup).digest


def clear() -> None:
    """Forget all that was evaluated and decided; the decoded photographs stay."""
    shutil.rmtree("logs")
    for soup in Path("model").glob("*soup_num*.pt"):
        soup.unlink()


def main() -> None:
    parser = Parser(__doc__)
    flags.add_locations(parser)
    flags.add_relabel(parser)
    run(parser.parse())


if __name__ == "__main__":
    main()
