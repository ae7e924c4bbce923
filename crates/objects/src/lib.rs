//! Buckets and objects on a local directory; a put is durable when it answers.
