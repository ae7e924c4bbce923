//! S3 over a folder: `cargo run -p aws-s3 --example serve -- PORT FOLDER KEY SECRET`.

use std::path::Path;
use std::sync::Arc;

use aws_s3::{S3Front, SecretKeys, Settings};
use hyper_util::rt::TokioIo;
use identity::{KeyRefusal, Secret};

struct One(String, Secret);

impl SecretKeys for One {
    fn secret(&self, id: &str, token: Option<&str>) -> Result<Secret, KeyRefusal> {
        match id == self.0 && token.is_none() {
            true => Ok(self.1.clone()),
            false => Err(KeyRefusal::Unknown),
        }
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().collect();
    let [_, port, folder, key, secret] = &arguments[..] else {
        return Err("usage: serve PORT FOLDER KEY SECRET".into());
    };
    let settings = Settings {
        region: "us-east-1".to_owned(),
        account_id: "000000000000".to_owned(),
        host_suffixes: vec!["localhost".to_owned(), "s3.us-east-1.amazonaws.com".to_owned()],
    };
    let keys = Arc::new(One(key.clone(), Secret::new(secret.clone())));
    let front = S3Front::new(keys, objects::Buckets::open(Path::new(folder))?, settings);
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", port.parse()?)).await?;
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let front = front.clone();
        tokio::spawn(async move {
            let service = hyper::service::service_fn(move |request: http::Request<_>| {
                let front = front.clone();
                async move {
                    let request = request.map(axum::body::Body::new);
                    Ok::<_, std::convert::Infallible>(front.handle(request).await)
                }
            });
            let http = hyper::server::conn::http1::Builder::new();
            // Whoever goes away in the middle is no concern of ours.
            http.serve_connection(TokioIo::new(stream), service).await.ok();
        });
    }
}
