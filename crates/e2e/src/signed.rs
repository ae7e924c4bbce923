//! Requests signed for AWS by hand, Signature Version 4: for loads, whose clients may cost next
//! to nothing, and for calls between two moments that are close together.
//!
//! Written from AWS's description of the signature, not from the product's code.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use ring::{digest, hmac};
use serde_json::Value;

use crate::Server;

/// How long any one answer may take.
const PATIENCE: Duration = Duration::from_secs(70);

/// Who signs, and for whom.
#[derive(Clone, Debug)]
pub struct Signer {
    access_key_id: String,
    secret: String,
    region: String,
    /// The server.
    pub address: SocketAddr,
}

/// What the server said.
#[derive(Clone, Debug)]
pub struct Answer {
    /// 200 and so on.
    pub status: u16,
    /// The status line and the headers.
    pub head: String,
    /// What followed.
    pub body: Vec<u8>,
}

impl Answer {
    /// The values of a header.
    pub fn header(&self, name: &str) -> Vec<&str> {
        let pairs = self.head.lines().filter_map(|line| line.split_once(": "));
        pairs.filter(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, v)| v).collect()
    }

    /// The body as JSON.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }
}

impl Signer {
    /// The owner of a server's data directory.
    pub fn of(server: &Server) -> Signer {
        let told = server.forebay(&["env"]);
        let text = |name: &str| told[name].as_str().unwrap().to_owned();
        Signer {
            access_key_id: text("AWS_ACCESS_KEY_ID"),
            secret: text("AWS_SECRET_ACCESS_KEY"),
            region: text("AWS_REGION"),
            address: server.http,
        }
    }

    /// A whole request, ready for the wire. The path has no characters that need escapes, and
    /// there is no query.
    pub fn request(
        &self,
        service: &str,
        (method, path): (&str, &str),
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Vec<u8> {
        #[expect(clippy::disallowed_methods, reason = "a signature is of the moment it is sent")]
        let at = stamp(SystemTime::now());
        let hash = hex(digest::digest(&digest::SHA256, body).as_ref());
        let host = self.address.to_string();
        let own = [("host", &*host), ("x-amz-content-sha256", &*hash), ("x-amz-date", &*at)];
        let mut signed: Vec<(&str, &str)> = own.iter().chain(headers).copied().collect();
        signed.sort_unstable();
        let names: Vec<&str> = signed.iter().map(|(name, _)| *name).collect();
        let names = names.join(";");
        let mut canonical = format!("{method}\n{path}\n\n");
        for (name, value) in &signed {
            canonical += &format!("{name}:{value}\n");
        }
        canonical += &format!("\n{names}\n{hash}");
        let day = &at[..8];
        let scope = format!("{day}/{}/{service}/aws4_request", self.region);
        let canonical = hex(digest::digest(&digest::SHA256, canonical.as_bytes()).as_ref());
        let text = format!("AWS4-HMAC-SHA256\n{at}\n{scope}\n{canonical}");
        let secret = format!("AWS4{}", self.secret).into_bytes();
        let parts = [day, self.region.as_str(), service, "aws4_request", text.as_str()];
        let signature = parts.iter().fold(secret, |key, part| {
            let key = hmac::Key::new(hmac::HMAC_SHA256, &key);
            hmac::sign(&key, part.as_bytes()).as_ref().to_vec()
        });
        let mut head = format!("{method} {path} HTTP/1.1\r\n");
        for (name, value) in &signed {
            head += &format!("{name}: {value}\r\n");
        }
        head += &format!(
            "authorization: AWS4-HMAC-SHA256 Credential={}/{scope}, SignedHeaders={names}, \
             Signature={}\r\ncontent-length: {}\r\n\r\n",
            self.access_key_id,
            hex(&signature),
            body.len()
        );
        [head.as_bytes(), body].concat()
    }

    /// Carries out an operation of SageMaker's control plane; its answer, or what was refused.
    pub fn sagemaker(&self, operation: &str, input: &Value) -> Result<Value, Value> {
        self.json("sagemaker", &format!("SageMaker.{operation}"), "1.1", input)
    }

    /// Carries out an operation of a service that speaks JSON.
    pub fn json(
        &self,
        service: &str,
        target: &str,
        version: &str,
        input: &Value,
    ) -> Result<Value, Value> {
        let kind = format!("application/x-amz-json-{version}");
        let headers = [("content-type", &*kind), ("x-amz-target", target)];
        let body = input.to_string();
        let request = self.request(service, ("POST", "/"), &headers, body.as_bytes());
        let answer = Connection::open(self.address).unwrap().ask(&request).unwrap();
        if answer.status == 200 { Ok(answer.json()) } else { Err(answer.json()) }
    }

    /// Makes a bucket, or puts an object: a path is `/BUCKET` or `/BUCKET/KEY`.
    pub fn put(&self, path: &str, body: &[u8]) {
        let request = self.request("s3", ("PUT", path), &[], body);
        let answer = Connection::open(self.address).unwrap().ask(&request).unwrap();
        assert_eq!(answer.status, 200, "{path}: {}", String::from_utf8_lossy(&answer.body));
    }
}

/// A connection that is kept.
#[derive(Debug)]
pub struct Connection(TcpStream);

impl Connection {
    /// Connects.
    pub fn open(address: SocketAddr) -> std::io::Result<Connection> {
        let stream = TcpStream::connect_timeout(&address, Duration::from_secs(5))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        Ok(Connection(stream))
    }

    /// Sends a request and reads the whole answer, whose length its head must say.
    pub fn ask(&mut self, request: &[u8]) -> std::io::Result<Answer> {
        self.0.write_all(request)?;
        let broken = |what: &str| std::io::Error::other(what.to_owned());
        let mut received = Vec::new();
        let mut part = [0; 8192];
        let mut read = |received: &mut Vec<u8>| match self.0.read(&mut part)? {
            0 => Err(broken("the server closed the connection")),
            count => {
                received.extend_from_slice(&part[..count]);
                Ok(())
            }
        };
        let end = loop {
            if let Some(end) = received.windows(4).position(|four| four == b"\r\n\r\n") {
                break end;
            }
            read(&mut received)?;
        };
        let head = String::from_utf8_lossy(&received[..end]).into_owned();
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
        let status = status.ok_or_else(|| broken("no status"))?;
        let mut answer = Answer { status, head, body: received.split_off(end + 4) };
        let length = answer.header("content-length").first().and_then(|n| n.parse().ok());
        let length: usize = length.ok_or_else(|| broken("no content-length"))?;
        while answer.body.len() < length {
            read(&mut answer.body)?;
        }
        Ok(answer)
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// `20260102T030405Z`.
fn stamp(at: SystemTime) -> String {
    let secs = at.duration_since(UNIX_EPOCH).unwrap().as_secs();
    let (days, second) = (secs / 86_400, secs % 86_400);
    // Years of 365 or 366 days and months, counted off; loads do not run for centuries.
    let leap = |year: u64| {
        year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400))
    };
    let (mut year, mut left) = (1970, days);
    while left >= 365 + u64::from(leap(year)) {
        left -= 365 + u64::from(leap(year));
        year += 1;
    }
    let february = 28 + u64::from(leap(year));
    let mut month = 1;
    for length in [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31] {
        if left < length {
            break;
        }
        left -= length;
        month += 1;
    }
    let (hour, minute) = (second / 3600, second / 60 % 60);
    format!("{year:04}{month:02}{:02}T{hour:02}{minute:02}{:02}Z", left + 1, second % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_written_as_aws_has_them() {
        let at = |secs: u64| stamp(UNIX_EPOCH + Duration::from_secs(secs));
        assert_eq!(at(0), "19700101T000000Z");
        assert_eq!(at(951_782_400), "20000229T000000Z");
        assert_eq!(at(951_868_799), "20000229T235959Z");
        assert_eq!(at(1_798_761_599), "20261231T235959Z");
    }
}
