//! The Condition element: tests on what is known about the client.

use std::net::IpAddr;

use super::facts::{Facts, Key};
use super::pattern::Template;

/// How values are compared.
#[derive(Clone, Copy, Debug)]
enum Test {
    Equals,
    EqualsIgnoreCase,
    Like,
    Ip,
    Bool,
    Number(fn(f64, f64) -> bool),
    /// Whether the key is absent.
    Null,
}

/// How the values of a key with several of them are taken together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Several {
    /// The operator has no such prefix.
    One,
    All,
    Any,
}

/// One operator on one key.
#[derive(Clone, Debug)]
pub(super) struct Condition {
    operator: String,
    test: Test,
    negated: bool,
    several: Several,
    if_exists: bool,
    key: Key,
    key_name: String,
    values: Vec<Value>,
}

#[derive(Clone, Debug)]
enum Value {
    Text(Template),
    Number(f64),
    Bool(bool),
    Network(IpAddr, u8),
}

const OPERATORS: &str = "StringEquals, StringNotEquals, StringEqualsIgnoreCase, \
                         StringNotEqualsIgnoreCase, StringLike, StringNotLike, IpAddress, \
                         NotIpAddress, Bool, Null, NumericEquals, NumericNotEquals, \
                         NumericLessThan, NumericLessThanEquals, NumericGreaterThan and \
                         NumericGreaterThanEquals, with ForAllValues:, ForAnyValue: and IfExists";

impl Condition {
    /// One test; the error says what is wrong with it.
    pub(super) fn parse(operator: &str, key: &str, values: &[String]) -> Result<Condition, String> {
        let (several, rest) = match operator.split_once(':') {
            Some(("ForAllValues", rest)) => (Several::All, rest),
            Some(("ForAnyValue", rest)) => (Several::Any, rest),
            _ => (Several::One, operator),
        };
        let (name, if_exists) = match rest.strip_suffix("IfExists") {
            Some(name) if name != "Null" => (name, true),
            _ => (rest, false),
        };
        let (test, negated) = match name {
            "StringEquals" => (Test::Equals, false),
            "StringNotEquals" => (Test::Equals, true),
            "StringEqualsIgnoreCase" => (Test::EqualsIgnoreCase, false),
            "StringNotEqualsIgnoreCase" => (Test::EqualsIgnoreCase, true),
            "StringLike" => (Test::Like, false),
            "StringNotLike" => (Test::Like, true),
            "IpAddress" => (Test::Ip, false),
            "NotIpAddress" => (Test::Ip, true),
            "Bool" => (Test::Bool, false),
            "Null" => (Test::Null, false),
            "NumericEquals" => (Test::Number(|a, b| a == b), false),
            "NumericNotEquals" => (Test::Number(|a, b| a == b), true),
            "NumericLessThan" => (Test::Number(|a, b| a < b), false),
            "NumericLessThanEquals" => (Test::Number(|a, b| a <= b), false),
            "NumericGreaterThan" => (Test::Number(|a, b| a > b), false),
            "NumericGreaterThanEquals" => (Test::Number(|a, b| a >= b), false),
            _ => {
                let why = "is not an operator we know; known are";
                return Err(format!("{operator:?} {why} {OPERATORS}"));
            }
        };
        let parsed = Key::parse(key).map_err(|why| format!("{operator}: {why}"))?;
        if matches!(test, Test::Ip) && parsed != Key::SourceIp {
            return Err(format!("{operator} tests {key:?}; it is for aws:SourceIp"));
        }
        if values.is_empty() {
            return Err(format!("{operator} of {key:?} has no values"));
        }
        let values = values
            .iter()
            .map(|value| {
                parse_value(test, value).map_err(|why| format!("{operator} of {key:?}: {why}"))
            })
            .collect::<Result<_, _>>()?;
        Ok(Condition {
            operator: operator.to_owned(),
            test,
            negated,
            several,
            if_exists,
            key: parsed,
            key_name: key.to_owned(),
            values,
        })
    }

    /// Whether it, or a variable it is compared with, reads the certificate itself.
    pub(super) fn reads_certificate(&self) -> bool {
        let in_values = self.values.iter().any(|value| match value {
            Value::Text(template) => template.keys().any(Key::reads_certificate),
            _ => false,
        });
        self.key.reads_certificate() || in_values
    }

    /// `None` if it holds for the client, otherwise why not.
    pub(super) fn fails(&self, facts: &Facts<'_>) -> Option<String> {
        let values = self.key.values(facts);
        let holds = match self.holds(&values, facts) {
            Ok(holds) => holds,
            Err(variable) => return Some(format!("${{{variable}}} has no value")),
        };
        if holds {
            return None;
        }
        let is = match values.as_slice() {
            [] => "not set".to_owned(),
            values => format!("{values:?}"),
        };
        Some(format!("{} of {} fails: it is {is}", self.operator, self.key_name))
    }

    fn holds<'s>(&'s self, values: &[String], facts: &Facts<'_>) -> Result<bool, &'s str> {
        if matches!(self.test, Test::Null) {
            let absent = values.is_empty();
            return Ok(self.values.iter().any(|v| matches!(v, Value::Bool(b) if *b == absent)));
        }
        if values.is_empty() {
            return Ok(match self.several {
                _ if self.if_exists => true,
                Several::All => true,
                Several::Any => false,
                Several::One => self.negated,
            });
        }
        let mut all = true;
        let mut any = false;
        for value in values {
            let mut found = false;
            for wanted in &self.values {
                found |= self.fits(value, wanted, facts)?;
            }
            all &= found != self.negated;
            any |= found != self.negated;
        }
        Ok(if self.several == Several::All { all } else { any })
    }

    fn fits<'s>(&self, value: &str, wanted: &'s Value, facts: &Facts<'_>) -> Result<bool, &'s str> {
        Ok(match (self.test, wanted) {
            (Test::Like, Value::Text(template)) => template.fill(facts)?.matches("", value),
            (Test::EqualsIgnoreCase, Value::Text(template)) => {
                template.fill(facts)?;
                let wanted = template.shown(facts).unwrap_or_default();
                value.to_lowercase() == wanted.to_lowercase()
            }
            (_, Value::Text(template)) => {
                template.fill(facts)?;
                template.shown(facts).as_deref() == Some(value)
            }
            (_, Value::Bool(wanted)) => value.eq_ignore_ascii_case(&wanted.to_string()),
            (Test::Number(compare), Value::Number(wanted)) => {
                value.trim().parse().is_ok_and(|value: f64| compare(value, *wanted))
            }
            (_, Value::Number(_)) => false,
            (_, Value::Network(network, bits)) => {
                value.parse().is_ok_and(|ip| in_network(ip, *network, *bits))
            }
        })
    }
}

fn parse_value(test: Test, value: &str) -> Result<Value, String> {
    Ok(match test {
        Test::Equals | Test::EqualsIgnoreCase | Test::Like => Value::Text(Template::parse(value)?),
        Test::Bool | Test::Null => match value.to_ascii_lowercase().as_str() {
            "true" => Value::Bool(true),
            "false" => Value::Bool(false),
            _ => return Err(format!("{value:?} is neither true nor false")),
        },
        Test::Number(_) => {
            let number = value.trim().parse().ok().filter(|number: &f64| number.is_finite());
            Value::Number(number.ok_or_else(|| format!("{value:?} is not a number"))?)
        }
        Test::Ip => {
            let bad = || format!("{value:?} is not an address or a range such as 192.0.2.0/24");
            let (address, bits) = match value.split_once('/') {
                Some((address, bits)) => (address, Some(bits.parse::<u8>().map_err(|_e| bad())?)),
                None => (value, None),
            };
            let address: IpAddr = address.parse().map_err(|_e| bad())?;
            let most = if address.is_ipv4() { 32 } else { 128 };
            let bits = bits.unwrap_or(most);
            if bits > most {
                return Err(bad());
            }
            Value::Network(address, bits)
        }
    })
}

fn in_network(ip: IpAddr, network: IpAddr, bits: u8) -> bool {
    match (ip, network) {
        (IpAddr::V4(ip), IpAddr::V4(network)) => {
            let drop = 32 - u32::from(bits);
            drop == 32 || ip.to_bits() >> drop == network.to_bits() >> drop
        }
        (IpAddr::V6(ip), IpAddr::V6(network)) => {
            let drop = 128 - u32::from(bits);
            drop == 128 || ip.to_bits() >> drop == network.to_bits() >> drop
        }
        _ => false,
    }
}
