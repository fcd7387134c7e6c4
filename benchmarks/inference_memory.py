"""Peak memory of `inference.py` at 1,000 and 100,000 rows, and a run that is killed and started again.

    python benchmarks/inference_memory.py [--rows 1000 100000] [--kills 3]

The rows are links to a thousand drawn faces of 96 x 128, the model is the demo's tower (64 px) after an epoch, in a
temporary folder. Each run is a process of its own; told are its largest resident set and its time. Then the largest
run is made again from nothing and killed with SIGKILL at random moments; compared is the CSV, byte by byte. Results:
see docs/results.md.
"""

import argparse
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

from utils.data.unlabelled import SHARD

DISTINCT, TOWER = 1000, REPOSITORY / "demo" / "tower.pt"
COMMAND = [sys.executable, str(REPOSITORY / "inference.py"), "--data-location"]


def prepare(rows: list[int]) -> None:
    """A model of one epoch on drawn faces, and a folder `data{N}` for each number of rows."""
    run("demo/faces.py", "drawn", "--train", "20", "--test", str(DISTINCT))
    run("finetune.py", "--data-location", "drawn", "--model", str(TOWER), "--epochs", "1", "--report-to", "none")
    drawn = sorted(Path("drawn/eval/images").resolve().iterdir())[:DISTINCT]
    for count in rows:
        images = Path(f"data{count}/eval/images")
        images.mkdir(parents=True)
        names = [f"{k:07d}.jpg" for k in range(count)]
        for k, name in enumerate(names):
            os.link(drawn[k % len(drawn)], images / name)
        listing = "ImageID,ans\n" + "".join(f"{name},0\n" for name in names)
        (images.parent / "info.csv").write_text(listing)


def run(script: str, *arguments: str) -> None:
    subprocess.run([sys.executable, str(REPOSITORY / script), *arguments], stdout=subprocess.DEVNULL, check=True)


def infer(count: int) -> tuple[float, float, bytes]:
    """Seconds, peak resident set in MB, and the submission of a run from nothing."""
    shutil.rmtree("cache", ignore_errors=True)
    begin = time.perf_counter()
    process = subprocess.Popen([*COMMAND, f"data{count}"], stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        sys.exit(f"inference.py failed on {count} rows")
    peak = usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e6
    return time.perf_counter() - begin, peak, submission()


def submission() -> bytes:
    (path,) = Path("output").glob("output_*.csv")
    return path.read_bytes()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[1_000, 100_000])
    parser.add_argument("--kills", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        prepare(options.rows)
        for count in options.rows:
            seconds, peak, wanted = infer(count)
            print(f"{count:9,} rows: peak {peak:6.0f} MB, {seconds:6.1f} s", flush=True)
        shutil.rmtree("cache")
        shutil.rmtree("output")
        for kill in range(options.kills):
            process = subprocess.Popen([*COMMAND, f"data{count}"], stdout=subprocess.DEVNULL)
            time.sleep(random.uniform(0.5, 1) * seconds / (options.kills + 1))
            process.kill()
            process.wait()
            print(
                f"kill {kill + 1}: {len(list(Path('cache').rglob('*.npy')))} of {-(-count // SHARD)} shards are there"
            )
        subprocess.run([*COMMAND, f"data{count}"], stdout=subprocess.DEVNULL, check=True)
        assert submission() == wanted, "another submission"
        print(f"after {options.kills} kills: the same submission of {count:,} rows, byte by byte")


if __name__ == "__main__":
    main()
