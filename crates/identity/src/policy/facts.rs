//! What is known about a client, and the variables that give it to a policy.

use std::collections::BTreeMap;
use std::net::IpAddr;

/// What decisions about one client depend on.
#[derive(Clone, Debug, Default)]
pub struct Facts<'a> {
    /// Our region, as ARNs name it.
    pub region: &'a str,
    /// Our account.
    pub account: &'a str,
    /// The MQTT client identifier.
    pub client_id: Option<&'a str>,
    /// Where it connects from.
    pub source_ip: Option<IpAddr>,
    /// The certificate it presented.
    pub certificate_id: Option<&'a str>,
    /// That certificate, if a document asks for what it says.
    pub certificate_der: Option<&'a [u8]>,
    /// The thing it is: only when the client id is the thing's name and the certificate is
    /// attached to the thing.
    pub thing: Option<ThingFacts<'a>>,
    /// `PersistentConnect` and `LastWill`, as far as its CONNECT asks for them.
    pub connect_attributes: &'a [&'static str],
}

/// What is known about a client's thing.
#[derive(Clone, Debug)]
pub struct ThingFacts<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its type's name.
    pub thing_type: Option<&'a str>,
    /// Its attributes.
    pub attributes: &'a BTreeMap<String, String>,
}

/// A key that conditions test and, but for the last two, variables stand for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Key {
    ClientId,
    SourceIp,
    CertificateId,
    CertificateSerial,
    /// Of the certificate's subject, or its issuer: the object identifier and which of several.
    Name {
        issuer: bool,
        oid: &'static str,
        index: usize,
    },
    ThingName,
    ThingType,
    ThingAttribute(String),
    ThingIsAttached,
    ConnectAttributes,
}

/// The attributes of a certificate's subject and issuer that policies may name.
const NAMES: &[(&str, &str)] = &[
    ("CommonName", "2.5.4.3"),
    ("Surname", "2.5.4.4"),
    ("SerialNumber", "2.5.4.5"),
    ("Country", "2.5.4.6"),
    ("State", "2.5.4.8"),
    ("Organization", "2.5.4.10"),
    ("OrganizationalUnit", "2.5.4.11"),
    ("Title", "2.5.4.12"),
    ("GivenName", "2.5.4.42"),
    ("Initials", "2.5.4.43"),
    ("GenerationQualifier", "2.5.4.44"),
    ("DistinguishedNameQualifier", "2.5.4.46"),
    ("Pseudonym", "2.5.4.65"),
];

/// What the refusal of an unknown key lists.
const KNOWN: &str = "iot:ClientId, aws:SourceIp, iot:CertificateId, iot:Certificate.SerialNumber, \
                     iot:Certificate.Subject.*, iot:Certificate.Issuer.*, \
                     iot:Connection.Thing.ThingName, iot:Connection.Thing.ThingTypeName, \
                     iot:Connection.Thing.Attributes[name], iot:Connection.Thing.IsAttached and, \
                     in conditions, iot:ConnectAttributes";

impl Key {
    /// The key called `name`; keys are told apart without regard to case but for the names of
    /// attributes.
    pub(super) fn parse(name: &str) -> Result<Key, String> {
        let lower = name.to_ascii_lowercase();
        let attribute = "iot:connection.thing.attributes[";
        if lower.starts_with(attribute) && name.len() > attribute.len() + 1 && name.ends_with(']') {
            return Ok(Key::ThingAttribute(name[attribute.len()..name.len() - 1].to_owned()));
        }
        for (prefix, issuer) in
            [("iot:certificate.subject.", false), ("iot:certificate.issuer.", true)]
        {
            if let Some(rest) = lower.strip_prefix(prefix)
                && let Some(key) = certificate_name(rest, issuer)
            {
                return Ok(key);
            }
        }
        Ok(match lower.as_str() {
            "iot:clientid" => Key::ClientId,
            "aws:sourceip" => Key::SourceIp,
            "iot:certificateid" => Key::CertificateId,
            "iot:certificate.serialnumber" => Key::CertificateSerial,
            "iot:connection.thing.thingname" => Key::ThingName,
            "iot:connection.thing.thingtypename" => Key::ThingType,
            "iot:connection.thing.isattached" => Key::ThingIsAttached,
            "iot:connectattributes" => Key::ConnectAttributes,
            _ => return Err(format!("{name:?} is not a key we know; known are {KNOWN}")),
        })
    }

    /// Whether it may stand in `${...}`: it has one value.
    pub(super) fn is_variable(&self) -> bool {
        !matches!(self, Key::ConnectAttributes)
    }

    /// Whether answering it needs the certificate itself.
    pub(super) fn reads_certificate(&self) -> bool {
        matches!(self, Key::CertificateSerial | Key::Name { .. })
    }

    /// Its value; `None` if there is none.
    pub(super) fn value(&self, facts: &Facts<'_>) -> Option<String> {
        let thing = facts.thing.as_ref();
        match self {
            Key::ClientId => facts.client_id.map(str::to_owned),
            Key::SourceIp => facts.source_ip.map(|ip| ip.to_canonical().to_string()),
            Key::CertificateId => facts.certificate_id.map(str::to_owned),
            Key::CertificateSerial | Key::Name { .. } => self.in_certificate(facts),
            Key::ThingName => thing.map(|thing| thing.name.to_owned()),
            Key::ThingType => thing.and_then(|thing| thing.thing_type).map(str::to_owned),
            Key::ThingAttribute(name) => thing.and_then(|t| t.attributes.get(name)).cloned(),
            // Known for every client with a certificate: it is attached under this name or not.
            Key::ThingIsAttached => {
                facts.certificate_id.is_some().then(|| thing.is_some().to_string())
            }
            Key::ConnectAttributes => None,
        }
    }

    /// All its values, for conditions.
    pub(super) fn values(&self, facts: &Facts<'_>) -> Vec<String> {
        match self {
            Key::ConnectAttributes => {
                facts.connect_attributes.iter().map(|&name| name.to_owned()).collect()
            }
            _ => self.value(facts).into_iter().collect(),
        }
    }

    fn in_certificate(&self, facts: &Facts<'_>) -> Option<String> {
        let (_, certificate) = x509_parser::parse_x509_certificate(facts.certificate_der?).ok()?;
        let Key::Name { issuer, oid, index } = self else {
            return Some(certificate.raw_serial_as_string().replace(':', ""));
        };
        let name = if *issuer { certificate.issuer() } else { certificate.subject() };
        let mut found =
            name.iter_attributes().filter(|entry| entry.attr_type().to_id_string() == *oid);
        found.nth(*index)?.as_str().ok().map(str::to_owned)
    }
}

/// `commonname`, or `commonname.1` for the second one.
fn certificate_name(rest: &str, issuer: bool) -> Option<Key> {
    let (name, index) = match rest.split_once('.') {
        Some((name, index)) => (name, index.parse().ok()?),
        None => (rest, 0),
    };
    let (_, oid) = NAMES.iter().find(|(known, _)| known.eq_ignore_ascii_case(name))?;
    Some(Key::Name { issuer, oid, index })
}
