//! IoT SQL over messages: parser, evaluator, rules.
