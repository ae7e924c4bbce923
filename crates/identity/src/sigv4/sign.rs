//! Signing, for our own commands and for tests.

use std::fmt;

use base::Timestamp;
use ring::{digest, hmac};

use super::canonical::{canonical, quoted};
use super::{ALGORITHM, Request, Rules, Scope, UNSIGNED, amz_date, hex, string_to_sign};
use crate::Secret;

/// Somebody who signs requests to one service in one region.
#[derive(Clone)]
pub struct Signer<'a> {
    /// The access key.
    pub access_key_id: &'a str,
    /// Its secret.
    pub secret: &'a Secret,
    /// The session token of a temporary key.
    pub token: Option<&'a str>,
    /// The region.
    pub region: &'a str,
    /// The service, as credential scopes name it.
    pub service: &'a str,
    /// [`super::S3`] for S3, else [`super::SERVICE`].
    pub rules: Rules,
}

impl fmt::Debug for Signer<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Signer").field("access_key_id", &self.access_key_id).finish_non_exhaustive()
    }
}

impl Signer<'_> {
    /// The headers to add to `request`, which must have its host already. Every header that it
    /// has is signed.
    pub fn headers(&self, request: &Request<'_>, now: Timestamp) -> Vec<(&'static str, String)> {
        let date = amz_date(now);
        let hash = hex(digest::digest(&digest::SHA256, request.body).as_ref());
        let mut added = vec![("x-amz-date", date.clone())];
        if let Some(token) = self.token {
            added.push(("x-amz-security-token", token.to_owned()));
        }
        if self.rules.unsigned_payload {
            added.push(("x-amz-content-sha256", hash.clone()));
        }
        let mut whole = request.clone();
        whole.headers.extend(added.iter().map(|(name, value)| (*name, value.as_bytes())));
        let signed_headers = names(&whole);
        let canonical = canonical(&whole, &signed_headers, &hash, self.rules, true);
        let (scope, signature) = self.signature(&date, &canonical);
        let credential = format!("{}/{}", scope.access_key_id, scope.without_key());
        let authorization = format!(
            "{ALGORITHM} Credential={credential}, SignedHeaders={}, Signature={signature}",
            signed_headers.join(";"),
        );
        added.push(("authorization", authorization));
        added
    }

    /// The whole query of a presigned address that lives for `expires_secs`, which the services
    /// other than MQTT's demand.
    pub fn query(
        &self,
        request: &Request<'_>,
        now: Timestamp,
        expires_secs: Option<u32>,
    ) -> String {
        let date = amz_date(now);
        let scope = self.scope(&date);
        let signed_headers = names(request);
        let credential = format!("{}/{}", scope.access_key_id, scope.without_key());
        let mut query = match request.query {
            "" => String::new(),
            given => format!("{given}&"),
        };
        query.push_str(&format!(
            "X-Amz-Algorithm={ALGORITHM}&X-Amz-Credential={}&X-Amz-Date={date}",
            quoted(credential.as_bytes(), false),
        ));
        if let Some(expires_secs) = expires_secs {
            query.push_str(&format!("&X-Amz-Expires={expires_secs}"));
        }
        query.push_str("&X-Amz-SignedHeaders=");
        query.push_str(&quoted(signed_headers.join(";").as_bytes(), false));
        if let Some(token) = self.token {
            query.push_str("&X-Amz-Security-Token=");
            query.push_str(&quoted(token.as_bytes(), false));
        }
        let hash = match self.rules.unsigned_payload {
            true => UNSIGNED.to_owned(),
            false => hex(digest::digest(&digest::SHA256, request.body).as_ref()),
        };
        let whole = Request { query: &query, ..request.clone() };
        let canonical = canonical(&whole, &signed_headers, &hash, self.rules, true);
        let (_, signature) = self.signature(&date, &canonical);
        query.push_str("&X-Amz-Signature=");
        query.push_str(&signature);
        query
    }

    fn scope(&self, date: &str) -> Scope {
        Scope {
            access_key_id: self.access_key_id.to_owned(),
            date: date.chars().take(8).collect(),
            region: self.region.to_owned(),
            service: self.service.to_owned(),
        }
    }

    fn signature(&self, date: &str, canonical: &str) -> (Scope, String) {
        let scope = self.scope(date);
        let text = string_to_sign(date, &scope, canonical);
        let signature = hmac::sign(&scope.signing_key(self.secret), text.as_bytes());
        let signature = hex(signature.as_ref());
        (scope, signature)
    }
}

fn names(request: &Request<'_>) -> Vec<String> {
    let mut names: Vec<String> =
        request.headers.iter().map(|(name, _)| (*name).to_owned()).collect();
    names.sort();
    names.dedup();
    names
}
