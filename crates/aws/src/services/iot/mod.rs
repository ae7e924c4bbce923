//! IoT Core: things, certificates, policies, topic rules.

mod account;
mod authorization;
mod certificates;
mod destinations;
mod groups;
mod issuers;
mod policies;
mod principals;
mod rules;
mod tags;
#[cfg(test)]
mod tests;
mod things;
mod types;

use base::{ErrorKind, Timestamp};
use serde::Deserialize;
use serde_json::{Map, Value};

use crate::call::{Call, Kind, Operation, Service, operation, route};
use crate::fault::Fault;
use crate::page::page;
use crate::protocol::Protocol;
use crate::rooms::Rooms;

/// Most entries of a page, and how many are given when none is asked for.
const PAGE_MAX: usize = 250;

pub(crate) static SERVICE: Service = Service {
    name: "iot",
    scopes: &["iot"],
    protocol: Protocol::RestJson,
    codes,
    body_bytes_max: 2 * 1024 * 1024,
    operations: OPERATIONS,
};

fn codes(kind: ErrorKind) -> (&'static str, u16) {
    match kind {
        ErrorKind::NotFound => ("ResourceNotFoundException", 404),
        ErrorKind::AlreadyExists => ("ResourceAlreadyExistsException", 409),
        ErrorKind::Conflict => ("VersionConflictException", 409),
        ErrorKind::Denied => ("UnauthorizedException", 401),
        ErrorKind::Invalid | ErrorKind::Unsupported => ("InvalidRequestException", 400),
        ErrorKind::Exhausted => ("LimitExceededException", 410),
        ErrorKind::Unavailable => ("ServiceUnavailableException", 503),
        ErrorKind::Corrupt | ErrorKind::Internal => ("InternalFailureException", 500),
    }
}

const NEXT: (&str, Kind) = ("nextToken", Kind::Text);
const MOST: (&str, Kind) = ("maxResults", Kind::Integer);
const MARKER: (&str, Kind) = ("marker", Kind::Text);
const SIZE: (&str, Kind) = ("pageSize", Kind::Integer);
const ASCENDING: (&str, Kind) = ("isAscendingOrder", Kind::Boolean);
const EXPECTED: (&str, Kind) = ("expectedVersion", Kind::Integer);
const ACTIVE: (&str, Kind) = ("setAsActive", Kind::Boolean);
const PRINCIPAL: (&str, &str) = ("x-amzn-principal", "principal");
const IOT_PRINCIPAL: (&str, &str) = ("x-amzn-iot-principal", "principal");

static OPERATIONS: &[Operation] = &[
    operation!(
        "DescribeEndpoint",
        account::describe_endpoint,
        route!("GET", "/endpoint", query: [("endpointType", Kind::Text)]),
        differs: "no credential provider and no jobs endpoint"
    ),
    operation!(
        "GetRegistrationCode",
        account::get_registration_code,
        route!("GET", "/registrationcode")
    ),
    operation!(
        "DeleteRegistrationCode",
        account::delete_registration_code,
        route!("DELETE", "/registrationcode")
    ),
    // ---- things ----
    operation!(
        "CreateThing",
        things::create_thing,
        route!("POST", "/things/{thingName}"),
        differs: "no billing groups"
    ),
    operation!("DescribeThing", things::describe_thing, route!("GET", "/things/{thingName}")),
    operation!("UpdateThing", things::update_thing, route!("PATCH", "/things/{thingName}")),
    operation!(
        "ListThings",
        things::list_things,
        route!("GET", "/things", query: [
            NEXT,
            MOST,
            ("attributeName", Kind::Text),
            ("attributeValue", Kind::Text),
            ("thingTypeName", Kind::Text),
            ("usePrefixAttributeValue", Kind::Boolean),
        ])
    ),
    operation!(
        "DeleteThing",
        things::delete_thing,
        route!("DELETE", "/things/{thingName}", query: [EXPECTED])
    ),
    operation!(
        "CreateThingType",
        types::create_thing_type,
        route!("POST", "/thing-types/{thingTypeName}"),
        differs: "no propagation of MQTT 5 attributes"
    ),
    operation!(
        "DescribeThingType",
        types::describe_thing_type,
        route!("GET", "/thing-types/{thingTypeName}")
    ),
    operation!(
        "UpdateThingType",
        types::update_thing_type,
        route!("PATCH", "/thing-types/{thingTypeName}")
    ),
    operation!(
        "ListThingTypes",
        types::list_thing_types,
        route!("GET", "/thing-types", query: [NEXT, MOST, ("thingTypeName", Kind::Text)])
    ),
    operation!(
        "DeprecateThingType",
        types::deprecate_thing_type,
        route!("POST", "/thing-types/{thingTypeName}/deprecate")
    ),
    operation!(
        "DeleteThingType",
        types::delete_thing_type,
        route!("DELETE", "/thing-types/{thingTypeName}")
    ),
    operation!(
        "CreateThingGroup",
        groups::create_thing_group,
        route!("POST", "/thing-groups/{thingGroupName}")
    ),
    operation!(
        "DescribeThingGroup",
        groups::describe_thing_group,
        route!("GET", "/thing-groups/{thingGroupName}")
    ),
    operation!(
        "UpdateThingGroup",
        groups::update_thing_group,
        route!("PATCH", "/thing-groups/{thingGroupName}")
    ),
    operation!(
        "ListThingGroups",
        groups::list_thing_groups,
        route!("GET", "/thing-groups", query: [
            NEXT,
            MOST,
            ("parentGroup", Kind::Text),
            ("namePrefixFilter", Kind::Text),
            ("recursive", Kind::Boolean),
        ])
    ),
    operation!(
        "DeleteThingGroup",
        groups::delete_thing_group,
        route!("DELETE", "/thing-groups/{thingGroupName}", query: [EXPECTED])
    ),
    operation!(
        "AddThingToThingGroup",
        groups::add_thing_to_thing_group,
        route!("PUT", "/thing-groups/addThingToThingGroup")
    ),
    operation!(
        "RemoveThingFromThingGroup",
        groups::remove_thing_from_thing_group,
        route!("PUT", "/thing-groups/removeThingFromThingGroup")
    ),
    operation!(
        "ListThingsInThingGroup",
        groups::list_things_in_thing_group,
        route!("GET", "/thing-groups/{thingGroupName}/things", query: [
            NEXT,
            MOST,
            ("recursive", Kind::Boolean),
        ])
    ),
    operation!(
        "ListThingGroupsForThing",
        groups::list_thing_groups_for_thing,
        route!("GET", "/things/{thingName}/thing-groups", query: [NEXT, MOST])
    ),
    // ---- certificates ----
    operation!(
        "CreateKeysAndCertificate",
        certificates::create_keys_and_certificate,
        route!("POST", "/keys-and-certificate", query: [ACTIVE]),
        differs: "the key is on the curve P-256, not RSA"
    ),
    operation!(
        "CreateCertificateFromCsr",
        certificates::create_certificate_from_csr,
        route!("POST", "/certificates", query: [ACTIVE]),
        differs: "only the subject of the request is taken"
    ),
    operation!(
        "RegisterCertificate",
        certificates::register_certificate,
        route!("POST", "/certificate/register", query: [ACTIVE]),
        differs: "keys on P-521 are refused"
    ),
    operation!(
        "RegisterCertificateWithoutCA",
        certificates::register_certificate_without_ca,
        route!("POST", "/certificate/register-no-ca"),
        differs: "keys on P-521 are refused; SNI is not demanded of the device"
    ),
    operation!(
        "RegisterCACertificate",
        issuers::register_ca_certificate,
        route!("POST", "/cacertificate",
            query: [ACTIVE, ("allowAutoRegistration", Kind::Boolean)]),
        differs: "no registration of a device's certificate when it first connects, and no templates"
    ),
    operation!(
        "DescribeCACertificate",
        issuers::describe_ca_certificate,
        route!("GET", "/cacertificate/{certificateId}")
    ),
    operation!(
        "ListCACertificates",
        issuers::list_ca_certificates,
        route!("GET", "/cacertificates", query: [MARKER, SIZE, ASCENDING]),
        differs: "no templateName"
    ),
    operation!(
        "ListCertificatesByCA",
        issuers::list_certificates_by_ca,
        route!("GET", "/certificates-by-ca/{caCertificateId}", query: [MARKER, SIZE, ASCENDING])
    ),
    operation!(
        "UpdateCACertificate",
        issuers::update_ca_certificate,
        route!("PUT", "/cacertificate/{certificateId}", query: [
            ("newStatus", Kind::Text),
            ("newAutoRegistrationStatus", Kind::Text),
        ]),
        differs: "as RegisterCACertificate"
    ),
    operation!(
        "DeleteCACertificate",
        issuers::delete_ca_certificate,
        route!("DELETE", "/cacertificate/{certificateId}")
    ),
    operation!(
        "DescribeCertificate",
        certificates::describe_certificate,
        route!("GET", "/certificates/{certificateId}")
    ),
    operation!(
        "ListCertificates",
        certificates::list_certificates,
        route!("GET", "/certificates", query: [MARKER, SIZE, ASCENDING])
    ),
    operation!(
        "UpdateCertificate",
        certificates::update_certificate,
        route!("PUT", "/certificates/{certificateId}", query: [("newStatus", Kind::Text)]),
        differs: "a revoked certificate stays revoked"
    ),
    operation!(
        "DeleteCertificate",
        certificates::delete_certificate,
        route!("DELETE", "/certificates/{certificateId}", query: [("forceDelete", Kind::Boolean)])
    ),
    operation!(
        "AttachThingPrincipal",
        principals::attach_thing_principal,
        route!("PUT", "/things/{thingName}/principals",
            query: [("thingPrincipalType", Kind::Text)], headers: [PRINCIPAL])
    ),
    operation!(
        "DetachThingPrincipal",
        principals::detach_thing_principal,
        route!("DELETE", "/things/{thingName}/principals", headers: [PRINCIPAL])
    ),
    operation!(
        "ListThingPrincipals",
        principals::list_thing_principals,
        route!("GET", "/things/{thingName}/principals", query: [NEXT, MOST])
    ),
    operation!(
        "ListPrincipalThings",
        principals::list_principal_things,
        route!("GET", "/principals/things", query: [NEXT, MOST], headers: [PRINCIPAL])
    ),
    // ---- policies ----
    operation!("CreatePolicy", policies::create_policy, route!("POST", "/policies/{policyName}")),
    operation!("GetPolicy", policies::get_policy, route!("GET", "/policies/{policyName}")),
    operation!(
        "ListPolicies",
        policies::list_policies,
        route!("GET", "/policies", query: [MARKER, SIZE, ASCENDING])
    ),
    operation!(
        "DeletePolicy",
        policies::delete_policy,
        route!("DELETE", "/policies/{policyName}"),
        differs: "its versions go with it; AWS wants all but the default one deleted first"
    ),
    operation!(
        "CreatePolicyVersion",
        policies::create_policy_version,
        route!("POST", "/policies/{policyName}/version", query: [("setAsDefault", Kind::Boolean)])
    ),
    operation!(
        "GetPolicyVersion",
        policies::get_policy_version,
        route!("GET", "/policies/{policyName}/version/{policyVersionId}")
    ),
    operation!(
        "ListPolicyVersions",
        policies::list_policy_versions,
        route!("GET", "/policies/{policyName}/version")
    ),
    operation!(
        "SetDefaultPolicyVersion",
        policies::set_default_policy_version,
        route!("PATCH", "/policies/{policyName}/version/{policyVersionId}")
    ),
    operation!(
        "DeletePolicyVersion",
        policies::delete_policy_version,
        route!("DELETE", "/policies/{policyName}/version/{policyVersionId}")
    ),
    operation!(
        "AttachPolicy",
        principals::attach_policy,
        route!("PUT", "/target-policies/{policyName}"),
        differs: "the target is a certificate"
    ),
    operation!(
        "DetachPolicy",
        principals::detach_policy,
        route!("POST", "/target-policies/{policyName}")
    ),
    operation!(
        "ListAttachedPolicies",
        principals::list_attached_policies,
        route!("POST", "/attached-policies/{target}",
            query: [("recursive", Kind::Boolean), MARKER, SIZE])
    ),
    operation!(
        "ListTargetsForPolicy",
        principals::list_targets_for_policy,
        route!("POST", "/policy-targets/{policyName}", query: [MARKER, SIZE])
    ),
    operation!(
        "AttachPrincipalPolicy",
        principals::attach_principal_policy,
        route!("PUT", "/principal-policies/{policyName}", headers: [IOT_PRINCIPAL])
    ),
    operation!(
        "DetachPrincipalPolicy",
        principals::detach_principal_policy,
        route!("DELETE", "/principal-policies/{policyName}", headers: [IOT_PRINCIPAL])
    ),
    operation!(
        "ListPrincipalPolicies",
        principals::list_principal_policies,
        route!("GET", "/principal-policies",
            query: [MARKER, SIZE, ASCENDING], headers: [IOT_PRINCIPAL])
    ),
    operation!(
        "ListPolicyPrincipals",
        principals::list_policy_principals,
        route!("GET", "/policy-principals",
            query: [MARKER, SIZE, ASCENDING], headers: [("x-amzn-iot-policy", "policyName")])
    ),
    operation!(
        "GetEffectivePolicies",
        principals::get_effective_policies,
        route!("POST", "/effective-policies", query: [("thingName", Kind::Text)])
    ),
    operation!(
        "TestAuthorization",
        authorization::test_authorization,
        route!("POST", "/test-authorization", query: [("clientId", Kind::Text)])
    ),
    // ---- topic rules ----
    operation!(
        "CreateTopicRule",
        rules::create_topic_rule,
        route!("POST", "/rules/{ruleName}", headers: [("x-amz-tagging", "tagging")]),
        differs: "actions firehose, kinesis (into the delivery stream of that name; its partition key means nothing), republish, s3, cloudwatchLogs, cloudwatchMetric and http (to hosts that rules.http_allowed lists; no batching, no signing), error actions all but http; both SQL versions are evaluated as 2016-03-23"
    ),
    operation!("GetTopicRule", rules::get_topic_rule, route!("GET", "/rules/{ruleName}")),
    operation!(
        "ListTopicRules",
        rules::list_topic_rules,
        route!("GET", "/rules", query: [
            ("topic", Kind::Text),
            MOST,
            NEXT,
            ("ruleDisabled", Kind::Boolean),
        ])
    ),
    operation!(
        "ReplaceTopicRule",
        rules::replace_topic_rule,
        route!("PATCH", "/rules/{ruleName}"),
        differs: "as CreateTopicRule"
    ),
    operation!(
        "EnableTopicRule",
        rules::enable_topic_rule,
        route!("POST", "/rules/{ruleName}/enable")
    ),
    operation!(
        "DisableTopicRule",
        rules::disable_topic_rule,
        route!("POST", "/rules/{ruleName}/disable")
    ),
    operation!("DeleteTopicRule", rules::delete_topic_rule, route!("DELETE", "/rules/{ruleName}")),
    operation!(
        "CreateTopicRuleDestination",
        destinations::create_destination,
        route!("POST", "/destinations"),
        differs: "HTTP endpoints only, http:// as well as https://, and only hosts that rules.http_allowed lists"
    ),
    operation!(
        "GetTopicRuleDestination",
        destinations::get_destination,
        route!("GET", "/destinations/{arn+}")
    ),
    operation!(
        "ListTopicRuleDestinations",
        destinations::list_destinations,
        route!("GET", "/destinations", query: [NEXT, MOST])
    ),
    operation!(
        "UpdateTopicRuleDestination",
        destinations::update_destination,
        route!("PATCH", "/destinations")
    ),
    operation!(
        "DeleteTopicRuleDestination",
        destinations::delete_destination,
        route!("DELETE", "/destinations/{arn+}")
    ),
    operation!(
        "ConfirmTopicRuleDestination",
        destinations::confirm_destination,
        route!("GET", "/confirmdestination/{confirmationToken+}")
    ),
    // ---- tags ----
    operation!("TagResource", tags::tag_resource, route!("POST", "/tags")),
    operation!("UntagResource", tags::untag_resource, route!("POST", "/untag")),
    operation!(
        "ListTagsForResource",
        tags::list_tags_for_resource,
        route!("GET", "/tags", query: [("resourceArn", Kind::Text), NEXT])
    ),
];

/// The input of operations that name one thing and nothing else.
macro_rules! named {
    ($($type:ident { $field:ident: $wire:literal }),* $(,)?) => {$(
        #[derive(serde::Deserialize)]
        #[serde(deny_unknown_fields)]
        pub(super) struct $type {
            #[serde(rename = $wire)]
            pub(super) $field: String,
        }
    )*};
}

pub(super) mod inputs {
    named!(
        ThingName { name: "thingName" },
        ThingTypeName { name: "thingTypeName" },
        ThingGroupName { name: "thingGroupName" },
        CertificateId { id: "certificateId" },
        PolicyName { name: "policyName" },
        RuleName { name: "ruleName" },
    );
}

/// `nextToken` and `maxResults`.
#[derive(Deserialize, Default)]
struct Page {
    #[serde(rename = "nextToken")]
    token: Option<String>,
    #[serde(rename = "maxResults")]
    size: Option<usize>,
}

/// `marker`, `pageSize` and `isAscendingOrder`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Marked {
    marker: Option<String>,
    #[serde(rename = "pageSize")]
    size: Option<usize>,
    #[serde(rename = "isAscendingOrder", default = "yes")]
    ascending: bool,
}

fn yes() -> bool {
    true
}

impl Page {
    fn of<T>(
        &self,
        mut items: Vec<T>,
        key: impl Fn(&T) -> String,
    ) -> Result<(Vec<T>, Option<String>), Fault> {
        items.sort_by_cached_key(&key);
        page(
            items,
            key,
            self.token.as_deref().filter(|token| !token.is_empty()),
            self.size,
            PAGE_MAX,
        )
    }
}

/// A page in the order of creation, or against it.
fn by_creation<T>(
    items: Vec<T>,
    created: impl Fn(&T) -> (Timestamp, String),
    marked: &Marked,
) -> Result<(Vec<T>, Option<String>), Fault> {
    let key = |item: &T| {
        let (at, name) = created(item);
        let millis = at.millis().max(0);
        let millis = if marked.ascending { millis } else { i64::MAX - millis };
        format!("{millis:020}/{name}")
    };
    let page = Page { token: marked.marker.clone(), size: marked.size };
    page.of(items, key)
}

/// An object without its null members: AWS leaves out what there is not.
fn compact(value: Value) -> Value {
    match value {
        Value::Object(members) => {
            let kept = members.into_iter().filter(|(_, value)| !value.is_null());
            Value::Object(kept.map(|(name, value)| (name, compact(value))).collect::<Map<_, _>>())
        }
        Value::Array(entries) => entries.into_iter().map(compact).collect(),
        other => other,
    }
}

/// The ARN of a resource in the region of the call.
fn arn(rooms: &Rooms, call: &Call, resource: &str) -> String {
    rooms.arn("iot", &call.region, resource)
}

/// What follows `KIND/` in an ARN of this account.
fn resource<'a>(rooms: &Rooms, arn: &'a str, kind: &str) -> Option<&'a str> {
    let mut parts = arn.splitn(6, ':');
    let (start, partition, service) = (parts.next()?, parts.next()?, parts.next()?);
    let (_region, account, rest) = (parts.next()?, parts.next()?, parts.next()?);
    let ours = start == "arn"
        && partition.starts_with("aws")
        && service == "iot"
        && account == rooms.settings.account_id;
    ours.then(|| rest.strip_prefix(kind)?.strip_prefix('/')).flatten()
}

/// The certificate's id of a principal or target.
fn certificate_of<'a>(rooms: &Rooms, member: &str, principal: &'a str) -> Result<&'a str, Fault> {
    if let Some(id) = resource(rooms, principal, "cert") {
        return Ok(id);
    }
    if resource(rooms, principal, "thinggroup").is_some() {
        return Err(Fault::unsupported(
            member,
            &format!("{principal:?} is a thing group, and policies are attached to certificates"),
        ));
    }
    Err(Fault::invalid(format!(
        "{member} {principal:?} is not the ARN of a certificate of account {}; it looks like \
         arn:aws:iot:REGION:ACCOUNT:cert/ID",
        rooms.settings.account_id
    )))
}

/// Refuses a member that Forebay does not act on, unless it asks for nothing.
fn refuse<T>(member: &str, value: Option<&T>, why: &str) -> Result<(), Fault> {
    match value {
        None => Ok(()),
        Some(_) => Err(Fault::unsupported(member, why)),
    }
}
