"""What `forebay bench train` and `bench infer` have GluonTS do, each in a process of its own.

    gluonts_peer.py train SPEC.json SEED MODEL    fits, saves the model to the folder MODEL
    gluonts_peer.py score SPEC.json SEED MODEL    forecasts every origin into SPEC's "forecasts"
    gluonts_peer.py infer SPEC.json SEED MODEL    times one series, then many
    gluonts_peer.py cold  SPEC.json SEED MODEL    loads the model, forecasts one series, ends

Prints one JSON object. One thread and cached data: its best, also where it has two cores.
"""

import gzip
import json
import logging
import os
import resource
import sys
import time
import warnings
from pathlib import Path

for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[name] = "1"
os.environ["CUDA_VISIBLE_DEVICES"] = ""
warnings.filterwarnings("ignore")
logging.disable(logging.INFO)

import numpy as np
import pandas as pd
import torch

torch.set_num_threads(1)


def peak_rss_bytes():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def lines(path):
    with open(path, "rb") as file:
        packed = file.read(2) == b"\x1f\x8b"
    with (gzip.open if packed else open)(path, "rt") as file:
        for line in file:
            if line.strip():
                yield json.loads(line)


def series(path, freq):
    for number, row in enumerate(lines(path)):
        values = [np.nan if value in (None, "NaN") else value for value in row["target"]]
        yield {
            "start": pd.Period(row["start"], freq=freq),
            "target": np.asarray(values, dtype=np.float32),
            "item_id": str(row.get("item_id", number)),
        }


def train(spec, seed, model):
    import lightning.pytorch as pl
    from gluonts.dataset.common import ListDataset
    from gluonts.torch import DeepAREstimator
    from gluonts.torch.distributions import NormalOutput

    class Epochs(pl.Callback):
        """CPU seconds of each epoch."""

        def __init__(self):
            self.seconds = []

        def on_train_epoch_start(self, *_):
            self.before = time.process_time()

        def on_train_epoch_end(self, *_):
            self.seconds.append(time.process_time() - self.before)

    imported = time.process_time()
    pl.seed_everything(seed)
    rows = [{**row, "start": str(row["start"])} for row in series(spec["train"], spec["freq"])]
    data = ListDataset(rows, freq=spec["freq"])
    epochs = Epochs()
    estimator = DeepAREstimator(
        freq=spec["freq"],
        prediction_length=spec["prediction_length"],
        context_length=spec["context_length"],
        num_layers=spec["num_layers"],
        hidden_size=spec["num_cells"],
        dropout_rate=spec["dropout_rate"],
        lr=spec["learning_rate"],
        distr_output=NormalOutput(),
        batch_size=spec["mini_batch_size"],
        num_batches_per_epoch=spec["batches_per_epoch"],
        trainer_kwargs={
            "max_epochs": spec["epochs"],
            "callbacks": [epochs],
            "accelerator": "cpu",
            "logger": False,
            "enable_progress_bar": False,
            "enable_model_summary": False,
        },
    )
    predictor = estimator.train(data, cache_data=True)
    Path(model).mkdir(parents=True, exist_ok=True)
    predictor.serialize(Path(model))
    windows = spec["mini_batch_size"] * spec["batches_per_epoch"]
    import gluonts

    return {
        "versions": {"gluonts": gluonts.__version__, "torch": torch.__version__,
                     "numpy": np.__version__, "python": sys.version.split()[0]},
        "windows": windows * len(epochs.seconds),
        "windows_per_cpu_second": windows / float(np.median(epochs.seconds)),
        "import_cpu_seconds": imported,
        "cpu_seconds": time.process_time(),
        "peak_rss_bytes": peak_rss_bytes(),
    }


def load(model):
    from gluonts.model.predictor import Predictor

    return Predictor.deserialize(Path(model))


def forecasts(predictor, histories, samples):
    return predictor.predict(histories, num_samples=samples)


def score(spec, seed, model):
    predictor = load(model)
    torch.manual_seed(seed)
    data = list(series(spec["test"], spec["freq"]))
    histories = [{**data[at], "target": data[at]["target"][:origin]}
                 for at, origin in spec["origins"]]
    before = time.process_time()
    # The mean, then every level, a step after the other: what the bench scores.
    with open(spec["forecasts"], "wb") as out:
        for forecast in forecasts(predictor, histories, spec["num_samples"]):
            rows = [forecast.mean] + [forecast.quantile(level) for level in spec["quantiles"]]
            out.write(np.asarray(rows, dtype="<f4").tobytes())
    return {"cpu_seconds": time.process_time() - before}


def infer(spec, seed, model):
    predictor = load(model)
    torch.manual_seed(seed)
    one = list(series(spec["one"], spec["freq"]))[:1]
    list(forecasts(predictor, one, spec["num_samples"]))
    millis = []
    for _ in range(spec["requests"]):
        before = time.perf_counter()
        list(forecasts(predictor, one, spec["num_samples"]))
        millis.append((time.perf_counter() - before) * 1e3)
    many = list(series(spec["many"], spec["freq"]))
    before = time.process_time()
    count = sum(1 for _ in forecasts(predictor, many, spec["num_samples"]))
    took = time.process_time() - before
    return {"p50_ms": float(np.median(millis)), "min_ms": min(millis), "series": count,
            "series_per_cpu_second": count / took, "peak_rss_bytes": peak_rss_bytes()}


def cold(spec, seed, model):
    predictor = load(model)
    one = list(series(spec["one"], spec["freq"]))[:1]
    first = next(iter(forecasts(predictor, one, spec["num_samples"])))
    return {"steps": len(first.mean)}


if __name__ == "__main__":
    _, work, spec_path, seed, model = sys.argv
    with open(spec_path) as file:
        spec = json.load(file)
    print(json.dumps(globals()[work](spec, int(seed), model)))
