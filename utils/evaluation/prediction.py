"""A model's outputs on photographs, which do not depend on how the work is spread over processes."""

import numpy as np
import torch
from accelerate import Accelerator

from utils.base.progress import ProgressBar
from utils.base.runtime import full_float32, linger, loader_workers
from utils.models.clip import Classifier

SEARCH_BATCH = 16
SEARCH_BATCH_GPU = 128


def search_batch(device: torch.device) -> int:
    """Photographs at once in a search: few, so that it stops soon after a candidate has lost, and on a GPU as many as
    keep it busy. A last batch is filled up to a multiple of it.
    """
    return SEARCH_BATCH if device.type == "cpu" else SEARCH_BATCH_GPU


class Rows(torch.utils.data.Dataset):
    """`squares` at these rows, as (S, S, 3) uint8 tensors."""

    def __init__(self, squares, rows: np.ndarray):
        self.squares, self.rows = squares, rows

    def __getitem__(self, position: int) -> torch.Tensor:
        return torch.from_numpy(self.squares[self.rows[position]])


def predict(
    accelerator: Accelerator,
    model: Classifier,
    squares,
    rows: np.ndarray,
    preprocessing: dict,
    batch_size: int,
    workers: int | None = 0,
    progress: str = "",
    output: str = "classify",
) -> np.ndarray:
    """(N, C) float32 logits of `squares[rows]` (or with `output="embed"` (N, D) features), the same on every process.

    The result does not depend on the number of processes: `batch_size` alone fixes the batches, these are dealt out to
    the processes, and each process adds its rows to the zeros of the others. Mixed precision plays no part. The last
    batch is filled up to a multiple of `search_batch` with its last row. So batches of that size all have one shape,
    and the result does not depend on the order of the rows either. `progress` names the bar; an empty one shows none.
    """
    model = accelerator.unwrap_model(model).to(accelerator.device).eval()  # not in inference mode, which marks buffers
    lacking = -len(rows) % min(batch_size, search_batch(accelerator.device))
    count, rows = len(rows), np.concatenate([rows, np.repeat(rows[-1:], lacking)])
    batches = [range(k, min(k + batch_size, len(rows))) for k in range(0, len(rows), batch_size)]
    mine = batches[accelerator.process_index :: accelerator.num_processes]
    loader = torch.utils.data.DataLoader(
        Rows(squares, rows),
        batch_sampler=mine,
        num_workers=loader_workers(
            accelerator, workers, min(batch_size, len(rows)), [preprocessing["size"]], most=len(mine) // 8
        ),
        worker_init_fn=linger,
        pin_memory=accelerator.device.type == "cuda",
    )
    width = model.classification_head.out_features if output == "classify" else model.config["projection_dim"]
    outputs = torch.zeros(len(rows), width, device=accelerator.device)
    bar = ProgressBar(loader, progress, unit="batch", speaks=bool(progress) and accelerator.is_main_process)
    with full_float32(), torch.inference_mode():
        for batch, some in zip(mine, bar, strict=True):
            some = some.to(accelerator.device, non_blocking=True)
            outputs[batch.start : batch.stop] = model.outputs(some, preprocessing, output)
    return accelerator.reduce(outputs)[:count].cpu().numpy()
