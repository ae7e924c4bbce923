#!/usr/bin/env python3
"""From the job's Parquet to a forecast with quantiles, on the SageMaker Python SDK (2.x).

    forebay notebook ./notebook && . ./notebook/env
    python notebook.py --bucket pollution-lake --prefix output/ --picture forecast.png

Reads the readings, makes one series of each station column, trains DeepAR, deploys the model,
asks for the next points and deletes the endpoint. `get_execution_role()` finds its answer
because `forebay notebook` wrote what a notebook instance has.
"""
import argparse
import io
import json
import os
import tempfile

import boto3
import pandas as pd
import sagemaker
from sagemaker import image_uris
from sagemaker.deserializers import JSONDeserializer
from sagemaker.predictor import Predictor
from sagemaker.serializers import JSONSerializer

COLUMNS = ["ozone", "particullate_matter", "carbon_monoxide", "sulfure_dioxide", "nitrogen_dioxide"]
AHEAD = 12


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bucket", default="pollution-lake")
    parser.add_argument("--prefix", default="output/")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--picture", help="PNG to draw the forecast into")
    return parser.parse_args()


def read(bucket, prefix):
    s3 = boto3.client("s3")
    pages = s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
    keys = [item["Key"] for page in pages for item in page.get("Contents", [])]
    frames = [
        pd.read_parquet(io.BytesIO(s3.get_object(Bucket=bucket, Key=key)["Body"].read()))
        for key in keys
        if key.endswith(".parquet")
    ]
    frame = pd.concat(frames, ignore_index=True)
    frame["timestamp"] = pd.to_datetime(frame["timestamp"], utc=True).dt.tz_localize(None)
    return frame.sort_values("timestamp")


def series(frame):
    """One series a column. Readings come irregularly, so each stands for a minute of its own."""
    start = frame["timestamp"].iloc[0].strftime("%Y-%m-%d %H:%M:00")
    return [
        {"start": start, "target": [float(value) for value in frame[column]], "cat": [number]}
        for number, column in enumerate(COLUMNS)
    ]


def upload(session, bucket, whole):
    """Training sees all but the end; the test is on the end."""
    channels = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, cut in (("train", -AHEAD), ("test", None)):
            path = os.path.join(folder, f"{name}.json")
            with open(path, "w") as file:
                for one in whole:
                    file.write(json.dumps({**one, "target": one["target"][:cut]}) + "\n")
            channels[name] = session.upload_data(path, bucket=bucket, key_prefix=f"minutes/{name}")
    return channels


def draw(path, target, answer):
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    shown = target[-5 * AHEAD :]
    ahead = range(len(shown), len(shown) + AHEAD)
    figure, axes = plt.subplots(figsize=(9, 3))
    axes.plot(shown, label="measured")
    axes.plot(ahead, answer["mean"], label="mean")
    axes.fill_between(
        ahead, answer["quantiles"]["0.1"], answer["quantiles"]["0.9"], alpha=0.3, label="0.1 to 0.9"
    )
    axes.legend()
    figure.savefig(path)


def main():
    given = arguments()
    session = sagemaker.Session()
    role = sagemaker.get_execution_role()
    whole = series(read(given.bucket, given.prefix))
    estimator = sagemaker.estimator.Estimator(
        image_uri=image_uris.retrieve("forecasting-deepar", session.boto_region_name),
        role=role,
        instance_count=1,
        instance_type="ml.c5.xlarge",
        output_path=f"s3://{given.bucket}/models",
        base_job_name="minutes",
        sagemaker_session=session,
        hyperparameters={
            "time_freq": "min",
            "context_length": str(AHEAD),
            "prediction_length": str(AHEAD),
            "epochs": str(given.epochs),
            "likelihood": "student-T",
            "cardinality": "auto",
        },
    )
    estimator.fit(upload(session, given.bucket, whole))
    metrics = estimator.latest_training_job.describe()["FinalMetricDataList"]
    scores = {metric["MetricName"]: metric["Value"] for metric in metrics}
    print("scores", scores)
    assert "test:RMSE" in scores and "test:mean_wQuantileLoss" in scores, scores

    predictor = estimator.deploy(initial_instance_count=1, instance_type="ml.m5.large")
    try:
        predictor = Predictor(
            predictor.endpoint_name,
            sagemaker_session=session,
            serializer=JSONSerializer(),
            deserializer=JSONDeserializer(),
        )
        answer = predictor.predict(
            {
                "instances": whole[:1],
                "configuration": {
                    "num_samples": 200,
                    "output_types": ["mean", "quantiles"],
                    "quantiles": ["0.1", "0.5", "0.9"],
                },
            }
        )["predictions"][0]
        low, middle, high = (answer["quantiles"][level] for level in ("0.1", "0.5", "0.9"))
        assert len(answer["mean"]) == AHEAD, answer
        assert all(a <= b <= c for a, b, c in zip(low, middle, high)), "quantiles in order"
        print("forecast", [round(value, 1) for value in answer["mean"]])
        if given.picture:
            draw(given.picture, whole[0]["target"], answer)
    finally:
        predictor.delete_endpoint()
    print("NOTEBOOK OK", sagemaker.__version__)


if __name__ == "__main__":
    main()
