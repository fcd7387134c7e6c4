"""Kill finetune.py again and again at random moments, resume it each time, and compare with a run left alone.

    python benchmarks/kill_training.py [--kills 20] [--seed 0] [--refit]

The demo's drawn faces and tower; two loader processes, mixup, an EMA, accumulation of two batches, a state every three
steps. Half of the kills are `kill -9` to the whole process group, half are SIGTERM; each comes at a random moment
after the training loop has begun. Prints the steps at which runs were taken up again, and both digests. `--refit`
trains on everybody, as a folded sweep does in the end.
"""

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.full_size import REPOSITORY
from demo import faces
from utils.models.checkpoints import read_checkpoint
from utils.models.weights import read_archive
from utils.training.resume_state import state_file

FINETUNE = f"""{REPOSITORY}/finetune.py --model {REPOSITORY}/demo/tower.pt --lr 2e-4 --epochs 24 --batch-size 8
    --workers 2 --mixup 0.2 --ema-decay 0.9 --gradient-accumulation-steps 2 --checkpointing-steps 3
    --report-to csv""".split()
STEM, REFIT_STEM = "finetune_cp_seed42_i0_epoch24", "finetune_cp_seed42_i0_foldallof5_epoch19"


def start(*extra: str) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, *FINETUNE, *extra],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def step_of_state(checkpoint: Path) -> int:
    path = state_file(checkpoint)
    return read_archive(path)["progress"]["step"] if path.is_file() else 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--refit", action="store_true")
    options = parser.parse_args()
    stem, more = (REFIT_STEM, ["--folds", "5", "--fold", "all"]) if options.refit else (STEM, [])
    rng = random.Random(options.seed)
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        faces.write_data_set(Path("data"), train=60, test=1)
        begin = time.perf_counter()
        assert start(*more).wait() == 0
        print(f"left alone: {time.perf_counter() - begin:.0f} s")
        checkpoint = Path("model") / f"{stem}.pt"
        expected = read_checkpoint(checkpoint).digest
        history = Path(f"logs/training/{stem}.csv").read_text()
        checkpoint.unlink()
        steps = []
        while len(steps) < options.kills:
            before = step_of_state(checkpoint)
            process = start("--resume", *more)
            while step_of_state(checkpoint) == before and process.poll() is None:
                time.sleep(0.05)
            time.sleep(rng.uniform(0, 1.5))
            if process.poll() is not None:
                sys.exit(f"the run was done after {len(steps)} kills: give it more epochs")
            number = (signal.SIGKILL, signal.SIGTERM)[len(steps) % 2]
            os.killpg(process.pid, number)
            code = process.wait()
            assert code == (-9 if number == signal.SIGKILL else 143), code
            steps.append(step_of_state(checkpoint))
            assert not checkpoint.is_file()
        assert start("--resume", *more).wait() == 0
        digest = read_checkpoint(checkpoint).digest
        print(f"{options.kills} kills; taken up again in the steps {', '.join(map(str, steps))}")
        print(f"digest {expected} left alone, {digest} killed: {'the same' if digest == expected else 'DIFFERENT'}")
        print(f"the same CSV of epochs: {Path(f'logs/training/{stem}.csv').read_text() == history}")
        print(f"states left behind: {sum(1 for _ in Path('model/states').iterdir())}")


if __name__ == "__main__":
    main()
