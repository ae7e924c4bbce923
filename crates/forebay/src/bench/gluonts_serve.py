"""GluonTS behind FastAPI and uvicorn, for `forebay bench serve`.

    gluonts_serve.py MODEL PORT

One process and one thread of PyTorch. What else makes it faster is taken: uvloop, httptools and
orjson, the forecast made on the event loop (a thread of a pool would only wait for the same
interpreter), the garbage collector's oldest generation frozen after loading. Speaks the request
and the answer of SageMaker's DeepAR.
"""

import gc
import logging
import os
import sys
import warnings
from pathlib import Path

for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[name] = "1"
os.environ["CUDA_VISIBLE_DEVICES"] = ""
warnings.filterwarnings("ignore")
logging.disable(logging.INFO)

import numpy as np
import orjson
import pandas as pd
import torch
import uvicorn
from fastapi import FastAPI, Request, Response

torch.set_num_threads(1)

from gluonts.model.predictor import Predictor

predictor = Predictor.deserialize(Path(sys.argv[1]))
app = FastAPI()


@app.get("/ping")
async def ping():
    return Response(b"{}", media_type="application/json")


@app.post("/invocations")
async def invocations(request: Request):
    asked = orjson.loads(await request.body())
    wanted = asked["configuration"]
    series = [
        {
            "start": pd.Period(one["start"], freq="h"),
            "target": np.asarray(
                [np.nan if value is None else value for value in one["target"]], dtype=np.float32
            ),
        }
        for one in asked["instances"]
    ]
    levels = wanted["quantiles"]
    predictions = []
    for forecast in predictor.predict(series, num_samples=wanted["num_samples"]):
        # All levels at once: asked one by one each would sort the samples again.
        quantiles = np.quantile(forecast.samples, [float(level) for level in levels], axis=0)
        predictions.append(
            {
                "mean": forecast.samples.mean(axis=0),
                "quantiles": {
                    level: row.astype(np.float32) for level, row in zip(levels, quantiles)
                },
            }
        )
    body = orjson.dumps({"predictions": predictions}, option=orjson.OPT_SERIALIZE_NUMPY)
    return Response(body, media_type="application/json")


if __name__ == "__main__":
    gc.collect()
    gc.freeze()
    uvicorn.run(
        app,
        host="127.0.0.1",
        port=int(sys.argv[2]),
        loop="uvloop",
        http="httptools",
        workers=1,
        access_log=False,
        log_level="error",
    )
