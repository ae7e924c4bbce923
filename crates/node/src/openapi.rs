//! The OpenAPI 3.1 document of the routes in [`crate::plain`], open to everybody at
//! `/openapi.json`.

use std::sync::LazyLock;

use serde_json::{Value, json};

/// The document, as text.
pub(crate) static DOCUMENT: LazyLock<String> = LazyLock::new(|| document().to_string());

/// What a refusal with each status means, and what to do.
const PROBLEMS: [(&str, &str); 10] = [
    ("400", "The body is no request; `detail` names the series and the member."),
    ("401", "No API key, or one that does not exist or has expired."),
    ("403", "The API key is bound to other endpoints."),
    ("404", "There is no such endpoint, variant or model."),
    ("405", "Asked by another method than POST."),
    ("413", "The body is too large; send fewer series at a time."),
    ("415", "The body is not called application/json."),
    ("429", "Too many requests wait already; ask again after `Retry-After` seconds."),
    ("500", "The model failed."),
    ("503", "The endpoint is not in service yet, or took too long; ask again later."),
];

fn document() -> Value {
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Forebay",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "Forecasts of time series, with their uncertainty. An API key is made \
                            by `forebay key create NAME`.",
            "license": {"name": "Apache 2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "security": [{"bearer": []}, {"apiKey": []}],
        "paths": {"/v1/endpoints/{name}/forecast": {"post": forecast()}},
        "components": {
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer"},
                "apiKey": {"type": "apiKey", "in": "header", "name": "x-api-key"},
            },
            "schemas": {
                "ForecastRequest": request(),
                "Series": series(),
                "ForecastAnswer": answer(),
                "Forecast": one_forecast(),
                "Problem": problem(),
            },
        },
    })
}

fn reference(schema: &str) -> Value {
    json!({"$ref": format!("#/components/schemas/{schema}")})
}

fn forecast() -> Value {
    let mut responses = json!({"200": {
        "description": "A forecast of each series, in their order.",
        "content": {"application/json": {"schema": reference("ForecastAnswer")}},
    }});
    for (status, description) in PROBLEMS {
        let mut response = json!({
            "description": description,
            "content": {"application/problem+json": {"schema": reference("Problem")}},
        });
        if matches!(status, "429" | "503") {
            response["headers"] = json!({"Retry-After": {
                "description": "Seconds.", "schema": {"type": "integer"},
            }});
        }
        responses[status] = response;
    }
    let example = json!({
        "series": [{"id": "roof-1", "start": "2024-01-01 00:00:00", "target": [12.5, 13.1, null, 12.9]}],
        "quantiles": [0.1, 0.5, 0.9],
    });
    json!({
        "operationId": "forecast",
        "summary": "Forecasts series with an endpoint's model.",
        "parameters": [{
            "name": "name", "in": "path", "required": true,
            "description": "The endpoint.", "schema": {"type": "string"},
        }],
        "requestBody": {"required": true, "content": {"application/json": {
            "schema": reference("ForecastRequest"), "example": example,
        }}},
        "responses": responses,
    })
}

fn request() -> Value {
    let level = json!({"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1});
    json!({
        "type": "object",
        "additionalProperties": false,
        "required": ["series"],
        "properties": {
            "series": {
                "type": "array", "items": reference("Series"),
                "minItems": 1, "maxItems": serving::request::INSTANCES_MAX,
            },
            "quantiles": {
                "type": "array", "items": level, "maxItems": 1000, "default": [0.1, 0.5, 0.9],
                "description": "Levels of the quantiles that are answered.",
            },
            "num_samples": {
                "type": "integer", "minimum": 1, "maximum": 10_000, "default": 100,
                "description": "Sample paths behind each forecast.",
            },
            "variant": {
                "type": "string",
                "description": "The variant that must answer; the endpoint's weights decide without it.",
            },
            "model": {
                "type": "string",
                "description": "The model that must answer, of an endpoint that holds many.",
            },
        },
    })
}

fn series() -> Value {
    let number_or_missing = json!({"type": ["number", "null"]});
    json!({
        "type": "object",
        "additionalProperties": false,
        "required": ["start", "target"],
        "properties": {
            "id": {"type": "string", "description": "Is answered as it is."},
            "start": {
                "type": "string", "examples": ["2024-01-01 00:00:00"],
                "description": "The moment of the first value.",
            },
            "target": {
                "type": "array", "items": number_or_missing,
                "description": "The values so far, one a step of the model; null where one is missing.",
            },
            "cat": {
                "type": "array", "items": {"type": "integer", "minimum": 0},
                "description": "The categories that the model was trained with.",
            },
            "dynamic_feat": {
                "type": "array", "items": {"type": "array", "items": {"type": "number"}},
                "description": "Known features, each over the target's steps and those forecast.",
            },
        },
    })
}

fn answer() -> Value {
    json!({
        "type": "object",
        "required": ["endpoint", "variant", "model", "forecasts"],
        "properties": {
            "endpoint": {"type": "string"},
            "variant": {"type": "string", "description": "The variant that answered."},
            "model": {"type": "string", "description": "The model that answered."},
            "forecasts": {"type": "array", "items": reference("Forecast")},
        },
    })
}

fn one_forecast() -> Value {
    let numbers = |description: &str| {
        json!({
            "type": "array", "items": {"type": ["number", "null"]}, "description": description,
        })
    };
    json!({
        "type": "object",
        "required": ["start", "freq", "timestamps", "mean", "quantiles"],
        "properties": {
            "id": {"type": "string"},
            "start": {"type": "string", "description": "The moment of the first step."},
            "freq": {"type": "string", "description": "The length of a step, as 1H or 15min."},
            "timestamps": {
                "type": "array", "items": {"type": "string"},
                "description": "The moment of each step.",
            },
            "mean": numbers("The mean of each step; null where the model found none."),
            "quantiles": {
                "type": "object",
                "description": "By level, as it was asked for.",
                "additionalProperties": numbers("The quantile of each step."),
            },
        },
    })
}

fn problem() -> Value {
    json!({
        "type": "object",
        "description": "As RFC 9457 has it.",
        "required": ["type", "title", "status", "detail"],
        "properties": {
            "type": {"type": "string"},
            "title": {"type": "string"},
            "status": {"type": "integer"},
            "detail": {"type": "string", "description": "What was refused, and what to do."},
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reference_leads_somewhere() {
        fn check(value: &Value, whole: &Value) {
            match value {
                Value::Object(members) => {
                    if let Some(to) = members.get("$ref").and_then(Value::as_str) {
                        let pointer = to.strip_prefix('#').unwrap();
                        assert!(whole.pointer(pointer).is_some(), "{to}");
                    }
                    members.values().for_each(|member| check(member, whole));
                }
                Value::Array(items) => items.iter().for_each(|item| check(item, whole)),
                _ => {}
            }
        }
        let whole: Value = serde_json::from_str(&DOCUMENT).unwrap();
        check(&whole, &whole);
    }
}
