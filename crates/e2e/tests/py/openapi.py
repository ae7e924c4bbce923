"""/openapi.json by its version's own validator, and what it says beside what is asked and answered.

Usage: openapi.py URL KEY ENDPOINT (as standard input's program: python - URL KEY ENDPOINT)
"""
import json, sys, urllib.error, urllib.request

from jsonschema import Draft202012Validator
from openapi_spec_validator import OpenAPIV31SpecValidator

url, key, endpoint = sys.argv[1:]
open_to_all = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def get(request):
    try:
        with open_to_all.open(request, timeout=60) as answer:
            return answer.status, answer.headers["content-type"], json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, error.headers["content-type"], json.load(error)


status, kind, document = get(f"{url}/openapi.json")
assert (status, kind) == (200, "application/json"), (status, kind)
OpenAPIV31SpecValidator(document).validate()
(path,) = document["paths"]
operation = document["paths"][path]["post"]


def validator(schema):
    return Draft202012Validator({**schema, "components": document["components"]})


asked = validator(operation["requestBody"]["content"]["application/json"]["schema"])


def forecast(body, headers):
    """Asks, and holds the answer to what the document says of its status."""
    request = urllib.request.Request(
        url + path.replace("{name}", endpoint), json.dumps(body).encode(), {"content-type": "application/json", **headers}
    )
    status, kind, answer = get(request)
    content = operation["responses"][str(status)]["content"]
    validator(content[kind]["schema"]).validate(answer)
    return status, answer


bearer, named = {"authorization": f"Bearer {key}"}, {"x-api-key": key}
series = {"id": "roof", "start": "2024-01-01 00:00:00", "target": [float(hour % 24) for hour in range(240)]}
good = [
    operation["requestBody"]["content"]["application/json"]["example"],
    {"series": [series]},
    {"series": [{"start": "2024-01-01", "target": [1, None, 2.5]}] * 3, "quantiles": [0.05, 0.95], "num_samples": 7},
    {"series": [series], "variant": "v"},
]
for body in good:
    asked.validate(body)
    for headers in (bearer, named):
        status, answer = forecast(body, headers)
        assert status == 200, answer
        assert len(answer["forecasts"]) == len(body["series"]), answer
        levels = [str(level) for level in body.get("quantiles", [0.1, 0.5, 0.9])]
        assert all(list(one["quantiles"]) == levels for one in answer["forecasts"]), answer
bad = [
    {},
    {"series": []},
    {"series": [{"start": "2024-01-01"}]},
    {"series": [{"target": [1]}]},
    {"series": [{**series, "item_id": "x"}]},
    {"series": [{**series, "id": 7}]},
    {"series": [series], "quantiles": [1]},
    {"series": [series], "quantiles": [0]},
    {"series": [series], "num_samples": 0},
    {"series": [series], "num_samples": 2.5},
    {"series": [series], "samples": True},
    {"series": [{**series, "cat": [-1]}]},
    {"series": [{**series, "target": ["high"]}]},
]
for body in bad:
    assert not asked.is_valid(body), body
    status, answer = forecast(body, bearer)
    assert status == 400, (body, status, answer)
assert forecast(good[1], {})[0] == 401
print(f"{len(good)} good and {len(bad)} bad requests are what the document says")
print("OPENAPI OK")
