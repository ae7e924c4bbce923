//! Endpoints around any predictor: the SageMaker request and its answer.
