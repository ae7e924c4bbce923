"""What an endpoint refuses: each in the words of the service, and the endpoint goes on."""

import json
import sys

import boto3
import botocore.config
from botocore.exceptions import ClientError

ARCHIVE = sys.argv[1]
BUCKET = "models"

config = botocore.config.Config(retries={"total_max_attempts": 1})
s3 = boto3.client("s3")
sagemaker = boto3.client("sagemaker", config=config)
runtime = boto3.client("sagemaker-runtime", config=config)

ROLE = "arn:aws:iam::123456789012:role/any"
IMAGE = "522234722520.dkr.ecr.us-east-1.amazonaws.com/forecasting-deepar:1"
INSTANCE = {"start": "2024-01-01 00:00:00", "target": [float(hour % 24) for hour in range(72)]}


def refused(code, words, call, **members):
    try:
        call(**members)
    except ClientError as error:
        told = error.response["Error"]
        status = error.response["ResponseMetadata"]["HTTPStatusCode"]
        assert told["Code"] == code, (told, code)
        assert 400 <= status < 500, (status, told)
        assert words in told["Message"], (told, words)
        print(f"{status} {code}: {told['Message'][:150]}")
        return error.response
    raise AssertionError(f"{members} was not refused")


def ask(endpoint, body=None, **members):
    body = body if body is not None else {"instances": [INSTANCE]}
    if not isinstance(body, (bytes, str)):
        body = json.dumps(body)
    answer = runtime.invoke_endpoint(
        EndpointName=endpoint, Body=body, ContentType="application/json", **members
    )
    return json.loads(answer["Body"].read())


def goes_on():
    assert len(ask("one")["predictions"]) == 1
    assert len(ask("many", TargetModel="good.tar.gz")["predictions"]) == 1


s3.create_bucket(Bucket=BUCKET)
s3.upload_file(ARCHIVE, BUCKET, "one/model.tar.gz")
s3.upload_file(ARCHIVE, BUCKET, "many/good.tar.gz")
s3.put_object(Bucket=BUCKET, Key="many/broken.tar.gz", Body=open(ARCHIVE, "rb").read()[:200])
s3.put_object(Bucket=BUCKET, Key="many/text.tar.gz", Body=b"not an archive")
s3.put_object(Bucket=BUCKET, Key="broken/model.tar.gz", Body=open(ARCHIVE, "rb").read()[:200])

for name, mode, url in [
    ("one", "SingleModel", f"s3://{BUCKET}/one/model.tar.gz"),
    ("many", "MultiModel", f"s3://{BUCKET}/many/"),
    ("broken", "SingleModel", f"s3://{BUCKET}/broken/model.tar.gz"),
]:
    sagemaker.create_model(
        ModelName=name,
        ExecutionRoleArn=ROLE,
        PrimaryContainer={"Image": IMAGE, "Mode": mode, "ModelDataUrl": url},
    )
    sagemaker.create_endpoint_config(
        EndpointConfigName=name,
        ProductionVariants=[
            {
                "VariantName": "AllTraffic",
                "ModelName": name,
                "InitialInstanceCount": 1,
                "InstanceType": "ml.m5.large",
            }
        ],
    )
    sagemaker.create_endpoint(EndpointName=name, EndpointConfigName=name)
waiter = {"Delay": 1, "MaxAttempts": 30}
for name in ("one", "many"):
    sagemaker.get_waiter("endpoint_in_service").wait(EndpointName=name, WaiterConfig=waiter)
goes_on()

# A broken artifact fails its endpoint with a reason, and its invocations with a word to act on.
while sagemaker.describe_endpoint(EndpointName="broken")["EndpointStatus"] == "Creating":
    pass
told = sagemaker.describe_endpoint(EndpointName="broken")
assert told["EndpointStatus"] == "Failed" and "broken" in told["FailureReason"], told
print("failed:", told["FailureReason"])
try:
    ask("broken")
    raise AssertionError("a failed endpoint answered")
except ClientError as error:
    assert error.response["Error"]["Code"] == "ServiceUnavailable", error
sagemaker.delete_endpoint(EndpointName="broken")

invalid = "ValidationError"
refused(invalid, "not found", ask, endpoint="nowhere")
refused(invalid, "no variant", ask, endpoint="one", TargetVariant="Other")
refused(invalid, "not a multi-model", ask, endpoint="one", TargetModel="good.tar.gz")
refused(invalid, "name a target model", ask, endpoint="many")
refused(invalid, "could not find model", ask, endpoint="many", TargetModel="none.tar.gz")
refused(invalid, "could not find model", ask, endpoint="many", TargetModel="../one/model.tar.gz")
for broken in ("broken.tar.gz", "text.tar.gz"):
    refused("ModelError", "not a readable archive", ask, endpoint="many", TargetModel=broken)
    goes_on()

model = "ModelError"
for body, words in [
    ("", "JSON object"),
    ("{", "not a request"),
    ({"instances": []}, "no series"),
    ({"instances": [{"start": "noon", "target": [1]}]}, "instances[0]: start"),
    ({"instances": [INSTANCE, {"target": [1]}]}, "instances[1]"),
    ({"instances": [INSTANCE], "configuration": {"num_samples": 10_001}}, "num_samples"),
    (
        {
            "instances": [INSTANCE],
            "configuration": {"quantiles": [f"{k / 2000:.4f}" for k in range(1, 1500)]},
        },
        "1000 levels",
    ),
    ({"instances": [INSTANCE], "configuration": {"quantiles": ["1.5"]}}, "between 0 and 1"),
    (
        {
            "instances": [INSTANCE] * 300,
            "configuration": {"num_samples": 10_000, "output_types": ["samples"]},
        },
        "at most 5000000",
    ),
    ('{"instances": ' + "[" * 100_000, "nests deeper"),
    (b"\xff\xfe{}", "UTF-8"),
]:
    told = refused(model, words, ask, endpoint="one", body=body)
    assert told["OriginalStatusCode"] == 400, told
    goes_on()

# Six megabytes are taken, and no more; so is a series of a million points.
long = {"start": "1924-01-01", "target": [1.5] * 1_000_000}
assert len(ask("one", {"instances": [long]})["predictions"]) == 1
small = json.dumps({"instances": [INSTANCE]})
limit = 6 * 1024 * 1024
assert len(ask("one", small + " " * (limit - len(small)))["predictions"]) == 1
try:
    ask("one", small + " " * (limit + 1 - len(small)))
    raise AssertionError("a byte too many was taken")
except ClientError as error:
    status = error.response["ResponseMetadata"]["HTTPStatusCode"]
    assert status in (400, 413), error.response
    print(status, error.response["Error"])
goes_on()

# A model deleted while it serves is served on; its name is free to be missed.
sagemaker.delete_model(ModelName="one")
goes_on()
refused(
    "ValidationException",
    "Could not find",
    sagemaker.create_endpoint_config,
    EndpointConfigName="again",
    ProductionVariants=[
        {"VariantName": "v", "ModelName": "one", "InitialInstanceCount": 1, "InstanceType": "x"}
    ],
)
# An archive deleted below a prefix is missed once its model has left memory; before, it serves.
s3.delete_object(Bucket=BUCKET, Key="many/good.tar.gz")
goes_on()
print("the endpoint went on")
