"""The deployment guardrails of SageMaker's guide by boto3, and update_endpoint of its SDK.

Each example of the guide with its waits shortened: canary, linear, all at once and rolling, with
the alarms that undo them. The test has made the models `day` and `flat`, which answer 10 and 33
for the first hour.
"""
import json, time

import boto3
from botocore.exceptions import ClientError
import sagemaker
from sagemaker.predictor import Predictor

sm, runtime, watch = (boto3.client(name) for name in ("sagemaker", "sagemaker-runtime", "cloudwatch"))
REGION = boto3.Session().region_name
FIRST = {10: "day", 33: "flat"}
BODY = json.dumps({
    "instances": [{"start": "2024-01-01 00:00:00", "target": [10.0 + hour % 24 for hour in range(240)]}],
    "configuration": {"num_samples": 10, "output_types": ["mean"]},
})
alarm = "guarded-5xx"


def same(left, right, what=""):
    assert left == right, f"{what}: {left!r} is not {right!r}"


def refused(code, call, word, **arguments):
    try:
        answer = call(**arguments)
    except ClientError as error:
        told = error.response["Error"]
        same(told["Code"], code, told["Message"])
        assert word in told["Message"], told["Message"]
        return
    raise AssertionError(f"{call.__name__} should be refused with {code}, but answered {answer}")


def variant(model, weight=1.0, count=1):
    return {"VariantName": "AllTraffic", "ModelName": model, "InitialInstanceCount": count, "InstanceType": "ml.m5.xlarge", "InitialVariantWeight": weight}


def config(name, model, count=1):
    sm.create_endpoint_config(EndpointConfigName=name, ProductionVariants=[variant(model, count=count)])


def wait(name="guarded"):
    sm.get_waiter("endpoint_in_service").wait(EndpointName=name, WaiterConfig={"Delay": 0.2, "MaxAttempts": 300})
    return sm.describe_endpoint(EndpointName=name)


def answered(name="guarded"):
    answer = runtime.invoke_endpoint(EndpointName=name, ContentType="application/json", Body=BODY)
    return FIRST[json.loads(answer["Body"].read())["predictions"][0]["mean"][0]]


def drawn(count=40):
    models = [answered() for _ in range(count)]
    return models.count("flat")


def blue_green(routing, termination=0):
    return {
        "BlueGreenUpdatePolicy": {
            "TrafficRoutingConfiguration": routing,
            "TerminationWaitInSeconds": termination,
            "MaximumExecutionTimeoutInSeconds": 600,
        },
        "AutoRollbackConfiguration": {"Alarms": [{"AlarmName": alarm}]},
    }


def percent(value):
    return {"Type": "CAPACITY_PERCENT", "Value": value}


def update(to, deployment, **more):
    sm.update_endpoint(EndpointName="guarded", EndpointConfigName=to, DeploymentConfig=deployment, **more)


config("day", "day", count=3)
config("flat", "flat", count=3)
sm.create_endpoint(EndpointName="guarded", EndpointConfigName="day")
same(wait()["EndpointConfigName"], "day")
same(drawn(), 0)

# The guide's alarm: errors of the endpoint, of one variant.
watch.put_metric_alarm(
    AlarmName=alarm, AlarmDescription="undoes a deployment", ActionsEnabled=False, Namespace="AWS/SageMaker",
    MetricName="Invocation5XXErrors", Statistic="Sum", Period=60, EvaluationPeriods=1, DatapointsToAlarm=1, Threshold=1.0,
    ComparisonOperator="GreaterThanOrEqualToThreshold", TreatMissingData="notBreaching",
    Dimensions=[{"Name": "EndpointName", "Value": "guarded"}, {"Name": "VariantName", "Value": "AllTraffic"}],
)

# Canary: a third for a while, then all.
canary = blue_green({"Type": "CANARY", "CanarySize": percent(30), "WaitIntervalInSeconds": 3}, termination=1)
update("flat", canary)
during = sm.describe_endpoint(EndpointName="guarded")
same(during["EndpointStatus"], "Updating")
same(during["PendingDeploymentSummary"]["EndpointConfigName"], "flat")
refused("ValidationException", sm.update_endpoint, "Cannot update in-progress endpoint", EndpointName="guarded", EndpointConfigName="day")
refused("ValidationException", sm.delete_endpoint, "in-progress endpoint", EndpointName="guarded")
end = time.monotonic() + 20
while drawn(5) == 0:
    assert time.monotonic() < end, "the canary got nothing"
share = drawn(40)
assert 2 <= share <= 24, f"the canary answered {share} of 40"
told = wait()
same((told["EndpointConfigName"], told["LastDeploymentConfig"]), ("flat", canary))
same(drawn(), 40)
assert "FailureReason" not in told, told

# Linear: in thirds of the capacity, an instance each.
linear = blue_green({"Type": "LINEAR", "LinearStepSize": {"Type": "INSTANCE_COUNT", "Value": 1}, "WaitIntervalInSeconds": 1})
began = time.monotonic()
update("day", linear)
same(wait()["EndpointConfigName"], "day")
took = time.monotonic() - began
assert 3 <= took < 15, f"three steps of a second took {took:.1f} s"
same(drawn(), 0)

# All at once, with the old fleet kept for a while.
update("flat", blue_green({"Type": "ALL_AT_ONCE", "WaitIntervalInSeconds": 1}, termination=1))
same(wait()["EndpointConfigName"], "flat")

# Rolling, in batches of half.
rolling = {
    "RollingUpdatePolicy": {
        "MaximumBatchSize": percent(50), "WaitIntervalInSeconds": 1, "MaximumExecutionTimeoutInSeconds": 600,
        "RollbackMaximumBatchSize": percent(100),
    },
    "AutoRollbackConfiguration": {"Alarms": [{"AlarmName": alarm}]},
}
update("day", rolling)
same(wait()["EndpointConfigName"], "day")
same(drawn(), 0)

# The alarm rings while the canary bakes: everything is as before, and the reason is said.
for deployment in (canary, linear, rolling):
    update("flat", deployment)
    time.sleep(0.5)
    watch.set_alarm_state(AlarmName=alarm, StateValue="ALARM", StateReason="a test")
    told = wait()
    same(told["EndpointConfigName"], "day")
    assert alarm in told["FailureReason"], told
    same(drawn(), 0)
    # An alarm that rings already lets nothing begin.
    refused("ValidationException", sm.update_endpoint, alarm, EndpointName="guarded", EndpointConfigName="flat", DeploymentConfig=deployment)
    watch.set_alarm_state(AlarmName=alarm, StateValue="OK", StateReason="a test")

# What the guide does not allow.
for wrong, word in [
    (blue_green({"Type": "CANARY", "CanarySize": percent(60), "WaitIntervalInSeconds": 1}), "CanarySize"),
    (blue_green({"Type": "CANARY", "WaitIntervalInSeconds": 1}), "CanarySize"),
    (blue_green({"Type": "LINEAR", "LinearStepSize": percent(5), "WaitIntervalInSeconds": 1}), "LinearStepSize"),
    (blue_green({"Type": "ALL_AT_ONCE", "WaitIntervalInSeconds": 300}, termination=400), "MaximumExecutionTimeoutInSeconds"),
    ({**canary, **rolling}, "BlueGreenUpdatePolicy"),
]:
    refused("ValidationException", sm.update_endpoint, word, EndpointName="guarded", EndpointConfigName="flat", DeploymentConfig=wrong)
same(sm.describe_endpoint(EndpointName="guarded")["EndpointStatus"], "InService")

# What stays through an update when it is asked to.
update("flat", canary, RetainAllVariantProperties=True)
same(wait()["EndpointConfigName"], "flat")
sm.update_endpoint(EndpointName="guarded", EndpointConfigName="day", RetainDeploymentConfig=True)
told = wait()
same((told["EndpointConfigName"], told["LastDeploymentConfig"]), ("day", canary))
sm.update_endpoint(EndpointName="guarded", EndpointConfigName="flat")
assert "LastDeploymentConfig" not in wait()

# The SDK: a configuration of its own for each update, and its own wait, looked at oftener.
session = sagemaker.Session(boto_session=boto3.Session(), sagemaker_client=sm, sagemaker_runtime_client=runtime, default_bucket="models")
session.wait_for_endpoint = lambda endpoint, poll=30, live_logging=False: wait(endpoint)
predictor = Predictor("guarded", sagemaker_session=session)
for model in ("day", "flat"):
    before = wait()["EndpointConfigName"]
    predictor.update_endpoint(initial_instance_count=1, instance_type="ml.m5.xlarge", model_name=model)
    told = wait()
    assert told["EndpointConfigName"] not in (before, "day", "flat"), told
    same(told["EndpointStatus"], "InService")
    same({answered() for _ in range(5)}, {model})
# Another type, the same model.
predictor.update_endpoint(initial_instance_count=2, instance_type="ml.m5.2xlarge", model_name="flat")
used = sm.describe_endpoint_config(EndpointConfigName=wait()["EndpointConfigName"])["ProductionVariants"]
same([(one["ModelName"], one["InstanceType"], one["InitialInstanceCount"]) for one in used], [("flat", "ml.m5.2xlarge", 2)])
try:
    session.update_endpoint("nobody", "day")
    raise AssertionError("an endpoint that is not there was updated")
except ValueError as error:
    assert "does not exist" in str(error), error

watch.delete_alarms(AlarmNames=[alarm])
predictor.delete_endpoint()
refused("ValidationException", sm.describe_endpoint, "Could not find", EndpointName="guarded")
print("DEPLOYMENTS OK")
