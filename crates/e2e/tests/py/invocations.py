"""Sends each line of a file to an endpoint by boto3, one after another: REQUESTS ENDPOINT
[SECONDS_BETWEEN] [TARGET_MODEL]. Says how long each took, in milliseconds, and which variant
answered."""

import json
import sys
import time

import boto3
from botocore.config import Config

requests, endpoint = sys.argv[1:3]
pause = float(sys.argv[3]) if len(sys.argv) > 3 else 0.0
target = {"TargetModel": sys.argv[4]} if len(sys.argv) > 4 else {}
# No second try: what is refused is to be seen.
runtime = boto3.client("sagemaker-runtime", config=Config(retries={"total_max_attempts": 1}))
took, variants = [], []
with open(requests) as lines:
    for number, line in enumerate(lines):
        began = time.perf_counter()
        answer = runtime.invoke_endpoint(
            EndpointName=endpoint,
            ContentType="application/json",
            Body=line.strip(),
            InferenceId=f"request-{number}",
            **target,
        )
        body = json.loads(answer["Body"].read())
        took.append((time.perf_counter() - began) * 1000)
        variants.append(answer["InvokedProductionVariant"])
        assert body["predictions"], body
        time.sleep(pause)
print(json.dumps({"took": took, "variants": variants}))
