//! Buckets on another S3, as the settings tell of them.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use aws_s3::{Credentials, CredentialsOf, Patience, RemoteSettings};
use base::{Clock, Error, Result, SystemClock};
use identity::Secret;
use objects::Remote;

use crate::settings::{RemoteBucket, Settings};

/// Refuses what could not be opened.
pub(crate) fn check(settings: &Settings) -> Result<()> {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    open(settings, &clock).map(drop)
}

/// The buckets that lie elsewhere. Nothing is asked of them yet.
pub(crate) fn open(
    settings: &Settings,
    clock: &Arc<dyn Clock>,
) -> Result<BTreeMap<String, Remote>> {
    let opened = settings.objects.remote.iter().map(|(name, bucket)| {
        let opened = objects::check_bucket(name)
            .and_then(|()| one(name, bucket, &settings.aws.region))
            .and_then(|settings| aws_s3::remote(settings, clock.clone()));
        let opened = opened.map_err(|error| error.context(format!("objects.remote.{name}")))?;
        Ok((name.clone(), opened))
    });
    opened.collect()
}

fn one(name: &str, bucket: &RemoteBucket, region: &str) -> Result<RemoteSettings> {
    for (key, value) in [
        ("connect_secs", bucket.connect_secs),
        ("stall_secs", bucket.stall_secs),
        ("answer_secs", bucket.answer_secs),
        ("bytes_per_sec_min", bucket.bytes_per_sec_min),
    ] {
        if value == 0 {
            return Err(Error::invalid(format!("{key} must be more than 0")));
        }
    }
    Ok(RemoteSettings {
        endpoint: bucket.endpoint.clone(),
        region: bucket.region.clone().unwrap_or_else(|| region.to_owned()),
        bucket: bucket.bucket.clone().unwrap_or_else(|| name.to_owned()),
        prefix: bucket.prefix.clone(),
        allow_http: bucket.allow_http,
        virtual_host: bucket.virtual_host,
        patience: Patience {
            connect: Duration::from_secs(bucket.connect_secs),
            stall: Duration::from_secs(bucket.stall_secs),
            answer: Duration::from_secs(bucket.answer_secs),
            bytes_per_sec_min: bucket.bytes_per_sec_min,
        },
        credentials: credentials(bucket)?,
    })
}

fn credentials(bucket: &RemoteBucket) -> Result<CredentialsOf> {
    let key = bucket.access_key_id.as_deref().filter(|key| !key.is_empty());
    match (key, &bucket.secret_access_key, &bucket.credentials_file) {
        (Some(key), Some(secret), None) => {
            let (access_key_id, secret) = (key.to_owned(), secret.clone());
            let given = Credentials { access_key_id, secret, token: None };
            Ok(Arc::new(move || Ok(given.clone())))
        }
        (None, None, Some(file)) => {
            let file = file.clone();
            Ok(Arc::new(move || {
                let text = std::fs::read_to_string(&file);
                let text = text.map_err(|e| Error::io(format!("read {}", file.display()), e))?;
                read(&text, &file)
            }))
        }
        (_, _, Some(_)) => Err(Error::invalid(
            "give access_key_id and secret_access_key, or credentials_file, and not both",
        )),
        _ => {
            Err(Error::invalid("it needs access_key_id and secret_access_key, or credentials_file"))
        }
    }
}

/// The default profile of a credentials file.
fn read(text: &str, file: &Path) -> Result<Credentials> {
    let mut found: BTreeMap<&str, &str> = BTreeMap::new();
    // What stands before any profile counts as the default one's.
    let mut is_default = true;
    for line in text.lines().map(str::trim) {
        if let Some(profile) = line.strip_prefix('[').and_then(|line| line.strip_suffix(']')) {
            is_default = profile.trim() == "default";
        } else if let Some((key, value)) = line.split_once('=')
            && is_default
            && !line.starts_with(['#', ';'])
        {
            found.insert(key.trim(), value.trim());
        }
    }
    let need = |key: &str| {
        found.get(key).map(|value| (*value).to_owned()).ok_or_else(|| {
            Error::invalid(format!("{}: profile [default] has no {key}", file.display()))
        })
    };
    Ok(Credentials {
        access_key_id: need("aws_access_key_id")?,
        secret: Secret::new(need("aws_secret_access_key")?),
        token: found.get("aws_session_token").map(|token| (*token).to_owned()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_profile_of_a_credentials_file_is_read() {
        let text = "[other]\naws_access_key_id = no\n\n[default]\n# a remark = x\n\
                    aws_access_key_id = AKIA\naws_secret_access_key=a/b=c\naws_session_token = t\n";
        let found = read(text, Path::new("file")).unwrap();
        assert_eq!(found.access_key_id, "AKIA");
        assert_eq!((found.secret.expose(), found.token.as_deref()), ("a/b=c", Some("t")));
        let error = read("[default]\naws_access_key_id = AKIA", Path::new("file")).unwrap_err();
        assert!(error.to_string().contains("has no aws_secret_access_key"), "{error}");
    }
}
